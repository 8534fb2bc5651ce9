"""Run a tiny study from the command line to its report, and resume one that was killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.gpu_check.records import Child, describe
from flaxfer.errors import FlaxferError
from tests.helpers import WORDS, tiny_model

CONFIG = '''"""A tiny study with random weights and scores."""

from ml_collections import ConfigDict

FOLDER = {folder!r}


def get_config() -> ConfigDict:
    """Return the config."""

    def file(name: str) -> dict:
        columns = dict(text_a=0, text_b=1, label=2)
        return dict(path=f"{{FOLDER}}/{{name}}.tsv", header=False, columns=columns)

    task = dict(type="regression", metric="pearson", score_range=(0.0, 5.0))
    return ConfigDict(
        dict(
            name="gpu_check",
            model=dict(path=f"{{FOLDER}}/model"),
            conditions=("direct", "staged"),
            optimizer=dict(learning_rate=1e-3),
            train=dict(
                batch_size=8,
                epochs=6,
                eval_every=16,
                max_length=32,
                row_length=64,
                max_bucket_sizes=1,
                eval_rows=4,
                compute_dtype="float32",
            ),
            intermediate=dict(
                task=dict(task, name="first"),
                data=dict(train=file("first"), dev=file("dev")),
            ),
            target=dict(
                task=dict(task, name="second"),
                data=dict(train=file("second"), dev=file("dev"), test=file("test")),
            ),
            cache=f"{{FOLDER}}/cache",
            compiler_options={options!r},
            transferability=0,
        )
    )
'''
ENVIRONMENT = dict(os.environ)
"""Environment of the study."""

EXAMPLES = {"first": 128, "second": 128, "dev": 32, "test": 32}

DETERMINISTIC = {"xla_gpu_deterministic_ops": True}
"""Otherwise a GPU adds the gradients of an embedding in any order. A CPU ignores it."""

DIRECT = "--config.conditions=('direct',)"
"""One condition is enough for a stage that is killed."""

STEP = "[0-9]*"
"""Folders of complete checkpoints; those being written begin with a dot."""

KEYS = ("steps", "best_step", "dev", "evaluations")
TOLERANCE = 1e-4
"""Of scores, after a resumption; the programs are the same, but not necessarily their kernels."""


class Different(Exception):
    """A resumed study has other results than an uninterrupted one."""


def main(arguments: Sequence[str] | None = None) -> None:
    child = Child.parse(__doc__, arguments)
    ended = time.monotonic() + child.seconds
    folder = (child.out.parent / f"{child.out.stem}-study").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    for name, check in (("study", whole), ("resumed study", resumed)):
        began = time.monotonic()
        try:
            figures = check(folder, ended)
        except (subprocess.TimeoutExpired, TimeoutError):
            reason = f"the part's {child.seconds:.0f} s are over"
            child.write(name, "skipped", began, reason=reason)
        except Exception as error:
            child.write(name, "failed", began, reason=describe(error))
        else:
            child.write(name, "ok", began, **figures)


def whole(folder: Path, ended: float) -> dict[str, Any]:
    """Run a study to its end; return its scores."""
    write(folder)
    Study(folder, "whole").wait_until(ended)
    report = folder / "whole" / "report.html"
    if not report.stat().st_size:
        raise Different(f"{report} is empty")
    runs = runs_of(folder / "whole")
    return {"stages": len(runs), "scores": {name: run["dev"] for name, run in runs.items()}}


def resumed(folder: Path, ended: float) -> dict[str, Any]:
    """Kill the same study after its first checkpoint, resume it, and compare the results.

    Raises:
      Different: steps differ, or scores by more than `TOLERANCE`.
    """
    process = Study(folder, "killed", DIRECT)
    while not (
        manifests := sorted(folder.glob(f"killed/stages/*/checkpoints/{STEP}/manifest.json"))
    ):
        if time.monotonic() > ended:
            process.kill()
            raise TimeoutError
        process.check()
        time.sleep(0.005)
    process.kill()
    stage = manifests[0].parents[2]
    if (stage / "done.json").exists():
        raise Different("the stage had ended before it was killed")
    reached = int(manifests[0].parent.name)
    Study(folder, "killed", DIRECT).wait_until(ended)
    (name, result), *_ = runs_of(folder / "killed").items()
    wanted = runs_of(folder / "whole")[name]
    results, wanted = ({key: run[key] for key in KEYS} for run in (result, wanted))
    return {"killed_after_step": reached, "largest_difference": difference(results, wanted)}


def difference(result: Any, wanted: Any, where: str = "") -> float:
    """Return the largest difference of numbers in two JSON values of the same structure.

    Raises:
      Different: the structure or a step differs, or a number by more than `TOLERANCE`.
    """
    if isinstance(wanted, dict) and isinstance(result, dict) and result.keys() == wanted.keys():
        pairs = [(result[key], wanted[key], f"{where}/{key}") for key in wanted]
    elif isinstance(wanted, list) and isinstance(result, list) and len(result) == len(wanted):
        pairs = [
            (x, y, f"{where}/{i}") for i, (x, y) in enumerate(zip(result, wanted, strict=True))
        ]
    elif isinstance(wanted, float) and isinstance(result, float):
        if not abs(result - wanted) <= TOLERANCE:
            raise Different(f"{where} is {result}, not {wanted}")
        return abs(result - wanted)
    elif result == wanted:
        return 0.0
    else:
        raise Different(f"{where} is {result!r}, not {wanted!r}")
    return max((difference(*pair) for pair in pairs), default=0.0)


def write(folder: Path) -> None:
    """Write model, data and config."""
    # On a GPU, this process would reserve the memory that the study needs.
    os.environ["JAX_PLATFORMS"] = "cpu"
    tiny_model(folder / "model", "bert", vocab_size=300)
    rng = np.random.default_rng(0)
    for name, n in EXAMPLES.items():
        lines = []
        for _ in range(n):
            first, second = (list(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2))
            score = 5 * len({*first} & {*second}) / len({*first} | {*second})
            lines.append(f"{' '.join(first)}\t{' '.join(second)}\t{score:.2f}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    text = CONFIG.format(folder=str(folder), options=DETERMINISTIC)
    (folder / "config.py").write_text(text, encoding="utf-8")


def runs_of(workdir: Path) -> dict[str, dict[str, Any]]:
    """Return the finished stages by condition and name."""
    study = json.loads((workdir / "study.json").read_text(encoding="utf-8"))
    return {f"{run['condition']}/{run['stage']}": run for run in study["runs"]}


class Study:
    """`flaxfer run` in a process of its own, in a work directory below `folder`."""

    def __init__(self, folder: Path, workdir: str, *changes: str):
        self.log = folder / f"{workdir}.log"
        with open(self.log, "a", encoding="utf-8") as log:
            command = [sys.executable, "-m", "flaxfer", "run", "--config"]
            self.process = subprocess.Popen(
                [
                    *command,
                    str(folder / "config.py"),
                    f"--config.workdir={folder / workdir}",
                    *changes,
                ],
                cwd=common.ROOT,
                env=ENVIRONMENT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait()

    def check(self) -> None:
        """Raise FlaxferError if it has ended."""
        if (code := self.process.poll()) is not None:
            lines = self.log.read_text(encoding="utf-8").splitlines()
            raise FlaxferError(
                f"the study ended with exit code {code}",
                where=str(self.log),
                hint="see the end of its output.",
                details=lines[-15:],
            )

    def wait_until(self, ended: float) -> None:
        """Wait for its end, at most until a time of `time.monotonic`."""
        try:
            code = self.process.wait(max(ended - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        if code:
            self.check()


if __name__ == "__main__":
    common.guarded(main)
