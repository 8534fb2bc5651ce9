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

from flaxfer.models.encoders import (
    ACTIVATION,
    EVEN,
    INTEGER,
    POSITIVE,
    RATE,
    SIZE,
    TEXT,
    TOKEN,
    Batch,
    EncoderConfig,
    Setting,
    only,
    read_settings,
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

SETTINGS = (
    Setting("model_type", TEXT, fields=("family",)),
    Setting("vocab_size", SIZE, fields=("vocab_size",)),
    Setting("d_model", EVEN, fields=("hidden_size",)),
    Setting("n_layer", SIZE, fields=("num_layers",)),
    Setting("n_head", SIZE, fields=("num_heads",)),
    Setting("d_inner", SIZE, fields=("intermediate_size",)),
    Setting("pad_token_id", TOKEN, fields=("pad_token_id",)),
    Setting("dropout", RATE, 0.1, ("hidden_dropout", "attention_dropout")),
    Setting("summary_last_dropout", RATE, 0.1, ("classifier_dropout",)),
    Setting("layer_norm_eps", POSITIVE, 1e-12, ("layer_norm_eps",)),
    Setting("initializer_range", POSITIVE, 0.02, ("initializer_range",)),
    Setting("ff_activation", ACTIVATION, "gelu", ("activation",)),
    Setting("clamp_len", INTEGER, -1, ("clamp_len",)),
    Setting(
        "attn_type", only("bi", "'uni' is Transformer-XL, which predicts the next token"), "bi"
    ),
    Setting("bi_data", only(False, "it reads every second row backwards, for pretraining"), False),
    Setting("same_length", only(False, "it cuts the attention of causal models"), False),
    Setting("use_mems_train", only(False, "examples are independent, without memory"), False),
    Setting("untie_r", only(True, "the biases of layers are separate"), True),
    Setting(
        "summary_type", only("last", "heads read the CLS token, which ends an example"), "last"
    ),
    Setting("summary_use_proj", only(True), True),
    Setting("summary_activation", only("tanh"), "tanh"),
)


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
    values = read_settings(SETTINGS, settings, where)
    width, heads = values["hidden_size"], values["num_heads"]
    conflicts = []
    if width % heads:
        conflicts.append("d_model has to be a multiple of n_head")
    if settings.get("d_head") not in (None, width // heads):
        conflicts.append(f"d_head {settings['d_head']} has to be d_model / n_head")
    if values["pad_token_id"] >= values["vocab_size"]:
        conflicts.append(f"pad_token_id {values['pad_token_id']} is not a row of the vocabulary")
    refuse(conflicts, where)
    return XLNetConfig(**values)


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
        self, batch: Batch, *, dropout_key: jax.Array | None = None, **options: Any
    ) -> jax.Array:
        """Return the last of the `hidden_states`, which has the same options, after dropout."""
        states = self.hidden_states(batch, dropout_key=dropout_key, **options)
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
