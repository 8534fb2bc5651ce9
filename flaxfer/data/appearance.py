"""Guesses at how a file is written, for error messages that name the setting to change."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

DELIMITERS = ("\t", ";", "|", ",")

Advice = tuple[str, str]
"""A description of a file, and a hint."""

_UNPACK = "unpack it, and set `path` to the file within."
_EXPORT = "export the sheet as csv with UTF-8, and set `path` to that."
_DOWNLOAD = "download the file itself, not the page about it, and look at it before use."
_TYPES: Sequence[tuple[bytes, str, str]] = (
    (
        rb"PK\x03\x04",
        "a zip archive or an Excel workbook (xlsx)",
        f"if zip, {_UNPACK} Else {_EXPORT}",
    ),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel workbook (xls)", _EXPORT),
    (rb"\x1f\x8b", "compressed with gzip", "let its name end in .gz."),
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2", _UNPACK),
    (rb"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"PAR1", "a parquet file", "set format='parquet'."),
    (rb"ARROW1\x00\x00|\xff\xff\xff\xff.\x00{0,2}", "an Arrow file", "write it as parquet."),
    (rb"%PDF-\d", "a PDF document", _DOWNLOAD),
    (rb"SQLite format 3\x00", "an SQLite database", "export the table as csv."),
    (rb"\x89HDF\r\n", "an HDF5 file", "export the table as csv."),
    (rb"\x80[\x02-\x05][\x95}\]c(]", "a Python pickle, which is not read", "write it as parquet."),
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "a pointer of Git LFS, not the file itself",
        "run git lfs pull in the repository, or download the file.",
    ),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*(<!doctype html|<html\b|<head\b)",
        "an HTML page, such as an error or a login page",
        _DOWNLOAD,
    ),
    (rb"(?i)(\xef\xbb\xbf)?\s*<\?xml\b", "an XML document", "convert it to JSON lines or csv."),
    (
        rb"\s*(404: Not Found|Entry not found|Invalid username or password\.|Access Denied)\s*\Z",
        "the error message of a server",
        _DOWNLOAD,
    ),
)


def content_type(head: bytes) -> Advice | None:
    """Return what the first bytes of a file say it is, if that is none of the text formats."""
    for pattern, what, hint in _TYPES:
        if re.match(pattern, head, re.DOTALL):
            return what, hint
    return None


def json_layout(text: str, file_format: str) -> Advice | None:
    """Return what a text looks like that is not JSON as the format expects; None if damaged."""
    start = text.lstrip()
    if re.match(r"\[?\s*\{\s*'", start):
        return "the file holds Python's notation, not JSON", "write it with json.dump."
    if start and start[0] not in "[{":
        what = f"the file does not look like JSON: it begins with {start[:40].splitlines()[0]!r}"
        return what, "set format to how the file is written, such as csv or tsv."
    try:
        value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        return None
    rest = start[end:].strip()
    if file_format == "jsonl":
        if not rest and isinstance(value, list):
            return "the file holds one JSON array, not an object a line", "set format='json'."
        if not rest and isinstance(value, dict) and (advice := object_layout(value)):
            return advice
    lines = [line for line in start.split("\n") if line.strip()]
    if file_format != "jsonl" and len(lines) > 1 and _is_json(lines[0]) and lines[1][0] in "[{":
        return "the file looks like JSON lines, one object a line", "set format='jsonl'."
    if isinstance(value, dict) and not _is_json(lines[0]) and (not rest or rest[0] in "{,"):
        what = "the file holds JSON objects that are not on a line each"
        return what, "write one a line (jq -c . FILE > NEW.jsonl), and set `path` to the new file."
    return None


def object_layout(value: dict[str, Any]) -> Advice | None:
    """Return what a JSON document looks like that is an object; None if like a single record."""
    articles = value.get("data")
    if isinstance(articles, list) and any(
        isinstance(each, dict) and "paragraphs" in each for each in articles
    ):
        what = "the file is in SQuAD's format"
        return what, "set format='squad' in the source; it needs task.type='question_answering'."
    if lists := [name for name, inner in value.items() if is_records(inner)]:
        names = " or ".join(f"field={name!r}" for name in lists[:3])
        return "the records are in a field of the document", f"set format='json' and {names}."
    if value and all(isinstance(inner, list | dict) for inner in value.values()):
        what = "the file holds a table column by column, as pandas writes it by default"
        return what, "write records: to_json(FILE, orient='records'), and set format='json'."
    return None


def is_records(value: Any) -> bool:
    """Return whether a JSON value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def other_delimiter(lines: Sequence[str], delimiter: str) -> tuple[str, int]:
    """Return a delimiter that divides most lines as it divides the first, and into how many."""
    head = [line[:100_000].replace("\r", " ") for line in lines[:50]]
    best = ("", 1)
    for candidate in DELIMITERS:
        if candidate == delimiter:
            continue
        widths = [len(row) for row in csv.reader(head, delimiter=candidate)]
        if widths and widths[0] > best[1] and Counter(widths)[widths[0]] >= 0.8 * len(widths):
            best = (candidate, widths[0])
    return best


def quoted_cells(cells: Sequence[str]) -> int:
    """Return how many of the cells are quoted as in csv; 0 if not more than half of them are.

    Args:
      cells: Those cells of a file, read with literal quotes, that hold a quote.
    """
    quoted = sum(bool(re.fullmatch(r'"(?:[^"]|"")*"', cell)) and len(cell) > 1 for cell in cells)
    # In files with literal quotes, about one cell in ten at most is a quotation from end to end.
    return quoted if 2 * quoted > len(cells) else 0


COMMENT = re.compile(r"\s*(#+|--+|%+|;+|//+)")
"""Marks that comments begin with."""


def comment_prefixes(lines: Sequence[str]) -> tuple[str, ...] | str:
    """Return what comment lines begin with: the mark and the first word, or the mark if many."""
    found = Counter(re.match(r"\s*\W+(?:[A-Za-z_]+\b ?)?", line)[0] for line in lines)  # type: ignore[index]
    if len(found) > 3:
        found = Counter(COMMENT.match(line)[0] for line in lines)  # type: ignore[index]
    return next(iter(found)) if len(found) == 1 else tuple(found)
