"""Tiny studies and grids, and readers of the files that they leave."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pickle
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import pytest
from rich.console import Console

from flaxfer.config import (
    Config,
    Data,
    Model,
    Optimizer,
    Source,
    Stage,
    Task,
    Train,
    grids,
    loading,
)
from flaxfer.config.grids import Grid, Target
from flaxfer.report import data as report_data
from flaxfer.report import plots
from flaxfer.runtime import platform, progress, sharding
from flaxfer.statistics import looks
from flaxfer.study import runner
from flaxfer.study.open_study import OpenStudy
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.stage import StageSpec
from tests.helpers import WORDS, tiny_model

ROOT = Path(__file__).parents[2]
COLUMNS = {"text_a": 0, "text_b": 1, "label": 2, "language": 3, "domain": 4}
LABELS = ("no", "maybe", "yes")
SETS = {
    "nli-train": (40, "en", LABELS),
    "nli-dev": (12, "en", LABELS),
    "sts-train": (40, "en", ()),
    "sts-dev": (12, "en", ()),
    "sts-test": (13, "en", ()),
    "sts-german": (11, "de", ()),
    "sts-more": (9, "de", ()),
    "nli-more": (10, "en", LABELS),
}
TRAIN = Train(
    batch_size=8,
    epochs=2,
    eval_every=3,
    max_length=32,
    row_length=64,
    max_bucket_sizes=1,
    eval_rows=4,
    log_every=1,
)
OPTIMIZER = Optimizer(learning_rate=1e-3)
DRAWS = 200
TIMES = {"seconds", "compile_seconds", "examples_per_s", "useful_tokens_per_s", "input_stall_share"}
Json = dict[str, Any]


def write_sets(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, (n, language, labels) in SETS.items():
        lines = []
        for i in range(n):
            first, second = (" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2))
            label = rng.choice(labels) if labels else f"{rng.uniform(0, 5):.2f}"
            lines.append(f"{first}\t{second}\t{label}\t{language}\t{('news', 'films')[i % 2]}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")


def source(name: str) -> Source:
    return Source(path=f"{name}.tsv", header=False, columns=COLUMNS)


def config_of(folder: Path) -> Config:
    """A study of the model and the data in a folder."""
    return Config(
        name="tiny",
        model=Model(path=str(folder / "model")),
        intermediate=Stage(
            Task("nli", "classification", "accuracy", LABELS),
            Data((source("nli-train"),), (source("nli-dev"),)),
            {},
            OPTIMIZER,
            TRAIN,
        ),
        target=Stage(
            Task("sts", "regression", "pearson"),
            Data((source("sts-train"),), (source("sts-dev"),), (source("sts-test"),)),
            {"german": source("sts-german")},
            OPTIMIZER,
            TRAIN,
        ),
        conditions=("direct", "staged", "scratch"),
        workdir=str(folder / "work"),
        data_dir=str(folder),
        cache=str(folder / "cache"),
        transferability=0,  # Its program takes as long to compile as a small stage.
    )


def with_stage(config: Config, name: str, /, **changes: Any) -> Config:
    stage: Stage = getattr(config, name)
    return dataclasses.replace(config, **{name: dataclasses.replace(stage, **changes)})


def with_train(config: Config, name: str, /, **changes: Any) -> Config:
    train = dataclasses.replace(getattr(config, name).train, **changes)
    return with_stage(config, name, train=train)


def with_optimizer(config: Config, name: str, /, **changes: Any) -> Config:
    optimizer = dataclasses.replace(getattr(config, name).optimizer, **changes)
    return with_stage(config, name, optimizer=optimizer)


class Terminal:
    """A terminal of 80 x 24 in place of standard error, and all that was written to it.

    Attributes:
      written: Text with control sequences, complete after the `with` block.
    """

    def __init__(self) -> None:
        self.written = ""

    def __enter__(self) -> Self:
        self._master, self._slave = pty.openpty()
        self._file = open(self._slave, "w", encoding="utf-8")
        self._patch = pytest.MonkeyPatch()
        shown = Console(file=self._file, width=80, height=24, highlight=False)
        self._patch.setattr(progress, "console", shown)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def _read(self) -> None:
        data = b""
        with contextlib.suppress(OSError):  # The other end is closed.
            while chunk := os.read(self._master, 2**16):
                data += chunk
        self.written = data.decode()

    def __exit__(self, *error: object) -> None:
        self._patch.undo()
        self._file.close()
        self._thread.join()
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """All that was written in a line, also what was erased later, without trailing blanks."""
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.written)
        return [line.rstrip() for line in re.split(r"[\r\n]+", text.strip())]


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Run studies on the first of the simulated devices, and compare them in few resamples.

    Programs compile faster for one device. They are not kept in the studies' own folders, which no
    other test would read. Fonts of Type 3 are embedded in half the time that a report takes.
    """
    make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", make_mesh)
        patch.setattr(platform, "use_compilation_cache", lambda folder: None)
        patch.setattr(looks, "DRAWS", DRAWS)
        patch.setitem(plots.STYLE, "pdf.fonttype", 3)
        for name in ("compare", "describe_studies"):
            function = functools.partial(getattr(report_data, name), draws=DRAWS)
            patch.setattr(report_data, name, function)
        yield


def finished_study(folder: Path) -> Config:
    """Run a study of the conditions direct and staged."""
    tiny_model(folder / "model", "bert", vocab_size=300, layers=1)
    write_sets(folder)
    config = dataclasses.replace(config_of(folder), conditions=("direct", "staged"))
    for name in ("intermediate", "target"):
        config = with_train(config, name, max_steps=4, eval_every=2, compute_dtype="float32")
    with quickly():
        runner.run(config, "the command")
    return config


def write_grid_world(folder: Path) -> None:
    """Write two models of one layer, and the data."""
    for seed, name in enumerate(("one", "two")):
        tiny_model(folder / name, "bert", seed=seed, vocab_size=300, layers=1)
    write_sets(folder)


def grid_of(world: Path, workdir: Path) -> Grid:
    """Two models x two intermediate tasks x two fractions of a target: 8 studies, 16 stages."""
    train = dataclasses.replace(TRAIN, max_steps=4, eval_every=2, compute_dtype="float32")
    often = dataclasses.replace(train, eval_every=1)  # The same programs, another stage.
    nli = Task("nli", "classification", "accuracy", LABELS)
    nli_data = Data((source("nli-train"),), (source("nli-dev"),))
    sts_data = Data((source("sts-train"),), (source("sts-dev"),), (source("sts-test"),))
    return Grid(
        name="tiny",
        models={name: Model(path=str(world / name)) for name in ("one", "two")},
        intermediates={
            "nli": Stage(nli, nli_data, {}, OPTIMIZER, train),
            "often": Stage(nli, nli_data, {}, OPTIMIZER, often),
        },
        targets={
            "sts": Target(
                Task("sts", "regression", "pearson"),
                sts_data,
                {"german": source("sts-german")},
                OPTIMIZER,
                train,
                intermediates=("nli", "often"),
            ),
        },
        fractions=(1.0, 0.5),
        batched_seeds=1,
        workdir=str(workdir),
        data_dir=str(world),
        cache=str(world / "cache"),
        transferability=0,
    )


def open_study(config: Config) -> OpenStudy:
    return OpenStudy(loading.validated(config, TASK_TYPES), Path(config.cache))


def spec_of(study: OpenStudy, condition: str, name: str = "target") -> StageSpec:
    (spec,) = [s for s in study.plan.stages if (s.condition, s.name) == (condition, name)]
    return spec


def ids_of(config: Config) -> dict[str, str]:
    """Identities of a study's stages by condition, stage and seed; nothing is trained."""
    stages = open_study(config).plan.stages
    return {f"{spec.condition}/{spec.name} {spec.seed}": spec.folder.name for spec in stages}


def summary_of(config: Config) -> Json:
    content: Json = json.loads((Path(config.workdir) / "study.json").read_text())
    return content


def runs_of(config: Config) -> dict[str, Json]:
    """The runs of a study of one seed, by condition and stage."""
    return {f"{run['condition']}/{run['stage']}": run for run in summary_of(config)["runs"]}


def folder_of(config: Config, stage: str) -> Path:
    """Folder of a stage, named by condition and stage."""
    return Path(config.workdir) / str(runs_of(config)[stage]["dir"])


def results(config: Config) -> dict[str, Json]:
    """The runs of a study without times."""
    return {
        name: {key: value for key, value in run.items() if key not in TIMES}
        for name, run in runs_of(config).items()
    }


def lines_of(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def predictions_of(folder: Path, name: str) -> list[Json]:
    """A stage's predictions for an evaluated set."""
    (path,) = folder.glob(f"predictions/{name}-*.jsonl")
    return lines_of(path)


def work_in(store: str | Path) -> dict[str, int]:
    """Files that training and evaluation write, with their times: equal if neither was repeated."""
    names = ("*.jsonl", "done.json", "failed.json", "evaluations/*", "predictions/*", "notes/*")
    files = [path for name in names for path in Path(store).glob(f"*/{name}")]
    return {path.relative_to(store).as_posix(): path.stat().st_mtime_ns for path in files}


def trained_since(before: dict[str, int], store: str | Path) -> set[str]:
    """Names of the stages that were trained, or diverged, after `work_in` gave `before`."""
    files = work_in(store).items() - before.items()
    ends = ("/done.json", "/failed.json")
    return {name.partition("/")[0] for name, _ in files if name.endswith(ends)}


def results_of(grid: Grid) -> dict[str, tuple[list[Json], list[str]]]:
    """The runs of each cell without times, and its lines of results.csv."""
    results = {}
    lines = (Path(grid.workdir) / "results.csv").read_text().splitlines()
    for name, cell in grids.cells(grid).items():
        summary = summary_of(cell)
        assert summary["failed"] == []
        runs = [{k: v for k, v in run.items() if k not in TIMES} for run in summary["runs"]]
        scores = [line for line in lines if line.startswith(f"{name},")]
        assert scores
        results[name] = (runs, scores)
    return results


def start_worker(config: Config | Grid, number: int = 1) -> subprocess.Popen[str]:
    """Run a study or grid in another process, which starts once there are so many of them."""
    workdir = Path(config.workdir)
    workdir.mkdir(exist_ok=True)
    (workdir / "config.pickle").write_bytes(pickle.dumps(config))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.worker", str(workdir), str(number)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> bool:
    """Kill a process; return whether it was still running."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_and_resume(grid: Grid, kills: int, seed: int, longest: float) -> int:
    """Kill a process after up to so many seconds of work, again and again, then run to the end.

    Returns:
      How often a process was killed before its end.
    """
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        before = {*Path(grid.stages).glob("*/claims/*")}
        process = start_worker(grid)
        # Its start takes long, so the time counts from its first claim.
        while process.poll() is None and {*Path(grid.stages).glob("*/claims/*")} == before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, longest))
        killed += kill(process)
    process = start_worker(grid)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return killed


def assert_equal_trees(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
