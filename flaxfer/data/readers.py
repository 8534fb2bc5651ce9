"""Readers of data files: csv, tsv, JSON, JSON lines and parquet; `sentences` and `squad` have more.

A reader returns every record of the file or raises an error. Problems of single records are
collected in `Table.problems`, to be reported together with those of their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Source
from flaxfer.data.appearance import is_records, json_layout, object_layout
from flaxfer.data.delimited import delimited
from flaxfer.data.files import (
    FETCH_AGAIN,
    decode,
    load_json,
    parse_json,
    read_bytes,
    require_line_feeds,
    split_lines,
)
from flaxfer.data.lareqa import lareqa, squad_sentences
from flaxfer.data.mewslix import mewslix
from flaxfer.data.sentences import conll, conllu
from flaxfer.data.squad import squad
from flaxfer.data.tables import Column, Key, Problems, Table, listed, locate, record_table
from flaxfer.errors import ConfigError, DataError


def read_table(path: Path, source: Source, keys: Iterable[Key]) -> Table:
    """Read columns of a local file, which may be compressed, in any format but `lines`.

    Raises:
      ConfigError: If the format is unknown.
      DataError: If the file is missing, damaged, in another encoding, or lacks a column.
    """
    if not source.file_format:
        raise ConfigError(
            f"the ending of {path.name!r} does not tell how the file is written",
            where=str(path),
            hint="set format to csv, tsv, jsonl, json, parquet, lines, conll, conllu, squad, "
            "squad_sentences, lareqa or mewslix.",
        )
    if source.file_format == "lareqa":
        return lareqa(path, source, list(dict.fromkeys(keys)))
    if source.file_format == "mewslix":
        return mewslix(path, source, list(dict.fromkeys(keys)))
    return parse_table(read_bytes(path, "path", source.file_format), path, source, keys)


def parse_table(data: bytes, path: Path, source: Source, keys: Iterable[Key]) -> Table:
    """Read columns of the content of a file, whose name is `path` in messages; see `read_table`."""
    keys = list(dict.fromkeys(keys))
    if source.file_format == "parquet":
        return _parquet(data, path, keys)
    text = decode(data, source.encoding, path)
    if not text.strip():
        raise DataError("the file is empty", where=str(path), hint=FETCH_AGAIN)
    if source.file_format not in ("json", "squad", "squad_sentences"):
        require_line_feeds(text, path)
    return _READERS[source.file_format](text, path, source, keys)


def read_lines(path: Path, encoding: str, setting: str) -> Column:
    """Read a text file whose lines are values; `setting` is its key in the config."""
    text = decode(read_bytes(path, setting), encoding, path)
    require_line_feeds(text, path)
    lines = split_lines(text)
    return Column(path.name, "", lines, range(1, len(lines) + 1))


def _json_lines(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    lines = split_lines(text)
    records: list[Any] = []
    problems: Problems = []
    for i, line in enumerate(lines):
        try:
            records.append(load_json(line))
        except (ValueError, RecursionError) as error:
            cut_off = i == len(lines) - 1 and not text.endswith("\n")
            what = "is cut off" if cut_off else "is empty" if not line.strip() else "is no JSON"
            problems.append((i, f"{path.name}:{i + 1}: the line {what}: {error}"))
            records.append({})
    layout = json_layout(text, "jsonl") if problems and problems[0][0] == 0 else None
    if len(records) == 1 and is_records(records[0]):
        layout = json_layout(text, "jsonl")
    elif len(records) == 1 and isinstance(records[0], dict):
        record = records[0]
        if any(map(is_records, record.values())) and not any(key in record for key in keys):
            layout = object_layout(record)  # A document of one line.
    if layout:
        raise DataError(layout[0], where=str(path), hint=layout[1])
    return record_table(records, path, keys, range(1, len(lines) + 1), problems)


def _json(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    records = parse_json(text, path, "json")
    if source.field:
        if not isinstance(records, dict) or source.field not in records:
            there = f"there are {listed(list(records))}" if isinstance(records, dict) else ""
            what = there or f"the document is a {type(records).__name__}"
            raise DataError(
                f"there is no field {source.field!r}: {what}",
                where=str(path),
                hint="set field to the one that holds the records, or leave it empty for a list.",
            )
        records = records[source.field]
    if not isinstance(records, list):
        what = f"the file holds a {type(records).__name__}, not a list of records"
        hint = "write a list of objects, or set format='jsonl' for one object a line."
        if isinstance(records, dict):
            what, hint = object_layout(records) or (what, hint)
        raise DataError(what, where=str(path), hint=hint)
    return record_table(records, path, keys, None, [])


def _parquet(data: bytes, path: Path, keys: Sequence[Key]) -> Table:
    import pyarrow
    import pyarrow.parquet

    if not data.startswith(b"PAR1"):
        raise DataError(
            f"the file is no parquet file: it begins with {data[:40]!r}",
            where=str(path),
            hint="set format to how the file is written, such as csv or jsonl.",
        )
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        names = file.schema_arrow.names
        column_index = locate(keys, names, str(path))
        # By name, unless a name stands twice; a dot would stand for a field of a column.
        wanted = {names[i] for i in column_index.values()}
        plain = len(set(names)) == len(names) and not any("." in name for name in names)
        table = file.read(columns=[n for n in names if n in wanted] if plain else None)
        index = {
            key: table.column_names.index(names[i]) if plain else i
            for key, i in column_index.items()
        }
        values = {key: table.column(i).to_pylist() for key, i in index.items()}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"the parquet file is damaged or cut off: {error}", where=str(path), hint=FETCH_AGAIN
        ) from error
    columns = {
        key: Column(path.name, repr(names[i]), values[key], None) for key, i in column_index.items()
    }
    return Table(table.num_rows, columns, [], names=names)


_READERS: Mapping[str, Callable[[str, Path, Source, Sequence[Key]], Table]] = {
    "csv": delimited,
    "tsv": delimited,
    "json": _json,
    "jsonl": _json_lines,
    "conll": conll,
    "conllu": conllu,
    "squad": squad,
    "squad_sentences": squad_sentences,
}
