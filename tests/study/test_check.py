"""All faults that would stop a run are found at once, without training."""

from __future__ import annotations

import collections
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer import main
from flaxfer.runtime import plugins
from tests.e2e.helpers import write_sets
from tests.helpers import tiny_model

COLUMNS = {"text_a": 0, "text_b": 1, "label": 2, "language": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_model(folder / "model", "bert", layers=1)
    write_sets(folder)
    return folder


@pytest.fixture
def settings(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A study that nothing is wrong with, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def source(name: str) -> dict[str, Any]:
        return {"path": f"{name}.tsv", "header": False, "columns": COLUMNS}

    labels = ("no", "maybe", "yes")
    nli = {"name": "nli", "type": "classification", "metric": "accuracy", "labels": labels}
    return {
        "name": "s",
        "model": {"path": str(world / "model")},
        "data_dir": str(world),
        "train": {"max_length": 32, "batch_size": 8},
        "intermediate": {
            "task": nli,
            "data": {"train": source("nli-train"), "dev": source("nli-dev")},
        },
        "target": {
            "task": {"name": "sts", "type": "regression", "metric": "pearson"},
            "data": {"train": source("sts-train"), "dev": source("sts-dev")},
            "evaluate": {"de": source("sts-german")},
        },
    }


def check(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of a check."""
    Path("study.json.yaml").write_text(json.dumps(settings))
    code = main.main(["check", "study.json.yaml", *words])
    return code, *capsys.readouterr()


def test_a_check_counts_what_it_reads(
    settings: dict[str, Any], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = check(settings, capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    number = sum(np.prod(shape) for shape in shapes(world / "model"))
    assert lines[0].startswith(f"model: {world / 'model'}, bert, {number:,} weights, ")
    rows = [line.split("\t") for line in (world / "nli-train.tsv").read_text().splitlines()]
    counts = collections.Counter(row[2] for row in rows)
    shown = ", ".join(f"{name} {n}" for name, n in counts.most_common())
    assert lines[1:4] == [
        "intermediate: nli (classification)",
        f"  train  40 examples; en 40; {shown}",
        lines[3],
    ]
    scores = [
        float(line.split("\t")[2]) for line in (world / "sts-german.tsv").read_text().splitlines()
    ]
    low, high = min(scores), max(scores)
    assert f"  de     11 examples; de 11; scores {low:g} to {high:g}" in lines
    assert lines[-3].startswith("workdir: runs/s, ") and lines[-1] == "nothing would stop a run"
    assert not Path("runs").exists()  # It leaves nothing.


def shapes(folder: Path) -> list[tuple[int, ...]]:
    import safetensors

    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        return [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118


def test_all_errors_are_found_at_once(
    settings: dict[str, Any],
    world: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "wandb" else find_spec(name, *more),
    )
    shutil.copytree(world / "model", "model")
    Path("model/model.safetensors").write_bytes(b"damage")
    Path("model/tokenizer.json").write_text("{")
    Path("file").write_text("")
    target = settings["target"]
    target["data"]["train"]["path"] = "absent.tsv"
    target["evaluate"]["de"]["columns"] = COLUMNS | {"label": 9}
    settings["intermediate"]["data"]["dev"] = [
        settings["intermediate"]["data"]["dev"],
        {**settings["intermediate"]["data"]["dev"], "path": "sts-dev.tsv"},
    ]
    settings |= {"model": {"path": "model"}, "trackers": "wandb", "workdir": "file/runs"}
    code, out, err = check(settings, capsys)
    assert code == 4
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    for place, what in (
        ("model/model.safetensors", ""),
        ("model/tokenizer.json", ""),
        ("sts-dev.tsv", "12 finding(s) in the data"),
        ("absent.tsv", "there is no such file"),
        ("sts-german.tsv", "columns that are to be read are not there"),
        ("trackers", "the tracker 'wandb' is not installed"),
        ("file", "file/runs is no folder"),
    ):
        assert any(place in line and what in line for line in errors), (place, err)
    assert "Values found: " in err and "nli-dev.tsv: " not in err
    # The store lies in the work directory.
    assert len(errors) == 8 and out.endswith("8 error(s)\n")


def test_trackers_of_other_packages_are_imported(
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declared = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, plugins.TRACKERS)
        for name, value in (("mine", "json:dumps"), ("gone", "json:no_such_function"))
    )
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **group: declared.select(**group)
    )
    assert check(settings | {"trackers": "mine"}, capsys)[0] == 0
    code, _, err = check(settings | {"trackers": ("mine", "gone")}, capsys)
    assert code == 2 and "entry point 'gone' of flaxfer.trackers: json:no_such_function" in err


def test_a_length_that_the_model_does_not_take_is_found(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["train"]["max_length"] = 128
    code, _, err = check(settings, capsys)
    assert code == 2
    for stage in ("intermediate", "target"):
        line = f"error: {stage}.train.max_length: max_length 128 is more than the model's 64\n"
        assert line in err


def test_steps_that_do_not_fit_are_found(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["optimizer"] = {"warmup": 50}
    code, _, err = check(settings, capsys)
    assert code == 2
    assert "target.optimizer.warmup: 50 warm-up steps are all of the 15 steps of 3 epochs of" in err


def test_forbidden_overlap_is_found(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["target"]["evaluate"]["de"] |= {"path": "sts-train.tsv", "keep": {"language": "en"}}
    assert check(settings, capsys)[0] == 0
    code, _, err = check(settings | {"overlap": "forbid"}, capsys)
    assert code == 3 and "overlap" in err


def test_what_is_on_the_hub_is_not_looked_at(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["model"] = {"hub": "some/model"}
    settings["target"]["evaluate"]["fr"] = {"hub": "some/set", "columns": COLUMNS}
    code, out, err = check(settings, capsys)
    assert (code, err) == (0, "")
    assert "model: some/model of the hub, which is not looked at here" in out
    assert "  evaluate.fr: some/set of the hub, which is not looked at here" in out


def test_a_grid_is_checked_as_a_whole(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {key: settings[key] for key in ("name", "data_dir", "train")}
    grid["models"] = {"one": settings["model"], "two": {"path": "absent"}}
    grid["intermediates"] = {"nli": settings["intermediate"]}
    grid["targets"] = {"sts": settings["target"] | {"intermediates": "nli"}}
    code, out, err = check(grid, capsys)
    assert code == 3 and "error: absent: there is no such folder" in err
    assert "models.one: " in out and "intermediates.nli: nli" in out and "targets.sts: sts" in out


def test_a_config_can_be_checked_alone(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["model"]["path"] = "absent"
    valid = "the configuration is valid\n"
    assert check(settings, capsys, "--check=config") == (0, valid, "")
    words = ["--config", "study.json.yaml", "--check=config"]
    assert main.main(words) == 0 and capsys.readouterr().out == valid
    settings["model"]["path"] = "TODO"
    assert check(settings, capsys, "--check=config")[0] == 2


def test_a_check_needs_no_jax(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    check(settings, capsys)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flaxfer", "check", "study.json.yaml"],
        env=os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "flaxfer.data.sources" in imported
    assert not imported & {"transformers", "jax", "flax", "datasets", "pyarrow", "torch"}
