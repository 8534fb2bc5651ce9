"""Batched and sequential seeds give the same results in whole studies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flaxfer.config import Config
from tests.e2e.helpers import (
    data_of,
    lines_of,
    plan_of,
    run_study,
    study_config,
    with_stage,
    write_sets,
)
from tests.helpers import tiny_model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("seeds")
    # Large weights, whose predictions differ: a correlation of nearly equal ones is all rounding.
    tiny_model(folder / "model", deviation=0.3, layers=1)
    write_sets(folder)
    config = dataclasses.replace(
        study_config(folder), conditions=("staged",), seeds=(3, 0), transferability=0
    )
    for name in ("intermediate", "target"):
        # A large eps: the rounding of a zero gradient must not become a step.
        changes = {"train": {"max_steps": 4}, "optimizer": {"eps": 1e-2}}
        config = with_stage(config, name, **changes)
    return config


def files_of(folder: Path) -> set[str]:
    """Return relative paths, without the files of Orbax, whose names are random."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if "/params/" not in name}


def test_batched_and_sequential_seeds_give_the_same_study(config: Config, tmp_path: Path) -> None:
    folders, summaries = [], []
    for size, groups in ((1, [(3,), (3,), (0,), (0,)]), (2, [(3, 0), (3, 0)])):
        workdir = tmp_path / str(size)
        sized = dataclasses.replace(config, batched_seeds=size, workdir=str(workdir))
        planned = plan_of(sized).groups
        assert [tuple(spec.seed for spec in group) for group in planned] == groups
        summaries.append(run_study(sized))
        folders.append(workdir)
    sequential, batched = folders
    assert files_of(sequential) == files_of(batched)
    expected_runs, runs = (summary["runs"] for summary in summaries)
    order = [(seed, name) for seed in (3, 0) for name in ("intermediate", "target")]
    assert [(run["seed"], run["stage"]) for run in runs] == order
    assert len({run["id"] for run in runs}) == 4
    for run, expected in zip(runs, expected_runs, strict=True):
        assert (run["id"], run["parent"]) == (expected["id"], expected["parent"])
        assert run["dev"] == pytest.approx(expected["dev"], abs=1e-5)
        for name in ("identity.json", "vocabulary.npy", "origin.json"):
            one, other = ((folder / run["dir"] / name).read_bytes() for folder in folders)
            assert one == other
        for entry, other_entry in zip(run["evaluations"], expected["evaluations"], strict=True):
            assert entry["metrics"] == pytest.approx(other_entry["metrics"], abs=1e-5)
    files = [p.relative_to(sequential) for p in sequential.glob("stages/*/predictions/*.jsonl")]
    assert len(files) == 4
    for file in files:
        lines, other_lines = (lines_of(folder / file) for folder in folders)
        assert [line["id"] for line in lines] == [line["id"] for line in other_lines]
        scores = [[one["prediction"] for one in both] for both in (lines, other_lines)]
        np.testing.assert_allclose(*scores, atol=1e-5)
    assert summaries[1]["config"]["batched_seeds"] == 2


def groups_of(config: Config) -> list[tuple[int, ...]]:
    """Return the seeds that train as one program, of the last stage."""
    groups = plan_of(config).groups
    return [tuple(s.seed for s in group) for group in groups if group[0].name == "target"]


@pytest.mark.parametrize(
    ("seeds", "size", "groups"),
    [
        ((0, 1, 2), 1, [(0,), (1,), (2,)]),
        ((0, 1, 2), 2, [(0, 1), (2,)]),
        ((0, 1, 2), 5, [(0, 1, 2)]),
        ((*range(10),), 0, [(*range(8),), (8, 9)]),
    ],
)
def test_seeds_are_grouped_by_batched_seeds(
    seeds: tuple[int, ...], size: int, groups: list[tuple[int, ...]], config: Config
) -> None:
    assert groups_of(dataclasses.replace(config, seeds=seeds, batched_seeds=size)) == groups


def test_seeds_of_large_steps_are_not_batched_by_default(config: Config) -> None:
    config = dataclasses.replace(config, seeds=(0, 1), batched_seeds=0)
    tokens = float(data_of(config).stages["target"].train.lengths.mean())
    assert 8 * tokens * 32 < 2**13 < 40 * tokens * 32
    assert groups_of(config) == [(0, 1)]
    large = with_stage(config, "target", train={"batch_size": 40})
    assert groups_of(large) == [(0,), (1,)]
    micro_batches = {"batch_size": 40, "gradient_accumulation_steps": 5}
    assert groups_of(with_stage(config, "target", train=micro_batches)) == [(0, 1)]
