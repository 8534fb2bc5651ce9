"""Batched and sequential seeds give the same results."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from flaxfer.config import Config
from flaxfer.study import plan, runner
from tests.e2e.helpers import (
    config_of,
    lines_of,
    open_study,
    summary_of,
    with_optimizer,
    with_train,
    write_sets,
)
from tests.helpers import tiny_model

STAGES = ("intermediate", "target")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("seeds")
    # Large weights, whose predictions differ: a correlation of nearly equal ones is all rounding.
    tiny_model(folder / "model", "bert", deviation=0.3, layers=1)
    write_sets(folder)
    config = dataclasses.replace(config_of(folder), conditions=("staged",), seeds=(3, 0))
    for name in STAGES:
        config = with_train(config, name, max_steps=4, compute_dtype="float32")
        # A large eps: rounding in a gradient of zero must not become a step.
        config = with_optimizer(config, name, eps=1e-2)
    return config


def files_of(folder: Path) -> set[str]:
    """Relative paths, without the files of Orbax, whose names are its own affair."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if "/params/" not in name}


@pytest.mark.slow  # Their losses, parameters and kills are tested in training.
def test_batched_seeds_leave_the_files_and_numbers_of_sequential_ones(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, evaluated = [], []
    for size in (1, 2):
        workdir = tmp_path / str(size)
        runner.run(dataclasses.replace(config, batched_seeds=size, workdir=str(workdir)), "command")
        folders.append(workdir)
        lines = re.findall(r"staged/(\w+) seed (\d)  step (\d)/4  dev", capsys.readouterr().err)
        evaluated.append([(name, int(seed), int(step)) for name, seed, step in lines])
    # The order of their dev evaluations shows that batched seeds advance in step.
    steps = (3, 4)
    assert evaluated[0] == [(n, seed, k) for seed, n, k in itertools.product((3, 0), STAGES, steps)]
    assert evaluated[1] == [(n, seed, k) for n, k, seed in itertools.product(STAGES, steps, (3, 0))]
    apart, together = folders
    assert files_of(apart) == files_of(together)
    configs = [dataclasses.replace(config, workdir=str(folder)) for folder in (together, apart)]
    summary, expected = (summary_of(one) for one in configs)
    runs, wanted = summary["runs"], expected["runs"]
    assert [(run["seed"], run["stage"]) for run in runs] == [*itertools.product((3, 0), STAGES)]
    assert len({run["id"] for run in runs}) == 4
    for run, want in zip(runs, wanted, strict=True):
        assert (run["id"], run["parent"]) == (want["id"], want["parent"])
        assert run["dev"] == pytest.approx(want["dev"], abs=1e-5)
        for name in ("identity.json", "vocabulary.npy", "origin.json"):
            one, other = ((folder / run["dir"] / name).read_bytes() for folder in folders)
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
    assert summary["config"]["batched_seeds"] == 2


@pytest.mark.parametrize(
    ("seeds", "size", "groups"),
    [
        ((0, 1, 2), 1, [(0,), (1,), (2,)]),
        ((0, 1, 2), 2, [(0, 1), (2,)]),
        ((0, 1, 2), 5, [(0, 1, 2)]),
        ((*range(10),), 0, [(*range(8),), (8, 9)]),
    ],
)
def test_seeds_are_grouped_by_the_number_of_batched_seeds(
    seeds: tuple[int, ...], size: int, groups: list[tuple[int, ...]], config: Config
) -> None:
    study = open_study(dataclasses.replace(config, seeds=seeds, batched_seeds=size))
    assert plan.seed_groups(study.data) == groups
    planned = [tuple(spec.seed for spec in group) for group in study.plan.groups]
    assert planned == [group for group in groups for _ in STAGES]


def test_seeds_of_large_steps_are_not_batched(config: Config) -> None:
    config = dataclasses.replace(config, seeds=(0, 1), conditions=("direct",))
    train = open_study(config).data.stages["target"].train
    largest = int(plan.SMALL_WORK // (len(train.token) / len(train) * 32))
    assert largest > 8
    for batch_size, accumulation, groups in (
        (largest, 1, [(0, 1)]),
        (largest + 1, 1, [(0,), (1,)]),
        (2 * largest, 2, [(0, 1)]),
        (2 * largest + 2, 2, [(0,), (1,)]),
    ):
        sizes = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        study = open_study(with_train(config, "target", **sizes))
        assert plan.seed_groups(study.data) == groups
