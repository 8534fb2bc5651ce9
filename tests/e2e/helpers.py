"""Studies of a tiny model, and what they leave on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Config, Data, Model, Optimizer, Source, Stage, Task, Train, loading
from flaxfer.config.grids import Grid
from flaxfer.runtime import sharding
from flaxfer.study import runner
from flaxfer.study.plan import StudyPlan, plan_study
from flaxfer.study.starts import Starts
from flaxfer.training.data import StudyData, read_study_data
from flaxfer.training.stage import StageSpec
from tests.helpers import WORDS, mesh_of, restored_compilation_cache

Json = dict[str, Any]
Sets = Mapping[str, tuple[int, str, tuple[str, ...]]]
"""Number of pairs, language and labels by name of the set; without labels they have scores."""

COMMAND = "flaxfer run --config tiny.py"
COLUMNS: dict[str, str | int] = {
    "text_a": 0,
    "text_b": 1,
    "label": 2,
    "language": 3,
    "domain": 4,
}
LABELS = ("no", "maybe", "yes")
SETS: Sets = {
    "nli-train": (40, "en", LABELS),
    "nli-dev": (12, "en", LABELS),
    "sts-train": (40, "en", ()),
    "sts-dev": (12, "en", ()),
    "sts-test": (13, "en", ()),
    "sts-german": (11, "de", ()),
}
TRAIN = Train(
    batch_size=8,
    epochs=2.0,
    eval_every=3,
    max_length=32,
    row_length=64,
    max_bucket_sizes=1,
    eval_rows=4,
    log_every=1,
    compute_dtype="float32",
)
OPTIMIZER = Optimizer(learning_rate=1e-3)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Run studies on the first of the simulated devices: compiling for eight takes far longer."""
    with pytest.MonkeyPatch.context() as monkeypatch, restored_compilation_cache():
        monkeypatch.setattr(sharding, "make_mesh", lambda *sizes: mesh_of())
        yield


def write_sets(
    folder: Path, sets: Sets = SETS, words: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write random pairs of sentences; `words` are those of each set, by default all."""
    rng = np.random.default_rng(0)
    for name, (n, language, labels) in sets.items():
        choices, lines = words[name] if words else WORDS, []
        for i in range(n):
            first, second = (" ".join(rng.choice(choices, rng.integers(2, 9))) for _ in range(2))
            label = rng.choice(labels) if labels else f"{rng.uniform(0, 5):.2f}"
            lines.append(f"{first}\t{second}\t{label}\t{language}\t{('news', 'films')[i % 2]}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")


def source(name: str) -> Source:
    return Source(path=f"{name}.tsv", header=False, columns=COLUMNS)


def study_config(folder: Path) -> Config:
    """Return a study of the model in `folder`/model and of `SETS`."""
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
        batched_seeds=1,
        workdir=str(folder / "work"),
        data_dir=str(folder),
        cache=str(folder / "cache"),
    )


def with_stage(config: Config, name: str, /, **changes: Any) -> Config:
    """Return a config with other fields of a stage; optimizer and train may be mappings."""
    stage: Stage = getattr(config, name)
    for section in ("optimizer", "train"):
        if isinstance(changes.get(section), Mapping):
            settings = dataclasses.replace(getattr(stage, section), **changes[section])
            changes = {**changes, section: settings}
    return dataclasses.replace(config, **{name: dataclasses.replace(stage, **changes)})


def run_study(config: Config) -> Json:
    """Run a study and return its study.json."""
    runner.run(config, COMMAND)
    return summary_of(config)


def summary_of(config: Config) -> Json:
    content: Json = json.loads((Path(config.workdir) / "study.json").read_text())
    return content


def runs_of(config: Config) -> dict[str, Json]:
    """Return the runs in study.json by `condition/stage seed`."""
    runs = summary_of(config)["runs"]
    return {f"{run['condition']}/{run['stage']} {run['seed']}": run for run in runs}


def folder_of(config: Config, name: str) -> Path:
    """Return the folder of a stage, named as in `runs_of`."""
    return Path(config.workdir) / runs_of(config)[name]["dir"]


def lines_of(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def predictions_of(folder: Path, name: str) -> list[Json]:
    """Return the predictions of a stage for the set `name`."""
    (path,) = folder.glob(f"predictions/{name}-*.jsonl")
    return lines_of(path)


def data_of(config: Config) -> StudyData:
    return read_study_data(config, Path(config.cache))


def plan_of(config: Config) -> StudyPlan:
    return plan_study(data_of(config))


def specs_of(config: Config) -> dict[str, StageSpec]:
    """Return the stages of a study by `condition/stage seed`."""
    return {f"{s.condition}/{s.name} {s.seed}": s for s in plan_of(config).stages}


def ids_of(config: Config) -> dict[str, str]:
    """Return the identities of the stages, without training any."""
    return {name: spec.folder.name for name, spec in specs_of(config).items()}


def start_of(config: Config, name: str) -> Any:
    """Return the parameters that a stage starts from; what precedes it must be trained."""
    return Starts(data_of(config), mesh_of()).params(specs_of(config)[name])


def times_of(store: Path) -> dict[Path, int]:
    """Return when files were written that only training and measuring write."""
    patterns = ("metrics.jsonl", "done.json", "checkpoints/**/*", "evaluations/*", "predictions/*")
    files = [file for pattern in patterns for file in store.glob(f"*/{pattern}")]
    return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def write_config(file: Path, config: Config | Grid, processes: int = 1) -> Path:
    """Write a config file, which waits until so many processes have opened it."""
    settings = json.dumps(loading.to_dict(config))
    file.write_text(
        "import json, os, pathlib, time\n\n"
        "def get_config():\n"
        "    pathlib.Path(f'{__file__}-{os.getpid()}').touch()\n"
        "    here = pathlib.Path(__file__)\n"
        f"    while len(list(here.parent.glob(here.name + '-*'))) < {processes}:\n"
        "        time.sleep(0.01)\n"
        f"    return json.loads({settings!r})\n",
        encoding="utf-8",
    )
    return file


def start_process(file: Path) -> subprocess.Popen[str]:
    """Start `flaxfer run` in a process with one device."""
    level = "--xla_backend_optimization_level=0"  # As in this process: equal programs.
    return subprocess.Popen(
        [sys.executable, "-m", "flaxfer", "run", "--config", str(file)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": level},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_claimed(process: subprocess.Popen[str], store: Path) -> None:
    """Wait until a process has claimed a stage, or has ended."""
    before = {*store.glob("*/claims/*")}
    while process.poll() is None and {*store.glob("*/claims/*")} == before:
        time.sleep(0.02)


def kill_and_resume(file: Path, store: Path, kills: int, seed: int, longest: float) -> int:
    """Kill a study repeatedly, then run it to its end.

    Args:
      file: config file of the study.
      store: its stages.
      kills: how often to kill it.
      seed: of the random times.
      longest: seconds from a first claim to the kill, at most.

    Returns:
      How often it was killed before its end.
    """
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        process = start_process(file)
        wait_until_claimed(process, store)
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    process = start_process(file)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return killed


def assert_equal_trees(one: Any, other: Any) -> None:
    import jax

    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
