"""XLNet (Yang et al. 2019) for fine-tuning, as in transformers' `XLNetModel`.

There is one stream of hidden states, and every token sees its whole example: no permutation, no
memory of earlier segments, no query stream. Only attention uses positions (relative.py), as
distances, which do not depend on where in its row an example lies; so packed rows need the mask
and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.data.families import FAMILIES
from flaxfer.models.encoders import (
    ACTIVATION,
    POSITIVE,
    RATE,
    SIZE,
    TOKEN,
    Batch,
    EncoderConfig,
    Rule,
    only,
    problems,
    refuse,
)
from flaxfer.models.layers import (
    Embedding,
    Execution,
    FeedForward,
    LayerNorm,
    Linear,
    remat,
    split_rows,
)
from flaxfer.models.names import ARRAY, EMBEDDING, LINEAR, NORM, OUTPUTS_FIRST, names
from flaxfer.models.ops import dropout, dropout_site
from flaxfer.models.relative import RelativeAttention, Tokens, distance_encoding

ENCODER_NAMES = names({"word_embedding": ("encoder/embeddings/word", EMBEDDING)}) + names(
    {
        "rel_attn.q": ("attention/query/kernel", ARRAY),
        "rel_attn.k": ("attention/key/kernel", ARRAY),
        "rel_attn.v": ("attention/value/kernel", ARRAY),
        "rel_attn.r": ("attention/position/kernel", ARRAY),
        "rel_attn.o": ("attention/output/kernel", OUTPUTS_FIRST),
        "rel_attn.r_w_bias": ("attention/content_bias/bias", ARRAY),
        "rel_attn.r_r_bias": ("attention/position_bias/bias", ARRAY),
        "rel_attn.r_s_bias": ("attention/type_bias/bias", ARRAY),
        "rel_attn.seg_embed": ("attention/type_embedding", ARRAY),
        "rel_attn.layer_norm": ("attention_norm", NORM),
        "ff.layer_1": ("feed_forward/up", LINEAR),
        "ff.layer_2": ("feed_forward/down", LINEAR),
        "ff.layer_norm": ("feed_forward_norm", NORM),
    },
    "layer.*.",
    "encoder/layers/*/",
)
SUMMARY_NAMES = names(
    {
        "sequence_summary.summary": ("head/dense", LINEAR),
        "logits_proj": ("head/output", LINEAR),
    }
)

DEFAULTS: dict[str, Any] = {
    "ff_activation": "gelu",
    "attn_type": "bi",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "dropout": 0.1,
    "use_mems_train": False,
    "bi_data": False,
    "clamp_len": -1,
    "same_length": False,
    "untie_r": True,
    "summary_type": "last",
    "summary_use_proj": True,
    "summary_activation": "tanh",
    "summary_last_dropout": 0.1,
}
"""Defaults of transformers' `XLNetConfig`."""

RULES: dict[str, Rule] = {
    "vocab_size": SIZE,
    "d_model": ("a positive even integer", lambda d: type(d) is int and d > 0 and not d % 2),
    "n_layer": SIZE,
    "n_head": SIZE,
    "d_inner": SIZE,
    "pad_token_id": TOKEN,
    "dropout": RATE,
    "summary_last_dropout": RATE,
    "layer_norm_eps": POSITIVE,
    "initializer_range": POSITIVE,
    "ff_activation": ACTIVATION,
    "clamp_len": ("an integer", lambda value: type(value) is int),
    "attn_type": only("bi", "'uni' is Transformer-XL, which predicts the next token"),
    "bi_data": only(False, "it reads every second row backwards, for pretraining"),
    "same_length": only(False, "it cuts the attention of causal models"),
    "use_mems_train": only(False, "examples are independent, without memory of one another"),
    "untie_r": only(True, "the biases of layers are separate"),
    "summary_type": only("last", "heads read the CLS token, which ends an example"),
    "summary_use_proj": only(True),
    "summary_activation": only("tanh"),
}


@dataclasses.dataclass(frozen=True)
class XLNetConfig(EncoderConfig):
    """An encoder with relative positions, without a bound on the length of examples.

    Attributes:
      clamp_len: largest distance; larger ones are clamped to it. Unbounded if not positive.
    """

    clamp_len: int


def read_config(settings: Mapping[str, Any], where: str) -> XLNetConfig:
    """Return the config of an XLNet from config.json; raise as `encoders.read_absolute` does.

    mem_len and reuse_len are ignored: there is no memory.
    """
    values = DEFAULTS | dict(settings)
    if values.get("pad_token_id") is None:
        values["pad_token_id"] = FAMILIES["xlnet"].pad_token_id
    refuse(problems(values, RULES) or _conflicts(values), where)
    return XLNetConfig(
        family=values["model_type"],
        vocab_size=values["vocab_size"],
        hidden_size=values["d_model"],
        num_layers=values["n_layer"],
        num_heads=values["n_head"],
        intermediate_size=values["d_inner"],
        activation=values["ff_activation"],
        pad_token_id=values["pad_token_id"],
        layer_norm_eps=float(values["layer_norm_eps"]),
        hidden_dropout=float(values["dropout"]),
        attention_dropout=float(values["dropout"]),
        classifier_dropout=float(values["summary_last_dropout"]),
        initializer_range=float(values["initializer_range"]),
        clamp_len=values["clamp_len"],
    )


def _conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each conflict between valid values."""
    lines = []
    width, heads = values["d_model"], values["n_head"]
    if width % heads:
        lines.append("d_model has to be a multiple of n_head")
    if values.get("d_head") not in (None, width // heads):
        lines.append(f"d_head {values['d_head']} has to be d_model / n_head")
    if values["pad_token_id"] >= values["vocab_size"]:
        lines.append(f"pad_token_id {values['pad_token_id']} is not a row of the vocabulary")
    return lines


class Embeddings(nnx.Module):
    """The word embeddings; positions and types enter attention."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
        width, std = config.hidden_size, config.initializer_range
        self.word = Embedding(config.vocab_size, width, std=std, rngs=rngs)
        self.rate = config.hidden_dropout

    def __call__(self, batch: Batch, dropout_key: jax.Array | None) -> jax.Array:
        """Return `x_BTD`, float32."""
        return dropout(self.word(batch["token_BT"]), self.rate, dropout_key)


class Layer(nnx.Module):
    """One encoder layer, normalised after each residual sum."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.attention = RelativeAttention(config, rngs=rngs)
        self.attention_norm = LayerNorm(width, config.layer_norm_eps)
        self.feed_forward = FeedForward(
            width,
            config.intermediate_size,
            config.activation,
            std=config.initializer_range,
            rngs=rngs,
            dropout_rate=config.hidden_dropout,
        )
        self.feed_forward_norm = LayerNorm(width, config.layer_norm_eps)
        self.rate = config.hidden_dropout

    def __call__(
        self,
        queries: Tokens,
        row: Tokens,
        distance_RD: jax.Array,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """Return the layer's output at the queries, which are all tokens or some of them."""
        keys = [dropout_site(dropout_key, site) for site in range(4)]
        y_BTD = self.attention(queries, row, distance_RD, keys[0], execution)
        x_BTD = self.attention_norm(queries.x_BTD, dropout(y_BTD, self.rate, keys[1]))
        y_BTD = self.feed_forward(x_BTD.astype(execution.dtype), keys[2])
        return self.feed_forward_norm(x_BTD, dropout(y_BTD, self.rate, keys[3]))


class Encoder(nnx.Module):
    """Embeddings and layers of XLNet over packed rows."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
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
            row = Tokens(states[-1], batch["segment_BT"], batch["type_BT"])
            queries = row
            if number == len(self.layers) and cls_BE is not None:
                queries = row.at(cls_BE)
            compute = remat(execution.remat, functools.partial(layer, execution=execution))
            x_BTD = compute(queries, row, distance_RD, keys[number])
            states.append(split_rows(x_BTD, execution))
        return tuple(states)

    def __call__(
        self,
        batch: Batch,
        *,
        cls_BE: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """Return the last of the `hidden_states` after the final dropout."""
        states = self.hidden_states(
            batch, cls_BE=cls_BE, dropout_key=dropout_key, execution=execution
        )
        key = dropout_site(dropout_key, len(self.layers) + 2)
        return dropout(states[-1], self.rate, key)


class SummaryHead(nnx.Module):
    """A head for CLS tokens: a tanh layer, dropout and a projection; none is pretrained."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        self.dense = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return logits, (B, E, C) in the dtype of the input."""
        x_BED = jnp.tanh(self.dense(x_BED))
        return self.output(dropout(x_BED, self.rate, dropout_key))
