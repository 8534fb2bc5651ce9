"""Grids of tiny studies: shared stages, several processes, kills, and stages that diverge."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import re
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config, Data, Model, Stage, Task, grids
from flaxfer.config.grids import Grid, Target
from flaxfer.errors import ClaimLostError, DataError, DivergedError
from flaxfer.report import writing
from flaxfer.study import runner
from flaxfer.study.claims import Claims
from flaxfer.training import loop
from flaxfer.training.record import DONE, FAILED
from tests.e2e.helpers import (
    COMMAND,
    LABELS,
    OPTIMIZER,
    TRAIN,
    Json,
    kill_and_resume,
    source,
    start_process,
    times_of,
    write_config,
    write_sets,
)
from tests.helpers import tiny_model

SHORT = dataclasses.replace(TRAIN, max_steps=4, eval_every=2)
TIMES = {"seconds", "compile_seconds", "examples_per_s", "useful_tokens_per_s"}
TIMES |= {"input_stall_share"}


def write_world(folder: Path) -> None:
    """Write two models and the data."""
    for seed, name in enumerate(("one", "two")):
        tiny_model(folder / name, seed=seed, vocab_size=300, layers=1)
    write_sets(folder)


def grid_of(world: Path, workdir: Path) -> Grid:
    """Two models x two intermediate tasks x half of a target's data: 4 studies, 10 stages."""
    sts = Task("sts", "regression", "pearson")
    nli = Task("nli", "classification", "accuracy", LABELS)
    nli_data = Data((source("nli-train"),), (source("nli-dev"),))
    sts_data = Data((source("sts-train"),), (source("sts-dev"),), (source("sts-test"),))
    often = dataclasses.replace(SHORT, eval_every=1)  # The same programs, another stage.
    return Grid(
        name="tiny",
        models={name: Model(path=str(world / name)) for name in ("one", "two")},
        intermediates={
            "nli": Stage(nli, nli_data, {}, OPTIMIZER, SHORT),
            "often": Stage(nli, nli_data, {}, OPTIMIZER, often),
        },
        targets={
            "sts": Target(
                sts,
                sts_data,
                {"german": source("sts-german")},
                OPTIMIZER,
                SHORT,
                intermediates=("nli", "often"),
            ),
        },
        fractions=(0.5,),
        batched_seeds=1,
        transferability=0,
        workdir=str(workdir),
        data_dir=str(world),
        cache=str(world / "cache"),
    )


def small(grid: Grid, workdir: Path) -> Grid:
    """Return a part of the grid, two studies of 5 stages, in another work directory."""
    models = {"one": grid.models["one"]}
    return dataclasses.replace(grid, models=models, workdir=str(workdir))


@pytest.fixture(scope="module")
def finished(on_one_device: None, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """The grid, run through by one process."""
    world = tmp_path_factory.mktemp("grid")
    write_world(world)
    grid = grid_of(world, world / "whole")
    runner.run(grid, COMMAND)
    return grid


def results_of(grid: Grid) -> dict[str, tuple[list[Json], list[str]]]:
    """Return the runs without times, and the lines of results.csv, by cell."""
    results = {}
    lines = (Path(grid.workdir) / "results.csv").read_text().splitlines()
    for name, cell in grids.cells(grid).items():
        record = json.loads((Path(cell.workdir) / "study.json").read_text())
        assert record["failed"] == []
        runs = [{k: v for k, v in run.items() if k not in TIMES} for run in record["runs"]]
        scores = [line for line in lines if line.startswith(f"{name},")]
        assert scores
        results[name] = (runs, scores)
    return results


def part(results: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """Return the results for the cells of a smaller grid."""
    return {name: results[name] for name in grids.cells(grid)}


def trained_stages(grid: Grid) -> dict[str, int]:
    """Return when each stage was marked as finished, by identity."""
    return {
        file.parent.name: file.stat().st_mtime_ns for file in Path(grid.stages).glob(f"*/{DONE}")
    }


def test_equal_stages_of_several_studies_are_trained_once(finished: Grid) -> None:
    results = results_of(finished)
    assert len(results) == 4
    assert all(len(runs) == 3 for runs, _ in results.values())
    ids = {run["id"] for runs, _ in results.values() for run in runs}
    # Per model: 2 intermediate stages, one direct target stage, one after each intermediate.
    assert len(ids) == 2 * (2 + 3)
    assert trained_stages(finished).keys() == ids
    direct = [
        {run["id"] for run in results[f"one.{name}.0.5"][0] if run["condition"] == "direct"}
        for name in ("nli.sts", "often.sts")
    ]
    assert direct[0] == direct[1] and len(direct[0]) == 1
    cell = Path(finished.workdir) / "cells" / "two.nli.sts.0.5"
    for run in json.loads((cell / "study.json").read_text())["runs"]:
        assert run["dir"] == f"../../stages/{run['id']}"
        assert (cell / run["dir"] / "metrics.jsonl").is_file()
    assert "No metrics.jsonl" not in (Path(finished.workdir) / "report.md").read_text()


def test_a_finished_grid_repeats_nothing_and_holds_one_study_at_a_time(
    finished: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    read = runner.read_study_data

    def read_alone(config: Config, cache: Path) -> Any:
        gc.collect()
        assert len(alive) == 0
        data = read(config, cache)
        alive.add(data)
        return data

    monkeypatch.setattr(runner, "read_study_data", read_alone)
    results, times = results_of(finished), times_of(Path(finished.stages))
    runner.run(finished, COMMAND)
    assert times_of(Path(finished.stages)) == times and results_of(finished) == results


def test_a_single_study_has_the_stages_and_scores_of_its_cell(
    finished: Grid, tmp_path: Path
) -> None:
    cell = grids.cells(finished)["one.nli.sts.0.5"]
    study = dataclasses.replace(cell, workdir=str(tmp_path), store="", conditions=("direct",))
    runner.run(study, COMMAND)
    (run,) = json.loads((tmp_path / "study.json").read_text())["runs"]
    assert run["dir"] == f"stages/{run['id']}"
    runs, _ = results_of(finished)["one.nli.sts.0.5"]
    (same,) = [other for other in runs if other["id"] == run["id"]]
    assert run["evaluations"] == same["evaluations"] and run["dev"] == same["dev"]


def test_a_changed_config_reuses_the_stages_that_it_does_not_change(
    finished: Grid, tmp_path: Path
) -> None:
    faster = dataclasses.replace(OPTIMIZER, learning_rate=2e-3)
    nli = dataclasses.replace(finished.intermediates["nli"], optimizer=faster)
    changed = dataclasses.replace(
        small(finished, tmp_path),
        store=finished.stages,
        intermediates=finished.intermediates | {"nli": nli},
    )
    before = trained_stages(finished)
    runner.run(changed, COMMAND)
    runs = {
        f"{run['condition']}/{run['stage']}": run["id"]
        for run in results_of(changed)["one.nli.sts.0.5"][0]
    }
    after = trained_stages(changed)
    new = {runs["staged/intermediate"], runs["staged/target"]}
    assert after.keys() - before.keys() == new
    assert {name: time for name, time in after.items() if name not in new} == before
    assert runs["direct/target"] in before


@pytest.mark.slow
def test_two_processes_share_the_work_of_a_grid(finished: Grid, tmp_path: Path) -> None:
    grid = small(finished, tmp_path / "work")
    file = write_config(tmp_path / "tiny.py", grid, processes=2)
    for process in [start_process(file) for _ in range(2)]:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert results_of(grid) == part(results_of(finished), grid)
    owners = set()
    for folder in Path(grid.stages).iterdir():
        assert [path.name for path in (folder / "claims").iterdir()] == ["1"], "each claimed once"
        owners.add(json.loads((folder / "claims" / "1").read_text())["pid"])
    assert len(owners) == 2, "both worked"


def test_a_killed_grid_ends_as_if_it_had_not_been(finished: Grid, tmp_path: Path) -> None:
    grid = small(finished, tmp_path / "work")
    file = write_config(tmp_path / "tiny.py", grid)
    assert kill_and_resume(file, Path(grid.stages), kills=1, seed=0, longest=4) > 0
    assert results_of(grid) == part(results_of(finished), grid)


@pytest.fixture(scope="module")
def diverged(finished: Grid, tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, str]:
    """A grid of which one intermediate stage has diverged, and the message of its error."""
    workdir = tmp_path_factory.mktemp("diverged")
    too_fast = dataclasses.replace(OPTIMIZER, learning_rate=1e30)
    bad = dataclasses.replace(finished.intermediates["often"], optimizer=too_fast)
    grid = dataclasses.replace(
        small(finished, workdir),
        store=finished.stages,
        intermediates=finished.intermediates | {"often": bad},
    )
    with pytest.raises(DivergedError) as caught:
        runner.run(grid, COMMAND)
    assert caught.value.exit_code == 5
    return grid, str(caught.value)


def test_a_diverged_stage_stops_nothing_else(diverged: tuple[Grid, str]) -> None:
    grid, message = diverged
    assert "2 of 6 stages have diverged, or start from one that has" in message
    cells = Path(grid.workdir) / "cells"
    record = json.loads((cells / "one.often.sts.0.5" / "study.json").read_text())
    assert [(f["condition"], f["seed"], f["stage"]) for f in record["failed"]] == [
        ("staged", 0, "intermediate"),
        ("staged", 0, "target"),
    ]
    first, second = (fail["error"] for fail in record["failed"])
    assert re.fullmatch(r"staged/intermediate seed 0: the .* of step \d is (inf|nan)", first)
    assert "has diverged" in second
    done = [(run["condition"], run["seed"], run["stage"]) for run in record["runs"]]
    assert done == [("direct", 0, "target")]
    assert "staged seed 0" in (Path(grid.workdir) / "report.md").read_text()
    other = json.loads((cells / "one.nli.sts.0.5" / "study.json").read_text())
    assert other["failed"] == []


def test_a_diverged_stage_is_tried_again_only_without_its_note(diverged: tuple[Grid, str]) -> None:
    grid, _ = diverged
    (note,) = Path(grid.stages).glob(f"*/{FAILED}")
    written = note.stat().st_mtime_ns
    with pytest.raises(DivergedError):
        runner.run(grid, COMMAND)
    assert note.stat().st_mtime_ns == written
    note.unlink()
    with pytest.raises(DivergedError):
        runner.run(grid, COMMAND)
    assert note.stat().st_mtime_ns > written


def test_a_study_without_any_finished_target_has_a_report(
    diverged: tuple[Grid, str], tmp_path: Path
) -> None:
    cell = grids.cells(diverged[0])["one.often.sts.0.5"]
    alone = dataclasses.replace(cell, workdir=str(tmp_path), conditions=("staged",))
    with pytest.raises(DivergedError, match="2 of 2 stages have diverged"):
        runner.run(alone, COMMAND)
    report = (tmp_path / "report.md").read_text()
    assert "No finished run of the target: staged seed 0" in report


def test_an_owner_that_lost_its_claim_writes_nothing_and_continues_later(
    finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = dataclasses.replace(finished.targets["sts"], intermediates=("nli",))
    grid = dataclasses.replace(small(finished, tmp_path), targets={"sts": target})
    lost: list[Path] = []
    real = loop.train

    def train(runs: Any, *rest: Any) -> None:
        if lost:
            return real(runs, *rest)
        folder = runs[0].spec.folder
        lost.append(folder)
        before = sorted(path.name for path in folder.iterdir())
        newer = folder / "claims" / "2"
        newer.write_text(json.dumps({"host": "h", "pid": 1, "system": "", "started": ""}))
        with pytest.raises(ClaimLostError) as caught:
            real(runs, *rest)
        assert sorted(path.name for path in folder.iterdir()) == before
        os.utime(newer, (0, 0))
        raise caught.value

    monkeypatch.setattr(loop, "train", train)
    runner.run(grid, COMMAND)
    assert lost and (lost[0] / DONE).exists()
    assert results_of(grid)["one.nli.sts.0.5"][0] == results_of(finished)["one.nli.sts.0.5"][0]


def test_a_plan_trains_and_writes_nothing(
    finished: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.show(small(finished, tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    plan = capsys.readouterr().err
    assert "5 stages of 2 studies" in plan and "to do" in plan and "done" not in plan
    assert "same model: unknown" in plan
    runner.show(finished)
    plan = capsys.readouterr().err
    assert "10 stages of 4 studies" in plan
    assert "to do" not in plan and "same model: 0:00:00" in plan


@contextlib.contextmanager
def copied(grid: Grid, tmp_path: Path) -> Iterator[Grid]:
    """Give a grid whose stages are trained and still to be evaluated."""
    shutil.copytree(grid.stages, tmp_path / "stages")
    for folder in (tmp_path / "stages").glob("*/evaluations"):
        shutil.rmtree(folder)
    yield dataclasses.replace(
        grid, workdir=str(tmp_path / "again"), store=str(tmp_path / "stages")
    )


def test_finished_studies_have_a_report_while_others_run(finished: Grid, tmp_path: Path) -> None:
    """Another owner holds a stage of the last study until the others are finished."""
    with copied(finished, tmp_path) as grid:
        workdirs = [Path(cell.workdir) for cell in grids.cells(grid).values()]
        last = runner.Studies(grid).open([*grids.cells(grid).values()][-1]).plan
        held = [spec.folder for spec in last.stages if spec.condition == "staged"][-1]
        lines: list[str] = []

        def report_on_the_first(release: contextlib.ExitStack) -> None:
            with release:
                while not all((one / "study.json").exists() for one in workdirs[:-1]):
                    time.sleep(0.02)
                assert not (workdirs[-1] / "study.json").exists()
                writing.write_report(Path(grid.workdir))
                lines.extend((Path(grid.workdir) / "results.csv").read_text().splitlines()[1:])

        with contextlib.ExitStack() as release:
            assert release.enter_context(release.enter_context(Claims()).taking([held]))
            watcher = threading.Thread(target=report_on_the_first, args=[release.pop_all()])
            watcher.start()
            runner.run(grid, COMMAND)
            watcher.join()
    names = {line.partition(",")[0] for line in lines}
    assert names == {workdir.name for workdir in workdirs[:-1]}
    expected = [line for name in names for line in results_of(finished)[name][1]]
    assert sorted(lines) == sorted(expected)
    assert (workdirs[-1] / "study.json").exists()


def test_a_stage_waits_for_its_owner_and_for_the_owner_of_its_parent(
    finished: Grid, tmp_path: Path
) -> None:
    with copied(finished, tmp_path) as grid, Claims() as claims, Claims() as others:
        study = runner.Studies(grid).open(grids.cells(grid)["one.nli.sts.0.5"])
        (group,) = [g for g in study.plan.groups if g[0].parent is not None]
        (spec,) = group
        assert spec.parent is not None
        for folder in (spec.folder, spec.parent.folder):
            with others.taking([folder]) as taken:
                assert taken and not study.advance(group, claims)
        done = (spec.parent.folder / DONE).rename(tmp_path / DONE)
        assert not study.advance(group, claims), "the parent is not trained"
        done.rename(spec.parent.folder / DONE)
        assert study.advance(group, claims) and spec.is_settled()


def test_data_that_change_after_planning_are_refused(finished: Grid, tmp_path: Path) -> None:
    write_sets(tmp_path)
    cell = grids.cells(dataclasses.replace(finished, data_dir=str(tmp_path)))["one.nli.sts.0.5"]
    plan = runner.Studies(cell).open(cell).plan
    runner.Studies(cell).open(cell).check_unchanged(plan)
    file = tmp_path / "sts-dev.tsv"
    file.write_text(file.read_text().replace("man", "dog"))
    with pytest.raises(DataError, match="have changed since this command was started"):
        runner.Studies(cell).open(cell).check_unchanged(plan)
