"""Folders that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from flaxfer.data.json_files import read_json
from flaxfer.errors import ConfigError, DataError
from flaxfer.models.pretrained import TOKENIZER_FILES
from flaxfer.runtime.files import temporary_name


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` at the end, or is deleted on an error.

    Args:
      out: a path that does not exist yet, or an empty folder.
      overwrite: whether `out` may also be an earlier export.

    Raises:
      ConfigError: `out` cannot be written, or must not be replaced.
    """
    out = out.absolute()
    _check_free(out, overwrite)
    temporary = temporary_name(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise ConfigError(
            f"the folder cannot be written: {error}", where=str(out), hint="name another one."
        ) from error
    try:
        yield temporary
        # safetensors makes its files readable to the owner only.
        for file in filter(Path.is_file, temporary.rglob("*")):
            file.chmod(temporary.stat().st_mode & 0o666)
        _check_free(out, overwrite)  # Another process may have written it in the meantime.
        # The earlier export is deleted last, so that a failure leaves it as it was.
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_patterns(patterns: Iterable[str], source: Path, target: Path) -> None:
    """Copy the files of a folder and its sub-folders that match a pattern to another folder."""
    for pattern in patterns:
        for file in filter(Path.is_file, source.glob(pattern)):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer to another folder."""
    copy_patterns(TOKENIZER_FILES, source, target)


def _check_free(out: Path, overwrite: bool) -> None:
    hint = "name a new folder."
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        what = "there is a file of this name"
    elif not out.exists() or not any(out.iterdir()):
        return
    elif not overwrite:
        what = "the folder is not empty"
        hint = "name a new folder; flaxfer export --overwrite replaces an earlier export."
    elif not _is_export(out):
        what = "the folder is not an export, so --overwrite will not delete it"
        hint = "name another folder, or empty this one first."
    else:
        return
    raise ConfigError(what, where=str(out), hint=hint)


def _is_export(folder: Path) -> bool:
    try:
        return "flaxfer" in read_json(folder / "config.json", DataError)
    except DataError:
        return False
