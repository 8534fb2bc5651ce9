"""The vocabulary cut: embeddings hold only the ids that occur in a stage's data.

An embedding row that no text reaches has a zero gradient and is never read, so losses and
predictions are the same without it; its optimizer state and its part of every update are saved.
The optimizer does nothing to such a row but decay it: it is its start times a number, to the
rounding of float32 (with L2-SP, its start). `recover_rows` computes it when another stage, an
evaluation or an export needs it. Adafactor's step depends on the mean over all rows, so its stages
cut nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.config import Optimizer
from flaxfer.data.tokenize import Tokenized
from flaxfer.runtime.files import temporary_name
from flaxfer.runtime.trees import Params, leaves_by_name
from flaxfer.training.optimizer import make_optimizer

if TYPE_CHECKING:
    from flaxfer.training.record import StageRecord

MULTIPLE = 128
"""The number of rows is a multiple of this, so that a mesh can split them and tiles fit."""

WORD = "encoder/embeddings/word/embedding"
"""Path of the word embedding."""

EmbeddingRows = Callable[[np.ndarray], np.ndarray]
"""Maps n ids to their rows, (n, D) float32."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The token ids in use, ascending; a token's new id is its position among them."""

    ids: np.ndarray

    @classmethod
    def used(cls, data: Iterable[Tokenized], size: int, pad_id: int) -> Vocabulary:
        """Return the ids in `data`, and all ids up to the padding id, which keep their numbers.

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
        """Return the vocabulary of all ids."""
        return cls(np.arange(size))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read the ids that `save` wrote.

        Raises:
          OSError, ValueError: the file is missing or damaged.
        """
        return cls(np.load(path, allow_pickle=False))

    def save(self, path: Path) -> None:
        """Write the ids atomically."""
        temporary = temporary_name(path).with_suffix(".npy")
        np.save(temporary, self.ids)
        os.replace(temporary, path)

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, data: Tokenized) -> Tokenized:
        """Return `data` with the new ids."""
        token = np.searchsorted(self.ids, data.token).astype(np.int32)
        return dataclasses.replace(data, token=token)

    @property
    def fingerprint(self) -> str:
        """Content hash of the ids."""
        return hashlib.sha256(self.ids.astype(np.int64).tobytes()).hexdigest()


def recover_rows(
    ids: np.ndarray,
    lineage: Sequence[StageRecord],
    first: EmbeddingRows,
    params_of: Callable[[StageRecord], Params],
) -> np.ndarray:
    """Return embedding rows as the last of some consecutive stages has them at its best step.

    Args:
      ids: (n,) token ids.
      lineage: records of the stages, the first one first.
      first: the rows that the first stage started from.
      params_of: best parameters of a stage; only called for stages that hold some of the ids.

    Returns:
      (n, D) float32.
    """
    if not lineage:
        return first(ids)
    *before, last = lineage
    params, vocabulary_ids = params_of(last), last.vocabulary().ids
    table, in_table = word_table(params), np.isin(ids, vocabulary_ids)
    rows = np.empty((len(ids), table.shape[1]), np.float32)
    rows[in_table] = table[np.searchsorted(vocabulary_ids, ids[in_table])]
    if not in_table.all():
        done = last.done()
        skipped = done.get("skipped_steps", ())
        steps, total_steps = done["best_step"], done["total_steps"]
        factor = row_decay(last.optimizer(), steps, total_steps, params, skipped)
        rows[~in_table] = factor * recover_rows(ids[~in_table], before, first, params_of)
    return rows


def row_decay(
    optimizer: Optimizer,
    steps: int,
    total_steps: int,
    params: Params,
    skipped: Sequence[int] = (),
) -> float:
    """Return the factor that weight decay applies to an embedding row without gradient.

    The real optimizer runs step by step with a scalar in place of every parameter; the product is
    taken in float64.

    Args:
      optimizer: settings; not Adafactor, whose update depends on all rows.
      steps: updates taken.
      total_steps: of the stage, for the schedule.
      params: arrays or `ShapeDtypeStruct`; only paths are read.
      skipped: numbers of skipped steps, from 1, which decayed nothing.
    """
    factors = _decay_factors(optimizer, total_steps, tuple(leaves_by_name(params)))[:steps].copy()
    factors[[step - 1 for step in skipped if step <= steps]] = 1
    return float(np.prod(factors))


@functools.lru_cache(maxsize=16)
def _decay_factors(optimizer: Optimizer, total_steps: int, names: tuple[str, ...]) -> np.ndarray:
    """Return the factor that every step applies, (total_steps,) float64."""
    # Of the other parameters, only the number of layers matters: a name of each layer takes a tenth
    # of the time to compile.
    layer = {name: re.findall(r"/layers/\d+/", name)[:1] for name in names}
    kept = {WORD, *{str(layer[name]): name for name in names}.values()}
    frozen = tuple(pattern for pattern in optimizer.freeze if re.search(pattern, WORD))
    optimizer = dataclasses.replace(optimizer, freeze=frozen)
    ones = {name: jnp.ones(()) for name in names if name in kept}
    zeros = jax.tree.map(jnp.zeros_like, ones)
    transform = make_optimizer(optimizer, total_steps, ones)

    def step(opt_state: Any, _: None) -> tuple[Any, jax.Array]:
        updates, opt_state = transform.update(zeros, opt_state, ones)
        return opt_state, updates[WORD]

    _, update = jax.lax.scan(step, transform.init(ones), length=total_steps)
    return 1 + np.asarray(update, np.float64)


def word_table(params: Params) -> np.ndarray:
    """Return the word embedding of a model, (V, D) float32, on the host."""
    return np.asarray(params["encoder"]["embeddings"]["word"]["embedding"], np.float32)


def with_word_table(params: Params, table: np.ndarray) -> Params:
    """Return a model's parameters with another word embedding."""
    encoder = params["encoder"]
    embeddings = {**encoder["embeddings"], "word": {"embedding": table}}
    return {**params, "encoder": {**encoder, "embeddings": embeddings}}
