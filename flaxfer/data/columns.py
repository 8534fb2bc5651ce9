"""The columns of files as a guess at their meaning sees them (`flaxfer.data.meaning`)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.data.column_names import CHOICE, NAMES, PAIRS, is_named, plain
from flaxfer.data.sniffing import Layout
from flaxfer.data.tables import Key, listed
from flaxfer.data.values import NUMBER, written

MAX_CLASSES = 60
"""Different values above which a column of words is no label."""
MAX_FEW = 12
"""Different values of the only column of several that is taken for the labels without a name."""


class Columns:
    """Columns of the files of a data set; the first file is the one to train on.

    Attributes:
      path: The first file.
      format: Its format.
      free: Its columns whose meaning is not known yet.
    """

    def __init__(self, layouts: Sequence[Layout]):
        self._layouts = layouts
        self.path: Path = layouts[0].path
        self.format = layouts[0].format
        self.free = list(layouts[0].columns)

    def values(self, key: Key) -> Sequence[Any]:
        """Return the values of a column of the first file."""
        return self._layouts[0].columns[key]

    def take(self, *keys: Key) -> None:
        """Note that the meaning of some columns is known."""
        self.free = [key for key in self.free if key not in keys]

    def counts(self, key: Key) -> Counter[str]:
        """Return how often each value of a column is there, or item of its lists, in all files."""
        return Counter(
            written(item)
            for layout in self._layouts
            for value in layout.columns.get(key, ())
            for item in (value if isinstance(value, list) else [value])
        )

    def first(self, key: Key) -> Any:
        """Return the first value of a column that is not missing."""
        return next((value for value in self.values(key) if value is not None), None)

    def shown(self, key: Key, most: int = 6) -> str:
        """Return the values of a column of the first file with their numbers, for a note."""
        values = (v if isinstance(v, list) else [v] for v in self.values(key))
        counts = Counter(map(written, itertools.chain.from_iterable(values)))
        more = len(counts) - most
        parts = [f"{text!r} ({number:,})" for text, number in counts.most_common(most)]
        return ", ".join(parts) + (f" and {more:,} more" if more > 0 else "")

    def mean_length(self, key: Key) -> float:
        """Return the mean number of characters of the values of a column."""
        values = self.values(key)
        return sum(len(written(value)) for value in values) / max(len(values), 1)

    def is_text(self, key: Key) -> bool:
        """Return whether a column seems to hold texts."""
        values = [value for value in self.values(key) if value is not None]
        if not values or not all(isinstance(value, str) for value in values):
            return False
        if is_named(key, "text") or any(plain(key) in pair for pair in PAIRS):
            return not all(NUMBER.fullmatch(value.strip()) for value in values)
        length = self.mean_length(key)
        # Chinese and Japanese texts are short, and have no blanks.
        is_long = length >= 15 or (length >= 5 and not "".join(values[:100]).isascii())
        return is_long and len(set(values)) > 0.05 * len(values)

    def texts(self) -> list[Key]:
        """Return the column of the texts, or the two columns of the texts of pairs."""
        by_name = {plain(key): key for key in self.free if not isinstance(key, int)}
        for pair in PAIRS:
            if set(pair) <= by_name.keys():
                return [by_name[name] for name in pair]
        texts = [key for key in self.free if self.is_text(key)]
        if len(texts) == 2:
            short, long = sorted(map(self.mean_length, texts))
            # Columns without names are seldom there in vain, such as titles.
            if short >= (0.3 if all(isinstance(key, int) for key in texts) else 0.6) * long:
                return texts
        named = [key for key in texts if is_named(key, "text")]
        return [max(named or texts, key=self.mean_length)] if texts else []

    def label(self) -> Key | None:
        """Return the column of the labels; None if no column or several could be it."""
        candidates = [key for key in self.free if self._may_be_label(key)]
        order = NAMES["label"].split()
        named = [key for key in candidates if is_named(key, "label")]
        if named:
            return min(named, key=lambda key: order.index(plain(key)))
        named = [key for key in candidates if plain(key).endswith(("label", "class"))]
        few = [key for key in candidates if len(set(map(written, self.values(key)))) <= MAX_FEW]
        for keys in (named, candidates, few):
            if len(keys) == 1:
                return keys[0]
        return None

    def _may_be_label(self, key: Key) -> bool:
        values = list(map(written, self.values(key)))
        distinct = set(values)
        if any(isinstance(value, list | dict) for value in self.values(key)) or len(distinct) < 2:
            return False
        if all(NUMBER.fullmatch(value.strip()) for value in distinct if value):
            return values != list(map(str, range(len(values))))  # Numbers of the records.
        few = len(distinct) <= min(MAX_CLASSES, max(2, len(values) // 2))
        return few and self.mean_length(key) <= 40

    def choices(self) -> list[Key]:
        """Return the columns of the choices in their order; [] if there are none."""
        groups: dict[str, dict[str, Key]] = {}
        for key in self.free:
            if match := CHOICE.fullmatch("" if isinstance(key, int) else plain(key)):
                groups.setdefault(match[1], {})[match[2]] = key
        best = max(groups.values(), key=len, default={})
        return [best[number] for number in sorted(best)] if len(best) > 1 else []

    def answers(self) -> Key | None:
        """Return the column of answers with their places in a context; None if there is none."""
        for key in self.free:
            if isinstance(value := self.first(key), dict | list):
                item = value[0] if isinstance(value, list) and value else value
                if isinstance(item, dict) and {"text", "answer_start"} <= item.keys():
                    return key
        return "answers" if self.format == "squad" else None

    def lists(self) -> list[Key]:
        """Return the columns of lists, the one with the most different items first."""
        keys = [key for key in self.free if isinstance(self.first(key), list)]
        return sorted(keys, key=lambda key: -len(self.counts(key)))

    def lengths(self, keys: Sequence[Key]) -> Iterator[int]:
        """Yield the number of characters of each record in some columns."""
        for values in zip(*map(self.values, keys), strict=True):
            yield sum(len(written(value)) for value in values)

    def listed(self) -> str:
        """Return the names of the columns that are left."""
        return listed([str(key) for key in self.free])
