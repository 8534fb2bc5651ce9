"""Errors with a description, a place, a hint and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

MAX_DETAILS = 40


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
        lines += [f"  - {detail}" for detail in self.details[:MAX_DETAILS]]
        if len(self.details) > MAX_DETAILS:
            lines.append(f"  - and {len(self.details) - MAX_DETAILS} more")
        if self.hint:
            lines.append(f"  Hint: {self.hint}")
        return "\n".join(lines)


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


class UnavailableError(FlaxferError):
    """A required program is not installed, or does not start."""

    exit_code = 69
