"""What an encoder is made to: its sizes and constants, read from a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxfer.errors import ConfigError
from flaxfer.models.layers import ACTIVATIONS

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes and constants of one encoder.

    Attributes:
      family: the `model_type` of config.json, a key of `flaxfer.models.families.FAMILIES`.
      activation: of the feed-forward part, a key of `flaxfer.models.layers.ACTIVATIONS`.
      position_offset: row of the position table that belongs to an example's first token.
      classifier_dropout: of the head.
      initializer_range: standard deviation of fresh kernels and embeddings.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: str
    max_position_embeddings: int
    position_offset: int
    type_vocab_size: int
    pad_token_id: int
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float
    initializer_range: float

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def max_length(self) -> int:
        """Tokens of the longest example there are positions for."""
        return self.max_position_embeddings - self.position_offset

    def with_dropout(self, rate: float) -> EncoderConfig:
        """The same encoder with every dropout rate replaced."""
        return dataclasses.replace(
            self, hidden_dropout=rate, attention_dropout=rate, classifier_dropout=rate
        )


def read_absolute(
    settings: Mapping[str, Any], where: str, *, pad_token_id: int, offset_by_padding: bool
) -> EncoderConfig:
    """The config of an encoder with absolute positions: BERT, RoBERTa and their kin.

    Keys that config.json leaves out have the values that transformers' config classes give them.

    Args:
      settings: config.json.
      where: its path, for error messages.
      pad_token_id: unless config.json says otherwise.
      offset_by_padding: positions start behind the padding id, as in fairseq's RoBERTa.

    Raises:
      ConfigError: sizes that are missing or do not fit each other, and settings that change the
        architecture into one that is not implemented; all at once.
    """
    get = settings.get
    problems = [
        f"{key} has to be a positive integer, not {get(key)!r}"
        for key in REQUIRED
        if type(get(key)) is not int or get(key, 0) < 1
    ]
    if not problems and settings["hidden_size"] % settings["num_attention_heads"]:
        problems.append("hidden_size has to be a multiple of num_attention_heads")
    activation = get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        problems.append(f"hidden_act {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if (positions := get("position_embedding_type", "absolute")) != "absolute":
        problems.append(f"position_embedding_type {positions!r} is not implemented, only absolute")
    problems += [
        f"{key} is set: decoders are not implemented"
        for key in ("is_decoder", "add_cross_attention")
        if get(key)
    ]
    padding = pad_token_id if get("pad_token_id") is None else settings["pad_token_id"]
    hidden_dropout = get("hidden_dropout_prob", 0.1)
    classifier_dropout = get("classifier_dropout")
    rates = {
        "hidden_dropout_prob": hidden_dropout,
        "attention_probs_dropout_prob": get("attention_probs_dropout_prob", 0.1),
        "classifier_dropout": hidden_dropout if classifier_dropout is None else classifier_dropout,
    }
    problems += [
        f"{key} has to be a number from 0 to below 1, not {rate!r}"
        for key, rate in rates.items()
        if not isinstance(rate, int | float) or not 0 <= rate < 1
    ]
    rows = {
        "max_position_embeddings": get("max_position_embeddings", 512),
        "type_vocab_size": get("type_vocab_size", 2),
    }
    problems += [
        f"{key} has to be a positive integer, not {value!r}"
        for key, value in rows.items()
        if type(value) is not int or value < 1
    ]
    if not problems and not 0 <= padding < settings["vocab_size"]:
        problems.append(f"pad_token_id {padding} is not a row of the vocabulary")
    if problems:
        raise ConfigError(
            "this encoder cannot be built",
            where=where,
            details=problems,
            mend="use a checkpoint of a supported architecture, or correct its config.json.",
        )
    return EncoderConfig(
        family=settings["model_type"],
        vocab_size=settings["vocab_size"],
        hidden_size=settings["hidden_size"],
        num_layers=settings["num_hidden_layers"],
        num_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        activation=activation,
        position_offset=padding + 1 if offset_by_padding else 0,
        pad_token_id=padding,
        layer_norm_eps=float(get("layer_norm_eps", 1e-12)),
        hidden_dropout=float(rates["hidden_dropout_prob"]),
        attention_dropout=float(rates["attention_probs_dropout_prob"]),
        classifier_dropout=float(rates["classifier_dropout"]),
        initializer_range=float(get("initializer_range", 0.02)),
        **rows,
    )
