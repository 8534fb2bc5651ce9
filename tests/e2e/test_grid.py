"""Grids of tiny studies: what they share, several processes on one, kills, and what diverges."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flaxfer.study.study import Study
from flaxfer.training.stage_run import DONE, FAILED, StageRun

from flaxfer.config import Data, Model, Stage, Task, grids
from flaxfer.config.grids import Grid, Target
from flaxfer.errors import ClaimLostError, DataError, DivergedError
from flaxfer.report import writing
from flaxfer.runtime import sharding
from flaxfer.study import graph, studies
from flaxfer.study.claims import Claims
from flaxfer.training import loop
from tests.e2e.test_study import LABELS, OPTIMIZER, TRAIN, source, use_one_device, write_sets
from tests.helpers import mesh_of, tiny_model

ROOT = Path(__file__).parents[2]
SHORT = dataclasses.replace(TRAIN, max_steps=4, eval_every=2, compute_dtype="float32")
Json = dict[str, Any]


def write_world(folder: Path) -> None:
    """Two models and the data."""
    for seed, name in enumerate(("one", "two")):
        tiny_model(folder / name, "bert", seed=seed, vocab_size=300)
    write_sets(folder)


def grid_of(world: Path, workdir: Path) -> Grid:
    """Two models x two intermediate tasks x two fractions of a target: 8 studies, 16 stages."""
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
        fractions=(1.0, 0.5),
        batched_seeds=1,
        workdir=str(workdir),
        data_dir=str(world),
        cache=str(world / "cache"),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def small(whole: Grid) -> Grid:
    """A part of it: two studies, of 5 stages."""
    return dataclasses.replace(
        whole,
        models={"one": whole.models["one"]},
        fractions=(0.5,),
    )


def spare_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, and programs that are kept: both models need the same ones."""
    use_one_device(monkeypatch)
    monkeypatch.setattr(studies, "forget_programs", lambda: None)


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    spare_time(monkeypatch)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Half of the grid, 4 studies of 10 stages, that one process has run through."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        spare_time(monkeypatch)
        whole = grid_of(world, tmp_path_factory.mktemp("whole"))
        own = dataclasses.replace(whole, fractions=(0.5,))
        studies.run(own, "the command")
        yield own


def results_of(own: Grid) -> dict[str, tuple[list[Json], list[str]]]:
    """By cell, the runs without times, and its lines of results.csv."""
    timed = {"seconds", "compile_seconds", "examples_per_s", "useful_tokens_per_s"}
    found = {}
    lines = (Path(own.workdir) / "results.csv").read_text().splitlines()
    for name, cell in grids.cells(own).items():
        folder = Path(cell.workdir)
        summary = json.loads((folder / "study.json").read_text())
        assert summary["failed"] == []
        runs = [
            {k: v for k, v in run.items() if k not in timed | {"input_stall_share"}}
            for run in summary["runs"]
        ]
        scores = [line for line in lines if line.startswith(f"{name},")]
        assert scores
        found[name] = (runs, scores)
    return found


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are trained from here on, one entry each time."""
    found: list[str] = []
    real: Callable[..., Any] = loop.train

    def train(jobs: Any) -> None:
        found.extend(run.folder.name for run, _ in jobs)
        real(jobs)

    monkeypatch.setattr(loop, "train", train)
    return found


def test_stages_that_studies_share_are_one(finished: Grid) -> None:
    results = results_of(finished)
    assert len(results) == 4
    assert all(len(runs) == 3 for runs, _ in results.values())
    ids = {run["id"] for runs, _ in results.values() for run in runs}
    # By model: 2 intermediate stages, one direct, one after each of the first two.
    assert len(ids) == 2 * (2 + 3)
    stages = Path(finished.stages)
    assert {path.parent.name for path in stages.glob(f"*/{DONE}")} == ids
    direct = [
        {run["id"] for run in results[f"one.{name}.0.5"][0] if run["condition"] == "direct"}
        for name in ("nli.sts", "often.sts")
    ]
    assert direct[0] == direct[1] and len(direct[0]) == 1
    cell = Path(finished.workdir) / "cells" / "two.nli.sts.0.5"
    for run in json.loads((cell / "study.json").read_text())["runs"]:
        assert run["dir"] == f"../../stages/{run['id']}"
        assert (cell / run["dir"] / "metrics.jsonl").is_file()
    page = (Path(finished.workdir) / "report.md").read_text()
    assert "No metrics.jsonl" not in page


def test_a_finished_grid_repeats_nothing(finished: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = results_of(finished), trained(monkeypatch)
    monkeypatch.setattr(Study, "_score", None)
    studies.run(finished, "the command")
    assert found == [] and results_of(finished) == before


def test_a_study_of_its_own_is_the_same_as_a_cell(
    finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = grids.cells(finished)["one.nli.sts.0.5"]
    own = dataclasses.replace(cell, workdir=str(tmp_path), store="", conditions=("direct",))
    studies.run(own, "")
    (run,) = json.loads((tmp_path / "study.json").read_text())["runs"]
    assert run["dir"] == f"stages/{run['id']}"
    runs, _ = results_of(finished)["one.nli.sts.0.5"]
    (same,) = [other for other in runs if other["id"] == run["id"]]
    assert run["evaluations"] == same["evaluations"] and run["dev"] == same["dev"]


def test_a_changed_config_reuses_what_it_leaves_as_it_is(
    finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small(finished)
    faster = dataclasses.replace(OPTIMIZER, learning_rate=2e-3)
    changed = dataclasses.replace(own.intermediates["nli"], optimizer=faster)
    own = dataclasses.replace(
        own,
        workdir=str(tmp_path),
        store=finished.stages,
        intermediates=own.intermediates | {"nli": changed},
    )
    found = trained(monkeypatch)
    studies.run(own, "")
    runs = {
        run["condition"] + "/" + run["stage"]: run for run in results_of(own)["one.nli.sts.0.5"][0]
    }
    assert found == [runs["staged/intermediate"]["id"], runs["staged/target"]["id"]]
    old, _ = results_of(finished)["one.nli.sts.0.5"]
    assert runs["direct/target"]["id"] in {run["id"] for run in old}


def process_of(own: Grid, world: Path, part: str, number: int = 1) -> subprocess.Popen[str]:
    """Another process on the same grid, which begins when there are so many of them."""
    code = "import sys; from tests.e2e.test_grid import in_a_process; in_a_process(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(world), own.workdir, part, str(number)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def in_a_process(world: str, workdir: str, part: str, number: str) -> None:
    """What `process_of` starts."""
    Path(workdir).mkdir(exist_ok=True)
    (Path(workdir) / f"ready-{os.getpid()}").touch()
    while len(list(Path(workdir).glob("ready-*"))) < int(number):
        time.sleep(0.01)
    # Compiled programs are kept on disk, or most of the time would go for them.
    pytest.MonkeyPatch().setattr(sharding, "make_mesh", lambda sizes: mesh_of())
    whole = grid_of(Path(world), Path(workdir))
    studies.run(small(whole) if part == "small" else whole, "the command")


def expected(finished: Grid) -> dict[str, tuple[list[Json], list[str]]]:
    """Of the whole grid, what belongs to its small part."""
    names = grids.cells(small(finished))
    return {name: own for name, own in results_of(finished).items() if name in names}


def test_two_processes_drain_one_grid(finished: Grid, world: Path, tmp_path: Path) -> None:
    own = small(dataclasses.replace(finished, workdir=str(tmp_path)))
    processes = [process_of(own, world, "small", number=2) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert results_of(own) == expected(finished)
    folders = list(Path(own.stages).iterdir())
    owners = set()
    for folder in folders:
        assert [path.name for path in (folder / "claims").iterdir()] == ["1"], "each claimed once"
        owners.add(json.loads((folder / "claims" / "1").read_text())["pid"])
    assert len(owners) == 2, "both worked"


def kill_and_resume(
    own: Grid, world: Path, part: str, kills: int, seed: int, longest: float
) -> int:
    """Starts a process and kills it after up to so many seconds of work, again and again, then runs
    to the end; gives how often it was killed before that.
    """
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        before = {*Path(own.stages).glob("*/claims/*")}
        process = process_of(own, world, part)
        # To start takes long: the time counts from its first claim.
        while process.poll() is None and {*Path(own.stages).glob("*/claims/*")} == before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    process = process_of(own, world, part)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return killed


def test_a_grid_that_is_killed_goes_on(finished: Grid, world: Path, tmp_path: Path) -> None:
    own = small(dataclasses.replace(finished, workdir=str(tmp_path)))
    assert kill_and_resume(own, world, "small", kills=1, seed=0, longest=4) > 0
    assert results_of(own) == expected(finished)


@pytest.fixture
def diverging(finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Grid, str]:
    """A grid one of whose intermediate stages diverges."""
    own = small(dataclasses.replace(finished, workdir=str(tmp_path), store=finished.stages))
    task = dataclasses.replace(own.intermediates["often"].task, name="bad")
    bad = dataclasses.replace(own.intermediates["often"], task=task)
    own = dataclasses.replace(own, intermediates={"nli": own.intermediates["nli"], "often": bad})
    real: Callable[..., Any] = Study._start_params

    def start(self: Study, name: str, run: StageRun) -> Any:
        params = real(self, name, run)
        if self.stages[name].task.name == "bad":
            kernel = params["head"]["output"]["kernel"]
            params["head"]["output"]["kernel"] = kernel * 1e30
        return params

    monkeypatch.setattr(Study, "_start_params", start)
    return own, "one.often.sts.0.5"


def test_what_diverges_stops_nothing_else(
    diverging: tuple[Grid, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, name = diverging
    with pytest.raises(DivergedError, match=r"2 of 6 stages have diverged, or begin") as caught:
        studies.run(own, "")
    assert caught.value.exit_code == 5
    cell = Path(own.workdir) / "cells" / name
    summary = json.loads((cell / "study.json").read_text())
    assert [(f["condition"], f["seed"], f["stage"]) for f in summary["failed"]] == [
        ("staged", 0, "intermediate"),
        ("staged", 0, "target"),
    ]
    first, second = (fail["error"] for fail in summary["failed"])
    assert re.fullmatch(r"staged/intermediate seed 0: the .* of step 1 is (inf|nan)", first)
    assert "has diverged" in second
    done = [(run["condition"], run["seed"], run["stage"]) for run in summary["runs"]]
    assert done == [("direct", 0, "target")]
    assert "staged seed 0" in (Path(own.workdir) / "report.md").read_text()
    other = Path(own.workdir) / "cells" / "one.nli.sts.0.5" / "study.json"
    assert json.loads(other.read_text())["failed"] == []
    found = trained(monkeypatch)
    with pytest.raises(DivergedError):
        studies.run(own, "")
    assert found == [], "it is not tried again"
    (note,) = Path(own.stages).glob(f"*/{FAILED}")
    note.unlink()
    with pytest.raises(DivergedError):
        studies.run(own, "")
    assert found == [note.parent.name], "but for this"
    note.unlink()


def test_an_owner_that_has_lost_its_claim_writes_nothing_and_goes_on(
    finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small(dataclasses.replace(finished, workdir=str(tmp_path)))
    own = dataclasses.replace(own, intermediates={"nli": own.intermediates["nli"]})
    target = dataclasses.replace(own.targets["sts"], intermediates=("nli",))
    own = dataclasses.replace(own, targets={"sts": target})
    lost: list[Path] = []
    real: Callable[..., Any] = loop.train

    def train(jobs: Any) -> None:
        if not lost and jobs:
            run = jobs[0][0]
            lost.append(run.folder)
            before = sorted(path.name for path in run.folder.iterdir())
            newest = run.folder / "claims" / "2"
            newest.write_text(json.dumps({"host": "h", "pid": 1, "system": "", "started": ""}))
            with pytest.raises(ClaimLostError) as caught:
                real(jobs)
            assert sorted(path.name for path in run.folder.iterdir()) == before
            os.utime(newest, (0, 0))
            raise caught.value
        real(jobs)

    monkeypatch.setattr(loop, "train", train)
    studies.run(own, "")
    assert lost and (lost[0] / DONE).exists()
    runs, _ = results_of(own)["one.nli.sts.0.5"]
    wanted, _ = results_of(finished)["one.nli.sts.0.5"]
    assert runs == wanted


def test_a_dry_run_trains_and_writes_nothing(
    finished: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.show(dataclasses.replace(finished, workdir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    told = capsys.readouterr().err
    assert "10 stages of 4 studies" in told and "to do" in told and "done" not in told
    assert "same model: unknown" in told
    studies.show(finished)
    told = capsys.readouterr().err
    assert "to do" not in told and "same model: 0:00:00" in told


def test_a_study_of_which_nothing_is_left_has_a_report(
    diverging: tuple[Grid, str], tmp_path: Path
) -> None:
    own, name = diverging
    cell = grids.cells(own)[name]
    assert cell.intermediate is not None
    alone = dataclasses.replace(cell, workdir=str(tmp_path / "alone"), conditions=("staged",))
    with pytest.raises(DivergedError, match="2 of 2 stages have diverged"):
        studies.run(alone, "")
    report = (tmp_path / "alone" / "report.md").read_text()
    assert "No finished run of the target: staged seed 0" in report
    for note in Path(own.stages).glob(f"*/{FAILED}"):
        note.unlink()


def test_what_is_finished_has_a_report_while_others_run(
    finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "stages"
    shutil.copytree(finished.stages, store)
    for folder in store.glob("*/evaluations"):
        shutil.rmtree(folder)  # So that every study has something left to do.
    own = dataclasses.replace(finished, workdir=str(tmp_path / "again"), store=str(store))
    cells, real = [Path(c.workdir) for c in grids.cells(own).values()], Study.work

    def work(self: Study, *rest: Any) -> bool:
        if Path(self.config.workdir) == cells[-1]:
            raise KeyboardInterrupt
        return real(self, *rest)

    monkeypatch.setattr(Study, "work", work)
    with pytest.raises(KeyboardInterrupt):
        studies.run(own, "")
    assert [(cell / "study.json").exists() for cell in cells] == [True] * 3 + [False]
    writing.write_report(Path(own.workdir))
    lines = (Path(own.workdir) / "results.csv").read_text().splitlines()[1:]
    names = {line.partition(",")[0] for line in lines}
    assert names == {cell.name for cell in cells[:-1]}
    ours = [line for name in names for line in results_of(finished)[name][1]]
    assert sorted(lines) == sorted(ours)


def test_one_study_is_held_at_a_time(finished: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Study] = weakref.WeakSet()
    real: Callable[..., Any] = Study.__init__

    def init(self: Study, *rest: Any) -> None:
        gc.collect()
        assert len(alive) == 0
        alive.add(self)
        real(self, *rest)

    monkeypatch.setattr(Study, "__init__", init)
    studies.run(finished, "")


def test_data_that_change_below_a_running_grid(
    finished: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(
        finished, workdir=str(tmp_path), models={"one": finished.models["one"]}
    )
    write_sets(tmp_path)
    own = dataclasses.replace(own, data_dir=str(tmp_path))
    real: Callable[..., Any] = graph.drain

    def drain(*rest: Any) -> None:
        file = tmp_path / "sts-dev.tsv"
        file.write_text(file.read_text().replace("man", "dog"))
        real(*rest)

    monkeypatch.setattr(graph, "drain", drain)
    with pytest.raises(DataError, match="have changed since this command was started"):
        studies.run(own, "")


def test_a_stage_waits_for_the_one_before_it(tmp_path: Path) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    node = graph.Node("staged", 0, "target", child, parent, {}, 1, 1.0)
    with Claims() as claims:
        assert not node.can_begin(claims)
        with claims.taking([parent]):
            (parent / DONE).write_text("{}")
            assert not node.can_begin(claims), "it is still tidied up"
        assert node.can_begin(claims)
        with claims.taking([child]):
            assert not node.can_begin(claims)
