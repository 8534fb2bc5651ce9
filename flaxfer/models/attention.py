"""Attention within segments: the one place where its implementation is chosen."""

from __future__ import annotations

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
    same_BTS = query_segment_BT[:, :, None] == key_segment_BS[:, None, :]
    mask_BTS = jnp.where(same_BTS, 0.0, MASKED)
    product_BHTS = jnp.einsum("BTHK,BSHK->BHTS", query_BTHK, key_BSHK).astype(jnp.float32)
    if score_BHTS is not None:
        product_BHTS += score_BHTS
    probability_BHTS = jax.nn.softmax(product_BHTS * scale + mask_BTS[:, None], axis=-1)
    probability_BHTS = dropout(probability_BHTS.astype(dtype), dropout_rate, dropout_key)
    return jnp.einsum("BHTS,BSHK->BTHK", probability_BHTS, value_BSHK)
