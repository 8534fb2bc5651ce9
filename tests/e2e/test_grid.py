"""Grids of tiny studies: shared stages, several processes, kills, and divergence."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import grids
from flaxfer.config.grids import Grid
from flaxfer.errors import ClaimLostError, DataError, DivergedError
from flaxfer.report import writing
from flaxfer.study import forecast, runner
from flaxfer.study.claims import Claims
from flaxfer.study.open_study import OpenStudy
from flaxfer.training import loop
from flaxfer.training.record import DONE, FAILED
from flaxfer.training.run import Run
from tests.e2e.helpers import (
    Json,
    grid_of,
    kill_and_resume,
    open_study,
    results_of,
    runs_of,
    spec_of,
    start_worker,
    summary_of,
    trained_since,
    work_in,
    write_grid_world,
    write_sets,
)

# tests/report trains a grid too; plans, claims and shared stages are tested apart.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Half of the grid, 4 studies of 10 stages, finished by one process."""
    world = tmp_path_factory.mktemp("grid")
    write_grid_world(world)
    grid = grid_of(world, tmp_path_factory.mktemp("whole"))
    grid = dataclasses.replace(grid, fractions=(0.5,))
    runner.run(grid, "the command")
    return grid


def part_of(grid: Grid) -> Grid:
    """A part of the grid: two studies of 5 stages."""
    return dataclasses.replace(grid, models={"one": grid.models["one"]})


@pytest.fixture
def part(finished: Grid, tmp_path: Path) -> Grid:
    """A part of the grid with a store that is empty."""
    return dataclasses.replace(part_of(finished), workdir=str(tmp_path / "part"))


@pytest.fixture
def expected(finished: Grid) -> dict[str, tuple[list[Json], list[str]]]:
    """The results of the part of the grid."""
    names = grids.cells(part_of(finished))
    return {name: results for name, results in results_of(finished).items() if name in names}


@pytest.fixture
def unmeasured(finished: Grid, tmp_path: Path) -> Grid:
    """The grid with its stages trained, but not evaluated."""
    store = tmp_path / "stages"
    shutil.copytree(finished.stages, store)
    for folder in store.glob("*/evaluations"):
        shutil.rmtree(folder)
    return dataclasses.replace(finished, workdir=str(tmp_path / "again"), store=str(store))


def test_stages_that_studies_share_are_one(finished: Grid) -> None:
    results = results_of(finished)
    assert len(results) == 4
    assert all(len(runs) == 3 for runs, _ in results.values())
    ids = {run["id"] for runs, _ in results.values() for run in runs}
    # By model: 2 intermediate stages, one direct, one after each of the first two.
    assert len(ids) == 2 * (2 + 3)
    assert {path.parent.name for path in Path(finished.stages).glob(f"*/{DONE}")} == ids
    direct = [
        {run["id"] for run in results[f"one.{name}.0.5"][0] if run["condition"] == "direct"}
        for name in ("nli.sts", "often.sts")
    ]
    assert direct[0] == direct[1] and len(direct[0]) == 1
    cell = grids.cells(finished)["two.nli.sts.0.5"]
    for run in summary_of(cell)["runs"]:
        assert run["dir"] == f"../../stages/{run['id']}"
        assert (Path(cell.workdir) / run["dir"] / "metrics.jsonl").is_file()
    page = (Path(finished.workdir) / "report.md").read_text()
    assert "No metrics.jsonl" not in page


def test_a_finished_grid_repeats_nothing(finished: Grid) -> None:
    before, work = results_of(finished), work_in(finished.stages)
    runner.run(finished, "the command")
    assert results_of(finished) == before and work_in(finished.stages) == work


def test_a_study_alone_equals_a_cell(finished: Grid, tmp_path: Path) -> None:
    cell = grids.cells(finished)["one.nli.sts.0.5"]
    alone = dataclasses.replace(cell, workdir=str(tmp_path), store="", conditions=("direct",))
    runner.run(alone, "")
    run, same = (runs_of(config)["direct/target"] for config in (alone, cell))
    assert run["dir"] == f"stages/{run['id']}" and run["id"] == same["id"]
    assert run["evaluations"] == same["evaluations"] and run["dev"] == same["dev"]


def test_a_changed_grid_trains_only_what_the_change_concerns(finished: Grid, part: Grid) -> None:
    stage = part.intermediates["nli"]
    faster = dataclasses.replace(stage.optimizer, learning_rate=2e-3)
    changed = dataclasses.replace(stage, optimizer=faster)
    intermediates = {**part.intermediates, "nli": changed}
    grid = dataclasses.replace(part, store=finished.stages, intermediates=intermediates)
    before = work_in(grid.stages)
    runner.run(grid, "")
    name = "one.nli.sts.0.5"
    new, old = (runs_of(grids.cells(one)[name]) for one in (grid, finished))
    staged = {new["staged/intermediate"]["id"], new["staged/target"]["id"]}
    assert trained_since(before, grid.stages) == staged
    assert staged.isdisjoint(run["id"] for run in old.values())
    assert new["direct/target"]["id"] == old["direct/target"]["id"]


def test_two_processes_share_a_grid(part: Grid, expected: Json) -> None:
    processes = [start_worker(part, number=2) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert results_of(part) == expected
    owners = set()
    for folder in Path(part.stages).glob("*/claims"):
        claims = [path.name for path in folder.iterdir()]
        assert claims == ["1"], "a stage was claimed more than once"
        owners.add(json.loads((folder / "1").read_text())["pid"])
    assert len(owners) == 2, "one process did all the work"


def test_a_killed_grid_continues_to_the_same_results(part: Grid, expected: Json) -> None:
    assert kill_and_resume(part, kills=1, seed=0, longest=4) > 0
    assert results_of(part) == expected


@pytest.fixture
def diverging(finished: Grid, part: Grid) -> Iterator[Grid]:
    """A part of the grid one of whose intermediate stages diverges, in the finished store."""
    stage = part.intermediates["nli"]
    # It is 0 in float32, so that AdamW divides 0 by 0 for parameters without a gradient.
    bad = dataclasses.replace(stage, optimizer=dataclasses.replace(stage.optimizer, eps=1e-50))
    intermediates = {"nli": stage, "often": bad}
    grid = dataclasses.replace(part, store=finished.stages, intermediates=intermediates)
    yield grid
    for note in Path(grid.stages).glob(f"*/{FAILED}"):
        shutil.rmtree(note.parent)


def test_a_diverged_stage_stops_nothing_else(diverging: Grid) -> None:
    cells = grids.cells(diverging)
    store = Path(diverging.stages)
    with pytest.raises(DivergedError, match=r"2 of 6 stages have diverged, or start") as caught:
        runner.run(diverging, "")
    assert caught.value.exit_code == 5
    summary = summary_of(cells["one.often.sts.0.5"])
    assert [(f["condition"], f["seed"], f["stage"]) for f in summary["failed"]] == [
        ("staged", 0, "intermediate"),
        ("staged", 0, "target"),
    ]
    first, second = (fail["error"] for fail in summary["failed"])
    assert re.fullmatch(
        r"staged/intermediate seed 0: the loss of step 2 is nan; its examples: .*", first
    )
    assert "has diverged" in second
    done = [(run["condition"], run["seed"], run["stage"]) for run in summary["runs"]]
    assert done == [("direct", 0, "target")]
    assert "staged seed 0" in (Path(diverging.workdir) / "report.md").read_text()
    assert summary_of(cells["one.nli.sts.0.5"])["failed"] == []
    before = work_in(store)
    with pytest.raises(DivergedError):
        runner.run(diverging, "")
    assert trained_since(before, store) == set(), "it was tried again"
    (note,) = store.glob(f"*/{FAILED}")
    note.unlink()
    with pytest.raises(DivergedError):
        runner.run(diverging, "")
    assert trained_since(before, store) == {note.parent.name}, "it was not tried again"


def test_a_study_without_finished_runs_has_a_report(diverging: Grid, tmp_path: Path) -> None:
    cell = grids.cells(diverging)["one.often.sts.0.5"]
    alone = dataclasses.replace(cell, workdir=str(tmp_path / "alone"), conditions=("staged",))
    with pytest.raises(DivergedError, match="2 of 2 stages have diverged"):
        runner.run(alone, "")
    report = (tmp_path / "alone" / "report.md").read_text()
    assert "No finished run of the target: staged seed 0" in report


def test_an_owner_that_lost_its_claim_writes_nothing_and_continues(
    finished: Grid, part: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "one.nli.sts.0.5"
    cell = dataclasses.replace(grids.cells(part)[name], conditions=("direct",), store="")
    lost: list[Path] = []
    real: Callable[..., None] = loop.train

    def train(runs: Sequence[Run], *rest: Any) -> None:
        """Let another owner take the first stage over for the time of its training."""
        if lost:
            return real(runs, *rest)
        folder = runs[0].spec.folder
        lost.append(folder)
        before = sorted(path.name for path in folder.iterdir())
        newest = folder / "claims" / "2"
        newest.write_text(json.dumps({"host": "h", "pid": 1, "system": "", "started": ""}))
        with pytest.raises(ClaimLostError) as caught:
            real(runs, *rest)
        assert sorted(path.name for path in folder.iterdir()) == before
        os.utime(newest, (0, 0))
        raise caught.value

    monkeypatch.setattr(loop, "train", train)
    runner.run(cell, "")
    assert (lost[0] / DONE).exists() and (lost[0] / "claims" / "3").exists()
    run, same = (runs_of(one)["direct/target"] for one in (cell, grids.cells(finished)[name]))
    for key in ("id", "steps", "best_step", "dev", "evaluations"):
        assert run[key] == same[key]


def test_a_dry_run_trains_and_writes_nothing(
    finished: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.show(dataclasses.replace(finished, workdir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    shown = capsys.readouterr().err
    assert "10 stages of 4 studies" in shown and "to do" in shown and "done" not in shown
    assert "same model: unknown" in shown
    runner.show(finished)
    shown = capsys.readouterr().err
    assert "to do" not in shown and "same model: 0:00:00" in shown


def test_a_finished_study_has_a_record_while_others_run(
    finished: Grid, unmeasured: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [Path(cell.workdir) for cell in grids.cells(unmeasured).values()]
    real: Callable[..., bool] = OpenStudy.advance

    def advance(self: OpenStudy, *rest: Any) -> bool:
        if Path(self.data.config.workdir) == cells[-1]:
            raise KeyboardInterrupt
        return real(self, *rest)

    monkeypatch.setattr(OpenStudy, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        runner.run(unmeasured, "")
    assert [(cell / "study.json").exists() for cell in cells] == [True] * 3 + [False]
    writing.write_report(Path(unmeasured.workdir))
    lines = (Path(unmeasured.workdir) / "results.csv").read_text().splitlines()[1:]
    names = {line.partition(",")[0] for line in lines}
    assert names == {cell.name for cell in cells[:-1]}
    expected = [line for name in names for line in results_of(finished)[name][1]]
    assert sorted(lines) == sorted(expected)


def test_one_study_is_held_in_memory_at_a_time(
    finished: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[OpenStudy]] = []
    real: Callable[..., None] = OpenStudy.__init__

    def init(self: OpenStudy, *args: Any) -> None:
        gc.collect()
        assert all(reference() is None for reference in opened)
        real(self, *args)
        opened.append(weakref.ref(self))

    monkeypatch.setattr(OpenStudy, "__init__", init)
    runner.run(finished, "the command")
    assert len(opened) == 4


def test_data_that_change_under_a_running_grid_are_refused(
    part: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(tmp_path)
    grid = dataclasses.replace(part, data_dir=str(tmp_path))
    real: Callable[..., None] = forecast.show

    def show(*args: Any, **options: Any) -> None:
        """Change the data between the planning and the training."""
        real(*args, **options)
        file = tmp_path / "sts-dev.tsv"
        file.write_text(file.read_text().replace("man", "dog"))

    monkeypatch.setattr(forecast, "show", show)
    with pytest.raises(DataError, match="have changed since this command was started"):
        runner.run(grid, "")
    assert not list(Path(grid.stages).glob("*/*"))


def test_a_stage_waits_for_the_one_before_it(unmeasured: Grid) -> None:
    study = open_study(grids.cells(unmeasured)["one.nli.sts.0.5"])
    spec = spec_of(study, "staged")
    assert spec.parent is not None and not spec.is_settled()
    parent, done = spec.parent.folder, spec.parent.folder / DONE
    text = done.read_text()
    with Claims() as claims:
        done.unlink()
        assert not study.advance_group([spec], claims), "its parent is not trained"
        done.write_text(text)
        with claims.taking([parent]):
            assert not study.advance_group([spec], claims), "its parent is not tidied up yet"
        with claims.taking([spec.folder]):
            assert not study.advance_group([spec], claims), "somebody else works on it"
        assert study.advance_group([spec], claims) and spec.is_complete()
