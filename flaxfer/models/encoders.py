"""Sizes and constants of encoders, read from a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax

from flaxfer.data.families import FAMILIES
from flaxfer.models import ops
from flaxfer.models.settings import (
    BERT_SETTINGS,
    GELU_NAMES,
    TANH_GELU_NAMES,
    XLNET_SETTINGS,
    read_fields,
    refuse,
)

Batch = Mapping[str, jax.Array]
"""Arrays of packed rows. Encoders read

- `token_BT`: int32, rows of the vocabulary; any for padding,
- `type_BT`: int32, text of a pair that a token belongs to,
- `position_BT`: int32, from 0 within each example, in every family,
- `segment_BT`: int32, number of the example in its row from 1 on; 0 for padding.
"""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    **dict.fromkeys(GELU_NAMES, ops.gelu),
    **dict.fromkeys(TANH_GELU_NAMES, functools.partial(jax.nn.gelu, approximate=True)),
}
"""Activations by their names in config.json; transformers has synonyms."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes and constants of an encoder.

    Attributes:
      family: the `model_type` of config.json, a key of `flaxfer.models.families.FAMILIES`.
      activation: activation of the feed-forward part, a key of `ACTIVATIONS`.
      classifier_dropout: dropout rate of the head.
      initializer_range: standard deviation of new kernels and embeddings.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: str
    pad_token_id: int
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float
    initializer_range: float

    @property
    def head_size(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest example that has positions; None if unbounded."""
        return None

    def with_dropout(self, rate: float | None, attention: float | None = None) -> Self:
        """Return the encoder with other dropout rates; None leaves a rate unchanged.

        Args:
          rate: replaces every rate.
          attention: replaces the rate of attention probabilities, instead of `rate`.
        """
        rates = {
            "hidden_dropout": rate,
            "classifier_dropout": rate,
            "attention_dropout": rate if attention is None else attention,
        }
        changes: dict[str, Any] = {n: value for n, value in rates.items() if value is not None}
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class AbsoluteConfig(EncoderConfig):
    """An encoder with a table of positions: BERT, RoBERTa and relatives.

    Attributes:
      position_offset: row of the position table for an example's first token.
    """

    max_position_embeddings: int
    position_offset: int
    type_vocab_size: int

    @property
    def max_length(self) -> int:
        """Tokens of the longest example that has positions."""
        return self.max_position_embeddings - self.position_offset


@dataclasses.dataclass(frozen=True)
class XLNetConfig(EncoderConfig):
    """An encoder with relative positions, without a bound on the length of examples.

    Attributes:
      clamp_len: largest distance; larger ones are clamped to it. Unbounded if not positive.
    """

    clamp_len: int


def read_absolute(settings: Mapping[str, Any], where: str) -> AbsoluteConfig:
    """Return the config of an encoder with absolute positions from config.json.

    Missing settings have the defaults of transformers' config classes.

    Args:
      settings: content of config.json.
      where: its path, for error messages.

    Raises:
      ConfigError: sizes are missing or do not fit each other, or settings select an architecture
        that is not implemented; lists all of them.
    """
    fields, conflicts = read_fields(BERT_SETTINGS, settings, where)
    if fields["classifier_dropout"] is None:
        fields["classifier_dropout"] = fields["hidden_dropout"]
    after_padding = FAMILIES[fields["family"]].positions == "after_padding"
    offset = fields["pad_token_id"] + 1 if after_padding else 0
    if offset >= fields["max_position_embeddings"]:
        conflicts.append("max_position_embeddings leaves no position behind the padding id")
    refuse(conflicts, where)
    return AbsoluteConfig(**fields, position_offset=offset)


def read_xlnet(settings: Mapping[str, Any], where: str) -> XLNetConfig:
    """Return the config of an XLNet from config.json; raise as `read_absolute` does.

    mem_len and reuse_len have no effect: there is no memory.
    """
    fields, conflicts = read_fields(XLNET_SETTINGS, settings, where)
    head_size = settings.get("d_head")
    if head_size not in (None, fields["hidden_size"] // fields["num_heads"]):
        conflicts.append(f"d_head {head_size} has to be d_model / n_head")
    refuse(conflicts, where)
    return XLNetConfig(**fields)
