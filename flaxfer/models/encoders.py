"""What an encoder is made to: its sizes and constants, read from a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from flaxfer.errors import ConfigError
from flaxfer.models.layers import ACTIVATIONS

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
"""What transformers' config classes say where config.json says nothing."""

Rule = tuple[str, Callable[[Any], bool]]
"""What a value of config.json has to be, and whether it is that."""

SIZE: Rule = ("a positive integer", lambda value: type(value) is int and value > 0)
TOKEN: Rule = ("the number of a token", lambda value: type(value) is int and value >= 0)
RATE: Rule = (
    "a number from 0 to below 1",
    lambda value: type(value) in (int, float) and 0 <= value < 1,
)
POSITIVE: Rule = (
    "a positive number",
    lambda value: type(value) in (int, float) and 0 < value < math.inf,
)
ACTIVATION: Rule = (f"one of {', '.join(ACTIVATIONS)}", lambda value: value in tuple(ACTIVATIONS))


def only(wanted: Any, why: str = "") -> Rule:
    """The rule that a value is the one that is implemented; `why` follows it in the message."""
    what = repr(wanted).lower() if isinstance(wanted, bool) else repr(wanted)
    return what + (f" ({why})" if why else ""), lambda value: (value or None) == (wanted or None)


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
    """Sizes and constants of one encoder.

    Attributes:
      family: the `model_type` of config.json, a key of `flaxfer.models.families.FAMILIES`.
      activation: of the feed-forward part, a key of `flaxfer.models.layers.ACTIVATIONS`.
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
    def max_length(self) -> int | None:
        """Tokens of the longest example there are positions for; None where there is no bound."""
        return None

    def with_dropout(self, rate: float | None, attention: float | None = None) -> Self:
        """The same encoder with every dropout rate replaced, and that of the probabilities by one
        of its own; None leaves a rate as it is.
        """
        rates = dict.fromkeys(("hidden_dropout", "classifier_dropout", "attention_dropout"), rate)
        if attention is not None:
            rates["attention_dropout"] = attention
        given = {name: value for name, value in rates.items() if value is not None}
        return dataclasses.replace(self, **given)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class AbsoluteConfig(EncoderConfig):
    """An encoder with a table of positions: BERT, RoBERTa and their kin.

    Attributes:
      position_offset: row of the position table that belongs to an example's first token.
    """

    max_position_embeddings: int
    position_offset: int
    type_vocab_size: int

    @property
    def max_length(self) -> int:
        """Tokens of the longest example there are positions for."""
        return self.max_position_embeddings - self.position_offset


def read_absolute(
    settings: Mapping[str, Any], where: str, *, pad_token_id: int, offset_by_padding: bool
) -> AbsoluteConfig:
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
    values = DEFAULTS | {"pad_token_id": pad_token_id} | dict(settings)
    values |= {
        key: default
        for key, default in (
            ("pad_token_id", pad_token_id),
            ("classifier_dropout", values["hidden_dropout_prob"]),
        )
        if values[key] is None
    }
    refuse(problems(values, RULES) or _misfits(values, offset_by_padding), where)
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
        position_offset=values["pad_token_id"] + 1 if offset_by_padding else 0,
        type_vocab_size=values["type_vocab_size"],
    )


def problems(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """A line for each value that breaks its rule."""
    return [
        f"{key} has to be {what}, not {values.get(key)!r}"
        for key, (what, fits) in rules.items()
        if not fits(values.get(key))
    ]


def refuse(found: Iterable[str], where: str) -> None:
    """Raises a ConfigError with the problems found in config.json, if there are any."""
    if details := tuple(found):
        raise ConfigError(
            "this encoder cannot be built",
            where=where,
            details=details,
            hint="use a checkpoint of a supported architecture, or correct its config.json.",
        )


def _misfits(values: Mapping[str, Any], offset_by_padding: bool) -> list[str]:
    """Values that are right by themselves and do not fit each other, a line each."""
    found = []
    if values["hidden_size"] % values["num_attention_heads"]:
        found.append("hidden_size has to be a multiple of num_attention_heads")
    if values["pad_token_id"] >= values["vocab_size"]:
        found.append(f"pad_token_id {values['pad_token_id']} is not a row of the vocabulary")
    if offset_by_padding and values["pad_token_id"] + 1 >= values["max_position_embeddings"]:
        found.append("max_position_embeddings leaves no position behind the padding id")
    return found
