"""Output while a study runs: tables, lines, and a progress bar for each stage."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LOG_WIDTH = 160
"""Columns without a terminal."""


class _Stderr:
    """Standard error, which may end before the process: a closed terminal, a broken pipe to tee.

    What is printed then is lost, but nothing that is trained.
    """

    @property
    def _file(self) -> TextIO:
        file: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return file

    @property
    def encoding(self) -> str:
        """Encoding of the text."""
        return self._file.encoding

    def write(self, text: str) -> int:
        """Write to what standard error is now."""
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush it."""
        with contextlib.suppress(OSError):
            self._file.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._file.isatty()

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._file.fileno()


console = Console(file=cast(TextIO, _Stderr()), highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = LOG_WIDTH

LINE_SECONDS = 20.0
"""Interval of progress lines without a terminal, as in a log file."""


def table(title: str, header: Sequence[str] | None, rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers are aligned right."""
    content = [list(row) for row in rows]
    printed = Table(
        title=title, title_justify="left", title_style="bold", show_header=header is not None
    )
    for i, column in enumerate(header or [""] * len(content[0])):
        numeric = all(isinstance(row[i], int | float) for row in content)
        printed.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in content:
        # Text, because rich takes the brackets in a path for markup.
        printed.add_row(*[Text(f"{v:,}" if isinstance(v, int) else str(v)) for v in row])
    console.print(printed)


def say(text: str) -> None:
    """Print a line."""
    console.print(text, markup=False, soft_wrap=True)


class StageBar:
    """A bar with loss, throughput and remaining time; lines if there is no terminal."""

    def __init__(self, name: str, start: int, total: int):
        self._name, self._total = name, total
        self._printed = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=total, completed=start, numbers="compiling")
        self._bar.start()

    def update(
        self,
        step: int,
        loss: float,
        examples_per_s: float,
        useful_tokens_per_s: float,
        input_stall_share: float,
    ) -> None:
        """Show the state after `step` steps; `input_stall_share` is time without a batch."""
        numbers = (
            f"loss {loss:.4f}  {examples_per_s:,.0f} examples/s  "
            f"{useful_tokens_per_s:,.0f} tokens/s  {input_stall_share:.1%} waiting for data"
        )
        self._bar.update(self._task, completed=step, numbers=numbers)
        if not console.is_terminal and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            say(f"{self._name}  step {step}/{self._total}  {numbers}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
