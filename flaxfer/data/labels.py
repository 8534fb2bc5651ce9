"""Labels of records, checked against the task. Classes and tags are mapped by name, not number."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any

from flaxfer.config import Source
from flaxfer.data.tables import Column, Problems
from flaxfer.data.values import NUMBER, written

NO_LABEL = frozenset(
    ["", "-", "--", "_", "?", "-1", "-1.0", "-100", "-100.0", "nan", "none", "null", "nil", "n/a"]
) | {"na", "#n/a", "<na>", r"\n"}
"""Values in lower case that mean that a record has no label, unless the task has such a label."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels by record, the records without one, and problems.

    `unlabeled` has the records whose problem is that they have no label.
    """

    values: dict[int, Any] = dataclasses.field(default_factory=dict)
    missing: set[int] = dataclasses.field(default_factory=set)
    problems: Problems = dataclasses.field(default_factory=list)
    unlabeled: set[int] = dataclasses.field(default_factory=set)

    def add_missing(self, record: int, finding: str, source: Source) -> None:
        """Record that a record has no label, which is a problem unless the source drops it."""
        if source.drop_unlabeled:
            self.missing.add(record)
        else:
            self.unlabeled.add(record)
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
        if isinstance(value, list | dict):
            what = f"is a {type(value).__name__} of {len(value)}, not a label"
            labels.problems.append((i, f"{column.place(i)}: {what}"))
        elif label is not None:
            labels.values[i] = label
        elif stands_for_none(text) and not fault(value).startswith(MISSPELT):
            labels.add_missing(i, f"{column.place(i)}: {text!r} stands for no label", source)
        else:
            labels.problems.append((i, f"{column.place(i)}: {text!r} {fault(value)}"))
    return labels


def read_classes(
    column: Column, source: Source, names: tuple[str, ...], records: Sequence[int]
) -> Labels:
    """Read one of the classes `names` per record, as its index."""
    index = label_index(source, names)
    fault = functools.cache(lambda text: unknown_label(text, index))
    return read_single_labels(
        *(column, source, records),
        lambda value: index.get(written(value)),
        lambda value: fault(written(value)),
    )


def label_index(source: Source, names: tuple[str, ...]) -> dict[str, int]:
    """Return the index among `names` by label as written in the file."""
    mapping = source.labels or {name: name for name in names}
    return {text: names.index(name) for text, name in mapping.items()}


MISSPELT = "is no label, but "


def stands_for_none(text: str) -> bool:
    """Return whether a value means that there is no label."""
    return text.strip().lower() in NO_LABEL


def unknown_label(text: str, known: Collection[str]) -> str:
    """Return the fault of a label that is not known, with one that it may be a spelling of."""
    near = next((label for label in known if same_label(label, text)), None)
    return "is no label" if near is None else f"{MISSPELT}{near!r} is; map it with `labels`"


def same_label(label: str, other: str) -> bool:
    """Return whether labels differ at most in case, normal form, blanks and number format."""
    return _plain(label) == _plain(other)


@functools.lru_cache(1000)
def _plain(text: str) -> str:
    """Return a label without differences of case, normal form, blanks and number format."""
    plain = unicodedata.normalize("NFKC", text).strip().casefold()
    return str(float(plain)) if NUMBER.fullmatch(plain) else plain
