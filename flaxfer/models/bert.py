"""BERT (Devlin et al. 2019), as transformers' `BertForSequenceClassification` computes it.

Its `Encoder` is RoBERTa's too, which differs in where positions start.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.attention import attention
from flaxfer.models.encoders import AbsoluteConfig, EncoderConfig, read_absolute
from flaxfer.models.layers import (
    ACTIVATIONS,
    Embedding,
    Execution,
    LayerNorm,
    Linear,
    dropout,
    dropout_site,
    fused,
    on_rows,
    rematerialised,
)

# Checkpoint name, parameter path, layout of the array in the checkpoint (pretrained.LAYOUTS).
# `*` stands for the number of a layer. The names carry no prefix.
ENCODER_NAMES = (
    ("embeddings.word_embeddings.weight", "encoder/embeddings/word/embedding", "same"),
    ("embeddings.position_embeddings.weight", "encoder/embeddings/position/embedding", "same"),
    ("embeddings.token_type_embeddings.weight", "encoder/embeddings/type/embedding", "same"),
    ("embeddings.LayerNorm.weight", "encoder/embeddings/norm/scale", "vector"),
    ("embeddings.LayerNorm.bias", "encoder/embeddings/norm/bias", "vector"),
    *(
        (f"encoder.layer.*.{name}.{kind}", f"encoder/layers/*/{path}", layout)
        for name, kind, path, layout in (
            ("attention.self.query", "weight", "attention/query/kernel", "kernel"),
            ("attention.self.query", "bias", "attention/query/bias", "vector"),
            ("attention.self.key", "weight", "attention/key/kernel", "kernel"),
            ("attention.self.key", "bias", "attention/key/bias", "vector"),
            ("attention.self.value", "weight", "attention/value/kernel", "kernel"),
            ("attention.self.value", "bias", "attention/value/bias", "vector"),
            ("attention.output.dense", "weight", "attention/output/kernel", "joining kernel"),
            ("attention.output.dense", "bias", "attention/output/bias", "vector"),
            ("attention.output.LayerNorm", "weight", "attention_norm/scale", "vector"),
            ("attention.output.LayerNorm", "bias", "attention_norm/bias", "vector"),
            ("intermediate.dense", "weight", "feed_forward/up/kernel", "kernel"),
            ("intermediate.dense", "bias", "feed_forward/up/bias", "vector"),
            ("output.dense", "weight", "feed_forward/down/kernel", "kernel"),
            ("output.dense", "bias", "feed_forward/down/bias", "vector"),
            ("output.LayerNorm", "weight", "feed_forward_norm/scale", "vector"),
            ("output.LayerNorm", "bias", "feed_forward_norm/bias", "vector"),
        )
    ),
)
POOLER_NAMES = (
    ("pooler.dense.weight", "head/pooler/kernel", "kernel"),
    ("pooler.dense.bias", "head/pooler/bias", "vector"),
)
CLASSIFIER_NAMES = (
    ("classifier.weight", "head/output/kernel", "kernel"),
    ("classifier.bias", "head/output/bias", "vector"),
)


SPAN_NAMES = (
    ("qa_outputs.weight", "head/output/kernel", "kernel"),
    ("qa_outputs.bias", "head/output/bias", "vector"),
)


def read_config(settings: Mapping[str, Any], where: str) -> AbsoluteConfig:
    """The config of a BERT from config.json; raises ConfigError as `read_absolute` does."""
    return read_absolute(settings, where, pad_token_id=0, offset_by_padding=False)


class Embeddings(nnx.Module):
    """The sum of word, position and type embeddings, normalised."""

    def __init__(self, config: AbsoluteConfig, *, rngs: nnx.Rngs):
        width, std = config.hidden_size, config.initializer_range
        padding, offset = config.pad_token_id, config.position_offset
        self.word = Embedding(config.vocab_size, width, std=std, rngs=rngs, padding=padding)
        self.position = Embedding(
            config.max_position_embeddings,
            width,
            std=std,
            rngs=rngs,
            padding=padding if offset else None,
        )
        self.type = Embedding(config.type_vocab_size, width, std=std, rngs=rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.position_offset = offset
        self.rate = config.hidden_dropout

    def __call__(
        self,
        token_BT: jax.Array,
        type_BT: jax.Array,
        position_BT: jax.Array,
        *,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """`x_BTD`, float32."""
        x_BTD = self.norm(
            self.word(token_BT),
            self.type(type_BT),
            self.position(position_BT + self.position_offset),
        )
        return dropout(x_BTD, self.rate, dropout_key)


class SelfAttention(nnx.Module):
    """Multi-head attention with its four projections."""

    def __init__(self, config: AbsoluteConfig, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        heads = (config.num_heads, config.head_size)
        self.query = Linear(width, heads, std=std, rngs=rngs)
        self.key = Linear(width, heads, std=std, rngs=rngs)
        self.value = Linear(width, heads, std=std, rngs=rngs)
        self.output = Linear(heads, width, std=std, rngs=rngs)
        self.rate = config.attention_dropout

    def __call__(
        self,
        query_BTD: jax.Array,
        x_BSD: jax.Array,
        query_segment_BT: jax.Array,
        segment_BS: jax.Array,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """What each of the queries gathers from the tokens of its segment, `y_BTD`."""
        narrow_BSD = x_BSD.astype(execution.dtype)
        if query_BTD is x_BSD:
            query_BTHK, key_BSHK, value_BSHK = fused(
                (self.query, self.key, self.value), narrow_BSD, execution.platform
            )
        else:
            query_BTHK = self.query(query_BTD.astype(execution.dtype))
            key_BSHK, value_BSHK = fused((self.key, self.value), narrow_BSD, execution.platform)
        out_BTHK = attention(
            query_BTHK,
            key_BSHK,
            value_BSHK,
            query_segment_BT,
            segment_BS,
            dropout_rate=self.rate,
            dropout_key=dropout_key,
            execution=execution,
        )
        return self.output(out_BTHK)


class FeedForward(nnx.Module):
    """Two projections with the activation between them."""

    def __init__(self, config: AbsoluteConfig, *, rngs: nnx.Rngs):
        width, inner = (config.hidden_size,), (config.intermediate_size,)
        self.up = Linear(width, inner, std=config.initializer_range, rngs=rngs)
        self.down = Linear(inner, width, std=config.initializer_range, rngs=rngs)
        self.activation = config.activation

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`y_BTD`, token by token."""
        return self.down(ACTIVATIONS[self.activation](self.up(x_BTD)))


class Layer(nnx.Module):
    """One encoder layer, normalising after each residual sum."""

    def __init__(self, config: AbsoluteConfig, *, rngs: nnx.Rngs):
        self.attention = SelfAttention(config, rngs=rngs)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.rate = config.hidden_dropout

    def __call__(
        self,
        query_BTD: jax.Array,
        x_BSD: jax.Array,
        query_segment_BT: jax.Array,
        segment_BS: jax.Array,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """The layer's output at the queries, which are all of the tokens or some of them."""
        keys = [dropout_site(dropout_key, site) for site in range(3)]
        y_BTD = self.attention(query_BTD, x_BSD, query_segment_BT, segment_BS, keys[0], execution)
        y_BTD = dropout(y_BTD, self.rate, keys[1])
        query_BTD = self.attention_norm(query_BTD, y_BTD)
        y_BTD = self.feed_forward(query_BTD.astype(execution.dtype))
        y_BTD = dropout(y_BTD, self.rate, keys[2])
        return self.feed_forward_norm(query_BTD, y_BTD)


class Encoder(nnx.Module):
    """Embeddings and layers of BERT or RoBERTa over packed rows."""

    def __init__(self, config: AbsoluteConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])

    def hidden_states(
        self,
        token_BT: jax.Array,
        type_BT: jax.Array,
        position_BT: jax.Array,
        segment_BT: jax.Array,
        *,
        cls_BE: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, ...]:
        """The embeddings and the output of each layer, N + 1 arrays `x_BTD`, float32.

        Args:
          token_BT: int32, rows of the vocabulary.
          type_BT: int32, which text of a pair a token belongs to.
          position_BT: int32, from 0 within each example, whatever the family.
          segment_BT: int32, the number of the example within its row from 1 on; 0 for padding.
          cls_BE: if given, the last array is `x_BED`, the outputs at these tokens alone: all
            that a head reads, and most of the last layer's work left out.
          dropout_key: of this step; None for no dropout.
          execution: how the layers compute.
        """
        x_BTD = self.embeddings(
            token_BT, type_BT, position_BT, dropout_key=dropout_site(dropout_key, 0)
        )
        states = [on_rows(x_BTD, execution)]
        query_BTD, query_segment_BT = states[0], segment_BT
        for number, layer in enumerate(self.layers, start=1):
            if number == len(self.layers) and cls_BE is not None:
                query_BTD = jnp.take_along_axis(query_BTD, cls_BE[..., None], axis=1)
                query_segment_BT = jnp.take_along_axis(segment_BT, cls_BE, axis=1)
            site = dropout_site(dropout_key, number)
            query_BTD = rematerialised(
                execution.remat, functools.partial(layer, execution=execution)
            )(query_BTD, states[-1], query_segment_BT, segment_BT, site)
            query_BTD = on_rows(query_BTD, execution)
            states.append(query_BTD)
        return tuple(states)

    def __call__(
        self,
        token_BT: jax.Array,
        type_BT: jax.Array,
        position_BT: jax.Array,
        segment_BT: jax.Array,
        *,
        cls_BE: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """The last of the `hidden_states`."""
        return self.hidden_states(
            token_BT,
            type_BT,
            position_BT,
            segment_BT,
            cls_BE=cls_BE,
            dropout_key=dropout_key,
            execution=execution,
        )[-1]


class PoolerHead(nnx.Module):
    """BERT's head over CLS tokens: the pooler, which is pretrained, dropout, projection."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        self.pooler = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Logits, (B, E, C) in the dtype of the CLS tokens' outputs."""
        pooled_BED = jnp.tanh(self.pooler(x_BED))
        return self.output(dropout(pooled_BED, self.rate, dropout_key))


class TokenHead(nnx.Module):
    """Dropout and a projection of every token, as in `BertForTokenClassification`."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BTD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Logits, (B, T, C) in the dtype of the tokens' outputs."""
        return self.output(dropout(x_BTD, self.rate, dropout_key))


class ProjectionHead(nnx.Module):
    """A projection of every token, as in `BertForQuestionAnswering`: no dropout."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Logits, (B, T, C) in the dtype of the tokens' outputs."""
        return self.output(x_BTD)
