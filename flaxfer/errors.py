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

_PLACE = re.compile(r"^.*?(?::\d+|: record \d+|: \S*\]): |^(?:[^\s:]+: )+")
"""What precedes a message: a file with its line or record, or a dotted key."""
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
    """Return a few details of each kind, and how many more there are.

    Details are of one kind if they differ only in the place that they begin with (`file:line: ` or
    `dotted.key: `), in quoted words and in numbers. Of a kind with more than `PER_KIND`, those that
    differ only in their places become one with a count.

    Args:
      details: Findings, each in a line.

    Returns:
      The details themselves if none of their kinds has more than `PER_KIND`. At most `MAX_DETAILS`
      lines and one that counts the rest.
    """
    kinds: dict[str, dict[str, list[str]]] = {}
    for detail in details:
        text = _PLACE.sub("", detail)
        kinds.setdefault(_kind(text), {}).setdefault(text, []).append(detail)
    if all(sum(map(len, kind.values())) <= PER_KIND for kind in kinds.values()):
        lines, left = list(details[:MAX_DETAILS]), len(details[MAX_DETAILS:])
    else:
        lines, left = [], 0
        for kind in kinds.values():
            shown = _of_kind(list(kind.values()))
            if len(lines) + len(shown) > MAX_DETAILS:
                left += sum(map(len, kind.values()))
            else:
                lines += shown
    return [*lines, *([f"and {left:,} more of other kinds"] if left else [])]


def bounded(text: str, length: int = 80) -> str:
    """Return the representation of a text, shortened to a length."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"


def _of_kind(alike: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a kind, given its details grouped by what follows their places."""
    if sum(map(len, alike)) <= PER_KIND:
        return [detail for group in alike for detail in group]
    lines = [
        group[0] + (f" (the first of {len(group):,} like this)" if group[1:] else "")
        for group in alike[:PER_KIND]
    ]
    more = sum(map(len, alike[PER_KIND:]))
    return [*lines, *([f"and {more:,} more of this kind"] if more else [])]


def shortened(text: str, length: int = MAX_LINE) -> str:
    """Return a text without its middle if it is longer than `length` characters."""
    if len(text) <= length:
        return text
    end = length // 4
    left_out = len(text) - length
    return f"{text[: length - end]} ... [{left_out:,} characters left out] ... {text[-end:]}"


def _kind(text: str) -> str:
    return _NUMBER.sub("0", _QUOTED.sub("''", text))


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


def exit_codes() -> dict[int, str]:
    """Return the meanings of the exit codes of `flaxfer`, by code."""
    meanings = {
        0: "Done.",
        1: "An error that flaxfer does not expect, or `flaxfer aot`: the config does not fit.",
        130: "Ctrl-C has stopped the process; the same command continues.",
    }
    for error in FlaxferError.__subclasses__():
        meanings[error.exit_code] = (error.__doc__ or "").partition("\n")[0]
    return dict(sorted(meanings.items()))
