"""Extensions that other packages declare as entry points in their pyproject.toml.

[project.entry-points."flaxfer.trackers"]
mine = "my_package.tracking:open_tracker"
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from flaxfer.errors import ConfigError

TRACKERS = "flaxfer.trackers"
"""Group of the trackers, see `flaxfer.training.trackers.Opener`."""


def names(group: str) -> tuple[str, ...]:
    """Return the names of a group's entry points in the installed packages."""
    return tuple(sorted({entry.name for entry in importlib.metadata.entry_points(group=group)}))


def load(group: str, name: str) -> Any:
    """Return the object behind an entry point.

    Raises:
      ConfigError: Two packages declare the name, or it cannot be imported.
    """
    entries = {entry.value: entry for entry in _of(group, name)}
    where = f"entry point {name!r} of {group}"
    if len(entries) != 1:
        raise ConfigError(
            f"{len(entries)} packages declare it: {', '.join(sorted(entries))}",
            where=where,
            hint="uninstall all of them but one.",
        )
    (entry,) = entries.values()
    try:
        return entry.load()
    # It is another package's code: whatever it raises is reported with its place.
    except Exception as error:
        raise ConfigError(
            f"{entry.value} cannot be imported: {type(error).__name__}: {error}",
            where=where,
            hint="install what it needs, or leave the name out of the config.",
        ) from error


def _of(group: str, name: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group, name=name))
