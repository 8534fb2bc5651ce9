"""Atomic writing of files, safe when several machines write the same one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from flaxfer.errors import CheckpointError

STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "files of this size are not allowed here",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error",
}
"""What is wrong with a disk, by error number."""


class StorageError(CheckpointError):
    """A disk is full, read-only or failing, so that results cannot be written."""


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no other process on any machine uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_atomically(
    path: Path, content: str | bytes, confirm: Callable[[], None] | None = None
) -> None:
    """Write a file completely or not at all, also if the power fails.

    Args:
      path: The file.
      content: Its text, written as UTF-8, or its bytes.
      confirm: Called when everything but the last step is done; nothing is changed if it raises.

    Raises:
      StorageError: The disk is full, read-only or failing.
      OSError: The file cannot be written for another reason.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = temporary_name(path)
    with storage_errors(path, len(data)):
        try:
            write_durably(temporary, data)
            if confirm is not None:
                confirm()
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file whose contents survive a loss of power."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make names that were added to a folder survive a loss of power, where that is possible."""
    with contextlib.suppress(OSError):  # Some file systems cannot sync a folder.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def existing(path: Path) -> Path:
    """Return the absolute path, or the nearest folder above it that exists."""
    whole = path.absolute()
    return next(p for p in (whole, *whole.parents) if p.exists())


@contextlib.contextmanager
def storage_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Raise errors of the disk as `StorageError`, with the bytes that are needed and free."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        raise storage_error(path, STORAGE_ERRORS[error.errno], needed) from error


def storage_error(path: Path, what: str, needed: int = 0) -> StorageError:
    """Return the error of a failed write, with the bytes needed and free, and remedies."""
    details = [f"bytes needed: {needed:,}"] if needed else []
    with contextlib.suppress(OSError):
        details.append(f"bytes free: {shutil.disk_usage(existing(path)).free:,}")
    return StorageError(
        f"{what}: this could not be written, and the incomplete file is removed",
        where=str(path),
        hint="free space there, raise the quota, or make it writable, and run the same command "
        "again: it continues from what is complete. With --config.store=FOLDER, stages are kept on "
        "another disk.",
        details=details,
    )
