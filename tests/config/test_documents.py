"""Configs in YAML, in TOML, and as a mapping are the same as in Python."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections
import pytest

from flaxfer.config import loading
from flaxfer.config.files import read_config_file
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES

YAML = """\
name: study
conditions: direct
model: {path: model}
optimizer: {learning_rate: 2e-5, warmup: 0.1}
target:
  task: {name: mood, type: classification, metric: accuracy, labels: [no, on]}
  data:
    train:
      path: a.tsv
      columns: {text_a: 0, label: 1}
      header: false
      labels: {1: no, 5: on}
      language: no  # Norwegian, not false.
"""
TOML = """\
name = "study"
conditions = "direct"
[model]
path = "model"
[optimizer]
learning_rate = 2e-5
warmup = 0.1
[target.task]
name = "mood"
type = "classification"
metric = "accuracy"
labels = ["no", "on"]
[target.data.train]
path = "a.tsv"
header = false
language = "no"
columns = {text_a = 0, label = 1}
labels = {1 = "no", 5 = "on"}
"""
PYTHON: dict[str, Any] = dict(
    name="study",
    conditions="direct",
    model=dict(path=Path("model")),
    optimizer=dict(learning_rate=2e-5, warmup=0.1),
    target=dict(
        task=dict(name="mood", type="classification", metric="accuracy", labels=("no", "on")),
        data=dict(
            train=dict(
                path=Path("a.tsv"),
                columns=dict(text_a=0, label=1),
                header=False,
                labels={1: "no", 5: "on"},
                language="no",
            )
        ),
    ),
)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_forms_of_a_config_are_the_same(tmp_path: Path) -> None:
    forms = [
        written(tmp_path, "study.yaml", YAML),
        str(written(tmp_path, "study.yml", "\ufeff" + YAML)),
        written(tmp_path, "study.toml", TOML),
        MappingProxyType(PYTHON),
        {**PYTHON, "seeds": [0]},
    ]
    configs = [loading.load(form, TASK_TYPES) for form in forms]
    assert configs[1:] == configs[:-1]
    source = configs[0].target.data.train[0]
    assert source.labels == {"1": "no", "5": "on"}
    assert (source.language, source.columns) == ("no", {"text_a": 0, "label": 1})
    assert configs[0].target.optimizer.learning_rate == 2e-5


def test_a_config_dict_and_overrides_of_any_type() -> None:
    settings = ml_collections.ConfigDict({k: v for k, v in PYTHON.items() if k != "target"})
    settings.target = {"task": PYTHON["target"]["task"]}
    settings.target.data = {"train": {"path": "a.tsv", "columns": {"text_a": 0, "label": 1}}}
    changes = {"model.path": Path("x"), "seeds": (1, 2), "target.data.train.header": False}
    config = loading.load_any(settings, TASK_TYPES, changes)
    assert (config.model.path, config.seeds) == ("x", (1, 2))
    assert not config.target.data.train[0].header
    assert config.workdir == "runs/study"


@pytest.mark.parametrize(
    ("name", "text", "line", "what"),
    [
        ("s.yaml", "name: a\nmodel: {path: [}\n", ":2", "the file is no YAML: "),
        ("s.yaml", "name: a\nseeds: 1\nname: b\n", ":3", "the key 'name' is given twice"),
        ("s.yaml", "name: a\nx: !!python/object:os.system {}\n", ":2", "could not determine a con"),
        ("s.yaml", "- 1\n- 2\n", "", "holds [1, 2], no settings by name"),
        ("s.yaml", "# nothing\n", "", "the file is empty"),
        ("s.toml", 'name = "a"\n\nmodel = {path = }\n', ":3", "the file is no TOML: Invalid value"),
        ("s.toml", 'name = "a"\nname = "b"\n', ":2", "Cannot overwrite a value"),
        ("s.toml", 'name = "a', ":1", "the file is no TOML: "),
    ],
)
def test_errors_name_the_line(name: str, text: str, line: str, what: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        read_config_file(str(path))
    assert caught.value.where == f"{path}{line}"
    assert what in caught.value.what


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "a: 1e3\nb: 010\nc: 1_0\nd: 12:30\ne: -.inf\nf: yes\ng: 2020-01-01\nh: ~\ni: TRUE\nj: 7"
    assert read_config_file(str(written(tmp_path, "s.yaml", text))) == {
        "a": 1000.0,
        "b": "010",
        "c": "1_0",
        "d": "12:30",
        "e": float("-inf"),
        "f": "yes",
        "g": "2020-01-01",
        "h": None,
        "i": True,
        "j": 7,
    }


def test_merged_sections_of_yaml_may_be_changed(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"
    settings = read_config_file(str(written(tmp_path, "s.yaml", text)))
    assert settings["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("name", ["s.yaml", "s.TOML"])
def test_a_document_has_no_presets(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, "")
    with pytest.raises(ConfigError, match=r"file has no presets, so 'base' has no effect"):
        read_config_file(f"{path}:base")


def test_placeholders_are_named_unless_they_may_be_left() -> None:
    settings = {**PYTHON, "model": {"path": "TODO: a folder"}, "workdir": "TODO"}
    with pytest.raises(ConfigError) as caught:
        loading.build(settings, TASK_TYPES)
    assert caught.value.details == (
        "model.path: is still to be filled in: a folder",
        "workdir: is still to be filled in: a value",
    )
    assert loading.build(settings, TASK_TYPES, unfinished=True).workdir == "TODO"
    assert loading.build({**settings, **PYTHON, "workdir": "TODOS"}, TASK_TYPES).workdir == "TODOS"


def test_only_whole_numbers_stand_for_labels() -> None:
    for key in (True, 1.5, None):
        target = {**PYTHON["target"], "task": {**PYTHON["target"]["task"], "labels": (key, "on")}}
        with pytest.raises(ConfigError, match=r"target\.task\.labels\.0: should be a valid string"):
            loading.build({**PYTHON, "target": target}, TASK_TYPES)


@pytest.mark.parametrize(
    ("name", "text", "changes", "expected"),
    [
        ("s.yaml", YAML, ("rate: 2e-5", "rate: 2"),
         "optimizer.learning_rate: should be less than or equal to 1; is 2 (line 4)"),
        ("s.yaml", YAML, ("columns:", "colums:"),
         "target.data.train.0.colums: unknown key; did you mean 'columns'? (line 10)"),
        ("s.yaml", YAML, ("accuracy", "acuracy"),
         "target.task.metric: 'acuracy' is no metric of classification; "
         "did you mean 'accuracy'? (line 6)"),
        ("s.toml", TOML, ("rate = 2e-5", "rate = 2"),
         "optimizer.learning_rate: should be less than or equal to 1; is 2 (line 6)"),
        ("s.toml", TOML, ("columns =", "colums ="),
         "target.data.train.0.colums: unknown key; did you mean 'columns'? (line 17)"),
        ("s.toml", TOML, ('path = "model"\n', ""),
         "model.path: set either a local path (path) or a hub id (hub), not neither (line 3)"),
    ],
)  # fmt: skip
def test_errors_of_settings_name_the_line(
    name: str, text: str, changes: tuple[str, str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load(written(tmp_path, name, text.replace(*changes)), TASK_TYPES)
    assert expected in caught.value.details
