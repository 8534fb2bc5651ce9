"""Readers of data files: csv, tsv, JSON, JSON lines and parquet; `sentences` and `squad` have more.

A reader returns every record of the file or raises an error. Problems of single records are
collected in `Table.problems`, to be reported together with those of their values.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Source
from flaxfer.data.files import FETCH_AGAIN, decode, parse_json, read_bytes, split_lines
from flaxfer.data.sentences import conll, conllu
from flaxfer.data.squad import squad
from flaxfer.data.tables import Column, Key, Problems, Table, locate, record_table
from flaxfer.errors import ConfigError, DataError


def read_table(path: Path, source: Source, keys: Iterable[Key]) -> Table:
    """Read columns of a local file, which may be compressed, in any format but `lines`.

    Raises:
      ConfigError: If the format is unknown.
      DataError: If the file is missing, damaged, in another encoding, or lacks a column.
    """
    keys = list(dict.fromkeys(keys))
    if not source.file_format:
        raise ConfigError(
            f"the ending of {path.name!r} does not tell how the file is written",
            where=str(path),
            hint="set format to csv, tsv, jsonl, json, parquet, lines, conll, conllu or squad.",
        )
    data = read_bytes(path, "path")
    if source.file_format == "parquet":
        return _parquet(data, path, keys)
    return _READERS[source.file_format](decode(data, source.encoding, path), path, source, keys)


def read_lines(path: Path, encoding: str, setting: str) -> Column:
    """Read a text file whose lines are values; `setting` is its key in the config."""
    lines = split_lines(decode(read_bytes(path, setting), encoding, path))
    return Column(path.name, "", lines, range(1, len(lines) + 1))


def _delimited(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    tabs = source.file_format == "tsv"
    delimiter = source.delimiter or ("\t" if tabs else ",")
    if source.quotes == "literal" or (source.quotes == "auto" and tabs):
        limit = source.max_columns - 1 if source.max_columns else -1
        rows = [line.split(delimiter, limit) for line in split_lines(text)]
        lines: Sequence[int] = range(1, len(rows) + 1)
    elif source.max_columns:
        raise ConfigError(
            "max_columns needs lines without quoting", where=str(path), hint="set quotes='literal'."
        )
    else:
        rows, lines = _quoted(text, delimiter, path)
    if source.header:
        names, rows, lines = rows[0] if rows else [], rows[1:], lines[1:]
    else:
        names = [str(i) for i in range(max(map(len, rows), default=0))]
    column_index = locate(keys, names, str(path))
    needed = len(names) if source.header else 1 + max(column_index.values(), default=-1)
    problems: Problems = []
    for i, row in enumerate(rows):
        if len(row) < needed or (source.header and len(row) > needed):
            expected = f"the header {needed}" if source.header else f"{needed} are needed"
            problems.append((i, f"{path.name}:{lines[i]}: has {len(row)} column(s), {expected}"))
            rows[i] = [*row, *[""] * (needed - len(row))]
    columns: dict[Key, Column] = {}
    for key, i in column_index.items():
        name = repr(names[i]) if source.header else names[i]
        columns[key] = Column(path.name, name, [row[i] for row in rows], lines)
    return Table(len(rows), columns, problems)


def _quoted(text: str, delimiter: str, path: Path) -> tuple[list[list[str]], list[int]]:
    """Return the rows of a file with quoted fields, and the line on which each begins."""
    csv.field_size_limit(sys.maxsize)  # The default is below the length of a long review.
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return rows, lines
        except csv.Error as error:
            open_quote = "unexpected end" in str(error)
            what = "a quote is opened and never closed" if open_quote else str(error)
            raise DataError(
                f"the record that begins here cannot be taken apart: {what}",
                where=f"{path}:{start}",
                hint="if quotes are literal in this file, set quotes='literal'; if it is cut off, "
                "fetch it again; else quote the field and double the quotes within it.",
            ) from error
        rows.append(row or [""])
        lines.append(start)


def _json_lines(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    lines = split_lines(text)
    records: list[Any] = []
    problems: Problems = []
    for i, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            cut_off = i == len(lines) - 1 and not text.endswith("\n")
            what = "is cut off" if cut_off else "is empty" if not line.strip() else "is no JSON"
            problems.append((i, f"{path.name}:{i + 1}: the line {what}: {error}"))
            records.append({})
    return record_table(records, path, keys, range(1, len(lines) + 1), problems)


def _json(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    records = parse_json(text, path)
    if not isinstance(records, list):
        raise DataError(
            f"the file holds a {type(records).__name__}, not a list of records",
            where=str(path),
            hint="write a list of objects, or set format to 'jsonl' for one object a line, or to "
            "'squad' for the JSON of SQuAD.",
        )
    return record_table(records, path, keys, None, [])


def _parquet(data: bytes, path: Path, keys: Sequence[Key]) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        names = file.schema_arrow.names
        column_index = locate(keys, names, str(path))
        table = file.read(columns=sorted({names[i] for i in column_index.values()}))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"the parquet file is damaged or cut off: {error}", where=str(path), hint=FETCH_AGAIN
        ) from error
    columns = {
        key: Column(path.name, repr(names[i]), table[names[i]].to_pylist(), None)
        for key, i in column_index.items()
    }
    return Table(table.num_rows, columns, [])


_READERS: Mapping[str, Callable[[str, Path, Source, Sequence[Key]], Table]] = {
    "csv": _delimited,
    "tsv": _delimited,
    "json": _json,
    "jsonl": _json_lines,
    "conll": conll,
    "conllu": conllu,
    "squad": squad,
}
