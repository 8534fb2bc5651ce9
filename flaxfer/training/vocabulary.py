"""The tokens a stage never uses cost nothing: embeddings cut to the ids that occur in its data.

A row of the embedding that no text reaches has a zero gradient and is never read, so losses and
predictions are the same without it; its optimiser state and its share of every update are saved.
`flaxfer.training.rows` tells what it would have become.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flaxfer.data.tokenize import Tokenized
from flaxfer.runtime.files import temporary_name

MULTIPLE = 128
"""Rows are a multiple of this, so that a mesh can split them and hardware tiles fit."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The token ids in use, ascending; a token's new id is its position among them."""

    ids: np.ndarray

    @classmethod
    def used(cls, data: Iterable[Tokenized], size: int, pad_id: int) -> Vocabulary:
        """The ids in `data`, with those up to the padding id, which keep their numbers.

        RoBERTa derives its positions from the padding id, so that one must not move.
        """
        present = np.zeros(size, bool)
        present[: pad_id + 1] = True
        for tokenized in data:
            present[tokenized.token] = True
        missing = -int(present.sum()) % MULTIPLE
        present[np.flatnonzero(~present)[:missing]] = True
        return cls(np.flatnonzero(present))

    @classmethod
    def whole(cls, size: int) -> Vocabulary:
        """Every id, each its own."""
        return cls(np.arange(size))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """The ids that `save` wrote.

        Raises:
          OSError, ValueError: the file is missing or damaged.
        """
        return cls(np.load(path, allow_pickle=False))

    def save(self, path: Path) -> None:
        """Writes the ids, all of them or nothing."""
        temporary = temporary_name(path).with_suffix(".npy")
        np.save(temporary, self.ids)
        os.replace(temporary, path)

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self.ids)

    def cut(self, data: Tokenized) -> Tokenized:
        """`data` with the new ids."""
        token = np.searchsorted(self.ids, data.token).astype(np.int32)
        return dataclasses.replace(data, token=token)

    @property
    def fingerprint(self) -> str:
        """Changes when any id comes or goes."""
        return hashlib.sha256(self.ids.astype(np.int64).tobytes()).hexdigest()
