"""Tiny models of every family with every head, and packed rows of examples for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from flaxfer.models.families import FAMILIES, read_config
from flaxfer.models.layers import Execution
from flaxfer.models.spec import ModelSpec

OUTPUTS = {
    **{"sequence": 3, "token": 4, "span": 2, "choice": 1},
    **{f"{pooling}_embedding": 16 for pooling in ("cls", "pooler", "mean")},
}
"""Number of outputs of each head."""

ABSOLUTE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
RELATIVE = {
    "model_type": "xlnet",
    "vocab_size": 50,
    "d_model": 16,
    "n_layer": 2,
    "n_head": 4,
    "d_inner": 24,
}
TOKENS = ("token_BT", "type_BT", "position_BT", "segment_BT")
LENGTHS = (12, 7, 1, 4, 5)
WIDTH = 13
ROWS, SLOTS = 6, 3
"""The only shape of a batch, so that a model is compiled once."""

Batch = dict[str, np.ndarray]
Layout = tuple[tuple[tuple[int, int], ...], ...]
"""The examples of each row, with their first places."""

RIGHT: Layout = tuple(((example, 0),) for example in range(len(LENGTHS)))
LEFT: Layout = tuple(((example, WIDTH - length),) for example, length in enumerate(LENGTHS))
PACKED: Layout = (((0, 1),), ((1, 0), (2, 7), (3, 8)), ((4, 6),))


def settings(family: str) -> dict[str, Any]:
    """Return the config.json of a tiny model."""
    if family == "xlnet":
        return dict(RELATIVE)
    changes = {"type_vocab_size": 1, "pad_token_id": 1} if family == "roberta" else {}
    return ABSOLUTE | {"model_type": family} | changes


@functools.cache
def model(family: str, head: str = "sequence") -> tuple[Any, dict[str, Any]]:
    """Return graph and parameters, with enough noise for every part to matter."""
    spec = ModelSpec(read_config(settings(family)), head, OUTPUTS[head])
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32), spec.random_params(0)
    )
    return spec.graph(), noisy


def batch(family: str, layout: Layout) -> Batch:
    """Return the examples of `LENGTHS` in rows, padded with rows and slots."""
    pad, last = read_config(settings(family)).pad_token_id, family == "xlnet"
    arrays = {name: np.zeros((ROWS, WIDTH), np.int32) for name in TOKENS}
    arrays["token_BT"] += pad
    arrays |= {name: np.zeros((ROWS, SLOTS), np.int32) for name in ("cls_BE", "label_BE")}
    arrays["mask_BE"] = np.zeros((ROWS, SLOTS), np.float32)
    for row, examples in enumerate(layout):
        for slot, (example, start) in enumerate(examples):
            length = LENGTHS[example]
            rng, inside = np.random.default_rng(example), slice(start, start + length)
            arrays["token_BT"][row, inside] = rng.integers(pad + 1, 50, length)
            if family != "roberta":
                types = 3 if last else 2
                arrays["type_BT"][row, inside] = np.sort(rng.integers(0, types, length))
            arrays["position_BT"][row, inside] = np.arange(length)
            arrays["segment_BT"][row, inside] = slot + 1
            arrays["cls_BE"][row, slot] = start + (length - 1) * last
            arrays["label_BE"][row, slot] = rng.integers(0, 3)
            arrays["mask_BE"][row, slot] = 1
    return arrays


def of_examples(layout: Layout, array: np.ndarray) -> list[np.ndarray]:
    """Return the part of each example in (B, E, ...) logits or (B, T, ...) outputs, in order."""
    if array.shape[1] == SLOTS:
        parts = {e: array[r, s] for r, row in enumerate(layout) for s, (e, _) in enumerate(row)}
    else:
        parts = {e: array[r, i : i + LENGTHS[e]] for r, row in enumerate(layout) for e, i in row}
    return [parts[example] for example in range(len(LENGTHS))]


def logits(
    graph: Any, params: Any, batch: Batch, key: jax.Array | None = None, dtype: Any = jnp.float32
) -> jax.Array:
    model = nnx.merge(graph, params)
    result: jax.Array = model(batch, dropout_key=key, execution=Execution(dtype))
    return result


def encoder(graph: Any, params: Any) -> Any:
    return nnx.merge(graph, params).encoder


Draw = tuple[tuple[int, ...], tuple[int, ...]]
"""An array of random bits: the numbers folded into the key that draws it, and its shape."""


def random_draws(function: Callable[[jax.Array], Any]) -> list[Draw]:
    """Return the random bits that a function of a key draws, in order, without computing it."""
    draws: list[Draw] = []

    def walk(jaxpr: Jaxpr, keys: dict[Var, Any]) -> None:
        for eqn in jaxpr.eqns:
            inputs = [keys.get(v) if isinstance(v, Var) else v.val for v in eqn.invars]
            if eqn.primitive.name == "random_fold_in":
                keys[eqn.outvars[0]] = (*inputs[0], int(inputs[1]))
            elif eqn.primitive.name == "random_bits":
                draws.append((inputs[0], eqn.params["shape"]))
            for inner in eqn.params.values():
                if isinstance(inner, Jaxpr | ClosedJaxpr):
                    inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
                    walk(inner, dict(zip(inner.invars, inputs, strict=True)))

    traced = jax.make_jaxpr(function)(jax.random.key(0)).jaxpr
    walk(traced, {traced.invars[0]: ()})
    return draws


EVERY_HEAD = [(family, head) for family in FAMILIES for head in OUTPUTS]
