"""Columns whose values know where they stand: what readers and the hub give to sources."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

from flaxfer.data.values import written
from flaxfer.errors import DataError

Key = str | int
"""The name of a column or its zero-based number."""

Problems = list[tuple[int, str]]
"""Number of a record, counted from 0, and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Column:
    """The values of one column, and where each stands.

    Attributes:
      file: name of the file, for errors.
      name: of the column, for errors; empty for a text file of which every line is a value.
      values: one a record; None where the record has none.
      lines: number of the line on which each record begins, or its path within the file; None
        where records have neither.
      item_lines: number of the line of each item, where values are lists and items have lines.
    """

    file: str
    name: str
    values: Sequence[Any]
    lines: Sequence[int | str] | None
    item_lines: Sequence[Sequence[int]] | None = None

    def place(self, record: int, item: int | None = None) -> str:
        """Where a value, or an item of it, stands: file, line and column; both count from 0."""
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
    """The wanted columns of a file.

    Attributes:
      size: number of records in the file.
      columns: as many values each.
      problems: of records that could not be taken apart.
    """

    size: int
    columns: dict[Key, Column]
    problems: Problems


def locate(keys: list[Key], names: Sequence[str]) -> tuple[dict[Key, int], list[str]]:
    """The number of each key among `names`, and a finding for each that is not there."""
    found: dict[Key, int] = {}
    problems = []
    for key in keys:
        if isinstance(key, int) and 0 <= key < len(names):
            found[key] = key
        elif isinstance(key, str) and names.count(key) == 1:
            found[key] = names.index(key)
        elif isinstance(key, str) and key in names:
            problems.append(f"there are {names.count(key)} columns {key!r}; give the number of one")
        else:
            near = difflib.get_close_matches(str(key).lower(), [n.lower() for n in names], n=1)
            meant = [name for name in names if near and name.lower() == near[0]]
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            problems.append(f"there is no column {key!r}{hint}")
    return found, problems


def missing_columns(where: str, problems: list[str], names: Sequence[object]) -> DataError:
    """The error of a data set at `where` without some columns; `names` are those it has."""
    return DataError(
        "columns named in the config cannot be found",
        where=where,
        hint=f"the columns are {', '.join(map(repr, names)) or 'none: the file is empty'}; name "
        "those you mean in `columns`, `keep` and `drop`, and set `header` as the file is.",
        details=problems,
    )
