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
from flaxfer.errors import ConfigError, DataError
from flaxfer.tasks import TASK_TYPES
from tests.config.helpers import VALID, changed, errors

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
            train=dict(epochs=1, patience=2),
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


def details(file: str, *overrides: tuple[str, str]) -> tuple[str, ...]:
    """Return the errors of a config file that is not valid."""
    with pytest.raises(ConfigError) as caught:
        loading.load(file, TASK_TYPES, overrides)
    assert caught.value.where == file
    assert caught.value.what.startswith(f"{len(caught.value.details)} error(s)")
    return caught.value.details


def at(config: Any, key: str) -> Any:
    """The value at a dotted key."""
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
    assert (first.train.epochs, second.train.epochs) == (1, 7)
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
        (f"{SOURCE}.path", "007", "007"),
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


def test_the_last_override_of_a_key_is_used(file: str) -> None:
    config = loading.load(file, TASK_TYPES, [("seeds", "1"), ("seeds", "2")])
    assert config.seeds == (2,)


def test_overrides_set_and_remove_sections(file: str) -> None:
    set_ = "{'path': 'es.tsv', 'columns': {'text_a': 0, 'label': 1}}"
    config = loading.load(
        file,
        TASK_TYPES,
        [
            ("intermediate", "none"),
            ("conditions", "direct"),
            ("target.evaluate.es", set_),
            ("target.data.dev", f"[{set_}]"),
            ("target.train", "{'max_steps': 9}"),
        ],
    )
    source = Source(path="es.tsv", columns={"text_a": 0, "label": 1})
    assert config.intermediate is None
    assert list(config.target.evaluate) == ["de", "fr", "es"]
    assert config.target.evaluate["es"] == source
    assert config.target.data.dev == (source,)
    assert (config.target.train.max_steps, config.target.train.batch_size) == (9, 16)


def test_ten_errors_are_reported_together(file: str) -> None:
    reported = details(
        file,
        ("modle.path", "x"),  # an unknown section
        ("optimizer.lerning_rate", "1e-5"),  # an unknown key of a shared section
        ("train.batch_size", "many"),  # a wrong type in a shared section
        ("intermediate.train.packing", "1"),  # a wrong type in one stage
        ("target.optimizer.name", "adam"),  # none of the choices
        ("target.task.type", "none"),  # a wrong required key
        (f"{SOURCE}.columns.text_c", "2"),  # an unknown role
        ("target.evaluate.de.fraction", "2"),  # out of range
        ("intermediate.task.metric", "accurracy"),  # of another task type
        ("train.row_length", "32"),  # against train.max_length
    )
    assert sorted(reported) == sorted(
        [
            "modle: unknown key; did you mean 'model'?",
            "optimizer.lerning_rate: unknown key; did you mean 'learning_rate'?",
            "train.batch_size: should be a valid integer; is 'many'",
            "intermediate.train.packing: should be a valid boolean; is 1",
            "target.optimizer.name: should be 'adamw', 'adafactor' or 'lion'; is 'adam'",
            "target.task.type: 'none' is not a task type; there are classification, regression, "
            "tagging, question_answering, multiple_choice",
            f"{SOURCE}.columns.text_c: unknown role; did you mean 'text_b'?",
            "target.evaluate.de.fraction: should be less than or equal to 1; is 2",
            "intermediate.task.metric: 'accurracy' is no metric of classification; "
            "did you mean 'accuracy'?",
            "train.row_length: 32 tokens cannot hold an example of max_length 128",
        ]
    )


@pytest.mark.parametrize(
    ("key", "text", "error"),
    [
        ("seeds", "one", "seeds.0: should be a valid integer; is 'one'"),
        ("seeds", "1.5", "seeds.0: should be a valid integer; is 1.5"),
        ("train.batch_size", "32.0", "train.batch_size: should be a valid integer; is 32.0"),
        ("train.batch_size", "true", "train.batch_size: should be a valid integer; is True"),
        ("train.row_length", "all", "train.row_length: should be a valid integer; is 'all'"),
        ("optimizer.warmup", "1e999", "optimizer.warmup: should be a finite number"),
        ("optimizer.eps", "small", "optimizer.eps: should be a valid number; is 'small'"),
        ("target.task.score_range", "1", "target.task.score_range: should be a valid tuple"),
        ("target.data.split", "(0.5, 0.5)", "target.data.split.2: is missing"),
        ("model.dropout", "no", "model.dropout: should be a valid number; is 'no'"),
        ("optimizer", "5", "optimizer: should be a section with keys; is 5"),
        ("target.optimizer", "5", "target.optimizer: should be a section with keys; is 5"),
        ("target.evaluate", "5", "target.evaluate: should be a section with keys; is 5"),
        ("target.evaluate.de", "x", "target.evaluate.de: should be a section with keys; is 'x'"),
        ("target", "none", "target: should be a section with keys; is None"),
        ("target.data.dev", "x.tsv", "target.data.dev.0: should be a section with keys"),
        (f"{SOURCE}.labels", "x", f"{SOURCE}.labels: should be a section with keys; is 'x'"),
        (f"{SOURCE}.labels", "{0: 'no'}", f"{SOURCE}.labels.0: should be a valid string; is 0"),
        ("target.data.train.2.path", "x", "target.data.train.2.path: there is no item '2' here"),
        ("target.data.train.0", "x", "target.data.train.0: set the whole tuple"),
        ("name.first", "x", "name.first: 'name' is a value, not a section"),
        ("target.task.labelz", "x", "target.task.labelz: unknown key; did you mean 'labels'?"),
        ("trian.epochs", "1", "trian: unknown key; did you mean 'train'?"),
        ("zzzz", "1", "zzzz: unknown key; there are name, conditions, seeds, "),
        (
            "target.train.batch_size",
            "0",
            "target.train.batch_size: should be greater than or equal to 1; is 0",
        ),
    ],
)
def test_one_wrong_value_is_one_error(file: str, key: str, text: str, error: str) -> None:
    (reported,) = details(file, (key, text))
    assert reported.startswith(error)


def test_missing_fields_do_not_hide_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    path.write_text(
        "def get_config():\n"
        "    task = dict(name='t', type='regression')\n"
        "    return dict(seeds=(), model=dict(path='m', hub='m'),\n"
        "                target=dict(task=task, data=dict(), train=dict(epochs=0)))\n"
    )
    assert sorted(details(str(path))) == [
        "conditions: 'staged' needs the section intermediate; add it, or leave 'staged' out",
        "model.path: set either a local folder (model.path) or a hub id (model.hub), not both",
        "name: is missing",
        "seeds: value should have at least 1 item after validation, not 0; is []",
        "target.data.train: is missing",
        "target.task.metric: is missing",
        "target.train.epochs: should be positive; is 0.0",
    ]


def test_an_error_in_a_shared_section_is_reported_once(file: str) -> None:
    assert details(file, ("optimizer.b1", "2")) == ("optimizer.b1: should be less than 1; is 2",)
    # The target sets its own, valid rate.
    assert details(file, ("optimizer.learning_rate", "0")) == (
        "optimizer.learning_rate: should be greater than 0; is 0",
    )
    assert details(file, ("intermediate.train.max_steps", "5"), ("optimizer.warmup", "5")) == (
        "intermediate.optimizer.warmup: 5 warm-up steps are all of max_steps 5",
    )
    assert details(file, ("train.label_smoothing", "0.1")) == (
        "target.train.label_smoothing: is for classification and tagging, not regression",
    )


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("paths", ("direct",), "paths: renamed to conditions"),
        ("seeds_at_once", 2, "seeds_at_once: renamed to batched_seeds"),
        (
            "target.train.accumulation",
            2,
            "target.train.accumulation: renamed to target.train.gradient_accumulation_steps",
        ),
        (
            "train.accumulation",
            2,
            "train.accumulation: renamed to train.gradient_accumulation_steps",
        ),
        ("train.max_programs", 2, "train.max_programs: renamed to train.max_bucket_sizes"),
        ("train.keep", "all", "train.keep: renamed to train.remat"),
        ("train.remat", "all", "train.remat: 'all' is renamed to 'none'"),
        ("train.remat", "products", "train.remat: 'products' is renamed to 'matmuls'"),
        ("train.remat", "inputs", "train.remat: 'inputs' is renamed to 'full'"),
        ("optimizer.l2_start", 0.1, "optimizer.l2_start: renamed to optimizer.l2_sp"),
        (
            "optimizer.decay_share",
            0.1,
            "optimizer.decay_share: renamed to optimizer.decay_fraction",
        ),
        ("target.rehearse", 4, "target.rehearse: renamed to target.rehearsal_examples"),
        ("target.wise", (0.5,), "target.wise: renamed to target.wise_ft_alphas"),
        ("target.retained", True, "target.retained: renamed to target.evaluate_retention"),
        ("target.restarts", 1, "target.restarts: renamed to target.max_restarts"),
        (
            "target.data.train.0.rows",
            9,
            "target.data.train.0.rows: renamed to target.data.train.0.num_records",
        ),
    ],
)
def test_an_earlier_name_is_refused_with_the_new_one(key: str, value: Any, error: str) -> None:
    assert errors(changed(VALID, {key: value})) == (error,)


@pytest.mark.parametrize(
    ("settings", "at", "more"),
    [
        ({"target": {"task": {}, "data": {}}}, "target", ["model: is missing"]),
        (
            {"targets": {"a": {"task": {}, "data": {}}}, "models": {"m": {"path": "m"}}},
            "targets.a",
            [],
        ),
    ],
    ids=["study", "grid"],
)
def test_every_missing_field_is_reported(
    settings: dict[str, Any], at: str, more: list[str]
) -> None:
    expected = [f"{at}.task.{key}: is missing" for key in ("name", "type", "metric")]
    expected += [f"{at}.data.train: is missing", "name: is missing", *more]
    assert sorted(errors({"conditions": "direct", **settings})) == sorted(expected)


def test_keys_that_are_not_text_are_reported() -> None:
    settings = {**VALID, None: 1, 0: 2, "train": {0: 3}}
    assert sorted(errors(settings)) == [
        "0: keys should be strings; is 0",
        "None: keys should be strings; is None",
        "train.0: keys should be strings; is 0",
    ]


def test_an_invalid_section_of_a_grid_does_not_make_it_a_study() -> None:
    assert errors({"name": "grid", "targets": 5}) == (
        "targets: should be a section with keys; is 5",
        "models: is empty",
    )


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
    """The presets of a config file, as it names them when asked for one that is not there."""
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
