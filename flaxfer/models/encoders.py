"""Sizes and constants of encoders, read from a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax

from flaxfer.data.families import FAMILIES
from flaxfer.errors import ConfigError
from flaxfer.models.layers import ACTIVATIONS

Batch = Mapping[str, jax.Array]
"""Arrays of packed rows. Encoders read

- `token_BT`: int32, rows of the vocabulary; any for padding,
- `type_BT`: int32, text of a pair that a token belongs to,
- `position_BT`: int32, from 0 within each example, in every family,
- `segment_BT`: int32, number of the example in its row from 1 on; 0 for padding.
"""

DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Defaults of transformers' config classes."""

Rule = tuple[str, Callable[[Any], bool]]
"""Description of the valid values of a setting, and their test."""

SIZE: Rule = ("a positive integer", lambda value: type(value) is int and value > 0)
TOKEN: Rule = ("the id of a token", lambda value: type(value) is int and value >= 0)
RATE: Rule = (
    "a number from 0 to below 1",
    lambda value: type(value) in (int, float) and 0 <= value < 1,
)
POSITIVE: Rule = (
    "a positive number",
    lambda value: type(value) in (int, float) and 0 < value < math.inf,
)
ACTIVATION: Rule = (f"one of {', '.join(ACTIVATIONS)}", lambda value: value in tuple(ACTIVATIONS))


def only(valid: Any, reason: str = "") -> Rule:
    """Return the rule that a setting has the one value that is implemented."""
    text = repr(valid).lower() if isinstance(valid, bool) else repr(valid)
    text += f" ({reason})" if reason else ""
    return text, lambda value: (value or None) == (valid or None)


RULES: dict[str, Rule] = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "num_hidden_layers": SIZE,
    "num_attention_heads": SIZE,
    "intermediate_size": SIZE,
    "max_position_embeddings": SIZE,
    "type_vocab_size": SIZE,
    "pad_token_id": TOKEN,
    "hidden_dropout_prob": RATE,
    "attention_probs_dropout_prob": RATE,
    "classifier_dropout": RATE,
    "layer_norm_eps": POSITIVE,
    "initializer_range": POSITIVE,
    "hidden_act": ACTIVATION,
    "position_embedding_type": only("absolute"),
    "use_task_id": only(False, "ERNIE's embedding of pretraining tasks"),
    "is_decoder": only(False, "an encoder reads the whole text"),
    "add_cross_attention": only(False, "there is no second sequence to attend to"),
}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes and constants of an encoder.

    Attributes:
      family: the `model_type` of config.json, a key of `flaxfer.models.families.FAMILIES`.
      activation: activation of the feed-forward part, a key of `flaxfer.models.layers.ACTIVATIONS`.
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
    family = FAMILIES[settings["model_type"]]
    values = DEFAULTS | dict(settings)
    if values.get("pad_token_id") is None:
        values["pad_token_id"] = family.pad_token_id
    if values["classifier_dropout"] is None:
        values["classifier_dropout"] = values["hidden_dropout_prob"]
    after_padding = family.positions == "after_padding"
    refuse(problems(values, RULES) or _conflicts(values, after_padding), where)
    return AbsoluteConfig(
        family=values["model_type"],
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        intermediate_size=values["intermediate_size"],
        activation=values["hidden_act"],
        pad_token_id=values["pad_token_id"],
        layer_norm_eps=float(values["layer_norm_eps"]),
        hidden_dropout=float(values["hidden_dropout_prob"]),
        attention_dropout=float(values["attention_probs_dropout_prob"]),
        classifier_dropout=float(values["classifier_dropout"]),
        initializer_range=float(values["initializer_range"]),
        max_position_embeddings=values["max_position_embeddings"],
        position_offset=values["pad_token_id"] + 1 if after_padding else 0,
        type_vocab_size=values["type_vocab_size"],
    )


def problems(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Return a line for each value that breaks its rule."""
    return [
        f"{key} has to be {valid}, not {values.get(key)!r}"
        for key, (valid, is_valid) in rules.items()
        if not is_valid(values.get(key))
    ]


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise a ConfigError if config.json has problems."""
    if problems:
        raise ConfigError(
            "this encoder cannot be built",
            where=where,
            details=problems,
            hint="use a checkpoint of a supported architecture, or correct its config.json.",
        )


def _conflicts(values: Mapping[str, Any], after_padding: bool) -> list[str]:
    """Return a line for each conflict between valid values."""
    lines = []
    if values["hidden_size"] % values["num_attention_heads"]:
        lines.append("hidden_size has to be a multiple of num_attention_heads")
    if values["pad_token_id"] >= values["vocab_size"]:
        lines.append(f"pad_token_id {values['pad_token_id']} is not a row of the vocabulary")
    if after_padding and values["pad_token_id"] + 1 >= values["max_position_embeddings"]:
        lines.append("max_position_embeddings leaves no position behind the padding id")
    return lines
