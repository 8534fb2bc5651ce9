"""Config files and overrides: the configs that they build, and the errors they report."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config, Data, Model, Source, Task, loading
from flaxfer.config.seeds import Looks
from flaxfer.errors import ConfigError, DataError
from flaxfer.tasks import TASK_TYPES

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))

FILE = """
from ml_collections import ConfigDict

COLUMNS = dict(text_a="one", text_b=1, label="score")


def get_config(preset="small"):
    config = ConfigDict(dict(
        name=f"study-{preset}",
        model=dict(path="model"),
        optimizer=dict(learning_rate=3e-5, weight_decay=0.1),
        train=dict(batch_size=16, epochs=2),
        intermediate=dict(
            task=dict(
                name="topic", type="classification", metric="accuracy", labels=("no", "yes")
            ),
            data=dict(train=dict(path="topic.tsv", columns=COLUMNS, labels={"n": "no"})),
            train=dict(epochs=5, patience=2),
        ),
        target=dict(
            task=dict(name="same", type="regression", metric="pearson"),
            data=dict(
                train=(dict(path="a.tsv", columns=COLUMNS), dict(path="b.tsv", columns=COLUMNS)),
            ),
            evaluate=dict(
                de=dict(path="de.tsv", columns=COLUMNS, language="de"),
                fr=dict(path="fr.tsv", columns=COLUMNS, language="fr"),
            ),
            optimizer=dict(learning_rate=1e-4),
        ),
    ))
    if preset == "large":
        config.model = dict(hub="some/large", dropout=0.2)
        config.seeds = [0, 1, 2]
    return config
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "study.py"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def at(config: Any, key: str) -> Any:
    """Return the value at a dotted key."""
    for part in key.split("."):
        if isinstance(config, tuple):
            config = config[int(part)]
        elif dataclasses.is_dataclass(config):
            config = getattr(config, part)
        else:
            config = config[part]
    return config


def test_a_config_has_the_values_of_its_file(file: str) -> None:
    columns = {"text_a": "one", "text_b": 1, "label": "score"}
    config = loading.load(file, TASK_TYPES)
    assert (config.name, config.workdir) == ("study-small", "runs/study-small")
    assert config.model == Model(path="model")
    assert config.intermediate is not None
    assert config.intermediate.task == Task("topic", "classification", "accuracy", ("no", "yes"))
    assert config.intermediate.data == Data(
        train=(Source(path="topic.tsv", columns=columns, labels={"n": "no"}),)
    )
    assert config.target.data.train == (
        Source(path="a.tsv", columns=columns),
        Source(path="b.tsv", columns=columns),
    )
    assert config.target.evaluate == {
        language: Source(path=f"{language}.tsv", columns=columns, language=language)
        for language in ("de", "fr")
    }


def test_settings_of_a_stage_take_precedence_over_shared_sections(file: str) -> None:
    config = loading.load(
        file, TASK_TYPES, [("train.max_length", "64"), ("target.train.epochs", "7")]
    )
    first, second = config.intermediate, config.target
    assert first is not None
    assert (first.optimizer.learning_rate, first.optimizer.weight_decay) == (3e-5, 0.1)
    assert (second.optimizer.learning_rate, second.optimizer.weight_decay) == (1e-4, 0.1)
    assert (first.train.epochs, second.train.epochs) == (5, 7)
    assert (first.train.patience, second.train.patience) == (2, 0)
    for stage in (first, second):
        assert (stage.train.batch_size, stage.train.max_length) == (16, 64)


def test_overrides_are_applied_to_a_preset(file: str) -> None:
    config = loading.load(f"{file}:large", TASK_TYPES, [("model.dropout", "0.3")])
    assert config.name == "study-large"
    assert config.model == Model(hub="some/large", dropout=0.3)
    assert config.seeds == (0, 1, 2)


SOURCE = "target.data.train.1"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.batch_size", "64", 64),
        ("train.row_length", "256", 256),
        ("train.row_length", "auto", 0),
        ("train.max_bucket_sizes", "auto", 0),
        ("optimizer.weight_decay", "0.5", 0.5),
        ("optimizer.weight_decay", "1", 1.0),
        ("optimizer.weight_decay", "1e-3", 1e-3),
        ("train.packing", "false", False),
        ("train.packing", "True", True),
        ("name", "2024", "2024"),
        ("name", "1e5", "1e5"),
        ("name", "true", "true"),
        ("name", "None", "None"),
        ("workdir", "some/where", "some/where"),
        ("data_dir", "", ""),
        ("optimizer.name", "lion", "lion"),
        ("optimizer.schedule", "wsd", "wsd"),
        ("seeds", "(3, 4)", (3, 4)),
        ("seeds", "3,4", (3, 4)),
        ("seeds", "[3]", (3,)),
        ("seeds", "3", (3,)),
        ("seeds", "{'looks': (2, 4)}", Looks((2, 4))),
        ("seeds.looks", "2,4", (2, 4)),
        ("conditions", "direct", ("direct",)),
        ("conditions", "('direct', 'scratch')", ("direct", "scratch")),
        ("conditions", "direct,scratch", ("direct", "scratch")),
        ("optimizer.freeze", r"layers/\d/", (r"layers/\d/",)),
        ("target.task.score_range", "0, 1", (0.0, 1.0)),
        ("model.dropout", "none", None),
        ("model.dropout", "0", 0.0),
        ("intermediate.task.labels", "['no', 'yes', '3']", ("no", "yes", "3")),
        (f"{SOURCE}.fraction", "0.5", 0.5),
        (f"{SOURCE}.delimiter", ";", ";"),
        ("store", "007", "007"),
        (f"{SOURCE}.columns.text_a", "2", 2),
        (f"{SOURCE}.columns.text_a", "first", "first"),
        (f"{SOURCE}.columns.text_a", "1.5", "1.5"),
        (f"{SOURCE}.columns.id", "'2'", "2"),
        (f"{SOURCE}.keep", "{'one': 'x', 'two': ['y', 'z']}", {"one": ("x",), "two": ("y", "z")}),
        (f"{SOURCE}.drop.one", "x", ("x",)),
        (f"{SOURCE}.drop.one", "'x', 'y'", ("x", "y")),
        ("intermediate.data.train.0.num_records", "9", 9),
        ("target.evaluate.de.num_records", "9", 9),
        ("mesh.fsdp", "2", 2),
    ],
)
def test_override_takes_the_type_of_its_field(file: str, key: str, text: str, value: Any) -> None:
    default, config = loading.load(file, TASK_TYPES), loading.load(file, TASK_TYPES, [(key, text)])
    shared = key.startswith(("optimizer", "train"))
    actual = at(config, f"target.{key}" if shared else key)
    assert (actual, type(actual)) == (value, type(value))
    affected = {"intermediate", "target"} if shared else {key.partition(".")[0], "workdir"}
    for field in dataclasses.fields(Config):
        if field.name not in affected:
            assert at(config, field.name) == at(default, field.name)


def test_a_single_source_can_be_addressed_with_and_without_its_index(file: str) -> None:
    for key in (
        "intermediate.data.train.0.num_records",
        "intermediate.data.train.num_records",
    ):
        config = loading.load(file, TASK_TYPES, [(key, "9")])
        assert config.intermediate is not None
        (source,) = config.intermediate.data.train
        assert (source.path, source.num_records) == ("topic.tsv", 9)


def test_overrides_set_and_remove_sections(file: str) -> None:
    set_ = "{'path': 'es.tsv', 'columns': {'text_a': 0, 'label': 1}}"
    config = loading.load(
        file,
        TASK_TYPES,
        [
            ("intermediate", "none"),
            ("conditions", "direct"),
            ("target.evaluate.es", set_),
            ("target.data.dev", "[{'path': 'dev.tsv', 'columns': {'text_a': 0, 'label': 1}}]"),
            ("target.train", "{'max_steps': 9}"),
        ],
    )
    source = Source(path="es.tsv", columns={"text_a": 0, "label": 1})
    assert config.intermediate is None
    assert list(config.target.evaluate) == ["de", "fr", "es"]
    assert config.target.evaluate["es"] == source
    assert config.target.data.dev == (dataclasses.replace(source, path="dev.tsv"),)
    assert (config.target.train.max_steps, config.target.train.batch_size) == (9, 16)


@pytest.mark.parametrize(
    ("content", "what", "line"),
    [
        ("def get_config(preset='x'):\n    return 1 / 0\n", "ZeroDivisionError: division", ":2"),
        ("import json\n\n\nget_config = json.loads('{')\n", "JSONDecodeError: Expecting", ":4"),
        ("x = 1\nimport no_such_module\n", "ModuleNotFoundError: No module named", ":2"),
        ("x = 1\n\ndef get_config(:\n", "SyntaxError: ", ":3"),
        ("def get_config():\n    return 1\n", "TypeError: get_config() takes 0", ""),
        ("def get_config(preset):\n    return None\n", "get_config returned None", ""),
        ("get = 1\n", "the file does not define get_config", ""),
    ],
)
def test_a_file_that_fails_is_reported_with_its_line(
    tmp_path: Path, content: str, what: str, line: str
) -> None:
    path = tmp_path / "study.py"
    path.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(what)) as caught:
        loading.load(f"{path}:preset", TASK_TYPES, [("a.b", "1")])
    assert caught.value.where == f"{path}{line}"


def test_a_flaxfer_error_in_a_config_file_is_raised_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    path.write_text(
        "from flaxfer.errors import DataError\n"
        "def get_config():\n    raise DataError('no such package')\n"
    )
    with pytest.raises(DataError, match=r"^no such package$"):
        loading.load(str(path), TASK_TYPES)


def test_a_config_imports_modules_in_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "beside_study.py").write_text("NAME = 'named-beside'\n")
    Path(file).write_text(
        FILE.replace('f"study-{preset}"', "beside_study.NAME") + "\nimport beside_study\n"
    )
    before = list(sys.path)
    assert loading.load(file, TASK_TYPES).name == "named-beside"
    assert sys.path == before


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the config file does not exist") as caught:
        loading.load(str(tmp_path / "none.py:preset"), TASK_TYPES)
    assert caught.value.where == str(tmp_path / "none.py")


def test_to_dict_is_json_and_builds_the_same_config(file: str) -> None:
    config = loading.load(f"{file}:large", TASK_TYPES)
    content = loading.to_dict(config)
    assert json.loads(json.dumps(content)) == content
    assert content["target"]["data"]["train"][1]["columns"]["text_b"] == 1
    assert content["model"] == dataclasses.asdict(config.model)
    assert loading.build(content, TASK_TYPES) == config


def presets(path: Path) -> list[str]:
    """Return the presets of a config file, from its error about an unknown one."""
    with pytest.raises(ConfigError, match=r"there is no preset 'none'; there (is|are) ") as caught:
        loading.load(f"{path}:none", TASK_TYPES)
    assert re.fullmatch(rf"{re.escape(str(path))}:\d+", caught.value.where or "")
    return re.sub(r".*; there (is|are) ", "", caught.value.what).split(", ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_of_the_configs_builds(path: Path) -> None:
    names = presets(path)
    for preset in names:
        config = loading.load_any(f"{path}:{preset}", TASK_TYPES)
        assert config.name.startswith(path.stem)
        if len(names) > 1:
            line = rf"^  {preset} "
            assert re.search(line, path.read_text(), re.MULTILINE), f"{preset}: no docstring"


def test_no_two_presets_share_a_work_directory() -> None:
    files = [f"{path}:{preset}" for path in CONFIGS for preset in presets(path)]
    assert len({loading.load_any(file, TASK_TYPES).workdir for file in files}) == len(files)
