"""Errors with a description, a place, a hint and an exit code."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_DETAILS = 40
"""Lines of details that an error prints."""
PER_KIND = 10
"""Details of the same kind that are printed before the rest are counted."""
MAX_LINE = 600
"""Characters of a printed line."""

_PLACE = re.compile(r"^(?:[^\s:]+(?::\d+)*: )+")
"""What precedes a message: a file with its line, or a dotted key."""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


class FlaxferError(Exception):
    """Base class of all errors that flaxfer raises on purpose.

    Args:
      what: Description of the problem, in one sentence.
      where: The file, line, column, config key or array at fault.
      hint: Advice on how to solve it.
      details: Individual findings, listed below the sentence.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        details: Sequence[str] = (),
    ):
        self.what, self.where, self.hint, self.details = what, where, hint, tuple(details)
        # One argument only: pickle and copy call the class with the arguments passed here.
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        lines += [f"  - {detail}" for detail in summarised(self.details)]
        if self.hint:
            lines.append(f"  Hint: {self.hint}")
        return "\n".join(map(shortened, lines))


def summarised(details: Sequence[str]) -> list[str]:
    """Return the first details of each kind, and how many more there are.

    Details are of one kind if they differ only in the place that they begin with (`file:line: ` or
    `dotted.key: `), in quoted words and in numbers.

    Args:
      details: Findings, each in a line.

    Returns:
      The details themselves if none of their kinds has more than `PER_KIND`. At most `MAX_DETAILS`
      lines and one that counts the rest.
    """
    kinds: dict[str, list[str]] = {}
    for detail in details:
        kinds.setdefault(_kind(detail), []).append(detail)
    lines, left = list(details), 0
    if any(len(kind) > PER_KIND for kind in kinds.values()):
        lines = []
        for kind in kinds.values():
            more = [f"and {len(kind) - PER_KIND:,} more of this kind"] if kind[PER_KIND:] else []
            if len(lines) + len(kind[:PER_KIND]) + len(more) > MAX_DETAILS:
                left += len(kind)
            else:
                lines += kind[:PER_KIND] + more
    elif lines[MAX_DETAILS:]:
        lines, left = lines[:MAX_DETAILS], len(lines) - MAX_DETAILS
    return [*lines, *([f"and {left:,} more of other kinds"] if left else [])]


def shortened(text: str, length: int = MAX_LINE) -> str:
    """Return a text without its middle if it is longer than `length` characters."""
    if len(text) <= length:
        return text
    end = length // 4
    left_out = len(text) - length
    return f"{text[: length - end]} ... [{left_out:,} characters left out] ... {text[-end:]}"


def _kind(detail: str) -> str:
    return _NUMBER.sub("0", _QUOTED.sub("''", _PLACE.sub("", detail)))


class ConfigError(FlaxferError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class DataError(FlaxferError):
    """A data set, tokenizer or model file cannot be used."""

    exit_code = 3


class CheckpointError(FlaxferError):
    """A checkpoint or pretrained weights are unreadable or do not fit the model."""

    exit_code = 4


class DivergedError(FlaxferError):
    """The loss or gradient became NaN or infinite."""

    exit_code = 5


class ClaimLostError(FlaxferError):
    """The claim of this process on a stage has expired; another may hold it."""

    exit_code = 6


class PreemptedError(FlaxferError):
    """A signal has stopped the process; the same command continues."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h; 130 in an instance that stands for Ctrl-C.


class UnavailableError(FlaxferError):
    """A required program is not installed, or does not start."""

    exit_code = 69
