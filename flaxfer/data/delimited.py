"""Tables of delimited columns, csv and tsv."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from flaxfer.config import Source
from flaxfer.data import appearance
from flaxfer.data.files import MAX_LINE, split_lines
from flaxfer.data.tables import (
    COMMENTS,
    Column,
    Key,
    Problems,
    Table,
    lacks_only,
    locate,
    without_labels,
)
from flaxfer.errors import ConfigError, DataError

Rows = tuple[list[list[str]], list[int], int]
"""Rows, the line on which each begins, and the number of comment lines."""

Spans = Sequence[tuple[int, int]]
"""The first line of each row, and its last."""

logger = logging.getLogger("flaxfer.data")


def delimited(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read a csv or tsv file; lines that begin with `source.comment` are skipped and counted.

    Raises:
      ConfigError: If `max_columns` is set for a file with quoted fields.
      DataError: If a column is missing, or the quotes or the delimiter are not as set.
    """
    tabs = source.file_format == "tsv"
    delimiter = source.delimiter or ("\t" if tabs else ",")
    if source.quotes == "literal" or (source.quotes == "auto" and tabs):
        rows, lines, comments = _literal(text, delimiter, source)
        if source.quotes == "auto":
            _warn_of_quotes(rows, path)
    elif source.max_columns:
        raise ConfigError(
            "max_columns needs lines without quoting", where=str(path), hint="set quotes='literal'."
        )
    else:
        rows, lines, comments = _quoted(text, delimiter, path, source)
    if source.header:
        names, rows, lines = rows[0] if rows else [], rows[1:], lines[1:]
    else:
        names = [str(i) for i in range(max(map(len, rows), default=0))]
    try:
        column_index = locate(keys, names, str(path))
    except DataError as error:
        raise _advised(error, text, path, delimiter, names, keys, source) from error
    needed = len(names) if source.header else 1 + max(column_index.values(), default=-1)
    problems = _ragged(rows, lines, names if source.header else None, needed, path)
    if len(problems) > len(rows) // 5 and not source.header:
        _require_delimiter(text, path, delimiter, needed, source)
    columns: dict[Key, Column] = {}
    for key, i in column_index.items():
        name = repr(names[i]) if source.header else names[i]
        columns[key] = Column(path.name, name, [row[i] for row in rows], lines)
    skipped = {COMMENTS: comments} if comments else {}
    return Table(len(rows), columns, problems, skipped, names if source.header else ())


def _literal(text: str, delimiter: str, source: Source) -> Rows:
    limit = source.max_columns - 1 if source.max_columns else -1
    rows, numbers, comments = [], [], 0
    for number, line in enumerate(split_lines(text), 1):
        if source.comment and line.startswith(source.comment):
            comments += 1
        else:
            rows.append(line.split(delimiter, limit))
            numbers.append(number)
    return rows, numbers, comments


def _ragged(
    rows: list[list[str]],
    lines: Sequence[int],
    header: list[str] | None,
    needed: int,
    path: Path,
) -> Problems:
    """Return a problem for each row of another width, and fill short ones up."""
    problems: Problems = []
    bare = [name.strip("\ufeff") for name in header or ()]
    for i, row in enumerate(rows):
        what = ""
        if len(row) < needed or (header is not None and len(row) > needed):
            expected = f"the header {needed}" if header is not None else f"{needed} are needed"
            what = f"has {len(row)} column(s), {expected}"
            if row == [""]:
                what = "the line is blank"
            elif not any(row[needed:]) and len(row) == needed + 1:
                what += ": it ends in a delimiter"
            elif any("\r" in value for value in row):
                what += "; it holds a CR (carriage return), which is no line end here"
        elif bare and row[0].removeprefix("\ufeff") == bare[0] and row[1:] == bare[1:]:
            what = "repeats the header, as in files that were joined"
        if what:
            problems.append((i, f"{path.name}:{lines[i]}: {what}"))
            row += [""] * (needed - len(row))
    return problems


def _quoted(text: str, delimiter: str, path: Path, source: Source) -> Rows:
    """Return the rows of a file with quoted fields."""
    csv.field_size_limit(MAX_LINE)  # The default is below the length of a long review.
    rows: list[list[str]] = []
    starts: list[int] = []
    ends: list[int] = []
    number = comments = 0
    fresh = True

    def physical() -> Iterator[str]:
        nonlocal number, comments, fresh
        for line in io.StringIO(text, newline="\n"):
            number += 1
            if fresh and source.comment and line.startswith(source.comment):
                comments += 1
                continue
            if fresh:
                starts.append(number)
            fresh = False
            yield line

    reader = csv.reader(
        physical(),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=source.quotes == "csv_spaced",
    )
    while True:
        fresh = True
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise _torn(error, path, starts[-1]) from error
        rows.append(row or [""])
        ends.append(number)
    _refuse_merged(rows, list(zip(starts, ends, strict=True)), text, delimiter, path, source)
    spaced = [
        start
        for row, start in zip(rows, starts, strict=True)
        for cell in row
        if cell[:1] in (" ", "\t") and cell.lstrip(" \t").startswith('"')
    ]
    if spaced:
        logger.warning(
            "%s:%d: a blank stands before the quote of a cell (%d in all), so the quotes are part "
            "of the text and a delimiter within them divides it; set quotes='csv_spaced' to skip "
            "blanks after delimiters",
            *(path, spaced[0], len(spaced)),
        )
    return rows, starts, comments


def _torn(error: csv.Error, path: Path, line: int) -> DataError:
    text, what = str(error), f"the record that begins here cannot be taken apart: {error}"
    hint = (
        "if quotes are literal in this file, set quotes='literal'; if it is cut off, fetch it "
        "again; else quote the field and double the quotes within it."
    )
    if "unexpected end" in text or "field larger" in text:
        what = (
            "the record that begins here cannot be taken apart: a quote is opened and never closed"
            + (f" within {MAX_LINE:,} characters" if "larger" in text else "")
        )
    elif "new-line character" in text:
        what = "the record that begins here has a CR (carriage return) outside quotes"
        hint = "make all line ends line feeds, or quote the field if the CR belongs to it."
    return DataError(what, where=f"{path}:{line}", hint=hint)


def _refuse_merged(
    rows: list[list[str]],
    spans: Spans,
    text: str,
    delimiter: str,
    path: Path,
    source: Source,
) -> None:
    """Check that quotes have not merged lines that are rows of their own.

    Quotes that are literal merge rows, if one begins a cell and a later one ends a cell of the
    same column. Between tabs, that is an error unless `num_records` confirms the number of
    records; a comma may stand in each line of a quoted text, so it is a warning.
    """
    if all(first == last for first, last in spans):
        return
    width = Counter(map(len, rows)).most_common(1)[0][0]
    lines = text.split("\n")
    whole = [
        (first, last - first + 1)
        for first, last in spans
        if last > first and width > 1
        if all(line.count(delimiter) == width - 1 for line in lines[first - 1 : last])
    ]
    if not whole:
        return
    what = (
        f"quotes join {whole[0][1]} lines to one record here ({len(whole)} such records in all), "
        f"although each line has {width} columns"
    )
    advice = "if quotes are literal in this file, set quotes='literal'"
    if delimiter == "\t" and not source.num_records:
        hint = (
            f"{advice}; if {len(rows) - source.header} records are right, set num_records to that."
        )
        raise DataError(what, where=f"{path}:{whole[0][0]}", hint=hint)
    logger.warning("%s:%d: %s; %s", path, whole[0][0], what, advice)


def _warn_of_quotes(rows: Sequence[Sequence[str]], path: Path) -> None:
    """Warn if a file that is read with literal quotes seems to be quoted as csv."""
    cells = [cell for row in rows for cell in row if '"' in cell]
    quoted = appearance.quoted_cells(cells)
    if quoted:
        logger.warning(
            "%s: %d of the %d cells that hold a quote are quoted as in csv, and the quotes are "
            "now part of the text: set quotes='csv' to remove them, or quotes='literal' if they "
            "belong to it",
            *(path, quoted, len(cells)),
        )


def _advised(
    error: DataError,
    text: str,
    path: Path,
    delimiter: str,
    names: Sequence[str],
    keys: Sequence[Key],
    source: Source,
) -> DataError:
    """Return the error of missing columns, or one that names the setting that hides them."""
    head = _head(text)
    if head and head[0].lower().startswith("sep="):
        return DataError(
            f"the first line, {head[0][:20]!r}, is Excel's note of the delimiter",
            where=f"{path}:1",
            hint=f"set comment='sep=' and delimiter={head[0][4:5]!r}.",
        )
    if names == [""] and len(text) > 1:
        hint = "remove the blank lines before the names of the columns."
        return DataError("the first line is blank", where=f"{path}:1", hint=hint)
    if len(names) == 1 or not any(key in names for key in keys):
        try:
            _require_delimiter(text, path, delimiter, len(names) + 1, source)
        except DataError as better:
            return better
    if not source.header and lacks_only(source.columns.get("label"), keys, len(names)):
        what = f"each line has {len(names)} column(s), and there is no next one with the label"
        return without_labels(what, path)
    stripped = [name.strip(" \t") for name in names]
    if any(name.startswith('"') and name.endswith('"') and len(name) > 1 for name in stripped):
        spaced = not all(name.startswith('"') for name in names)
        literal = source.quotes == "literal" or (
            source.quotes == "auto" and source.file_format == "tsv"
        )
        setting = "csv" if literal and not spaced else "csv_spaced"
        return DataError(
            "the names of the columns are quoted, and the quotes are now part of them",
            where=f"{path}:1",
            hint=f"set quotes={setting!r}.",
            details=error.details,
        )
    if source.header and len(names) == 1 and delimiter in names[0]:
        return DataError(
            "each line is quoted as a whole, so that it is one column",
            where=f"{path}:1",
            hint="write the file again with quotes around single fields.",
        )
    if source.header and stripped != list(names):
        error.details += (
            "names have blanks at their ends; quotes='csv_spaced' skips blanks before",
        )
    elif source.header and error.hint:
        error.hint += " If the first line is a record, set header=False and number the columns."
    return error


def _head(text: str) -> list[str]:
    return [line for line in text[:MAX_LINE].split("\n", 50)[:50] if line]


def _require_delimiter(text: str, path: Path, delimiter: str, columns: int, source: Source) -> None:
    """Raise an error if another delimiter divides the first lines evenly, into so many columns."""
    other, width = appearance.other_delimiter(_head(text), delimiter)
    if not other or width < columns:
        return
    comma = source.file_format == "tsv" and other == ","
    setting = "format='csv'" if comma else f"delimiter={other!r}"
    raise DataError(
        f"the delimiter looks like {other!r}, not {delimiter!r}: it divides the first line into "
        f"{width} columns",
        where=f"{path}:1",
        hint=f"set {setting} in the source.",
    )
