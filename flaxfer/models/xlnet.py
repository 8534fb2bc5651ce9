"""XLNet (Yang et al. 2019) for fine-tuning, as in transformers' `XLNetModel`.

There is one stream of hidden states, and every token sees its whole example: no permutation, no
memory of earlier segments, no query stream. Only attention uses positions, as distances (Dai et al.
2019): the place of the query in its row minus the place of the key. They do not depend on where in
its row an example lies, so packed rows need the mask and nothing else.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.attention import attention
from flaxfer.models.encoders import Batch, EncoderConfig, XLNetConfig
from flaxfer.models.layers import (
    Bias,
    Embedding,
    Execution,
    FeedForward,
    Keys,
    LayerNorm,
    Linear,
    at,
    queries_keys_values,
    run_layer,
    split_rows,
)
from flaxfer.models.ops import distance_scores, distance_scores_at, dropout, dropout_site


class Embeddings(nnx.Module):
    """The word embeddings; positions and types enter attention."""

    def __init__(self, config: XLNetConfig, *, rngs: Keys):
        width, std = config.hidden_size, config.initializer_range
        self.word = Embedding(config.vocab_size, width, std=std, rngs=rngs)
        self.rate = config.hidden_dropout

    def __call__(self, batch: Batch, dropout_key: jax.Array | None) -> jax.Array:
        """Return `x_BTD`, float32."""
        return dropout(self.word(batch["token_BT"]), self.rate, dropout_key)


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


class RelativeAttention(nnx.Module):
    """Multi-head attention with its projections, as in transformers' `XLNetRelativeAttention`.

    Attributes:
      type_embedding: float32 (2, H, K), for keys of the query's type and for other keys.
    """

    def __init__(self, config: XLNetConfig, *, rngs: Keys):
        std = config.initializer_range
        linear = functools.partial(Linear, std=std, rngs=rngs, bias=False)
        width, heads = (config.hidden_size,), (config.num_heads, config.head_size)
        self.query = linear(width, heads)
        self.key = linear(width, heads)
        self.value = linear(width, heads)
        self.position = linear(width, heads)
        self.output = linear(heads, width)
        self.content_bias = Bias(heads, std=std, rngs=rngs)
        self.position_bias = Bias(heads, std=std, rngs=rngs)
        self.type_bias = Bias(heads, std=std, rngs=rngs)
        self.type_embedding = nnx.Param(std * jax.random.normal(rngs.params(), (2, *heads)))
        self.rate = config.attention_dropout

    def __call__(
        self,
        query_BTD: jax.Array,
        x_BSD: jax.Array,
        segment_BS: jax.Array,
        type_BS: jax.Array,
        place_BT: jax.Array | None,
        distance_RD: jax.Array,
        dropout_key: jax.Array | None,
        lora_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """Return `y_BTD`, for the queries; they attend to the tokens of their segments.

        The score of a query and a key is the sum of three dot products: of the query with the key,
        with the encoding of their distance, and with the embedding of equal or different types.
        Each has its own bias of the query.
        """
        maps = (self.query, self.key, self.value)
        query_BTHK, key_BSHK, value_BSHK = queries_keys_values(
            maps, query_BTD, x_BSD, execution, lora_key
        )
        type_BHTS = self._type_scores(query_BTHK, at(type_BS, place_BT), type_BS)
        biased_BTHK, distance_RHK = self.position_bias(query_BTHK), self.position(distance_RD)
        if place_BT is None:
            distance_BHTS = distance_scores(biased_BTHK, distance_RHK)
        else:
            distance_BHTS = distance_scores_at(place_BT, biased_BTHK, distance_RHK)
        out_BTHK = attention(
            self.content_bias(query_BTHK),
            key_BSHK,
            value_BSHK,
            at(segment_BS, place_BT),
            segment_BS,
            score_BHTS=distance_BHTS.astype(jnp.float32) + type_BHTS,
            dropout_rate=self.rate,
            dropout_key=dropout_key,
            execution=execution,
        )
        return self.output(out_BTHK, dropout_site(lora_key, len(maps)))

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


class Layer(nnx.Module):
    """One encoder layer, normalised after each residual sum."""

    def __init__(self, config: XLNetConfig, *, rngs: Keys):
        self.attention = RelativeAttention(config, rngs=rngs)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config, rngs=rngs, dropout_rate=config.hidden_dropout)
        self.feed_forward_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.rate = config.hidden_dropout

    def __call__(
        self,
        x_BSD: jax.Array,
        segment_BS: jax.Array,
        type_BS: jax.Array,
        place_BT: jax.Array | None,
        distance_RD: jax.Array,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """Return the layer's output, `x_BTD`: of all tokens, or of those at some places."""
        keys = [dropout_site(dropout_key, site) for site in range(6)]
        x_BTD = at(x_BSD, place_BT)
        y_BTD = self.attention(
            x_BTD, x_BSD, segment_BS, type_BS, place_BT, distance_RD, keys[0], keys[4], execution
        )
        x_BTD = self.attention_norm(x_BTD, dropout(y_BTD, self.rate, keys[1]))
        y_BTD = self.feed_forward(x_BTD.astype(execution.dtype), keys[2], keys[5])
        return self.feed_forward_norm(x_BTD, dropout(y_BTD, self.rate, keys[3]))


class Encoder(nnx.Module):
    """Embeddings and layers of XLNet over packed rows."""

    def __init__(self, config: XLNetConfig, *, rngs: Keys):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.clamp_len = config.clamp_len
        self.rate = config.hidden_dropout

    def hidden_states(
        self,
        batch: Batch,
        *,
        cls_BE: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, ...]:
        """Return the embeddings and the output of each layer: N + 1 arrays `x_BTD`, float32.

        The arguments are those of `flaxfer.models.bert.Encoder.hidden_states`. `position_BT` is not
        read: the tokens of an example are in order and adjacent. All rows share the encoding of
        distances and its dropout mask; transformers draws one per row.
        """
        keys = [dropout_site(dropout_key, site) for site in range(len(self.layers) + 2)]
        x_BTD = self.embeddings(batch, keys[0])
        length, width = x_BTD.shape[1:]
        distance_RD = distance_encoding(length, width, self.clamp_len)
        distance_RD = dropout(distance_RD.astype(execution.dtype), self.rate, keys[-1])
        states = [split_rows(x_BTD, execution)]
        for number, layer in enumerate(self.layers, start=1):
            x_BTD = run_layer(
                layer,
                execution,
                states[-1],
                batch["segment_BT"],
                batch["type_BT"],
                cls_BE if number == len(self.layers) else None,
                distance_RD,
                keys[number],
            )
            states.append(split_rows(x_BTD, execution))
        return tuple(states)

    def __call__(
        self, batch: Batch, *, dropout_key: jax.Array | None = None, **options: Any
    ) -> jax.Array:
        """Return the last of the `hidden_states`, which has the same options, after dropout."""
        states = self.hidden_states(batch, dropout_key=dropout_key, **options)
        key = dropout_site(dropout_key, len(self.layers) + 2)
        return dropout(states[-1], self.rate, key)


class SummaryHead(nnx.Module):
    """A head for CLS tokens: a tanh layer, dropout and a projection; none is pretrained."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: Keys):
        width, std = (config.hidden_size,), config.initializer_range
        self.dense = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return logits, (B, E, C) in the dtype of the input."""
        x_BED = jnp.tanh(self.dense(x_BED))
        return self.output(dropout(x_BED, self.rate, dropout_key))
