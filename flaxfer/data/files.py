"""Reading of text files: compression, encoding, line ends."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from flaxfer.errors import ConfigError, DataError

FETCH_AGAIN = "fetch the file again, and compare its size with the original."


def read_bytes(path: Path, setting: str) -> bytes:
    """Return the content of a file, decompressed if its name ends in .gz.

    `setting` is its key in the config, for error messages.

    Raises:
      DataError: If the file does not exist, or cannot be read or decompressed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        raise DataError(
            "there is no such file" if absent else f"cannot be read: {error.strerror}",
            where=str(path.absolute()),
            hint=f"set `{setting}` of the source, or the `data_dir` that relative paths start at.",
        ) from error
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"the gzip file is damaged or cut off: {error}", where=str(path), hint=FETCH_AGAIN
        ) from error


def decode(data: bytes, encoding: str, path: Path) -> str:
    """Return the text of a file, without a byte order mark and with line feeds instead of CRLF.

    Raises:
      ConfigError: If the encoding does not exist.
      DataError: If the file has another encoding, or contains NUL bytes.
    """
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise ConfigError(
            f"there is no encoding {encoding!r}",
            where=str(path),
            hint="set encoding to one that Python knows, such as utf-8, latin-1 or cp1252.",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"the file is not in {encoding}",
            where=str(path),
            hint="set encoding to the file's own, such as latin-1 or cp1252, or convert the file.",
            details=_undecodable(data, encoding, path, error),
        ) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if "\0" in text:
        details = [
            f"{path.name}:{number}: {line.count(chr(0))} NUL"
            for number, line in enumerate(text.split("\n"), 1)
            if "\0" in line
        ]
        raise DataError(
            "the file holds NUL bytes",
            where=str(path),
            hint="set encoding if the file is UTF-16; else it is damaged: fetch it again.",
            details=details,
        )
    return text


def _undecodable(data: bytes, encoding: str, path: Path, first: UnicodeDecodeError) -> list[str]:
    """Return a description of the first undecodable byte of each line."""
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):  # A 0x0A is no line end.
        return [f"{path.name}: byte {first.start}: {first.reason}"]
    details = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError as error:
            at = f"{path.name}:{number}: byte {error.start + 1}"
            details.append(f"{at} is 0x{line[error.start]:02x}: {error.reason}")
    return details


def parse_json(text: str, path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
      DataError: If the text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the file is damaged, cut off, or no JSON: {error}", where=str(path), hint=FETCH_AGAIN
        ) from error


def split_lines(text: str) -> list[str]:
    """Split text at line feeds only, so that U+2028 and NEL remain part of it."""
    return text.removesuffix("\n").split("\n") if text else []
