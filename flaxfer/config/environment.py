"""Environment variables of flaxfer."""

from __future__ import annotations

from collections.abc import Mapping

from flaxfer.config.findings import suggestion
from flaxfer.errors import ConfigError

PREFIX = "FLAXFER_"
VARIABLES: Mapping[str, str] = {
    "FLAXFER_CACHE": "folder for tokenised data and compiled programs, unless the config names one",
    "FLAXFER_MALLOC": "`system` leaves the memory of the process to the system",
    "FLAXFER_TEST_PROGRAMS": "folder for compiled programs of the tests",
}
"""Meaning by name."""


def check(environment: Mapping[str, str]) -> None:
    """Check that every variable of flaxfer is known and has a value that is read.

    Raises:
      ConfigError: If a variable has no effect.
    """
    details = []
    for name, value in sorted(environment.items()):
        if name.upper().startswith(PREFIX) and name not in VARIABLES:
            details.append(f"{name}: unknown variable; {suggestion(name, VARIABLES)}")
        elif name == "FLAXFER_MALLOC" and value not in ("", "system"):
            details.append(f"{name}: should be 'system'; is {value!r}")
    if details:
        raise ConfigError(
            f"{len(details)} environment variable(s) have no effect",
            where="environment",
            hint="correct them, or remove them with unset.",
            details=details,
        )
