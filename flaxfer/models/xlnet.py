"""XLNet (Yang et al. 2019) as fine-tuning uses it, and transformers' `XLNetModel` computes it.

One stream of hidden states, every token of an example seeing all of it: no permutation, no memory
of earlier segments, no query stream. Positions enter attention alone (relative.py), as distances,
and a distance within an example is the same wherever the example lies in its row; so packed rows
need nothing but the mask.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.encoders import (
    ACTIVATION,
    POSITIVE,
    RATE,
    SIZE,
    TOKEN,
    EncoderConfig,
    Rule,
    only,
    problems,
    refuse,
)
from flaxfer.models.layers import (
    ACTIVATIONS,
    Embedding,
    Execution,
    LayerNorm,
    Linear,
    dropout,
    dropout_site,
    on_rows,
    rematerialised,
)
from flaxfer.models.relative import RelativeAttention, Tokens, distance_encoding

# As in bert.py. Pretraining's query stream starts from `mask_emb`, which fine-tuning never reads.
ENCODER_NAMES = (
    ("word_embedding.weight", "encoder/embeddings/word/embedding", "same"),
    *(
        (f"layer.*.{name}", f"encoder/layers/*/{path}", layout)
        for name, path, layout in (
            ("rel_attn.q", "attention/query/kernel", "same"),
            ("rel_attn.k", "attention/key/kernel", "same"),
            ("rel_attn.v", "attention/value/kernel", "same"),
            ("rel_attn.r", "attention/position/kernel", "same"),
            ("rel_attn.o", "attention/output/kernel", "outputs first"),
            ("rel_attn.r_w_bias", "attention/content_bias/bias", "same"),
            ("rel_attn.r_r_bias", "attention/position_bias/bias", "same"),
            ("rel_attn.r_s_bias", "attention/type_bias/bias", "same"),
            ("rel_attn.seg_embed", "attention/type_embedding", "same"),
            ("rel_attn.layer_norm.weight", "attention_norm/scale", "vector"),
            ("rel_attn.layer_norm.bias", "attention_norm/bias", "vector"),
            ("ff.layer_1.weight", "feed_forward/up/kernel", "kernel"),
            ("ff.layer_1.bias", "feed_forward/up/bias", "vector"),
            ("ff.layer_2.weight", "feed_forward/down/kernel", "kernel"),
            ("ff.layer_2.bias", "feed_forward/down/bias", "vector"),
            ("ff.layer_norm.weight", "feed_forward_norm/scale", "vector"),
            ("ff.layer_norm.bias", "feed_forward_norm/bias", "vector"),
        )
    ),
)
SUMMARY_NAMES = (
    ("sequence_summary.summary.weight", "head/dense/kernel", "kernel"),
    ("sequence_summary.summary.bias", "head/dense/bias", "vector"),
    ("logits_proj.weight", "head/output/kernel", "kernel"),
    ("logits_proj.bias", "head/output/bias", "vector"),
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
    "pad_token_id": 5,
}
"""What transformers' `XLNetConfig` says where config.json says nothing."""

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
    "use_mems_train": only(False, "examples are independent: none remembers another"),
    "untie_r": only(True, "every layer has biases of its own"),
    "summary_type": only("last", "heads read the token <cls>, which ends an example"),
    "summary_use_proj": only(True),
    "summary_activation": only("tanh"),
}


@dataclasses.dataclass(frozen=True)
class XLNetConfig(EncoderConfig):
    """An encoder with relative positions, so without a longest example.

    Attributes:
      clamp_len: larger distances count as this one; none are clamped if it is not positive.
    """

    clamp_len: int


def read_config(settings: Mapping[str, Any], where: str) -> XLNetConfig:
    """The config of an XLNet from config.json.

    Lengths of memory (mem_len, reuse_len) are ignored: without a memory they change nothing.

    Raises:
      ConfigError: sizes that are missing or do not fit each other, and settings that change the
        architecture into one that is not implemented; all at once.
    """
    values = DEFAULTS | dict(settings)
    if values["pad_token_id"] is None:
        values["pad_token_id"] = DEFAULTS["pad_token_id"]
    refuse(problems(values, RULES) or _misfits(values), where)
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


def _misfits(values: Mapping[str, Any]) -> list[str]:
    """Values that are right by themselves and do not fit each other, a line each."""
    found = []
    width, heads = values["d_model"], values["n_head"]
    if width % heads:
        found.append("d_model has to be a multiple of n_head")
    if values.get("d_head") not in (None, width // heads):
        found.append(f"d_head {values['d_head']} has to be d_model / n_head")
    if values["pad_token_id"] >= values["vocab_size"]:
        found.append(f"pad_token_id {values['pad_token_id']} is not a row of the vocabulary")
    return found


class Embeddings(nnx.Module):
    """The word embeddings; positions and types enter attention."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
        width, std = config.hidden_size, config.initializer_range
        self.word = Embedding(config.vocab_size, width, std=std, rngs=rngs)
        self.rate = config.hidden_dropout

    def __call__(self, token_BT: jax.Array, *, dropout_key: jax.Array | None) -> jax.Array:
        """`x_BTD`, float32."""
        return dropout(self.word(token_BT), self.rate, dropout_key)


class FeedForward(nnx.Module):
    """Two projections with the activation and a dropout between them."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
        width, inner = (config.hidden_size,), (config.intermediate_size,)
        self.up = Linear(width, inner, std=config.initializer_range, rngs=rngs)
        self.down = Linear(inner, width, std=config.initializer_range, rngs=rngs)
        self.activation = config.activation
        self.rate = config.hidden_dropout

    def __call__(self, x_BTD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """`y_BTD`, token by token."""
        inner_BTF = ACTIVATIONS[self.activation](self.up(x_BTD))
        return self.down(dropout(inner_BTF, self.rate, dropout_key))


class Layer(nnx.Module):
    """One encoder layer, normalising after each residual sum."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
        self.attention = RelativeAttention(config, rngs=rngs)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.rate = config.hidden_dropout

    def __call__(
        self,
        queries: Tokens,
        row: Tokens,
        distance_RD: jax.Array,
        dropout_key: jax.Array | None,
        execution: Execution,
    ) -> jax.Array:
        """The layer's output at the queries, which are all of the row's tokens or some of them."""
        keys = [dropout_site(dropout_key, site) for site in range(4)]
        y_BTD = self.attention(queries, row, distance_RD, keys[0], execution)
        x_BTD = self.attention_norm(queries.x_BTD, dropout(y_BTD, self.rate, keys[1]))
        y_BTD = dropout(
            self.feed_forward(x_BTD.astype(execution.dtype), keys[2]), self.rate, keys[3]
        )
        return self.feed_forward_norm(x_BTD, y_BTD)


class Encoder(nnx.Module):
    """Embeddings and layers of XLNet over packed rows."""

    def __init__(self, config: XLNetConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.clamp_len = config.clamp_len
        self.rate = config.hidden_dropout

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

        The arguments are those of `flaxfer.models.bert.Encoder.hidden_states`. `position_BT` is not
        read: the tokens of an example stand in order, one behind the other. The encoding of
        distances is dropped out alike for all rows, which share it; in transformers each row has
        a draw of its own.
        """
        keys = [dropout_site(dropout_key, site) for site in range(len(self.layers) + 2)]
        x_BTD = self.embeddings(token_BT, dropout_key=keys[0])
        distance_RD = distance_encoding(token_BT.shape[1], x_BTD.shape[2], self.clamp_len)
        distance_RD = dropout(distance_RD.astype(execution.dtype), self.rate, keys[-1])
        states = [on_rows(x_BTD, execution)]
        for number, layer in enumerate(self.layers, start=1):
            row = Tokens(states[-1], segment_BT, type_BT)
            queries = row
            if number == len(self.layers) and cls_BE is not None:
                queries = row.at(cls_BE)
            compute = functools.partial(layer, execution=execution)
            x_BTD = rematerialised(execution.remat, compute)(
                queries, row, distance_RD, keys[number]
            )
            states.append(on_rows(x_BTD, execution))
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
        """The last of the `hidden_states`, with the dropout that follows the layers."""
        states = self.hidden_states(
            token_BT,
            type_BT,
            position_BT,
            segment_BT,
            cls_BE=cls_BE,
            dropout_key=dropout_key,
            execution=execution,
        )
        key = dropout_site(dropout_key, len(self.layers) + 2)
        return dropout(states[-1], self.rate, key)


class SummaryHead(nnx.Module):
    """XLNet's head over CLS tokens: a tanh layer, dropout, projection; none is pretrained."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        self.dense = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Logits, (B, E, C) in the dtype of the CLS tokens' outputs."""
        x_BED = jnp.tanh(self.dense(x_BED))
        return self.output(dropout(x_BED, self.rate, dropout_key))
