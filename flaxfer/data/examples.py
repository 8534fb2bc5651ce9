"""Examples column by column: the output of reading and the input of tokenisation."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flaxfer.data.task_types import TaskType
from flaxfer.errors import DataError

Texts = tuple[str, ...] | tuple[tuple[str, ...], ...]
LabelColumn = np.ndarray | tuple[tuple[Any, ...], ...]

EXCERPT = 400
"""Characters of a text that are kept for readers of reports."""


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Passages that the queries of a set are searched in, each by its name.

    Attributes:
      names: Name of each candidate.
      texts: Its text.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names and texts, as hexadecimal digits."""
        digest = hashlib.sha256()
        for column in (self.names, self.texts):
            digest.update(np.array([*map(len, column)], np.int64).tobytes())
            for text in column:
                digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Texts with their labels, column by column.

    Attributes:
      task_type: Type of the task that the examples are for.
      text_a: One text per example; in tagging, the tuple of its words.
      text_b: Second texts of pairs, or contexts of questions; in multiple choice, equally long
        tuples of choices; None for single texts.
      label: (n,) int32 class or correct choice, or float32 score. Tagging: tuples with the tag of
        each word, an index into the task's labels, or -1 for none. Question answering: tuples of
        (answer, its first character in the context). Retrieval: tuples of the other right passages
        beside `text_b`, and of the negatives; with `candidates`, of the rows of all right ones.
      id: `<file stem>:<one-based record>` unless the data has ids.
      language, domain: Language and domain of each example.
      cluster: Cluster of each example, empty for none: examples of a cluster are not independent.
        Read by no training, so training and dev splits have none.
      candidates: Passages to search in, if they are not those of the examples; in retrieval.
    """

    task_type: TaskType
    text_a: Texts
    text_b: Texts | None
    label: LabelColumn
    id: tuple[str, ...]
    language: tuple[str, ...]
    domain: tuple[str, ...]
    cluster: tuple[str, ...] = ()
    candidates: Candidates | None = None

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", ("",) * len(self))
        if isinstance(self.label, np.ndarray):
            assert self.label.dtype in (np.int32, np.float32), self.label.dtype
        sizes = {len(column) for column in self._columns() if column is not None}
        assert sizes == {len(self)}, sizes

    def __len__(self) -> int:
        return len(self.text_a)

    @property
    def choices(self) -> int:
        """Number of choices of each example in multiple choice; 1 in other task types."""
        first = self.text_b[0] if self.text_b else ""
        return len(first) if isinstance(first, tuple) else 1

    def texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the texts of each example: one or two, or a text and its choices."""
        for i, first in enumerate(self.text_a):
            text = first if isinstance(first, str) else " ".join(first)
            second = self.text_b[i] if self.text_b else ()
            yield (text, second) if isinstance(second, str) else (text, *second)

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Return the examples at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)

        def pick(values: Any) -> Any:
            if values is None or isinstance(values, np.ndarray):
                return None if values is None else values[chosen]
            return tuple(values[i] for i in chosen.tolist())

        taken = Examples(self.task_type, *(pick(column) for column in self._columns()))
        return dataclasses.replace(taken, candidates=self.candidates)

    @staticmethod
    def join(parts: Sequence[Examples]) -> Examples:
        """Return the concatenation of `parts`.

        Raises:
          DataError: If parts differ in their task type, in whether they hold pairs, or in the
            number of choices.
        """
        for names in (
            [part.task_type.name.replace("_", " ") for part in parts],
            [f"{part.choices} choices" for part in parts],
            ["single texts" if part.text_b is None else "pairs" for part in parts],
        ):
            if len(set(names)) > 1:
                raise DataError(
                    f"{' and '.join(dict.fromkeys(names))} cannot be joined in one split",
                    where=" and ".join(part.id[0] for part in parts if len(part)),
                    hint="map the same roles in every source of the split.",
                )

        def chain(columns: tuple[Any, ...]) -> Any:
            if columns[0] is None or isinstance(columns[0], np.ndarray):
                return None if columns[0] is None else np.concatenate(columns)
            return tuple(value for column in columns for value in column)

        assert not any(part.candidates for part in parts), "only evaluated sets have candidates"
        columns = zip(*(part._columns() for part in parts), strict=True)
        return Examples(parts[0].task_type, *(chain(column) for column in columns))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all columns, as hexadecimal digits; without clusters if there are none."""
        labels = self.label.dtype.str if isinstance(self.label, np.ndarray) else self.task_type.name
        digest = hashlib.sha256(f"{len(self)} {labels}".encode())
        for column in self._columns() if any(self.cluster) else self._columns()[:-1]:
            if isinstance(column, np.ndarray):
                digest.update(np.ascontiguousarray(column).tobytes())
            elif column is None:
                digest.update(b"none")
            else:
                if set(map(type, column)) == {str}:  # As `_flat`, but ten times as fast.
                    texts = tuple(map(str, column))
                    sizes = tuple(map(len, texts))
                else:
                    sizes, texts = zip(*_flat(column), strict=True) if column else ((), ())
                # The lengths distinguish ("ab", "c") from ("a", "bc") at every depth.
                digest.update(np.array(sizes, np.int64).tobytes())
                digest.update("".join(texts).encode("utf-8", "surrogatepass"))
        if self.candidates:
            digest.update(self.candidates.fingerprint.encode())
        return digest.hexdigest()

    def _columns(self) -> tuple[Texts | LabelColumn | None, ...]:
        names = self.id, self.language, self.domain, self.cluster
        return self.text_a, self.text_b, self.label, *names


def count_units(cluster: Sequence[str]) -> int:
    """Return the number of clusters of examples, where each example in none counts as one."""
    return sum(not name for name in cluster) + len({name for name in cluster if name})


def excerpts(examples: Examples) -> tuple[tuple[str, ...], ...]:
    """Return the texts of each example for readers of reports, cut to EXCERPT characters.

    They are the words of a sentence in tagging, the text and its choices in multiple choice, else
    the one or two texts.
    """
    seconds: Sequence[Any] = examples.text_b or ((),) * len(examples)
    return tuple(
        tuple(_cut(text) for part in parts for text in _as_tuple(part))
        for parts in zip(examples.text_a, seconds, strict=True)
    )


def _as_tuple(part: Any) -> tuple[str, ...]:
    return part if isinstance(part, tuple) else (part,)


def _cut(text: str) -> str:
    text = text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}\N{HORIZONTAL ELLIPSIS}"
    return text.encode("utf-8", "replace").decode()  # Half a surrogate pair is no text.


def _flat(values: tuple[Any, ...]) -> Iterator[tuple[int, str]]:
    """Yield the length and text of each value in nested tuples; -1 - n for a tuple of n items."""
    for value in values:
        if isinstance(value, tuple):
            yield -1 - len(value), ""
            yield from _flat(value)
        else:
            text = str(value)
            yield len(text), text
