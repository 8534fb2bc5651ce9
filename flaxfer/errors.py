"""Errors that say what is wrong, where, and how to mend it, with the exit code of their kind."""

from __future__ import annotations

from collections.abc import Sequence

MAX_DETAILS = 40


class FlaxferError(Exception):
    """Base of every error flaxfer raises on purpose.

    Args:
      what: one sentence, what is wrong.
      where: file, line, column, config key or array the sentence is about.
      hint: what the reader should do now.
      details: further findings of the same kind, one a line, listed under the sentence.
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
        # One argument, as pickle and copy call the class with what stands here.
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
    """A data set, tokenizer or model file cannot be used as it is."""

    exit_code = 3


class CheckpointError(FlaxferError):
    """A checkpoint or pretrained weights cannot be read, or do not fit the model."""

    exit_code = 4


class DivergedError(FlaxferError):
    """Training left the finite numbers."""

    exit_code = 5


class ClaimLostError(FlaxferError):
    """What this process worked on may belong to another by now."""

    exit_code = 6


class UnavailableError(FlaxferError):
    """What was asked for needs a program that is not installed here, or that does not start."""

    exit_code = 69


class PreemptedError(FlaxferError):
    """The run was asked to stop; the same command continues it."""

    exit_code = 75
