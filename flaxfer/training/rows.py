"""Rows of the word embedding that a stage had cut away, as training with them would have left them.

A row that no token of a stage's data reaches has a zero gradient, so AdamW and Lion do nothing to
it but weight decay: it is its start times a number, to the rounding of float32. Where
`optimizer.l2_sp` pulls it to its start, it is that start. The stages of
Adafactor, whose step depends on the mean over all rows, have cut nothing away.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.config import Optimizer, Task
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime.trees import Params, path_name
from flaxfer.tasks.models import model_spec
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.vocabulary import Vocabulary

Rows = Callable[[np.ndarray], np.ndarray]
"""(n, D) float32 rows of n ids."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a finished stage did to the word embedding.

    Attributes:
      vocabulary: the ids that have a row in its table.
      params: gives its parameters at the best step.
      optimizer: of the stage.
      best_step, total_steps: updates up to the best, and in all, for the schedule.
    """

    vocabulary: Vocabulary
    params: Callable[[], Params]
    optimizer: Optimizer
    best_step: int
    total_steps: int


def rows_after(ids: np.ndarray, stages: Sequence[Trained], start: Rows) -> np.ndarray:
    """Rows of the word embedding as the last of some stages left them at its best step.

    Args:
      ids: (n,) of tokens.
      stages: that followed each other, the first one first.
      start: gives the rows that the first stage began with.

    Returns:
      (n, D) float32. What is not needed is neither read nor computed.
    """
    if not stages:
        return start(ids)
    *before, last = stages
    params, own = last.params(), last.vocabulary.ids
    table, held = word_table(params), np.isin(ids, own)
    rows = np.empty((len(ids), table.shape[1]), np.float32)
    rows[held] = table[np.searchsorted(own, ids[held])]
    if not held.all():
        factor = decay(last.optimizer, last.best_step, last.total_steps, params)
        rows[~held] = factor * rows_after(ids[~held], before, start)
    return rows


def decay(optimizer: Optimizer, steps: int, total_steps: int, params: Params) -> float:
    """What weight decay multiplies a row of the word embedding by that has no gradient.

    The real optimiser is asked, step by step, with a scalar in the place of every parameter; the
    product is taken in float64.

    Args:
      optimizer: its config; not Adafactor, whose updates are not of a row alone.
      steps: updates taken.
      total_steps: of the stage, for the schedule.
      params: arrays or `ShapeDtypeStruct`; only paths are read.
    """
    paths = tuple(path_name(path) for path, _ in jax.tree.leaves_with_path(params))
    return float(_products(optimizer, total_steps, paths)[steps])


@functools.lru_cache(maxsize=16)
def _products(optimizer: Optimizer, total_steps: int, paths: tuple[str, ...]) -> np.ndarray:
    """`decay` after every number of steps, (total_steps + 1,) float64."""
    ones = {path: jnp.ones(()) for path in paths}
    zeros = jax.tree.map(jnp.zeros_like, ones)
    transform = make_optimizer(optimizer, total_steps, ones)

    def step(opt_state: Any, _: None) -> tuple[Any, jax.Array]:
        updates, opt_state = transform.update(zeros, opt_state, ones)
        return opt_state, updates["encoder/embeddings/word/embedding"]

    _, update = jax.lax.scan(step, transform.init(ones), length=total_steps)
    return np.cumprod(np.append(1.0, 1 + np.asarray(update, np.float64)))


def random_table(config: EncoderConfig, task: Task, seed: int) -> np.ndarray:
    """The table, (V, D) float32, of random parameters with the whole vocabulary.

    A row of it depends on its id, whichever of them a stage uses.
    """
    return word_table(model_spec(config, task).random_params(seed))


def word_table(params: Params) -> np.ndarray:
    """The word embedding of a model, (V, D) float32, on the host."""
    return np.asarray(params["encoder"]["embeddings"]["word"]["embedding"], np.float32)


def with_table(params: Params, table: np.ndarray) -> Params:
    """A model's parameters with another word embedding; `params` stay as they are."""
    encoder = params["encoder"]
    embeddings = {**encoder["embeddings"], "word": {"embedding": table}}
    return {**params, "encoder": {**encoder, "embeddings": embeddings}}
