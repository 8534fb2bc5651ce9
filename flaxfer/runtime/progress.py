"""Output while a study runs: tables and lines, above the bars of `flaxfer.runtime.bars`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000
"""Columns without a terminal: each row of a table is one line, whatever its length."""


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
    console.width = UNLIMITED


class _Settings:
    """Settings of the output: `quiet` prints only warnings and results."""

    quiet = False


def set_quiet(quiet: bool) -> None:
    """Print only warnings and results from here on, or everything again."""
    _Settings.quiet = quiet


def is_quiet() -> bool:
    """Return whether only warnings and results are printed."""
    return _Settings.quiet


def is_interactive() -> bool:
    """Return whether bars can be drawn: on a terminal that moves its cursor, unless quiet."""
    is_terminal = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
    return is_terminal and not is_quiet()


def table(
    title: str,
    header: Sequence[str] | None,
    rows: Iterable[Sequence[object]],
    first_width: int | None = None,
) -> None:
    """Print a table unless quiet; only a terminal, or COLUMNS, folds its rows.

    Args:
      title: Line above it; none if empty.
      header: Names of the columns, if they have any.
      rows: Cells; columns of numbers are aligned right.
      first_width: Largest width of the first column where rows are folded.
    """
    if is_quiet():
        return
    content = [list(row) for row in rows]
    folds = console.width < UNLIMITED
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        show_header=header is not None,
        header_style="",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for i, column in enumerate(header or [""] * len(content[0])):
        numeric = all(isinstance(row[i], int | float) for row in content)
        made.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            max_width=first_width if folds and i == 0 else None,
        )
    for row in content:
        # Text, because rich takes the brackets in a path for markup.
        made.add_row(*[Text(f"{v:,}" if isinstance(v, int) else _plain(str(v))) for v in row])
    console.print(made)


def say(text: str) -> None:
    """Print a line unless quiet."""
    if not is_quiet():
        _print(text)


def warn(text: str) -> None:
    """Print a line that says what is wrong, also when quiet."""
    _print(text)


def result(text: str) -> None:
    """Print a line of the result, also when quiet."""
    _print(text)


@contextlib.contextmanager
def logging_from(level: int, name: str = "flaxfer") -> Iterator[None]:
    """Raise the level of the logger `name` within a `with` block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _print(text: str) -> None:
    """Print a line: for a terminal wrapped between words, so that paths stay whole."""
    if console.is_terminal:
        wrap = functools.partial(textwrap.wrap, width=console.width, break_long_words=False)
        lines = [wrap(line, break_on_hyphens=False) or [""] for line in text.splitlines()]
        text = "\n".join(itertools.chain(*lines))
    console.print(_plain(text), markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Return the text without no-break spaces, which nobody expects who searches a log."""
    return text.replace("\N{NO-BREAK SPACE}", " ")
