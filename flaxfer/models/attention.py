"""Attention within segments: the one place where its implementation is chosen."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxfer.models.layers import dropout

MASKED = -1e30
"""Added to a score that must not count; finite, so that no gradient becomes NaN."""


def attention(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    *,
    score_BHTS: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017) of the tokens of each segment.

    A query attends to the keys of its own segment. Segment 0 is padding, which attends to padding:
    outputs there mean nothing, but they are finite, and so are all gradients.

    Args:
      query_BTHK: float32 or bfloat16; products run in this dtype, the softmax in float32.
      key_BSHK: of the same dtype.
      value_BSHK: of the same dtype.
      query_segment_BT: int32, which example a query belongs to.
      key_segment_BS: int32, which example a key belongs to.
      score_BHTS: of other things than content, added to the products before they are scaled.
      dropout_rate: of the probabilities.
      dropout_key: None for no dropout.

    Returns:
      out_BTHK, in the dtype of the query.
    """
    dtype = query_BTHK.dtype
    scale = query_BTHK.shape[-1] ** -0.5
    # Scores have the queries last: a TPU's compiler sums over keys by whole vectors.
    same_BST = key_segment_BS[:, :, None] == query_segment_BT[:, None, :]
    mask_BST = jnp.where(same_BST, 0.0, MASKED)
    product_BHST = jnp.einsum("BTHK,BSHK->BHST", query_BTHK, key_BSHK).astype(jnp.float32)
    if score_BHTS is not None:
        product_BHST += score_BHTS.mT
    probability_BHST = _softmax(product_BHST * scale + mask_BST[:, None], dtype)
    probability_BHST = dropout(probability_BHST, dropout_rate, dropout_key)
    return jnp.einsum("BHST,BSHK->BTHK", probability_BHST, value_BSHK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(score_BHST: jax.Array, dtype: Any) -> jax.Array:
    """Probabilities over S in `dtype`, which are all that is kept for the backward pass."""
    return jax.nn.softmax(score_BHST, axis=-2).astype(dtype)


def _softmax_forward(score_BHST: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    probability_BHST = _softmax(score_BHST, dtype)
    return probability_BHST, probability_BHST


def _softmax_backward(
    dtype: Any, probability_BHST: jax.Array, slope_BHST: jax.Array
) -> tuple[jax.Array]:
    probability_BHST = probability_BHST.astype(jnp.float32)
    weighted_BHST = probability_BHST * slope_BHST
    return (weighted_BHST - probability_BHST * weighted_BHST.sum(axis=-2, keepdims=True),)


_softmax.defvjp(_softmax_forward, _softmax_backward)
