"""Optimizer states and updates written out in NumPy, for tests of optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxfer.config import Optimizer
from flaxfer.training.optimizer import (
    Params,
    make_optimizer,
    make_schedule,
    map_names,
)

PEAK, TOTAL = 3e-3, 60


STEPS = np.arange(TOTAL + 1)


SHAPES = {
    "encoder/embeddings/word/embedding": (4, 4),
    "encoder/embeddings/norm/scale": (4,),
    "encoder/layers/0/attention/query/kernel": (4, 4),
    "encoder/layers/0/attention/query/bias": (4,),
    "encoder/layers/1/attention/query/kernel": (4, 4),
    "encoder/layers/1/norm/scale": (4,),
    "head/output/kernel": (4, 4),
    "head/output/bias": (4,),
}


Tree = dict[str, np.ndarray]
"""Arrays by their path."""


def draw(seed: int, size: float = 1.0) -> Tree:
    rng = np.random.default_rng(seed)
    return {path: size * rng.normal(size=shape) for path, shape in SHAPES.items()}


def nested(flat: Tree) -> Params:
    tree: Params = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jnp.asarray(value)
    return tree


def flat(tree: Params) -> Tree:
    names = jax.tree.leaves(map_names(lambda path: path, tree))
    return dict(zip(names, map(np.asarray, jax.tree.leaves(tree)), strict=True))


def run(
    optimizer: Optimizer, start: Tree, gradients: list[Tree], fresh: tuple[str, ...] = ()
) -> tuple[Tree, Any]:
    """Parameters after the gradients, and the optimiser's state."""
    params = nested(start)
    transform = make_optimizer(optimizer, TOTAL, params, fresh)
    moments = transform.init(params)
    for gradient in gradients:
        updates, moments = transform.update(nested(gradient), moments, params)
        params = optax.apply_updates(params, updates)
    return flat(params), moments


def rates(optimizer: Optimizer, steps: np.ndarray = STEPS, total: int = TOTAL) -> np.ndarray:
    """The learning rate at every step."""
    found = make_schedule(optimizer, total)(jnp.asarray(steps, jnp.int32))
    return np.broadcast_to(np.asarray(found), steps.shape)


def closed_form(optimizer: Optimizer, step: int, total: int) -> float:
    """The learning rate in the words of `make_schedule`'s docstring."""
    peak, end = optimizer.learning_rate, optimizer.learning_rate * optimizer.end_factor
    share = optimizer.warmup
    warmup = math.ceil(share * total) if share < 1 else int(share)
    if step < warmup:
        return peak * step / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    if optimizer.schedule == "linear":
        return peak + done * (end - peak)
    if optimizer.schedule == "cosine":
        return end + (peak - end) * (1 + math.cos(math.pi * done)) / 2
    if optimizer.schedule == "polynomial":
        return end + (peak - end) * (1 - done) ** optimizer.power
    if optimizer.schedule == "inverse_sqrt":
        return peak * math.sqrt(warmup / step)
    if optimizer.schedule == "wsd":
        decay = round(optimizer.decay_fraction * total)
        return peak + (end - peak) * min(max(step - (total - decay), 0) / decay, 1.0)
    return peak


Rule = Callable[[Optimizer, np.ndarray, dict[str, Any], int], np.ndarray]


def adam(optimizer: Optimizer, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
    """Kingma & Ba 2015, algorithm 1; t counts from 1."""
    b1, b2 = optimizer.b1, optimizer.b2
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    m, v = memory["m"] / (1 - b1**t), memory["v"] / (1 - b2**t)
    return np.asarray(m / (np.sqrt(v) + optimizer.eps))


def lion(optimizer: Optimizer, g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
    """Chen et al. 2023, algorithm 2."""
    m = memory.get("m", np.zeros_like(g))
    memory["m"] = optimizer.b2 * m + (1 - optimizer.b2) * g
    return np.sign(optimizer.b1 * m + (1 - optimizer.b1) * g)


FROZEN = ("embeddings/", r"layers/0/.*kernel$")
