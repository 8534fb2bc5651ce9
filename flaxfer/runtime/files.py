"""Atomic writing of files, safe when several machines write the same one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no other process on any machine uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_atomically(path: Path, text: str) -> None:
    """Write a file completely or not at all, also if the power fails."""
    temporary = temporary_name(path)
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
