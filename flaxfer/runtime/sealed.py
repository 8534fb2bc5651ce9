"""JSON records with a checksum, so that damage, edits and copies to other places are noticed.

A record is a JSON object with the key `checksum`, the SHA-256 of its other keys and of its name.
Objects without that key were written by earlier versions, and are read unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flaxfer.runtime.files import write_atomically

CHECKSUM = "checksum"
MAX_BYTES = 2**28
"""Largest size of a JSON file that is read; nothing that is written here comes near it."""

UNREADABLE = (OSError, ValueError, RecursionError)
"""Errors of `read_json` and `read` for a file that is missing or damaged."""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      OSError, ValueError, RecursionError: it is missing, or damaged.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    return json.loads(data.decode("utf-8"))


def checksum(content: Mapping[str, Any], name: str = "") -> str:
    """Return the checksum of a record; `name` says which record it is, if that matters."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(f"{name}\n{text}".encode() if name else text.encode()).hexdigest()


def sealed(content: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Return a record with its checksum."""
    # As it will be read: tuples become lists, and keys become strings.
    plain = json.loads(json.dumps(content))
    return {**plain, CHECKSUM: checksum(plain, name)}


def opened(record: Any, name: str = "") -> dict[str, Any]:
    """Return the content of a record without its checksum.

    Raises:
      ValueError: the checksum is not that of the content, or of a record of another name.
    """
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    content = {key: value for key, value in record.items() if key != CHECKSUM}
    if CHECKSUM in record and record[CHECKSUM] != checksum(content, name):
        raise ValueError("it was changed after it was written, or belongs elsewhere")
    return content


def write(
    path: Path,
    content: Mapping[str, Any],
    name: str = "",
    confirm: Callable[[], None] | None = None,
) -> None:
    """Write a record with its checksum, see `write_atomically`."""
    write_atomically(path, json.dumps(sealed(content, name), indent=1), confirm)


def read(path: Path, name: str = "") -> dict[str, Any]:
    """Read a record.

    Raises:
      OSError, ValueError, RecursionError: it is missing, damaged, edited, or of another name.
    """
    return opened(read_json(path), name)
