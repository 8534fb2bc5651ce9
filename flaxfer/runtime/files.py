"""Files that are there whole or not at all, also where several machines write the same one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process on any machine uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all, also after a power cut."""
    temporary = temporary_name(path)
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
