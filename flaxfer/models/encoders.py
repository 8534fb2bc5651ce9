"""Sizes and constants of encoders, read from a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax

from flaxfer.data.families import FAMILIES
from flaxfer.errors import ConfigError
from flaxfer.models import ops

Batch = Mapping[str, jax.Array]
"""Arrays of packed rows. Encoders read

- `token_BT`: int32, rows of the vocabulary; any for padding,
- `type_BT`: int32, text of a pair that a token belongs to,
- `position_BT`: int32, from 0 within each example, in every family,
- `segment_BT`: int32, number of the example in its row from 1 on; 0 for padding.
"""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    **dict.fromkeys(("gelu", "gelu_python"), ops.gelu),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
        functools.partial(jax.nn.gelu, approximate=True),
    ),
}
"""Activations by their names in config.json; transformers has synonyms."""

Rule = tuple[str, Callable[[Any], bool]]
"""Description of the valid values of a setting, and their test."""

SIZE: Rule = ("a positive integer", lambda value: type(value) is int and value > 0)
EVEN: Rule = ("a positive even integer", lambda value: SIZE[1](value) and not value % 2)
INTEGER: Rule = ("an integer", lambda value: type(value) is int)
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


def _only(valid: Any, reason: str = "") -> Rule:
    """Return the rule that a setting has the one value that is implemented."""
    text = repr(valid).lower() if isinstance(valid, bool) else repr(valid)
    text += f" ({reason})" if reason else ""
    return text, lambda value: (value or None) == (valid or None)


class Setting(NamedTuple):
    """A setting of config.json.

    Attributes:
      key: name in config.json.
      rule: valid values.
      default: default of transformers' config class; None if required.
      fields: fields of the EncoderConfig that it sets.
    """

    key: str
    rule: Rule
    default: Any = None
    fields: tuple[str, ...] = ()


BERT_SETTINGS = (
    Setting("vocab_size", SIZE, fields=("vocab_size",)),
    Setting("hidden_size", SIZE, fields=("hidden_size",)),
    Setting("num_hidden_layers", SIZE, fields=("num_layers",)),
    Setting("num_attention_heads", SIZE, fields=("num_heads",)),
    Setting("intermediate_size", SIZE, fields=("intermediate_size",)),
    Setting("max_position_embeddings", SIZE, 512, ("max_position_embeddings",)),
    Setting("type_vocab_size", SIZE, 2, ("type_vocab_size",)),
    Setting("pad_token_id", TOKEN, fields=("pad_token_id",)),
    Setting("hidden_dropout_prob", RATE, 0.1, ("hidden_dropout",)),
    Setting("attention_probs_dropout_prob", RATE, 0.1, ("attention_dropout",)),
    Setting("classifier_dropout", RATE, fields=("classifier_dropout",)),
    Setting("layer_norm_eps", POSITIVE, 1e-12, ("layer_norm_eps",)),
    Setting("initializer_range", POSITIVE, 0.02, ("initializer_range",)),
    Setting("hidden_act", ACTIVATION, "gelu", ("activation",)),
    Setting("position_embedding_type", _only("absolute"), "absolute"),
    Setting("use_task_id", _only(False, "ERNIE's embedding of pretraining tasks")),
    Setting("is_decoder", _only(False, "an encoder reads the whole text"), False),
    Setting("add_cross_attention", _only(False, "there is no second sequence to attend to"), False),
)
XLNET_SETTINGS = (
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
        "attn_type", _only("bi", "'uni' is Transformer-XL, which predicts the next token"), "bi"
    ),
    Setting("bi_data", _only(False, "it reads every second row backwards, for pretraining"), False),
    Setting("same_length", _only(False, "it cuts the attention of causal models"), False),
    Setting("use_mems_train", _only(False, "examples are independent, without memory"), False),
    Setting("untie_r", _only(True, "the biases of layers are separate"), True),
    Setting(
        "summary_type", _only("last", "heads read the CLS token, which ends an example"), "last"
    ),
    Setting("summary_use_proj", _only(True), True),
    Setting("summary_activation", _only("tanh"), "tanh"),
)


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
    if settings.get("classifier_dropout") is None:
        dropout = settings.get("hidden_dropout_prob", 0.1)
        settings = {**settings, "classifier_dropout": dropout}
    fields, conflicts = _read_fields(BERT_SETTINGS, settings, where)
    after_padding = FAMILIES[fields["family"]].positions == "after_padding"
    offset = fields["pad_token_id"] + 1 if after_padding else 0
    if offset >= fields["max_position_embeddings"]:
        conflicts.append("max_position_embeddings leaves no position behind the padding id")
    _refuse(conflicts, where)
    return AbsoluteConfig(**fields, position_offset=offset)


def read_xlnet(settings: Mapping[str, Any], where: str) -> XLNetConfig:
    """Return the config of an XLNet from config.json; raise as `read_absolute` does.

    mem_len and reuse_len are ignored: there is no memory.
    """
    fields, conflicts = _read_fields(XLNET_SETTINGS, settings, where)
    head_size = settings.get("d_head")
    if head_size not in (None, fields["hidden_size"] // fields["num_heads"]):
        conflicts.append(f"d_head {head_size} has to be d_model / n_head")
    _refuse(conflicts, where)
    return XLNetConfig(**fields)


def _read_fields(
    table: Sequence[Setting], settings: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of an EncoderConfig, and a line for each conflict between them.

    Raises:
      ConfigError: settings are invalid; lists all of them.
    """
    fields: dict[str, Any] = {"family": settings["model_type"]}
    values = {setting.key: setting.default for setting in table} | dict(settings)
    if values["pad_token_id"] is None:
        values["pad_token_id"] = FAMILIES[fields["family"]].pad_token_id
    invalid = [
        f"{key} has to be {valid}, not {values[key]!r}"
        for key, (valid, is_valid), _, _ in table
        if not is_valid(values[key])
    ]
    _refuse(invalid, where)
    keys: dict[str, str] = {}
    for key, rule, _, names in table:
        value = float(values[key]) if rule in (RATE, POSITIVE) else values[key]
        fields |= dict.fromkeys(names, value)
        keys |= dict.fromkeys(names, key)
    conflicts = []
    if fields["hidden_size"] % fields["num_heads"]:
        conflicts.append(f"{keys['hidden_size']} has to be a multiple of {keys['num_heads']}")
    if fields["pad_token_id"] >= fields["vocab_size"]:
        conflicts.append(f"pad_token_id {fields['pad_token_id']} is not a row of the vocabulary")
    return fields, conflicts


def _refuse(problems: Sequence[str], where: str) -> None:
    """Raise a ConfigError if config.json has problems."""
    if problems:
        raise ConfigError(
            "this encoder cannot be built",
            where=where,
            details=problems,
            hint="use a checkpoint of a supported architecture, or correct its config.json.",
        )
