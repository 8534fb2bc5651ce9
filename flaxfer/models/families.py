"""The table of model families: a new one is a module of its own and a row here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flaxfer.errors import ConfigError
from flaxfer.models import bert, roberta
from flaxfer.models.encoders import EncoderConfig

Names = tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets one family apart.

    Attributes:
      read_config: config.json and its path -> EncoderConfig.
      encoder: module, made by `(config, *, rngs)`; called as `flaxfer.models.bert.Encoder` is.
      head: module, made by `(config, num_outputs, *, rngs)`; called with `(x_BED, dropout_key)`.
      prefix: what the names of the encoder's weights start with in checkpoints of whole models.
      encoder_names: checkpoint name without the prefix, parameter path, layout of the array.
      pretrained_head_names: likewise, for parts of the head that pretraining has trained.
      classifier_names: for the rest of the head; these names never have the prefix.
    """

    read_config: Callable[[Mapping[str, Any], str], EncoderConfig]
    encoder: Callable[..., Any]
    head: Callable[..., Any]
    prefix: str
    encoder_names: Names
    pretrained_head_names: Names
    classifier_names: Names


BERT = Family(
    read_config=bert.read_config,
    encoder=bert.Encoder,
    head=bert.PoolerHead,
    prefix="bert.",
    encoder_names=bert.ENCODER_NAMES,
    pretrained_head_names=bert.POOLER_NAMES,
    classifier_names=bert.CLASSIFIER_NAMES,
)
ROBERTA = Family(
    read_config=roberta.read_config,
    encoder=bert.Encoder,
    head=roberta.DenseHead,
    prefix="roberta.",
    encoder_names=bert.ENCODER_NAMES,
    pretrained_head_names=(),
    classifier_names=roberta.CLASSIFIER_NAMES,
)

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
}
"""By the `model_type` of config.json."""


def read_config(settings: Mapping[str, Any], where: str = "config.json") -> EncoderConfig:
    """The config of an encoder from the contents of a Hugging Face config.json.

    Args:
      settings: what the file holds.
      where: its path, for error messages.

    Raises:
      ConfigError: the family or one of its settings is not implemented; the message names it.
    """
    model_type = settings.get("model_type")
    if model_type not in tuple(FAMILIES):
        raise ConfigError(
            f"model_type {model_type!r} is not implemented",
            where=where,
            mend=f"use a checkpoint of one of these: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[model_type].read_config(settings, where)
