"""JSON lines that are on the disk as soon as they are known, and the clock of a part."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import plan

Record = dict[str, Any]


def append(file: Path, record: Record) -> None:
    """Add a record; a process that is killed later leaves it behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as opened:
        opened.write(json.dumps(record) + "\n")


def read(file: Path) -> list[Record]:
    """Return the complete records of a file; a killed process may leave half a line at the end."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise
    return records


@dataclasses.dataclass(frozen=True)
class Child:
    """The options of a part's process.

    Attributes:
      part: name of the part.
      seconds: its time limit.
      out: file of the records.
      tiny: whether sizes are tiny.
      cache: folder of compiled programs.
    """

    part: str
    seconds: float
    out: Path
    tiny: bool
    cache: Path

    @classmethod
    def parse(cls, doc: str | None, arguments: Sequence[str] | None = None) -> Child:
        """Read the command line."""
        parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
        parser.add_argument("--part", required=True)
        parser.add_argument("--seconds", type=float, default=600.0)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--cache", type=Path, required=True)
        parser.add_argument("--tiny", action="store_true")
        return cls(**vars(parser.parse_args(arguments)))

    def write(self, name: str, status: str, began: float, **more: Any) -> None:
        """Add a record of this part.

        Args:
          name: name of the cell or check.
          status: `ok`, `failed` or `skipped`.
          began: `time.monotonic()` at its start.
          more: its figures.
        """
        seconds = round(time.monotonic() - began, 2)
        append(
            self.out,
            {"part": self.part, "name": name, "status": status, "took_s": seconds, **more},
        )

    def run_cells(
        self, measure: Callable[[plan.Cell], Record], side: str, limits: tuple[type[Exception], ...]
    ) -> None:
        """Measure the cells of the part one after the other.

        Args:
          measure: returns the figures of a cell.
          side: `flaxfer` or `torch`.
          limits: exceptions that say what this machine or installation cannot do, such as too
            little memory. They are the result of their cell.
        """
        started = time.monotonic()
        for cell in plan.part(self.part).cells:
            if self.tiny and not cell.tiny:
                continue
            began = time.monotonic()
            left = self.seconds - (began - started)
            about = {"side": side, "cell": dataclasses.asdict(cell)}
            if left < cell.needs and not self.tiny:
                reason = f"{left:.0f} s are left for the part, {cell.needs:.0f} are needed"
                self.write(cell.name, "skipped", began, reason=reason, **about)
                continue
            try:
                figures = measure(cell)
            except limits as error:
                self.write(cell.name, "skipped", began, reason=describe(error), **about)
            except Exception as error:  # The other cells are worth their time on a GPU.
                traceback.print_exc()
                self.write(cell.name, "failed", began, reason=describe(error), **about)
            else:
                self.write(cell.name, "ok", began, **about, **figures)


def describe(error: Exception) -> str:
    """Return the type and the first line of an exception."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
