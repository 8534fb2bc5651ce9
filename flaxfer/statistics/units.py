"""Units of resampling: the examples that are drawn together, within a set and over parallel sets.

Resampling is right only if what is drawn is independent. Two things make examples dependent:

- **Clusters** of one set: questions about the same context, repeated texts, sentences of one
  document. All examples of a cluster are drawn together (the cluster bootstrap, Davison & Hinkley
  1997, section 3.8). Predictions files name the cluster of an example that has one.
- **Parallel sets**: the same examples in several languages. Sets that belong together share
  their units by id, so every resample holds the same examples in all of them, whatever the order
  of their rows. A unit joins the examples that are connected by equal ids or equal clusters in
  any of these sets.

Sets belong together if the config says so (`Stage.parallel`). By default, they do if they share ids
or clusters. Examples without ids are called `<file>:<record>`; a file for each language then shares
no id with the others. Such sets are matched by the number of the record, if they are of different
languages and have equally many examples or the same last record: the files of parallel sets
usually agree line by line. If they are not parallel, that does no harm, as it pairs examples at
random. Treating parallel sets as independent is what makes intervals of means too short.

U units are drawn, with replacement, out of the U units of the sets that belong together. A set
without some of them gets as many examples as fall on its own units: its size varies between
resamples, and its metric is the one over the examples that it gets. To first order that has the
variance of resamples of constant size (both are ratios of sums over examples). A resample in which
a set gets no example, or only examples with the same label where its metric needs two, is drawn
again for all sets that belong together: the metric is undefined there, and any value in its place
would pull the difference of the conditions towards 0.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flaxfer.data.examples import count_units
from flaxfer.errors import DataError
from flaxfer.statistics.reading import Predicted
from flaxfer.statistics.scores import Row

_NUMBERED = re.compile(r"(.+):([1-9]\d*)")
"""The id of an example without one, see `flaxfer.data.sources`."""

_LISTED = 10
"""Sets that a note names."""

Keys = dict[Row, Sequence[Hashable]]
"""By set, of those that belong together, and example: what is equal for the same example."""


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a set.

    Attributes:
      group: number of the sets that belong together.
      total: number of units of all sets of the group.
      unit_n: unit of each example, (n,) integers below `total`.
    """

    group: int
    total: int
    unit_n: np.ndarray

    @property
    def own(self) -> int:
        """Number of units that have an example in the set."""
        return len(np.unique(self.unit_n))


def find_units(
    sets: Mapping[Row, Predicted], parallel: Sequence[Sequence[str]] | None, where: str
) -> tuple[dict[Row, Units], list[str]]:
    """Return the units of sets, and notes about what looks wrong.

    Args:
      sets: predictions of any run by set; all runs have the same examples.
      parallel: groups of names of sets that belong together, and no others; None for the default.
      where: study, for messages.

    Raises:
      DataError: sets that are declared parallel have no id in common.
    """
    if parallel is None:
        groups = _connected(sets)
        notes = list(_look_parallel(sets, groups))
    else:
        groups, notes = _declared(sets, parallel, where), []
    units: dict[Row, Units] = {}
    for number, keys in enumerate(groups):
        joined = _joined(keys, sets)
        total = 1 + max(int(unit_n.max()) for unit_n in joined.values())
        units |= {row: Units(number, total, unit_n) for row, unit_n in joined.items()}
        notes += _merged(sets, {row: units[row] for row in keys})
    return {row: units[row] for row in sets}, notes


class _Forest:
    """Disjoint sets of values."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def root(self, value: Hashable) -> Hashable:
        """Return the value that stands for the set of `value`."""
        while (above := self._parent.get(value, value)) != value:
            self._parent[value] = self._parent.get(above, above)  # Halves the path.
            value = above
        return value

    def join(self, a: Hashable, b: Hashable) -> None:
        """Join the sets of two values."""
        self._parent[self.root(b)] = self.root(a)


def _connected(sets: Mapping[Row, Predicted]) -> list[Keys]:
    """Return the sets that share ids or clusters, or else the numbers of their records."""
    forest, first = _Forest(), dict[Hashable, Row]()
    for row, predicted in sets.items():
        for key in (*predicted.ids, *_clusters(predicted)):
            if (other := first.setdefault(key, row)) != row:
                forest.join(other, row)
    sizes = Counter(map(forest.root, sets))
    numbers: dict[Row, list[tuple[int, int]]] = {}
    for row in (row for row in sets if sizes[forest.root(row)] == 1):
        if records := _records(sets[row].ids):
            for other, others in numbers.items():
                if row.language != other.language and _agree(records, others):
                    forest.join(other, row)
            numbers[row] = records
    groups = defaultdict[Hashable, Keys](dict)
    for row, predicted in sets.items():
        groups[forest.root(row)][row] = numbers.get(row, predicted.ids)
    return list(groups.values())


def _declared(
    sets: Mapping[Row, Predicted], parallel: Sequence[Sequence[str]], where: str
) -> list[Keys]:
    """Return the sets that are declared parallel, and each of the others alone."""
    groups: list[Keys] = []
    for names in parallel:
        members = {row: sets[row] for row in sets if row.set in names}
        keys, *others = _connected(members) or [{}]
        if others:
            without = [row for row in members if _records(sets[row].ids)]
            sizes = {len(predicted.ids) for predicted in members.values()}
            if len(without) < len(members) or len(sizes) > 1:
                raise DataError(
                    f"the config declares {_names(members)} parallel, but not all of them share "
                    "ids, and their examples are not as many",
                    where=where,
                    hint="name a column `id` in their sources, or leave them out of "
                    "target.parallel, and run the study: it only evaluates again.",
                )
            keys = {row: range(len(predicted.ids)) for row, predicted in members.items()}
        groups += [keys] if keys else []
    named = {row for keys in groups for row in keys}
    return groups + [{row: of.ids} for row, of in sets.items() if row not in named]


def _records(ids: Sequence[str]) -> list[tuple[int, int]]:
    """Return number of the file and of the record by example; empty if the examples have ids."""
    matches = [match for match in map(_NUMBERED.fullmatch, ids) if match]
    if len(matches) < len(ids):
        return []
    files: dict[str, int] = {}
    return [(files.setdefault(match[1], len(files)), int(match[2])) for match in matches]


def _agree(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> bool:
    """Return whether the numbers of records look as in files that agree line by line."""
    return (len(a) == len(b) or max(a) == max(b)) and not set(a).isdisjoint(b)


def _clusters(predicted: Predicted) -> Iterator[tuple[str]]:
    """Yield the cluster of each example that has one, in a form that no id has."""
    return ((name,) for name in predicted.cluster if name)


def _joined(keys: Keys, sets: Mapping[Row, Predicted]) -> dict[Row, np.ndarray]:
    """Return the unit of each example of sets that belong together, numbered by appearance."""
    forest = _Forest()
    for row, of_row in keys.items():
        for key, cluster in zip(of_row, sets[row].cluster, strict=True):
            if cluster:
                forest.join((cluster,), key)
    number: dict[Hashable, int] = {}
    return {
        row: np.array([number.setdefault(forest.root(key), len(number)) for key in of_row])
        for row, of_row in keys.items()
    }


def _merged(sets: Mapping[Row, Predicted], units: Mapping[Row, Units]) -> Iterator[str]:
    """Yield a note for a set whose clusters are joined by those of other sets."""
    for row, of_row in units.items():
        own = count_units(sets[row].cluster)
        if of_row.own < own / 2:
            yield (
                f"{_names([row])}: its {own:,} units are only {of_row.own:,} together with those "
                f"of {_names([other for other in units if other != row])}, which have equal ids "
                "but other clusters; if they do not hold the same examples, set target.parallel."
            )


def _look_parallel(sets: Mapping[Row, Predicted], groups: Sequence[Keys]) -> Iterator[str]:
    """Yield a note for sets of equal size in several languages that share no id."""
    by_size = defaultdict[int, dict[Row, int]](dict)
    for number, group in enumerate(groups):
        for row in group:
            by_size[len(sets[row].ids)][row] = number
    for n, numbers in by_size.items():
        if len({row.language for row in numbers}) > 1 and len(set(numbers.values())) > 1:
            yield (
                f"{_names(numbers)} have {n:,} examples each but no ids in common, so they count "
                "as independent. If they hold the same examples in several languages, intervals "
                "of their means are too short: name a column `id` in their sources, or list them "
                "in target.parallel."
            )


def _names(rows: Iterable[Row]) -> str:
    names = [f"{row.language} / {row.set}" for row in rows]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


@dataclasses.dataclass(frozen=True)
class Usable:
    """Check of resamples of a set: whether its metric is defined there.

    Attributes:
      counts_UK: examples of each unit; then those with each of the labels that may be the only
        one in a resample.
    """

    counts_UK: np.ndarray

    @staticmethod
    def of(units: Units, gold: Sequence[Any], needs_two_labels: bool) -> Usable | None:
        """Return the check of a set; None if its metric is defined in every resample.

        Args:
          units: units of the set.
          gold: true labels.
          needs_two_labels: the metric is undefined if all labels are the same.
        """
        columns: list[np.ndarray] = [np.ones(len(gold))]
        if needs_two_labels:
            _, label_n = np.unique(gold, return_inverse=True)
            columns += [label_n == label for label in _dominant(units, label_n)]
        if len(columns) == 1 and units.own == units.total:
            return None
        counts = [np.bincount(units.unit_n, column, units.total) for column in columns]
        return Usable(np.stack(counts, axis=1).astype(np.float32))

    def __call__(self, weights_BU: np.ndarray) -> np.ndarray:
        """Return by resample whether the metric is defined, (B,) bool."""
        counts_BK = weights_BU @ self.counts_UK
        usable: np.ndarray = counts_BK[:, 0] > counts_BK[:, 1:].max(axis=1, initial=0)
        return usable


def _dominant(units: Units, label_n: np.ndarray) -> np.ndarray:
    """Return the labels that may be the only one of a resample.

    That is so if none of the units with another label is drawn. With 20 of them, the probability
    is exp(-20).
    """
    low, high = np.full(units.total, len(label_n)), np.full(units.total, -1)
    np.minimum.at(low, units.unit_n, label_n)
    np.maximum.at(high, units.unit_n, label_n)
    with_one_label = np.bincount(low[low == high], minlength=label_n.max() + 1)
    return np.flatnonzero(units.own - with_one_label < 20)
