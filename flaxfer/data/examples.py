"""Examples, column by column: what sources yield and tokenisation takes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flaxfer.config import Kind
from flaxfer.errors import DataError

Texts = tuple[str, ...] | tuple[tuple[str, ...], ...]
Labels = np.ndarray | tuple[tuple[Any, ...], ...]

FORMS: dict[Kind, str] = {
    "classification": "texts or pairs with a class",
    "regression": "texts or pairs with a score",
    "tagging": "sentences with a tag a word",
    "question_answering": "questions with a context and answers",
    "multiple_choice": "texts with choices",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Texts with their labels, column by column.

    Attributes:
      text_a: one an example; for tagging, the tuple of its words.
      text_b: the second texts of pairs, or contexts of questions; for multiple choice, tuples of
        the choices, all of one length; None for single texts.
      label: (n,), int32 index into the task's labels, float32 score, or int32 number of the right
        choice. Tagging: tuples of the tag of each word, an index into the task's labels, -1 for
        none. Question answering: tuples of (answer, its first character in the context).
      id: `<file stem>:<record, counted from 1>` unless the data names its own.
      language, domain: as the source says.
    """

    text_a: Texts
    text_b: Texts | None
    label: Labels
    id: tuple[str, ...]
    language: tuple[str, ...]
    domain: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.label, np.ndarray):
            assert self.label.dtype in (np.int32, np.float32), self.label.dtype
        sizes = {len(column) for column in self._columns() if column is not None}
        assert sizes == {len(self)}, sizes

    def __len__(self) -> int:
        return len(self.text_a)

    @functools.cached_property
    def kind(self) -> Kind:
        """The kind of task whose examples look like these."""
        if not isinstance(self.label, np.ndarray):
            return "tagging" if self.text_b is None else "question_answering"
        if self.choices > 1:
            return "multiple_choice"
        return "regression" if self.label.dtype == np.float32 else "classification"

    @property
    def choices(self) -> int:
        """How many choices an example of multiple choice has; 1 for the other kinds."""
        first = self.text_b[0] if self.text_b else ""
        return len(first) if isinstance(first, tuple) else 1

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices`, in their order."""
        chosen = np.asarray(indices, dtype=np.int64)

        def pick(values: Any) -> Any:
            if values is None or isinstance(values, np.ndarray):
                return None if values is None else values[chosen]
            return tuple(values[i] for i in chosen.tolist())

        return Examples(*(pick(column) for column in self._columns()))

    @staticmethod
    def join(parts: Sequence[Examples]) -> Examples:
        """All examples of `parts`, one part after the other.

        Raises:
          DataError: some parts hold pairs and others single texts, or examples of another kind.
        """
        where = " and ".join(part.id[0] for part in parts if len(part))
        if len({(part.kind, part.choices) for part in parts}) > 1:
            kinds = [FORMS[part.kind] for part in parts]
            if set(kinds) == {FORMS["multiple_choice"]}:
                kinds = [f"{part.choices} choices" for part in parts]
            raise DataError(
                f"{' and '.join(dict.fromkeys(kinds))} cannot be joined in one split",
                where=where,
                hint="map the same roles in every source of the split.",
            )
        if len({part.text_b is None for part in parts}) > 1:
            raise DataError(
                "pairs and single texts cannot be joined in one split",
                where=where,
                hint="map text_b in every source of the split, or in none.",
            )

        def chain(columns: tuple[Any, ...]) -> Any:
            if columns[0] is None or isinstance(columns[0], np.ndarray):
                return None if columns[0] is None else np.concatenate(columns)
            return tuple(value for column in columns for value in column)

        columns = zip(*(part._columns() for part in parts), strict=True)
        return Examples(*(chain(column) for column in columns))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything the examples hold, as hexadecimal digits."""
        kind = self.label.dtype.str if isinstance(self.label, np.ndarray) else self.kind
        digest = hashlib.sha256(f"{len(self)} {kind}".encode())
        for column in self._columns():
            if isinstance(column, np.ndarray):
                digest.update(np.ascontiguousarray(column).tobytes())
            elif column is None:
                digest.update(b"none")
            else:
                sizes, texts = zip(*_flat(column), strict=True) if column else ((), ())
                # The lengths keep ("ab", "c") and ("a", "bc") apart, at every depth.
                digest.update(np.array(sizes, np.int64).tobytes())
                digest.update("".join(texts).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _columns(self) -> tuple[Texts | Labels | None, ...]:
        return self.text_a, self.text_b, self.label, self.id, self.language, self.domain


def _flat(values: tuple[Any, ...]) -> Iterator[tuple[int, str]]:
    """Everything in nested tuples with its length; -1 - n is the length of a tuple of n."""
    for value in values:
        if isinstance(value, tuple):
            yield -1 - len(value), ""
            yield from _flat(value)
        else:
            text = str(value)
            yield len(text), text
