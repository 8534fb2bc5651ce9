"""Tables: columns of values with their positions in the file, for error messages."""

from __future__ import annotations

import dataclasses
import difflib
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.data.values import written
from flaxfer.errors import DataError, bounded

Key = str | int
"""Name of a column, or its zero-based number."""

COMMENTS = "comment lines"
"""Kind of skipped lines, see `Table`."""

MAX_NAMES = 20
"""Columns that are listed in an error message."""

Problems = list[tuple[int, str]]
"""Zero-based numbers of records, each with a description of a problem."""


@dataclasses.dataclass(frozen=True)
class Column:
    """The values of a column, and their positions.

    Attributes:
      file: Name of the file.
      name: Name of the column; empty if every line of the file is a value.
      values: One value per record; None where the record has none.
      lines: Number of the first line of each record, or the record's path within the file; None
        if records have neither.
      item_lines: Line number of each item, if values are lists whose items have lines.
    """

    file: str
    name: str
    values: Sequence[Any]
    lines: Sequence[int | str] | None
    item_lines: Sequence[Sequence[int]] | None = None

    def place(self, record: int, item: int | None = None) -> str:
        """Return the file, line and column of a record, or of an item; both are zero-based."""
        line = self.lines[record] if self.lines is not None else f"record {record + 1}"
        if item is not None and self.item_lines is not None:
            line, item = self.item_lines[record][item], None
        at = f"{self.file}:{line}" if isinstance(line, int) else f"{self.file}: {line}"
        at += f": column {self.name}" if self.name else ""
        return at if item is None else f"{at}: item {item + 1}"

    def problems(self, records: Sequence[int], fault: Callable[[Any], str]) -> Problems:
        """Return a problem for each of `records` in whose value `fault` finds one."""
        faults = ((i, fault(self.values[i])) for i in records)
        return [(i, f"{self.place(i)}: {text}") for i, text in faults if text]

    def texts(self, records: Sequence[int]) -> tuple[str, ...]:
        """Return the values of `records` as text."""
        return tuple(written(self.values[i]) for i in records)


@dataclasses.dataclass(frozen=True)
class Table:
    """Some columns of a file.

    Attributes:
      size: Number of records in the file.
      columns: Columns with that many values.
      problems: Problems of records that could not be parsed.
      skipped: Number of lines of each kind that are no records, such as comments.
      names: Names of all columns of the file; () where its format numbers or fixes them.
    """

    size: int
    columns: dict[Key, Column]
    problems: Problems
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    names: Sequence[str] = ()


def locate(keys: Iterable[Key], names: Sequence[str], where: str) -> dict[Key, int]:
    """Return the index of each key among the names of a data set's columns.

    Raises:
      DataError: If a column is missing, or several have its name.
    """
    places: dict[Key, int] = {}
    missing: list[str] = []
    problems = []
    for key in keys:
        if isinstance(key, int) and 0 <= key < len(names):
            places[key] = key
        elif isinstance(key, str) and names.count(key) == 1:
            places[key] = names.index(key)
        elif isinstance(key, str) and key in names:
            problems.append(f"there are {names.count(key)} columns {key!r}; give the number of one")
        else:
            near = _nearest(key, names, 3)
            hint = f"; did you mean {bounded(near[0])}?" if near else ""
            problems.append(
                f"there is no column {bounded(key) if isinstance(key, str) else key}{hint}"
            )
            missing += near
    if problems:
        raise DataError(
            "columns that are to be read are not there",
            where=where,
            hint=f"the columns are {listed(names, missing)}; "
            "name those you mean (`columns`, `keep` and `drop` of a source, --columns of predict), "
            "and set `header` as the file is.",
            details=problems,
        )
    return places


def _nearest(key: Key, names: Sequence[str], count: int) -> list[str]:
    """Return the names most like a key, ignoring case and blanks at the ends."""
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.strip().lower(), name)
    word = str(key).strip().lower()
    pool: Iterable[str] = by_lower
    if len(by_lower) > 1000:  # The exact ratio takes a tenth of a millisecond.
        matcher = difflib.SequenceMatcher(b=word)

        def bound(name: str) -> float:
            matcher.set_seq1(name)
            return matcher.quick_ratio()

        pool = heapq.nlargest(100, by_lower, key=bound)
    near = difflib.get_close_matches(word, pool, n=count)
    return [by_lower[name] for name in near]


def listed(names: Sequence[str], first: Sequence[str] = ()) -> str:
    """Return the names of columns or choices; if there are many, some of them, `first` first."""
    shown = names if len(names) <= MAX_NAMES else list(dict.fromkeys([*first, *names]))[:MAX_NAMES]
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return (", ".join(map(bounded, shown)) or "none") + more


def lacks_only(label: Key | None, keys: Sequence[Key], width: int) -> bool:
    """Return whether the label is the column after the last one, and all other keys are there."""
    others = [key for key in keys if key != label]
    return label in keys and label == width and all(key in range(width) for key in others)


def without_labels(what: str, path: Path) -> DataError:
    """Return the error of a file whose labels were removed, with what shows that."""
    return DataError(
        f"the labels are not in this file: {what}",
        where=str(path),
        hint="XTREME's scripts, for example, write test sets without their labels; read the file "
        "as its authors publish it, or predict with `flaxfer predict`.",
    )


def record_table(
    records: Sequence[Any],
    path: Path,
    keys: Iterable[Key],
    lines: Sequence[int | str] | None,
    problems: Problems,
) -> Table:
    """Return columns of JSON objects; other values are added to `problems`.

    Args:
      records: JSON values.
      path: Their file.
      keys: Fields to read; None where an object lacks one that others have.
      lines: Places of the records, as in `Column`.
      problems: Problems of records that could not be parsed.

    Raises:
      DataError: If no object has a field.
    """
    problems += Column(path.name, "", records, lines).problems(
        range(len(records)),
        lambda value: "" if isinstance(value, dict) else f"is a {type(value).__name__}, no object",
    )
    objects = [record if isinstance(record, dict) else {} for record in records]
    fields = [str(key) for key in keys]
    names = list(dict.fromkeys(name for each in objects for name in each))
    if names:
        locate(fields, names, str(path))
    columns: dict[Key, Column] = {
        key: Column(path.name, repr(field), [each.get(field) for each in objects], lines)
        for key, field in zip(keys, fields, strict=True)
    }
    return Table(len(records), columns, problems, names=names)
