"""Model families: code of each architecture; `flaxfer.data.families` lists the families."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flaxfer.data import families
from flaxfer.data.model_folder import check_family
from flaxfer.models import bert, embedding, names, roberta, xlnet
from flaxfer.models.encoders import EncoderConfig, read_absolute, read_xlnet
from flaxfer.models.names import Names


@dataclasses.dataclass(frozen=True)
class Head:
    """A head and the names of its arrays in checkpoints.

    Attributes:
      module: called with `(config, num_outputs, *, rngs)`; the module maps hidden states
        (B, X, D) and a dropout key to logits.
      pretrained_names: names of the pretrained parts, without the family's prefix.
      names: names of the rest, which never have the prefix.
      reads_every_token: whether the head reads all tokens instead of the CLS tokens.
      reads_means: whether it reads the mean of all tokens of each sequence instead.
    """

    module: Callable[..., Any]
    pretrained_names: Names
    names: Names
    reads_every_token: bool = False
    reads_means: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """The code of a family of encoders.

    Attributes:
      read_config: maps config.json and its path to an EncoderConfig.
      encoder: called with `(config, *, rngs)`; see `flaxfer.models.bert.Encoder`.
      encoder_names: names in checkpoints, without the prefix.
      heads: heads by name, see `flaxfer.models.spec.EncoderModel`.
      unread_names: vectors that only pretraining reads, without the prefix; skipped at loading and
        written as zeros, (1, 1, D).
      prefix: prefix of the encoder's weights in checkpoints of whole models.
    """

    read_config: Callable[[Mapping[str, Any], str], EncoderConfig]
    encoder: Callable[..., Any]
    encoder_names: Names
    heads: Mapping[str, Head]
    unread_names: tuple[str, ...] = ()
    prefix: str = ""


_TOKEN = Head(bert.TokenHead, (), names.CLASSIFIER, reads_every_token=True)
_SPAN = Head(bert.projection_head, (), names.SPAN, reads_every_token=True)
_POOLED = Head(bert.PoolerHead, names.POOLER, names.CLASSIFIER)
_SUMMARY = Head(xlnet.SummaryHead, (), names.SUMMARY)
_EMBEDDINGS = {
    "cls_embedding": Head(embedding.EmbeddingHead, (), names.SCALE),
    "pooler_embedding": Head(embedding.PooledEmbeddingHead, names.POOLER, names.SCALE),
    "mean_embedding": Head(
        embedding.EmbeddingHead, (), names.SCALE, reads_every_token=True, reads_means=True
    ),
}

_BERT = Family(
    read_config=read_absolute,
    encoder=bert.Encoder,
    encoder_names=names.BERT,
    heads={
        "sequence": _POOLED,
        "token": _TOKEN,
        "span": _SPAN,
        "choice": _POOLED,
        **_EMBEDDINGS,
    },
)
ARCHITECTURES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": dataclasses.replace(
        _BERT,
        heads={
            "sequence": Head(roberta.DenseHead, (), names.DENSE),
            "token": _TOKEN,
            "span": _SPAN,
            "choice": Head(roberta.choice_head, names.POOLER, names.CLASSIFIER),
            **_EMBEDDINGS,
        },
    ),
    "xlnet": Family(
        read_config=read_xlnet,
        encoder=xlnet.Encoder,
        encoder_names=names.XLNET,
        heads={
            "sequence": _SUMMARY,
            "token": Head(bert.projection_head, (), names.CLASSIFIER, reads_every_token=True),
            "span": _SPAN,
            "choice": _SUMMARY,
            **_EMBEDDINGS,
            "pooler_embedding": Head(
                embedding.PooledEmbeddingHead, (), names.SUMMARY_POOLER + names.SCALE
            ),
        },
        unread_names=("mask_emb",),
    ),
}

FAMILIES: dict[str, Family] = {
    name: dataclasses.replace(ARCHITECTURES[facts.architecture], prefix=facts.prefix)
    for name, facts in families.FAMILIES.items()
}
"""Families by the `model_type` of config.json."""


def read_config(settings: Mapping[str, Any], where: str = "config.json") -> EncoderConfig:
    """Return the config of an encoder from a Hugging Face config.json.

    Args:
      settings: content of the file.
      where: its path, for error messages.

    Raises:
      ConfigError: the family or one of its settings is not implemented.
    """
    check_family(settings, where)
    return FAMILIES[settings["model_type"]].read_config(settings, where)
