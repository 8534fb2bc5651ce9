"""Tiny models of every family with every head, and examples laid out in rows for them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxfer.models.families import FAMILIES, read_config
from flaxfer.models.heads import EncoderModel
from flaxfer.models.layers import Execution

OUTPUTS = {"sequence": 3, "token": 4, "span": 2, "choice": 1}
"""Of each head."""

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
"""The one shape of a batch, so that a model is compiled once."""

Batch = dict[str, np.ndarray]
Layout = tuple[tuple[tuple[int, int], ...], ...]
"""For each row the examples in it, each with its first place."""

RIGHT: Layout = tuple(((example, 0),) for example in range(len(LENGTHS)))
LEFT: Layout = tuple(((example, WIDTH - length),) for example, length in enumerate(LENGTHS))
PACKED: Layout = (((0, 1),), ((1, 0), (2, 7), (3, 8)), ((4, 6),))

# Most of the time of a test with a tiny model goes into code generation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def settings(family: str) -> dict[str, Any]:
    """The config.json of a tiny model."""
    if family == "xlnet":
        return dict(RELATIVE)
    own = {"type_vocab_size": 1, "pad_token_id": 1} if family == "roberta" else {}
    return ABSOLUTE | {"model_type": family} | own


@functools.cache
def model(family: str, head: str = "sequence") -> tuple[Any, dict[str, Any]]:
    """Graph and parameters, far enough from their initial values for every part to matter."""
    encoder = read_config(settings(family))
    made = EncoderModel(encoder, head, OUTPUTS[head], rngs=nnx.Rngs(0))
    graph, state = nnx.split(made, nnx.Param)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32),
        nnx.to_pure_dict(state),
    )
    return graph, noisy


def batch(family: str, layout: Layout) -> Batch:
    """The examples of `LENGTHS` in rows, with rows and slots of padding added to the one shape."""
    pad, last = read_config(settings(family)).pad_token_id, family == "xlnet"
    found = {name: np.zeros((ROWS, WIDTH), np.int32) for name in TOKENS}
    found["token_BT"] += pad
    found |= {name: np.zeros((ROWS, SLOTS), np.int32) for name in ("cls_BE", "label_BE")}
    found["mask_BE"] = np.zeros((ROWS, SLOTS), np.float32)
    for row, examples in enumerate(layout):
        for slot, (example, start) in enumerate(examples):
            length = LENGTHS[example]
            rng, inside = np.random.default_rng(example), slice(start, start + length)
            found["token_BT"][row, inside] = rng.integers(pad + 1, 50, length)
            if family != "roberta":
                types = 3 if last else 2
                found["type_BT"][row, inside] = np.sort(rng.integers(0, types, length))
            found["position_BT"][row, inside] = np.arange(length)
            found["segment_BT"][row, inside] = slot + 1
            found["cls_BE"][row, slot] = start + (length - 1) * last
            found["label_BE"][row, slot] = rng.integers(0, 3)
            found["mask_BE"][row, slot] = 1
    return found


def of_examples(layout: Layout, array: np.ndarray) -> list[np.ndarray]:
    """What (B, E, ...) logits or (B, T, ...) outputs hold of each example, in their order."""
    if array.shape[1] == SLOTS:
        found = {e: array[r, s] for r, row in enumerate(layout) for s, (e, _) in enumerate(row)}
    else:
        found = {e: array[r, i : i + LENGTHS[e]] for r, row in enumerate(layout) for e, i in row}
    return [found[example] for example in range(len(LENGTHS))]


def logits(
    graph: Any, params: Any, batch: Batch, key: jax.Array | None = None, dtype: Any = jnp.float32
) -> jax.Array:
    arrays = [batch[name] for name in (*TOKENS, "cls_BE")]
    execution = Execution(dtype)
    found: jax.Array = nnx.merge(graph, params)(*arrays, dropout_key=key, execution=execution)
    return found


def encoder(graph: Any, params: Any) -> Any:
    return nnx.merge(graph, params).encoder


def flat(tree: Any) -> dict[str, Any]:
    """The leaves by their paths, such as encoder/layers/0/attention/query/kernel."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


EVERY_HEAD = [(family, head) for family in FAMILIES for head in OUTPUTS]
