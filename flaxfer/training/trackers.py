"""Sinks for the metrics of a running stage: metrics.jsonl, and what trackers offer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxfer.errors import DataError
from flaxfer.runtime.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Tracker:
    """A sink of scalars.

    Attributes:
      scalars: logs values such as `train/loss` at a step.
      close: flushes and closes.
    """

    scalars: Callable[[int, dict[str, float]], None]
    close: Callable[[], None]


Opener = Callable[[Path, str, int], Tracker]
"""Opens a tracker, as an entry point of the group `flaxfer.trackers` does.

Called for each seed of a stage when its training starts or goes on, with the folder of the stage, a
title (condition, stage and seed), and the step that it continues from, 0 at the start. Returns a
`Tracker`, or any object with its two functions.
"""


class MetricsLog:
    """The file metrics.jsonl of a stage, and the trackers that get the same numbers.

    After a kill the file may end in half a line, or hold steps past the checkpoint that the stage
    continues from; both are dropped, so no step stands in it twice. The same goes for dev scores of
    the checkpoint's step that it lacks (`scored`).
    """

    def __init__(
        self, folder: Path, resume_step: int, trackers: list[Tracker], scored: bool = True
    ):
        self._trackers = trackers
        path = folder / "metrics.jsonl"
        earlier = read_metrics(path) if resume_step and path.exists() else []
        kept = [record for record in earlier if record["step"] <= resume_step]
        if not scored:
            again = ("dev", resume_step)
            kept = [record for record in kept if (record["kind"], record["step"]) != again]
        write_atomically(path, "".join(f"{json.dumps(record)}\n" for record in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  Closed by close().

    def write(self, step: int, kind: str, **values: Any) -> None:
        """Append one record and pass its numbers to the trackers."""
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
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl by step; the last one of a step and kind counts.

    Raises:
      DataError: a line is not a record.
    """
    lines = path.read_bytes().splitlines()
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for line_number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int):
                raise TypeError(record["step"])
            # A resumed run repeats the steps after its checkpoint; its last record counts.
            records[record["kind"], record["step"]] = record
        except (ValueError, KeyError, TypeError) as error:
            if line_number == len(lines) and isinstance(error, ValueError):
                break  # A killed run stops in the middle of a line; all the lines before are whole.
            raise DataError(
                "this line is no record with kind and step",
                where=f"{path}:{line_number}",
                hint="delete the line, or the stage's directory and run the study again",
            ) from None
    return sorted(records.values(), key=lambda record: record["step"])
