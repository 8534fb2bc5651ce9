"""Examples, column by column: what sources yield and tokenisation takes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from flaxfer.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Texts or pairs with their labels, column by column.

    Attributes:
      text_a: one an example.
      text_b: the second texts of pairs; None for single texts.
      label: (n,), int32 index into the task's labels, or float32 score.
      id: `<file stem>:<record, counted from 1>` unless the data names its own.
      language, domain: as the source says.
    """

    text_a: tuple[str, ...]
    text_b: tuple[str, ...] | None
    label: np.ndarray
    id: tuple[str, ...]
    language: tuple[str, ...]
    domain: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.label.dtype in (np.int32, np.float32), self.label.dtype
        sizes = {len(column) for column in self._columns() if column is not None}
        assert sizes == {len(self)}, sizes

    def __len__(self) -> int:
        return len(self.text_a)

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices`, in their order."""
        chosen = np.asarray(indices, dtype=np.int64)

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[i] for i in chosen.tolist())

        return Examples(
            pick(self.text_a),
            None if self.text_b is None else pick(self.text_b),
            self.label[chosen],
            pick(self.id),
            pick(self.language),
            pick(self.domain),
        )

    @staticmethod
    def join(parts: Sequence[Examples]) -> Examples:
        """All examples of `parts`, one part after the other.

        Raises:
          DataError: some parts hold pairs and others single texts.
        """
        pairs = {part.text_b is not None for part in parts}
        if len(pairs) > 1:
            raise DataError(
                "pairs and single texts cannot be joined in one split",
                where=" and ".join(part.id[0] for part in parts if len(part)),
                mend="map text_b in every source of the split, or in none.",
            )

        def chain(name: str) -> tuple[str, ...]:
            return tuple(value for part in parts for value in getattr(part, name))

        return Examples(
            chain("text_a"),
            chain("text_b") if pairs == {True} else None,
            np.concatenate([part.label for part in parts]),
            chain("id"),
            chain("language"),
            chain("domain"),
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything the examples hold, as hexadecimal digits."""
        digest = hashlib.sha256(f"{len(self)} {self.label.dtype.str}".encode())
        for column in self._columns():
            if isinstance(column, tuple):
                # The lengths keep ("ab", "c") and ("a", "bc") apart.
                digest.update(np.array([len(text) for text in column], np.int64).tobytes())
                digest.update("".join(column).encode("utf-8", "surrogatepass"))
            else:
                digest.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def _columns(self) -> tuple[tuple[str, ...] | np.ndarray | None, ...]:
        return self.text_a, self.text_b, self.label, self.id, self.language, self.domain
