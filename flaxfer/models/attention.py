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
    same_BTS = query_segment_BT[:, :, None] == key_segment_BS[:, None, :]
    rate = 0.0 if dropout_key is None else dropout_rate
    return _attention(query_BTHK, key_BSHK, value_BSHK, same_BTS, score_BHTS, dropout_key, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attention(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    same_BTS: jax.Array,
    score_BHTS: jax.Array | None,
    dropout_key: jax.Array | None,
    rate: float,
) -> jax.Array:
    return _forward(query_BTHK, key_BSHK, value_BSHK, same_BTS, score_BHTS, dropout_key, rate)[0]


def _forward(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    same_BTS: jax.Array,
    score_BHTS: jax.Array | None,
    dropout_key: jax.Array | None,
    rate: float,
) -> tuple[jax.Array, Any]:
    scale = query_BTHK.shape[-1] ** -0.5
    product_BHTS = jnp.einsum("BTHK,BSHK->BHTS", query_BTHK, key_BSHK).astype(jnp.float32)
    if score_BHTS is not None:
        product_BHTS += score_BHTS
    masked_BHTS = jnp.where(same_BTS[:, None], product_BHTS * scale, MASKED)
    probability_BHTS = jax.nn.softmax(masked_BHTS, axis=-1).astype(query_BTHK.dtype)
    kept_BHTS = dropout(probability_BHTS, rate, dropout_key)
    out_BTHK = jnp.einsum("BHTS,BSHK->BTHK", kept_BHTS, value_BSHK)
    return out_BTHK, (
        query_BTHK,
        key_BSHK,
        value_BSHK,
        score_BHTS,
        dropout_key,
        probability_BHTS,
        out_BTHK,
    )


def _backward(rate: float, residuals: Any, slope_BTHK: jax.Array) -> Any:
    """Gradients from the probabilities alone.

    The mean slope of a query's probabilities is its output times the slope of that (Dao et al.
    2022, appendix B.2), which spares a pass over all of them; dropout is drawn again.
    """
    query_BTHK, key_BSHK, value_BSHK, score_BHTS, dropout_key, probability_BHTS, out_BTHK = (
        residuals
    )
    dtype, scale = query_BTHK.dtype, query_BTHK.shape[-1] ** -0.5
    kept_BHTS = dropout(probability_BHTS, rate, dropout_key)
    value_slope_BSHK = jnp.einsum("BHTS,BTHK->BSHK", kept_BHTS, slope_BTHK)
    kept_slope_BHTS = jnp.einsum("BTHK,BSHK->BHTS", slope_BTHK, value_BSHK)
    slope_BHTS = dropout(kept_slope_BHTS, rate, dropout_key).astype(jnp.float32)
    mean_BHT = jnp.einsum(
        "BTHK,BTHK->BHT", slope_BTHK.astype(jnp.float32), out_BTHK.astype(jnp.float32)
    )
    score_slope_BHTS = probability_BHTS * (slope_BHTS - mean_BHT[..., None]) * scale
    product_slope_BHTS = score_slope_BHTS.astype(dtype)
    query_slope_BTHK = jnp.einsum("BHTS,BSHK->BTHK", product_slope_BHTS, key_BSHK)
    key_slope_BSHK = jnp.einsum("BHTS,BTHK->BSHK", product_slope_BHTS, query_BTHK)
    return (
        query_slope_BTHK,
        key_slope_BSHK,
        value_slope_BSHK,
        None,
        None if score_BHTS is None else score_slope_BHTS.astype(score_BHTS.dtype),
        None,
    )


_attention.defvjp(_forward, _backward)
