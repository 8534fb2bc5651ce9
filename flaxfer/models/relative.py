"""Attention by content, by distance, and by whether two tokens share their type, as in XLNet.

Distances (Dai et al. 2019) are those within the row, which are those within an example: the place
of the query minus that of the key, R of them, from T down to 1 - T.
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
"""Into how many blocks of queries `distance_scores` divides a row."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens that a layer computes: all of the row, or some of it.

    Attributes:
      x_BTD: their hidden states.
      segment_BT: int32, which example each belongs to.
      type_BT: int32, which text of the example.
      place_BT: where in the row they stand; None if they are all of its tokens.
    """

    x_BTD: jax.Array
    segment_BT: jax.Array
    type_BT: jax.Array
    place_BT: jax.Array | None = None

    def at(self, place_BE: jax.Array) -> Tokens:
        """Those at certain places alone."""
        return Tokens(
            jnp.take_along_axis(self.x_BTD, place_BE[..., None], axis=1),
            jnp.take_along_axis(self.segment_BT, place_BE, axis=1),
            jnp.take_along_axis(self.type_BT, place_BE, axis=1),
            place_BE,
        )


def distance_encoding(tokens: int, width: int, clamp_len: int) -> jax.Array:
    """Sinusoids of the distances from `tokens` down to 1 - `tokens`, float32 (R, D), R = 2 T.

    Args:
      tokens: T, of a row. The first distance is beyond the row; it makes shifting a reshape.
      width: D.
      clamp_len: larger distances count as this one, unless it is not positive.
    """
    distance_R = tokens - jnp.arange(2 * tokens)
    if clamp_len > 0:
        distance_R = jnp.clip(distance_R, -clamp_len, clamp_len)
    exponent_F = jnp.arange(0, width, 2) / width
    angle_RF = distance_R[:, None] / 10000**exponent_F
    return jnp.concatenate([jnp.sin(angle_RF), jnp.cos(angle_RF)], axis=-1)


def distance_scores(query_BTHK: jax.Array, distance_RHK: jax.Array) -> jax.Array:
    """The product of each query with the encoding of its distance to each key, (B, H, T, S).

    The queries are all tokens of the row. A block of them meets the distances that one of the block
    has to some key, which are T and the size of the block; all queries at once would meet 2 T.
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
        # The scores of each query begin one column before those of the last: a row less by one
        # column shifts them so (Dai et al. 2019, appendix B).
        flat_HBX = score_HBTR.reshape(*score_HBTR.shape[:2], -1)[..., queries:]
        shifted_HBTR = flat_HBX.reshape(*score_HBTR.shape[:3], -1)
        blocks.append(shifted_HBTR[..., :tokens])
    return jnp.swapaxes(jnp.concatenate(blocks, axis=2), 0, 1)


def distance_scores_at(
    place_BT: jax.Array, query_BTHK: jax.Array, distance_RHK: jax.Array
) -> jax.Array:
    """What `distance_scores` gives of queries at certain places of the row, (B, H, T, S)."""
    keys = distance_RHK.shape[0] // 2

    def window(score_HR: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(score_HR, keys - place, keys, axis=-1)

    score_BTHR = jnp.einsum("BTHK,RHK->BTHR", query_BTHK, distance_RHK)
    return jnp.swapaxes(jax.vmap(jax.vmap(window))(score_BTHR, place_BT), 1, 2)


class RelativeAttention(nnx.Module):
    """Multi-head attention with its projections, as in transformers' `XLNetRelativeAttention`.

    Attributes:
      type_embedding: float32 (2, H, K), for keys of the query's type and for others.
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
        """What each of the queries gathers from the tokens of its segment, `y_BTD`.

        The score of a query and a key is the sum of three products: the query with the key, with
        the encoding of their distance, and with the embedding of whether their types differ. In
        each of them the query has a bias of its own.
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
        """The share of the types, float32 (B, H, T, S), less what is equal for all keys of a query.

        Softmax drops that anyway, so keys of the query's type need no score.
        """
        same_HK, other_HK = self.type_embedding[...]
        other_BHT = jnp.einsum(
            "BTHK,HK->BHT",
            self.type_bias(query_BTHK),
            (other_HK - same_HK).astype(query_BTHK.dtype),
        ).astype(jnp.float32)
        differs_BTS = query_type_BT[:, :, None] != key_type_BS[:, None, :]
        return jnp.where(differs_BTS[:, None], other_BHT[..., None], 0.0)
