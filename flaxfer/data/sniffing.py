"""Guesses at how a file is written, as settings of a source that read it.

Every guess is tried: the columns come from the reader of the guessed format (`readers`). What the
columns mean is the matter of `meaning`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Source
from flaxfer.config.data import ROLES_OF_FORMAT
from flaxfer.data import appearance, encodings
from flaxfer.data.column_names import is_known
from flaxfer.data.files import decode, parse_json, read_bytes, require_line_feeds, split_lines
from flaxfer.data.readers import read_table
from flaxfer.data.tables import Key, Table
from flaxfer.data.values import NUMBER
from flaxfer.errors import DataError

HEAD = 2000
"""Lines or records that delimiter, quotes, header and names are guessed from."""

Settings = dict[str, Any]
"""Fields of `Source` with their values."""
Found = tuple[Settings, list[Key]]
"""Settings that read a file, and its columns."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Guessed format, encoding and columns of a file.

    Attributes:
      path: The file.
      settings: Fields of `Source` that read it, without those that have their defaults.
      columns: Values of all columns, by name or, where names are missing or repeated, by number.
      note: The same in words.
    """

    path: Path
    settings: Settings
    columns: dict[Key, Sequence[Any]]
    note: str

    @property
    def format(self) -> str:
        """Format of the file."""
        return Source(path=str(self.path), **self.settings).file_format


def sniff(path: Path) -> Layout:
    """Return how a file is written.

    Raises:
      DataError: If there is no such file, it is in no format that is read, its encoding cannot be
        told, or it has only one column.
    """
    head = _head(path)
    if head.startswith(b"PAR1"):
        return _parquet(path)
    document = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    document |= ".json" in (suffix.lower() for suffix in path.suffixes)
    data = read_bytes(path, "path", "json" if document else "lines")
    encoding = encodings.guess(data)
    if not encoding:
        raise DataError(
            "the file is not in Unicode, and its bytes do not tell in which encoding it is",
            where=str(path),
            hint="convert it, as by iconv -f ENCODING -t utf-8 FILE > NEW, and name NEW.",
        )
    text = decode(data, encoding, path)
    if not text.strip():
        raise DataError("the file is empty", where=str(path), hint="name another file.")
    found = _json(text, path)
    if found is None:
        require_line_feeds(text, path)
        found = _lines(split_lines(text), path)
    settings, keys = found
    if encoding != "utf-8":
        settings["encoding"] = encoding
    return _tried(path, settings, keys)


def settings_for(path: Path, settings: Settings) -> Settings:
    """Return settings with a format if and only if the ending of a path does not tell it."""
    others = {name: value for name, value in settings.items() if name != "format"}
    if Source(path=str(path)).file_format == settings["format"]:
        return others
    return {"format": settings["format"], **others}


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError:
        return b""  # What is wrong is said by `read_bytes`.


def _parquet(path: Path) -> Layout:
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(path).names
    return _tried(path, {"format": "parquet"}, [*names])


def _tried(path: Path, settings: Settings, keys: list[Key]) -> Layout:
    """Read a file with the settings that were guessed."""
    source = Source(path=str(path), **settings)
    table = read_table(path, source, keys)
    columns = {key: column.values for key, column in table.columns.items()}
    return Layout(path, settings_for(path, settings), columns, _note(source, table))


def _note(source: Source, table: Table) -> str:
    """Return how a file is written, in words."""
    parts = [source.file_format]
    parts += [f"delimiter {source.delimiter!r}"] if source.delimiter else []
    parts += [f"quotes {source.quotes!r}"] if source.quotes != "auto" else []
    if source.encoding == "cp1252":
        parts.append("encoding cp1252 (not UTF-8, and its letters are Western European)")
    elif source.encoding != "utf-8":
        parts.append(f"encoding {source.encoding}")
    parts += ["no header"] if not source.header else []
    parts += [f"field {source.field!r}"] if source.field else []
    note = f"{', '.join(parts)}; {table.size:,} records"
    if table.problems:
        note += f", {len(table.problems):,} of them not as the others: {table.problems[0][1]}"
    return note


def _json(text: str, path: Path) -> Found | None:
    """Return the layout of JSON, JSON lines or SQuAD; None if the text is none of them."""
    start = text.lstrip()
    if start[:1] not in ("{", "["):
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        if Source(path=str(path)).file_format in ("json", "jsonl"):
            parse_json(text, path, "json")  # Says what is wrong.
        return None
    rest = start[end:].strip()
    if isinstance(value, list):
        return ({"format": "json"}, _names(value)) if not rest else None
    if rest:
        if layout := appearance.json_layout(text, "jsonl"):
            raise DataError(layout[0], where=str(path), hint=layout[1])
        lines = [line for line in split_lines(text)[:HEAD] if line.strip()]
        return {"format": "jsonl"}, _names(map(_value, lines))
    lists = {name: inner for name, inner in value.items() if appearance.is_records(inner)}
    if any("paragraphs" in each for each in lists.get("data", ())):
        return {"format": "squad"}, [*ROLES_OF_FORMAT["squad"].values()]
    if lists:
        field = max(lists, key=lambda name: len(lists[name]))
        return {"format": "json", "field": field}, _names(lists[field])
    if layout := appearance.object_layout(value):
        raise DataError(layout[0], where=str(path), hint=layout[1])
    return {"format": "jsonl"}, _names([value])


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # The reader notes it.


def _names(records: Iterable[Any]) -> list[Key]:
    objects = (record for record in itertools.islice(records, HEAD) if isinstance(record, dict))
    return [*dict.fromkeys(name for each in objects for name in each)]


def _lines(lines: list[str], path: Path) -> Found:
    head = lines[:HEAD]
    for guess in (_conllu, _conll):
        if found := guess(head):
            return found
    return _delimited(head, len(lines) > HEAD, path)


def _conllu(lines: Sequence[str]) -> Found | None:
    tokens = [line for line in lines if line.strip(" \t") and not line.startswith("#")]
    pattern = re.compile(r"\d+([-.]\d+)?(\t[^\t]+){9}", re.ASCII)
    if not tokens or not all(map(pattern.fullmatch, tokens)):
        return None
    return {"format": "conllu"}, ["FORM", "UPOS"]


def _conll(lines: Sequence[str]) -> Found | None:
    """Return the layout of a word per line, in columns, with a blank line after each sentence."""
    filled = [line for line in lines if line.strip(" \t")]
    if not filled or not 0.005 <= (len(lines) - len(filled)) / len(filled) <= 1:
        return None
    words = [line for line in filled if "-DOCSTART-" not in line]
    for delimiter in ("\t", " "):
        rows = [re.split("[ \t]+" if delimiter == " " else "\t", line.strip(" ")) for line in words]
        width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
        others = [line for line, row in zip(words, rows, strict=True) if len(row) != width]
        comments = [line for line in others if appearance.COMMENT.match(line)]
        cells = [cell for row in rows if len(row) == width for cell in row]
        phrases = sum(" " in cell.strip(" ") for cell in cells)
        if width < 2 or len(others) - len(comments) > 0.02 * len(rows) or phrases > 0.1 * len(rows):
            continue
        settings: Settings = {"format": "conll"}
        if delimiter == " ":
            settings["delimiter"] = " "
        if comments:
            settings["comment"] = appearance.comment_prefixes(comments)
        return settings, [*range(width)]
    return None


def _delimited(lines: list[str], cut: bool, path: Path) -> Found:
    """Return the layout of a csv or tsv file; `cut` tells if there are more lines."""
    settings: Settings = {}
    if lines[0].lower().startswith("sep="):  # Excel's note.
        settings["comment"], lines = lines[0][:4], lines[1:]
    options = [
        (round(share, 2), -order, -attempt, delimiter, quotes, rows)
        for order, delimiter in enumerate(appearance.DELIMITERS)
        for attempt, quotes in enumerate(
            ("literal", "csv") if delimiter == "\t" else ("csv", "literal")
        )
        if (rows := _rows(lines, delimiter, quotes, cut)) and (share := _share(rows)) >= 0.8
    ]
    if not options:
        raise DataError(
            "the lines have no columns: no tab, semicolon, bar or comma divides them evenly",
            where=str(path),
            hint="write the texts and their labels as csv, tsv or JSON lines; for files aligned "
            'line by line, write a config with format="lines".',
        )
    *_, delimiter, quotes, rows = max(options, key=lambda option: option[:3])
    cells = [cell for row in rows for cell in row if '"' in cell]
    if delimiter == "\t":
        settings["format"] = "tsv"
        if quotes == "csv" or appearance.quoted_cells(cells):
            settings["quotes"] = "csv"
            rows = _rows(lines, delimiter, "csv", cut) or rows
    else:
        settings["format"] = "csv"
        if delimiter != ",":
            settings["delimiter"] = delimiter
        if quotes == "literal":
            settings["quotes"] = quotes
        elif any(cell[:1] == " " and cell.lstrip(" ").startswith('"') for cell in cells):
            settings["quotes"] = "csv_spaced"
    if _has_header(rows):
        names = rows[0]
        return settings, [
            n if n.strip() and names.count(n) == 1 else i for i, n in enumerate(names)
        ]
    width = Counter(map(len, rows)).most_common(1)[0][0]
    return settings | {"header": False}, [*range(width)]


def _rows(lines: Sequence[str], delimiter: str, quotes: str, cut: bool) -> list[list[str]]:
    """Return the cells of some lines, without the last line if there are more; [] if torn."""
    if quotes == "literal":
        return [line.split(delimiter) for line in lines]
    text = io.StringIO("".join(f"{line}\n" for line in lines), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        rows.extend(reader)
    except csv.Error:
        # A quote that is still open at the end may be closed in a later line.
        if not cut or reader.line_num < len(lines):
            return []
    return [row for row in (rows[:-1] if cut else rows) if row]


def _share(rows: Sequence[Sequence[str]]) -> float:
    """Return the share of the rows with the most frequent width, or 0 if that is one column."""
    width, count = Counter(map(len, rows)).most_common(1)[0]
    return count / len(rows) if width > 1 and len(rows[0]) == width else 0.0


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names the columns."""
    first, rest = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    named = [cell for cell in first if cell.strip()]
    if len(set(named)) < len(named) or any(NUMBER.fullmatch(cell.strip()) for cell in named):
        return False
    for name, *values in zip(first, *rest, strict=True):
        if is_known(name) and name not in values:
            return True
    for name, *values in zip(first, *rest, strict=True):
        distinct = set(values)
        if values and all(NUMBER.fullmatch(value.strip()) for value in distinct):
            return True
        if len(distinct) <= 20 and 3 * len(distinct) <= len(values):
            return name not in distinct
    means = (sum(map(len, column)) / len(column) for column in zip(*rest, strict=True))
    longest = max(means, default=0)
    return all(len(cell) <= 40 for cell in named) and longest > 60
