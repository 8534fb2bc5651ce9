"""The table of model families: a new one is a module of its own and a row here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flaxfer.errors import ConfigError
from flaxfer.models import bert, roberta, xlnet
from flaxfer.models.encoders import EncoderConfig

Names = tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Head:
    """What a task's predictions are made by, and what checkpoints call its arrays.

    Attributes:
      module: made by `(config, num_outputs, *, rngs)`; called with the outputs that it reads,
        (B, X, D), and a dropout key.
      pretrained_names: checkpoint name without the family's prefix, parameter path and layout of
        the parts that pretraining has trained.
      names: likewise for the rest of the head; these names never have the prefix.
      reads_every_token: instead of the CLS tokens alone.
    """

    module: Callable[..., Any]
    pretrained_names: Names
    names: Names
    reads_every_token: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets one family apart.

    Attributes:
      read_config: config.json and its path -> EncoderConfig.
      encoder: module, made by `(config, *, rngs)`; called as `flaxfer.models.bert.Encoder` is.
      prefix: what the names of the encoder's weights start with in checkpoints of whole models.
      encoder_names: checkpoint name without the prefix, parameter path, layout of the array.
      unread_names: vectors that pretraining alone reads, likewise without the prefix; they are
        left out at loading, and are zeros, (1, 1, D), in a checkpoint that is written.
      heads: `sequence`, `token`, `span` and `choice`; see `flaxfer.models.heads.EncoderModel`.
    """

    read_config: Callable[[Mapping[str, Any], str], EncoderConfig]
    encoder: Callable[..., Any]
    prefix: str
    encoder_names: Names
    heads: Mapping[str, Head]
    unread_names: tuple[str, ...] = ()


_TOKEN = Head(bert.TokenHead, (), bert.CLASSIFIER_NAMES, reads_every_token=True)
_SPAN = Head(bert.ProjectionHead, (), bert.SPAN_NAMES, reads_every_token=True)
_POOLED = Head(bert.PoolerHead, bert.POOLER_NAMES, bert.CLASSIFIER_NAMES)

BERT = Family(
    read_config=bert.read_config,
    encoder=bert.Encoder,
    prefix="bert.",
    encoder_names=bert.ENCODER_NAMES,
    heads={"sequence": _POOLED, "token": _TOKEN, "span": _SPAN, "choice": _POOLED},
)
ROBERTA = Family(
    read_config=roberta.read_config,
    encoder=bert.Encoder,
    prefix="roberta.",
    encoder_names=bert.ENCODER_NAMES,
    heads={
        "sequence": Head(roberta.DenseHead, (), roberta.CLASSIFIER_NAMES),
        "token": _TOKEN,
        "span": _SPAN,
        "choice": Head(roberta.ChoiceHead, bert.POOLER_NAMES, bert.CLASSIFIER_NAMES),
    },
)

_SUMMARY = Head(xlnet.SummaryHead, (), xlnet.SUMMARY_NAMES)
XLNET = Family(
    read_config=xlnet.read_config,
    encoder=xlnet.Encoder,
    prefix="transformer.",
    encoder_names=xlnet.ENCODER_NAMES,
    heads={
        "sequence": _SUMMARY,
        "token": Head(bert.ProjectionHead, (), bert.CLASSIFIER_NAMES, reads_every_token=True),
        "span": _SPAN,
        "choice": _SUMMARY,
    },
    unread_names=("mask_emb",),
)

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "ernie": dataclasses.replace(BERT, prefix="ernie."),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "data2vec-text": dataclasses.replace(ROBERTA, prefix="data2vec_text."),
    "xlnet": XLNET,
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
            hint=f"use a checkpoint of one of these: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[model_type].read_config(settings, where)
