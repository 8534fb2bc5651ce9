"""XLNet's attention by content, by distance, and by equality of token types.

A distance (Dai et al. 2019) is the place of the query in its row minus the place of the key; there
are R distances, from T down to 1 - T.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.attention import attention
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.layers import Bias, Execution, Linear, fused

BLOCKS = 4
"""Number of blocks of queries in `distance_scores`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """All tokens of the rows, or some of them.

    Attributes:
      x_BTD: hidden states.
      segment_BT: int32, example of each token.
      type_BT: int32, token types.
      place_BT: places in the row; None for all tokens.
    """

    x_BTD: jax.Array
    segment_BT: jax.Array
    type_BT: jax.Array
    place_BT: jax.Array | None = None

    def at(self, place_BE: jax.Array) -> Tokens:
        """Return the tokens at certain places."""
        return Tokens(
            jnp.take_along_axis(self.x_BTD, place_BE[..., None], axis=1),
            jnp.take_along_axis(self.segment_BT, place_BE, axis=1),
            jnp.take_along_axis(self.type_BT, place_BE, axis=1),
            place_BE,
        )


def distance_encoding(tokens: int, width: int, clamp_len: int) -> jax.Array:
    """Return sinusoids of the distances T to 1 - T of a row, float32 (R, D), R = 2 T.

    Args:
      tokens: T. The first distance lies beyond the row, so that shifting is a reshape.
      width: D.
      clamp_len: largest distance; larger ones are clamped to it. Unbounded if not positive.
    """
    distance_R = tokens - jnp.arange(2 * tokens)
    if clamp_len > 0:
        distance_R = jnp.clip(distance_R, -clamp_len, clamp_len)
    exponent_F = jnp.arange(0, width, 2) / width
    angle_RF = distance_R[:, None] / 10000**exponent_F
    return jnp.concatenate([jnp.sin(angle_RF), jnp.cos(angle_RF)], axis=-1)


def distance_scores(query_BTHK: jax.Array, distance_RHK: jax.Array) -> jax.Array:
    """Return the dot products of queries and encoded distances to keys, (B, H, T, S).

    The queries are all tokens of the row. A block of queries occurs at T + (block size) distances
    from the keys; all queries at once would occur at 2 T.
    """
    tokens = query_BTHK.shape[1]
    size = -(-tokens // BLOCKS)
    blocks = []
    for start in range(0, tokens, size):
        block_BTHK = query_BTHK[:, start : start + size]
        queries = block_BTHK.shape[1]
        first = tokens - start - queries
        near_RHK = distance_RHK[first : 2 * tokens - start]
        score_HBTR = jnp.einsum("BTHK,RHK->HBTR", block_BTHK, near_RHK)
        # The scores of each query begin one column before those of the previous query: reshaping to
        # rows that are one column shorter aligns them (Dai et al. 2019, appendix B).
        flat_HBX = score_HBTR.reshape(*score_HBTR.shape[:2], -1)[..., queries:]
        shifted_HBTR = flat_HBX.reshape(*score_HBTR.shape[:3], -1)
        blocks.append(shifted_HBTR[..., :tokens])
    return jnp.swapaxes(jnp.concatenate(blocks, axis=2), 0, 1)


def distance_scores_at(
    place_BT: jax.Array, query_BTHK: jax.Array, distance_RHK: jax.Array
) -> jax.Array:
    """Return `distance_scores` for queries at certain places of the row, (B, H, T, S)."""
    keys = distance_RHK.shape[0] // 2

    def window(score_HR: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(score_HR, keys - place, keys, axis=-1)

    score_BTHR = jnp.einsum("BTHK,RHK->BTHR", query_BTHK, distance_RHK)
    return jnp.swapaxes(jax.vmap(jax.vmap(window))(score_BTHR, place_BT), 1, 2)


class RelativeAttention(nnx.Module):
    """Multi-head attention with its projections, as in transformers' `XLNetRelativeAttention`.

    Attributes:
      type_embedding: float32 (2, H, K), for keys of the query's type and for other keys.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        heads = (config.num_heads, config.head_size)
        self.query = Linear(width, heads, std=std, rngs=rngs, bias=False)
        self.key = Linear(width, heads, std=std, rngs=rngs, bias=False)
        self.value = Linear(width, heads, std=std, rngs=rngs, bias=False)
        self.position = Linear(width, heads, std=std, rngs=rngs, bias=False)
        self.output = Linear(heads, width, std=std, rngs=rngs, bias=False)
        self.content_bias = Bias(heads, std=std, rngs=rngs)
        self.position_bias = Bias(heads, std=std, rngs=rngs)
        self.type_bias = Bias(heads, std=std, rngs=rngs)
        self.type_embedding = nnx.Param(std * jax.random.normal(rngs.params(), (2, *heads)))
        self.rate = config.attention_dropout

    def __call__(
        self,
        queries: Tokens,
        row: Tokens,
        distance_RD: jax.Array,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """Return `y_BTD`, for the queries; they attend to the tokens of their segments.

        The score of a query and a key is the sum of three dot products: of the query with the key,
        with the encoding of their distance, and with the embedding of equal or different types.
        Each has its own bias of the query.
        """
        x_BSD = row.x_BTD.astype(execution.dtype)
        if queries is row:
            query_BTHK, key_BSHK, value_BSHK = fused(
                (self.query, self.key, self.value), x_BSD, execution.platform
            )
        else:
            query_BTHK = self.query(queries.x_BTD.astype(execution.dtype))
            key_BSHK, value_BSHK = fused((self.key, self.value), x_BSD, execution.platform)
        type_BHTS = self._type_scores(query_BTHK, queries.type_BT, row.type_BT)
        biased_BTHK, distance_RHK = self.position_bias(query_BTHK), self.position(distance_RD)
        if queries.place_BT is None:
            distance_BHTS = distance_scores(biased_BTHK, distance_RHK)
        else:
            distance_BHTS = distance_scores_at(queries.place_BT, biased_BTHK, distance_RHK)
        out_BTHK = attention(
            self.content_bias(query_BTHK),
            key_BSHK,
            value_BSHK,
            queries.segment_BT,
            row.segment_BT,
            score_BHTS=distance_BHTS.astype(jnp.float32) + type_BHTS,
            dropout_rate=self.rate,
            dropout_key=dropout_key,
            execution=execution,
        )
        return self.output(out_BTHK)

    def _type_scores(
        self, query_BTHK: jax.Array, query_type_BT: jax.Array, key_type_BS: jax.Array
    ) -> jax.Array:
        """Return the scores of types, float32 (B, H, T, S).

        The softmax ignores what is equal for all keys of a query, so keys of the query's type have
        score 0.
        """
        same_HK, other_HK = self.type_embedding[...]
        other_BHT = jnp.einsum(
            "BTHK,HK->BHT",
            self.type_bias(query_BTHK),
            (other_HK - same_HK).astype(query_BTHK.dtype),
        ).astype(jnp.float32)
        differs_BTS = query_type_BT[:, :, None] != key_type_BS[:, None, :]
        return jnp.where(differs_BTS[:, None], other_BHT[..., None], 0.0)
