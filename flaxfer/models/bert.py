"""BERT (Devlin et al. 2019), as in transformers' `BertModel` and its heads.

The encoder serves RoBERTa as well, whose positions start elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.attention import attention, stacked_attention
from flaxfer.models.encoders import AbsoluteConfig, Batch, EncoderConfig
from flaxfer.models.layers import (
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
    stacked,
    stacked_bias,
)
from flaxfer.models.ops import dropout, dropout_site
from flaxfer.models.short_rows import group_size


class Embeddings(nnx.Module):
    """The sum of word, position and type embeddings, normalised."""

    def __init__(self, config: AbsoluteConfig, *, rngs: Keys):
        table = functools.partial(
            Embedding, width=config.hidden_size, std=config.initializer_range, rngs=rngs
        )
        padding, offset = config.pad_token_id, config.position_offset
        self.word = table(config.vocab_size, padding=padding)
        self.position = table(config.max_position_embeddings, padding=padding if offset else None)
        self.type = table(config.type_vocab_size)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.position_offset = offset
        self.rate = config.hidden_dropout

    def __call__(self, batch: Batch, dropout_key: jax.Array | None) -> jax.Array:
        """Return `x_BTD`, float32."""
        x_BTD = self.norm(
            self.word(batch["token_BT"]),
            self.type(batch["type_BT"]),
            self.position(batch["position_BT"] + self.position_offset),
        )
        return dropout(x_BTD, self.rate, dropout_key)


class SelfAttention(nnx.Module):
    """Multi-head attention with its four projections."""

    def __init__(self, config: AbsoluteConfig, *, rngs: Keys):
        linear = functools.partial(Linear, std=config.initializer_range, rngs=rngs)
        width, heads = (config.hidden_size,), (config.num_heads, config.head_size)
        self.query = linear(width, heads)
        self.key = linear(width, heads)
        self.value = linear(width, heads)
        self.output = linear(heads, width)
        self.rate = config.attention_dropout

    def __call__(
        self,
        query_BTD: jax.Array,
        x_BSD: jax.Array,
        segment_BS: jax.Array,
        place_BT: jax.Array | None,
        dropout_key: jax.Array | None,
        lora_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """Return `y_BTD`, for the queries; they attend to the tokens of their segments."""
        maps = (self.query, self.key, self.value)
        if execution.attention == "short_rows" and query_BTD is x_BSD:
            heads, width = self.query.kernel[...].shape[1:]
            group = group_size(heads, width)
            out_BTHK = stacked_attention(
                stacked(maps, x_BSD.astype(execution.dtype), group),
                stacked_bias(maps, group),
                segment_BS,
                heads=heads,
                dropout_rate=self.rate,
                dropout_key=dropout_key,
                execution=execution,
            )
            return self.output(out_BTHK)
        query_BTHK, key_BSHK, value_BSHK = queries_keys_values(
            maps, query_BTD, x_BSD, execution, lora_key
        )
        out_BTHK = attention(
            query_BTHK,
            key_BSHK,
            value_BSHK,
            at(segment_BS, place_BT),
            segment_BS,
            dropout_rate=self.rate,
            dropout_key=dropout_key,
            execution=execution,
        )
        return self.output(out_BTHK, dropout_site(lora_key, len(maps)))


class Layer(nnx.Module):
    """One encoder layer, normalised after each residual sum."""

    def __init__(self, config: AbsoluteConfig, *, rngs: Keys):
        self.attention = SelfAttention(config, rngs=rngs)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.rate = config.hidden_dropout

    def __call__(
        self,
        x_BSD: jax.Array,
        segment_BS: jax.Array,
        place_BT: jax.Array | None,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """Return the layer's output, `x_BTD`: of all tokens, or of those at some places."""
        keys = [dropout_site(dropout_key, site) for site in range(5)]
        x_BTD = at(x_BSD, place_BT)
        y_BTD = self.attention(x_BTD, x_BSD, segment_BS, place_BT, keys[0], keys[3], execution)
        x_BTD = self.attention_norm(x_BTD, dropout(y_BTD, self.rate, keys[1]))
        y_BTD = self.feed_forward(x_BTD.astype(execution.dtype), lora_key=keys[4])
        return self.feed_forward_norm(x_BTD, dropout(y_BTD, self.rate, keys[2]))


class Encoder(nnx.Module):
    """Embeddings and layers of BERT or RoBERTa over packed rows."""

    def __init__(self, config: AbsoluteConfig, *, rngs: Keys):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])

    def hidden_states(
        self,
        batch: Batch,
        *,
        cls_BE: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, ...]:
        """Return the embeddings and the output of each layer: N + 1 arrays `x_BTD`, float32.

        Args:
          batch: packed rows.
          cls_BE: if given, the last layer is computed at these tokens only and returns `x_BED`.
          dropout_key: dropout key of the step; None for no dropout.
          execution: how the layers compute.
        """
        x_BTD = self.embeddings(batch, dropout_site(dropout_key, 0))
        states = [split_rows(x_BTD, execution)]
        for number, layer in enumerate(self.layers, start=1):
            place_BT = cls_BE if number == len(self.layers) else None
            key = dropout_site(dropout_key, number)
            x_BTD = run_layer(layer, execution, states[-1], batch["segment_BT"], place_BT, key)
            states.append(split_rows(x_BTD, execution))
        return tuple(states)

    def __call__(self, batch: Batch, **options: Any) -> jax.Array:
        """Return the last of the `hidden_states`, which has the same options."""
        return self.hidden_states(batch, **options)[-1]


class PoolerHead(nnx.Module):
    """A head for CLS tokens: the pooler, which is pretrained, dropout and a projection."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: Keys):
        width, std = (config.hidden_size,), config.initializer_range
        self.pooler = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return logits, (B, E, C) in the dtype of the input."""
        pooled_BED = jnp.tanh(self.pooler(x_BED))
        return self.output(dropout(pooled_BED, self.rate, dropout_key))


class TokenHead(nnx.Module):
    """Dropout and a projection of every token, as in `BertForTokenClassification`."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: Keys):
        width, std = (config.hidden_size,), config.initializer_range
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BTD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return logits, (B, T, C) in the dtype of the input."""
        return self.output(dropout(x_BTD, self.rate, dropout_key))


def projection_head(config: EncoderConfig, num_outputs: int, *, rngs: Keys) -> TokenHead:
    """Return a head without dropout, as in `BertForQuestionAnswering`."""
    config = dataclasses.replace(config, classifier_dropout=0.0)
    return TokenHead(config, num_outputs, rngs=rngs)
