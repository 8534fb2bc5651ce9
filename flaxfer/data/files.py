"""Reading of text files: size, compression, encoding, line ends.

A line of more than `MAX_LINE` bytes, or a document without lines (JSON, SQuAD) of more than
`MAX_DOCUMENT`, is refused without reading it to its end.
"""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import re
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from flaxfer.data import encodings
from flaxfer.data.appearance import content_type, json_layout
from flaxfer.errors import ConfigError, DataError

FETCH_AGAIN = "fetch the file again, and compare its size with the original."

MAX_LINE = 2**24
"""Longest line in bytes, and longest cell in characters."""

MAX_DOCUMENT = 2**30
"""Largest JSON document in bytes."""

logger = logging.getLogger("flaxfer.data")

_BLOCK, _HEAD = 2**20, 2**9
_NO_FILES = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "it is a named pipe (FIFO), not a regular file"),
    (stat.S_ISSOCK, "it is a socket, not a regular file"),
    (stat.S_ISCHR, "it is a device, not a regular file"),
    (stat.S_ISBLK, "it is a device, not a regular file"),
)


def read_bytes(path: Path, setting: str, file_format: str = "lines") -> bytes:
    """Return the content of a file, decompressed if its name ends in .gz.

    `setting` is its key in the config, for error messages; `file_format` is that of `Source`.

    Raises:
      DataError: If the file does not exist, is no regular file, has a line that is too long, is
        evidently of another type, or cannot be read or decompressed.
    """
    try:
        mode = path.stat().st_mode
        for test, what in _NO_FILES:
            if test(mode):
                raise _unreadable(f"cannot be read: {what}", path, setting)
        with path.open("rb") as file:
            return _content(file, path, file_format)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL.
        absent = isinstance(error, FileNotFoundError)
        reason = getattr(error, "strerror", None) or str(error)
        what = "there is no such file" if absent else f"cannot be read: {reason}"
        raise _unreadable(what, path, setting) from error


def _unreadable(what: str, path: Path, setting: str) -> DataError:
    hint = f"set `{setting}` of the source, or the `data_dir` that relative paths start at."
    if what.startswith("cannot be read: it is a"):
        hint = f"write it to a regular file first, and set `{setting}` to that."
    elif re.search(r"(^|/)[a-z0-9]{2,5}:/", str(path)):
        hint = f"download the file, and set `{setting}` to where it is; addresses are not read."
    elif "*" in path.name:
        hint = "name a single file; for several, list a source for each."
    return DataError(what, where=str(path.absolute()), hint=hint)


def _content(file: BinaryIO, path: Path, file_format: str) -> bytes:
    """Return the content of an open file, decompressed if its name ends in .gz."""
    packed = path.suffix.lower() == ".gz"
    head = file.read(_HEAD)
    _require_type(head, path, "" if packed else file_format)
    file.seek(0)
    if not packed or not head:
        return _read(file, path, file_format)
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            data = _read(cast(BinaryIO, unpacked), path, file_format)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"the gzip file is damaged or cut off: {error}", where=str(path), hint=FETCH_AGAIN
        ) from error
    _require_type(data[:_HEAD], path, file_format)
    return data


def _require_type(head: bytes, path: Path, file_format: str) -> None:
    """Raise an error if the first bytes are not those of the format; empty for a gzip file."""
    if not file_format:
        if not head or head.startswith(b"\x1f\x8b"):
            return
        what, hint = content_type(head) or ("not compressed", "remove .gz from its name.")
        raise DataError(f"the file ends in .gz, but it is {what}", where=str(path), hint=hint)
    found = content_type(head)
    if found and not (file_format == "parquet" and head.startswith(b"PAR1")):
        raise DataError(f"the file is {found[0]}", where=str(path), hint=found[1])


def _read(stream: BinaryIO, path: Path, file_format: str) -> bytes:
    """Return all bytes of a stream, unless a line or the document is too long."""
    document = file_format in ("json", "squad", "squad_sentences", "lareqa")
    blocks: list[bytes] = []
    size = length = 0  # Of the document, and of the line that a block begins in.
    while block := stream.read(min(_BLOCK, MAX_LINE)):
        blocks.append(block)
        size += len(block)
        if document and size > MAX_DOCUMENT:
            raise DataError(
                f"the document is larger than {MAX_DOCUMENT:,} bytes",
                where=str(path),
                hint="write JSON lines, one object a line, and set format='jsonl'.",
            )
        if document or file_format == "parquet":
            continue
        ends = [block.find(end) for end in (b"\n", b"\r") if end in block]
        if length + (min(ends) if ends else len(block)) > MAX_LINE:
            line = 1 + sum(each.count(b"\n") for each in blocks[:-1])
            raise DataError(
                f"the line is longer than {MAX_LINE:,} bytes",
                where=f"{path}:{line}",
                hint="is the file text, with a line end after every record? Divide longer texts.",
            )
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        length = len(block) - 1 - last + (0 if ends else length)
    return b"".join(blocks)


def decode(data: bytes, encoding: str, path: Path) -> str:
    """Return the text of a file, without a byte order mark and with line feeds instead of CRLF.

    Raises:
      ConfigError: If the encoding does not exist.
      DataError: If the file has another encoding, or contains NUL bytes.
    """
    actual = encodings.unicode_encoding(data)
    hint = f"set encoding={actual!r}."
    try:
        text = data.decode(encoding)
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise ConfigError(
            f"there is no encoding {encoding!r}",
            where=str(path),
            hint="set encoding to one that Python knows, such as utf-8, latin-1 or cp1252.",
        ) from error
    except UnicodeDecodeError as error:
        if not actual:
            hint = _encoding_hint(data)
        raise DataError(
            f"the file is not in {encoding}" + (f" but in {actual}" if actual else ""),
            where=str(path),
            hint=hint,
            details=[] if actual else _undecodable(data, encoding, path, error),
        ) from error
    except UnicodeError as error:  # UTF-16 without a byte order mark, and the like.
        what = f"the file is not in {encoding}: {error}"
        raise DataError(
            what, where=str(path), hint=hint if actual else _encoding_hint(data)
        ) from error
    wide = name.startswith(("utf-16", "utf-32"))
    if wide and data and not actual and b"\0" not in data:
        raise DataError(
            f"the file is not in {encoding}: it has no byte order mark and no zero byte",
            where=str(path),
            hint="leave encoding at 'utf-8', or set it to the file's own.",
        )
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if "\0" in text:
        details = [
            f"{path.name}:{number}: {line.count(chr(0))} NUL"
            for number, line in enumerate(text.split("\n"), 1)
            if "\0" in line
        ]
        raise DataError(
            f"the file is not in {encoding} but in {actual}"
            if actual
            else "the file holds NUL bytes",
            where=str(path),
            hint=hint if actual else "if it is not UTF-16, it is damaged: fetch it again.",
            details=[] if actual else details,
        )
    if joined := text.count("\n\ufeff"):
        line = text[: text.index("\n\ufeff")].count("\n") + 2
        logger.warning(
            "%s:%d: begins with a byte order mark (%d such lines), as in files that were joined; "
            "it is part of the text: remove it",
            *(path, line, joined),
        )
    if not wide and not name.startswith("utf-8") and not data.isascii() and encodings.is_utf8(data):
        logger.warning("%s: is valid UTF-8, but is read as encoding=%r", path, encoding)
    return text


def _encoding_hint(data: bytes) -> str:
    """Return the setting that reads data that is not in the encoding that is set."""
    if name := encodings.guess(data):
        note = ", which the file looks like" if name == "cp1252" else ""
        return f"set encoding={name!r}{note}."
    return "set encoding to the file's own, such as cp1251 or shift_jis, or convert the file."


def _undecodable(data: bytes, encoding: str, path: Path, first: UnicodeDecodeError) -> list[str]:
    """Return the first undecodable byte of each line, with its place as file:line:byte."""
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):  # A 0x0A is no line end.
        return [f"{path.name}: byte {first.start}: {first.reason}"]
    details = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError as error:
            place = f"{path.name}:{number}:{error.start + 1}"
            details.append(f"{place}: 0x{line[error.start]:02x}: {error.reason}")
    return details


def parse_json(text: str, path: Path, file_format: str) -> Any:
    """Return the value of a JSON document.

    Raises:
      DataError: If the text is not JSON, or names a key twice in an object.
    """
    try:
        return load_json(text)
    except (ValueError, RecursionError) as error:
        layout = json_layout(text, file_format)
        what = layout[0] if layout else f"the file is damaged, cut off, or no JSON: {error}"
        hint = layout[1] if layout else FETCH_AGAIN
        raise DataError(what, where=str(path), hint=hint) from error


def load_json(text: str) -> Any:
    """Return a JSON value.

    Raises:
      ValueError: If the text is not JSON, or names a key twice in an object.
    """
    return _DECODER.decode(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def split_lines(text: str) -> list[str]:
    """Split text at line feeds only, so that U+2028 and NEL remain part of it."""
    return text.removesuffix("\n").split("\n") if text else []


def require_line_feeds(text: str, path: Path) -> None:
    """Raise an error if the lines end in CR, as those of old Macintosh files."""
    if "\r" in text and "\n" not in text.rstrip("\n"):
        count = len(re.findall("\r", text))
        raise DataError(
            f"the lines end in CR (carriage return) alone: there are {count} CR and no line feed",
            where=str(path),
            hint="convert the line ends: tr '\\r' '\\n' < FILE > NEW; then set `path` to NEW.",
        )
