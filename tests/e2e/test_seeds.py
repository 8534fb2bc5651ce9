"""A study whose seeds train together leaves what it leaves when they train one by one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flaxfer.study.study import Study

from flaxfer.config import Config
from flaxfer.study import studies, study
from tests.e2e.test_study import (
    config_of,
    lines_of,
    open_study,
    summary_of,
    use_one_device,
    write_sets,
)
from tests.helpers import tiny_model


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    use_one_device(monkeypatch)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("seeds")
    # Large weights, whose predictions differ: a correlation of nearly equal ones is all rounding.
    tiny_model(folder / "model", "bert", deviation=0.3)
    write_sets(folder)
    config = dataclasses.replace(config_of(folder), conditions=("staged",), seeds=(3, 0))
    assert config.intermediate is not None
    short = dataclasses.replace(config.target.train, max_steps=4, compute_dtype="float32")
    # A large eps: what is rounding in a gradient that is zero must not become a step.
    optimizer = dataclasses.replace(config.target.optimizer, eps=1e-2)
    return dataclasses.replace(
        config,
        target=dataclasses.replace(config.target, train=short, optimizer=optimizer),
        intermediate=dataclasses.replace(config.intermediate, train=short, optimizer=optimizer),
    )


def files_of(folder: Path) -> set[str]:
    """Relative paths, without the files of Orbax, whose names are its own affair."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if "/params/" not in name}


def test_a_study_of_groups(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []
    real: Any = study.stage.train

    def train(jobs: Any) -> None:
        groups.append([run.title for run, _ in jobs])
        real(jobs)

    monkeypatch.setattr(study.stage, "train", train)
    folders = []
    for at_once in (1, 2):
        own = dataclasses.replace(
            config, batched_seeds=at_once, workdir=str(tmp_path / str(at_once))
        )
        studies.run(own, "the command")
        folders.append(Path(own.workdir))
    stages = ("intermediate", "target")
    assert groups == [
        *([f"staged/{name} seed {seed}"] for seed in (3, 0) for name in stages),
        *([f"staged/{name} seed {seed}" for seed in (3, 0)] for name in stages),
    ]
    apart, together = folders
    assert files_of(apart) == files_of(together)
    runs, wanted = (json.loads((f / "study.json").read_text())["runs"] for f in (together, apart))
    order = [(seed, name) for seed in (3, 0) for name in stages]
    assert [(run["seed"], run["stage"]) for run in runs] == order
    assert len({run["id"] for run in runs}) == 4
    for run, want in zip(runs, wanted, strict=True):
        assert (run["id"], run["parent"]) == (want["id"], want["parent"])
        assert run["dev"] == pytest.approx(want["dev"], abs=1e-5)
        for name in ("identity.json", "vocabulary.npy", "origin.json"):
            one, other = ((f / run["dir"] / name).read_bytes() for f in folders)
            assert one == other
        for entry, other in zip(run["evaluations"], want["evaluations"], strict=True):
            assert entry["metrics"] == pytest.approx(other["metrics"], abs=1e-5)
    predicted = sorted(p.relative_to(apart) for p in apart.glob("stages/*/predictions/*.jsonl"))
    assert len(predicted) == 4
    for path in predicted:
        one, other = (lines_of(folder / path) for folder in folders)
        assert [line["id"] for line in one] == [line["id"] for line in other]
        scores = [[line["prediction"] for line in lines] for lines in (one, other)]
        np.testing.assert_allclose(*scores, atol=1e-5)
    assert summary_of(own)["config"]["batched_seeds"] == 2


@pytest.mark.parametrize(
    ("seeds", "at_once", "groups"),
    [
        ((0, 1, 2), 1, [(0,), (1,), (2,)]),
        ((0, 1, 2), 2, [(0, 1), (2,)]),
        ((0, 1, 2), 5, [(0, 1, 2)]),
        ((*range(10),), 0, [(*range(8),), (8, 9)]),
    ],
)
def test_seeds_at_once(
    seeds: tuple[int, ...], at_once: int, groups: list[tuple[int, ...]], config: Config
) -> None:
    own = open_study(dataclasses.replace(config, seeds=seeds, batched_seeds=at_once))
    assert own.groups() == groups


def test_large_steps_are_not_put_together(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    own: Study = open_study(dataclasses.replace(config, seeds=(0, 1)))
    train = config.target.train
    assert own.groups() == [(0, 1)]
    tokens = sum(own.data["target"]["train"].lengths) / len(own.data["target"]["train"])
    assert own._work("target") == pytest.approx(train.batch_size * tokens * 32)
    monkeypatch.setattr(study, "SMALL_WORK", own._work("target") - 1)
    assert own.groups() == [(0,), (1,)]
    halves = dataclasses.replace(
        config.target, train=dataclasses.replace(train, gradient_accumulation_steps=2)
    )
    own.stages = {"target": halves}
    assert own.groups() == [(0, 1)]
