"""The embed step, jitted: pooled hidden states of packed texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.runtime.trees import Params

Batch = dict[str, jax.Array]
Pooling = Literal["mean", "cls"]


@functools.cache
def make_embed_step(
    graph: nnx.GraphDef[Any], layers: tuple[int, ...], pooling: Pooling
) -> Callable[[Params, Batch], jax.Array]:
    """Return a jitted `(params, batch) -> vector_LBED`, the float32 embeddings of packed texts.

    Vectors of slots without a text are meaningless.

    Args:
      graph: graph definition of an encoder.
      layers: indices into `hidden_states`; layers above the highest are not computed.
      pooling: `mean` over all tokens of a text with its special tokens, or `cls`: the CLS token.
    """

    def embed_step(params: Params, batch: Batch) -> jax.Array:
        encoder = nnx.merge(graph, params)
        slot_E = 1 + jnp.arange(batch["cls_BE"].shape[1])
        member_BET = (batch["segment_BT"][:, None] == slot_E[:, None]).astype(jnp.float32)
        weight_BET = member_BET / jnp.maximum(member_BET.sum(axis=-1, keepdims=True), 1.0)

        def pool(x_BTD: jax.Array) -> jax.Array:
            if pooling == "mean":
                return jnp.einsum("BET,BTD->BED", weight_BET, x_BTD)
            return jnp.take_along_axis(x_BTD, batch["cls_BE"][..., None], axis=1)

        # By default TPUs and GPUs multiply float32 in lower precision.
        with jax.default_matmul_precision("highest"):
            states = encoder.hidden_states(batch)
            return jnp.stack([pool(states[layer]) for layer in layers])

    return jax.jit(embed_step)
