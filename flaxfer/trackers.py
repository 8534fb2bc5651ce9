"""Where the numbers of a running stage go: metrics.jsonl always, other sinks by config."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from flaxfer.checkpoint import write_atomically
from flaxfer.errors import ConfigError


class Tracker(Protocol):
    """A sink of scalars."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Takes values such as `train/loss` at a step."""

    def close(self) -> None:
        """Writes out what is held back."""


class MetricsLog:
    """The file metrics.jsonl of a stage, and the trackers that get the same numbers.

    After a kill the file may end in half a line, or hold steps past the checkpoint that the stage
    continues from; both are dropped, so no step stands in it twice.
    """

    def __init__(self, folder: Path, resume_step: int, trackers: list[Tracker]):
        self._trackers = trackers
        path = folder / "metrics.jsonl"
        kept = [r for r in read(path) if r["step"] <= resume_step] if resume_step else []
        write_atomically(path, "".join(f"{json.dumps(record)}\n" for record in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  Closed by close().

    def write(self, step: int, kind: str, **values: Any) -> None:
        """Appends one record and passes its numbers on."""
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        numbers = {**values, **values.get("metrics", {})}
        scalars = {
            f"{kind}/{name}": float(value)
            for name, value in numbers.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for tracker in self._trackers:
            tracker.scalars(step, scalars)

    def close(self) -> None:
        """Closes the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def make(names: tuple[str, ...], folder: Path, run: str) -> list[Tracker]:
    """The trackers of one stage by name.

    Raises:
      ConfigError: the package behind a tracker is not installed.
    """
    makers: dict[str, Callable[[Path, str], Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
    }
    made: list[Tracker] = []
    for name in names:
        try:
            made.append(makers[name](folder, run))
        except ImportError as error:
            raise ConfigError(
                f"the tracker {name!r} is not installed ({error})",
                where="trackers",
                mend=f'pip install "flaxfer[{name}]", or leave it out of trackers.',
            ) from error
    return made


class _TensorBoard:
    def __init__(self, folder: Path, run: str):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, run: str):
        import wandb

        # Online only if the user says so: a run must not depend on a network.
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project="flaxfer", name=run, dir=str(folder), mode=mode)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
