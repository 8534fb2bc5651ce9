"""RoBERTa, XLM-R and CamemBERT (Liu et al. 2019, Conneau et al. 2020, Martin et al. 2020).

The encoder is BERT's with positions that start behind the padding id; the head is that of
transformers' `RobertaForSequenceClassification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.bert import PoolerHead
from flaxfer.models.encoders import AbsoluteConfig, EncoderConfig, read_absolute
from flaxfer.models.layers import Linear, dropout, dropout_site

CLASSIFIER_NAMES = (
    ("classifier.dense.weight", "head/dense/kernel", "kernel"),
    ("classifier.dense.bias", "head/dense/bias", "vector"),
    ("classifier.out_proj.weight", "head/output/kernel", "kernel"),
    ("classifier.out_proj.bias", "head/output/bias", "vector"),
)


def read_config(settings: Mapping[str, Any], where: str) -> AbsoluteConfig:
    """The config of a RoBERTa from config.json; raises ConfigError as `read_absolute` does."""
    return read_absolute(settings, where, pad_token_id=1, offset_by_padding=True)


class DenseHead(nnx.Module):
    """RoBERTa's head: dropout, a tanh layer, dropout, projection; none of it is pretrained."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        width, std = (config.hidden_size,), config.initializer_range
        self.dense = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Logits, (B, E, C) in the dtype of the CLS tokens' outputs."""
        x_BED = dropout(x_BED, self.rate, dropout_site(dropout_key, 0))
        x_BED = jnp.tanh(self.dense(x_BED))
        return self.output(dropout(x_BED, self.rate, dropout_site(dropout_key, 1)))


class ChoiceHead(PoolerHead):
    """BERT's pooler and projection, but the encoder's dropout rate between them.

    `RobertaForMultipleChoice` reads hidden_dropout_prob where `BertForMultipleChoice` reads
    classifier_dropout.
    """

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        super().__init__(config, num_outputs, rngs=rngs)
        self.rate = config.hidden_dropout
