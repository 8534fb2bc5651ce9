"""Labels of records, checked against the task. Classes and tags are mapped by name, not number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from flaxfer.config import Source
from flaxfer.data.tables import Column, Problems
from flaxfer.data.values import written

NO_LABEL = ("", "-1")
"""Values that mean that a record has no label, unless the task has a label of that name."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels by record, the records without one, and problems."""

    values: dict[int, Any] = dataclasses.field(default_factory=dict)
    missing: set[int] = dataclasses.field(default_factory=set)
    problems: Problems = dataclasses.field(default_factory=list)

    def add_missing(self, record: int, finding: str, source: Source) -> None:
        """Record that a record has no label, which is a problem unless the source drops it."""
        if source.drop_unlabeled:
            self.missing.add(record)
        else:
            self.problems.append((record, finding))


def read_single_labels(
    column: Column,
    source: Source,
    records: Sequence[int],
    parse: Callable[[Any], float | None],
    fault: Callable[[Any], str],
) -> Labels:
    """Read one label per record.

    `parse` returns the label of a value, or None if it is not valid; `fault` returns what is then
    wrong with it.
    """
    labels = Labels()
    for i in records:
        value = column.values[i]
        text, label = written(value), parse(value)
        if label is not None:
            labels.values[i] = label
        elif text in NO_LABEL:
            labels.add_missing(i, f"{column.place(i)}: {text!r} stands for no label", source)
        else:
            labels.problems.append((i, f"{column.place(i)}: {text!r} {fault(value)}"))
    return labels


def read_classes(
    column: Column, source: Source, names: tuple[str, ...], records: Sequence[int]
) -> Labels:
    """Read one of the classes `names` per record, as its index."""
    index = label_index(source, names)
    return read_single_labels(
        column, source, records, lambda value: index.get(written(value)), lambda _: "is no label"
    )


def label_index(source: Source, names: tuple[str, ...]) -> dict[str, int]:
    """Return the index among `names` by label as written in the file."""
    mapping = source.labels or {name: name for name in names}
    return {text: names.index(name) for text, name in mapping.items()}
