"""Names and folders of a study are checked before anything is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config, Data, Model, Source, Stage, Task, Train, loading
from flaxfer.config.grids import Grid, Target
from flaxfer.errors import ConfigError, FlaxferError
from flaxfer.study import runner, workdirs
from flaxfer.tasks import TASK_TYPES

TASK = Task("sts", "regression", "pearson")
DATA = Data((Source(path="a.tsv", columns={"text_a": 0, "label": 1}),))
STAGE = Stage(TASK, DATA, train=Train())
CONFIG = Config(
    name="tiny",
    model=Model(path="model"),
    target=STAGE,
    conditions=("direct",),
    workdir="runs/tiny",
)
GRID = Grid(
    name="tiny",
    models={"one": Model(path="model")},
    targets={"sts": Target(TASK, DATA)},
    conditions=("direct",),
    workdir="runs/tiny",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("config", [CONFIG, GRID])
@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"workdir": " "}, ["workdir"]),
        ({"workdir": "a\0b"}, ["workdir"]),
        ({"store": " "}, ["store"]),
        *(({"name": name}, ["name"]) for name in ("", "a/b", "../up", "..", ".", "a b", "a\n")),
        ({"name": "", "workdir": " "}, ["name", "workdir"]),
    ],
)
def test_names_and_folders_that_cannot_be_used_are_refused_before_anything_is_written(
    config: Any, changes: dict[str, str], keys: list[str], here: Path
) -> None:
    wrong = dataclasses.replace(config, **changes)
    for action in (lambda: runner.run(wrong, ""), lambda: runner.show(wrong)):
        with pytest.raises(ConfigError) as caught:
            action()
        found = sorted(line.partition(":")[0] for line in caught.value.details)
        assert found == keys and caught.value.exit_code == 2
        assert list(here.iterdir()) == []


@pytest.mark.parametrize("config", [CONFIG, GRID])
def test_without_a_work_directory_results_are_kept_below_runs(config: Any, here: Path) -> None:
    with pytest.raises(FlaxferError):  # There is no model; the folders come first.
        runner.run(dataclasses.replace(config, workdir=""), "")
    assert (here / "runs" / "tiny" / "stages").is_dir()


def test_a_cell_may_not_leave_its_grid(here: Path) -> None:
    wrong = dataclasses.replace(GRID, models={"../../up": Model(path="model")})
    with pytest.raises(ConfigError, match="1 error"):
        runner.run(wrong, "")
    assert list(here.iterdir()) == []


def test_folders_may_be_relative_and_below_the_home_folder(here: Path) -> None:
    config = loading.validated(
        dataclasses.replace(CONFIG, workdir="~/runs/a", store="~/store"), TASK_TYPES
    )
    assert (config.workdir, config.store) == (f"{here}/home/runs/a", f"{here}/home/store")
    workdirs.prepare(config)
    assert (here / "home" / "runs" / "a").is_dir() and (here / "home" / "store").is_dir()
    workdirs.prepare(loading.validated(CONFIG, TASK_TYPES))
    assert sorted(path.name for path in (here / "runs" / "tiny").iterdir()) == ["stages"]


@pytest.mark.parametrize(
    ("key", "value", "where", "hint"),
    [
        ("workdir", "file", "file", "workdir"),
        ("workdir", "file/within", "file/within", "workdir"),
        ("store", "file", "file", "store"),
        ("workdir", "/proc/flaxfer", "/proc/flaxfer", "workdir"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_before_data_are_read(
    key: str, value: str, where: str, hint: str, here: Path
) -> None:
    (here / "file").write_text("kept")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        runner.run(dataclasses.replace(CONFIG, **{key: value}), "")
    assert caught.value.where == str((here / where).absolute())
    assert caught.value.hint == f"pass another one with --config.{hint}=FOLDER."
    assert (here / "file").read_text() == "kept"
