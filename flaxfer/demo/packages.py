"""Folders of installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flaxfer.errors import DataError


def package_folder(name: str, install: str) -> Path:
    """Return the folder of an installed package without importing it.

    Args:
      name: of the module.
      install: command that installs it, for the message.

    Raises:
      DataError: it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {name} is not installed", hint=install)
    return Path(spec.submodule_search_locations[0])
