"""JSON files of model folders, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flaxfer.errors import CheckpointError, DataError

MAX_BYTES = 2**28
"""Size above which a file is not a description of a model."""

AGAIN = "download or copy it again from where the model is published."


def read_json(path: Path, error: type[DataError] | type[CheckpointError]) -> dict[str, Any]:
    """Return the JSON object in a file, in which no key stands twice.

    Raises:
      DataError, CheckpointError: `error`, if there is no such file or it holds anything else.
    """
    what = _fault(path)
    if what is None:
        try:
            text = path.read_text(encoding="utf-8-sig")
            settings = json.loads(text, object_pairs_hook=_object)
        except RecursionError:
            what = "the file cannot be read as JSON: its brackets are nested too deeply"
        except (OSError, ValueError) as cause:
            what = f"the file cannot be read as JSON: {cause}"
        else:
            if isinstance(settings, dict):
                return settings
            what = f"the file holds no JSON object, but a {type(settings).__name__}"
    raise error(what, where=str(path), hint=AGAIN)


def foreign_content(file: Path) -> str | None:
    """Return what lies in a file of a model instead of its content, None if nothing is known."""
    with open(file, "rb") as opened:
        start = opened.read(512)
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer, whose content was not fetched (`git lfs pull` does)"
    if start.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "the file is a web page, such as an error or a login form, saved instead of the file"
    if not start.strip(b"\0"):
        return "the file begins with zero bytes: an unfinished download, or a disk that was full"
    return None


def _fault(path: Path) -> str | None:
    """Return why a file should not be parsed."""
    if not path.exists():
        return "it is a link to a missing file" if path.is_symlink() else "there is no such file"
    if not path.is_file():
        return "this is no file"
    if path.stat().st_size > MAX_BYTES:
        return f"the file is too large to describe a model: {path.stat().st_size:,} bytes"
    try:
        return foreign_content(path)
    except OSError as cause:
        return f"the file cannot be read: {cause}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return content
