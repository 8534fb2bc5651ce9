"""Manifests: the checksums that commit a checkpoint, and the verification of its files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from flaxfer.runtime import sealed

MANIFEST = "manifest.json"


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder but the manifest, by its path there.

    What a file holds that cannot be read is given as the reason.
    """
    checksums = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for path in [Path(parent) / name for name in sorted(names) if name != MANIFEST]:
            try:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                digest = f"cannot be read: {error.strerror}"
            checksums[path.relative_to(folder).as_posix()] = digest
    return checksums


def read(folder: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
      OSError, ValueError, RecursionError: it is missing, damaged, or of another checkpoint.
    """
    content = sealed.read_json(folder / MANIFEST)
    if not isinstance(content, dict) or sealed.CHECKSUM not in content:
        raise ValueError("it holds no JSON object with a checksum")
    content = sealed.opened(content)
    if not isinstance(content.get("step"), int) or not isinstance(content.get("files"), dict):
        raise ValueError("it names no step and files")
    if folder.name != f"{content['step']:08d}":
        raise ValueError(f"it is of step {content['step']}")
    stage = folder.absolute().parents[1].name
    if content.get("stage", stage) != stage:
        raise ValueError(f"it is of the stage {content['stage']}")
    return content


def damage(folder: Path) -> list[str]:
    """Return what is wrong with the files of a checkpoint, one finding each; empty if nothing is.

    Raises:
      OSError, ValueError, RecursionError: the manifest is missing, damaged, or of another one.
    """
    wanted, actual = read(folder)["files"], checksums(folder)
    findings = []
    for name in wanted:
        if (have := actual.get(name, "missing")) != wanted[name]:
            is_reason = have == "missing" or have.startswith("cannot be read")
            findings.append(f"{name}: {have if is_reason else 'changed since it was written'}")
    return findings
