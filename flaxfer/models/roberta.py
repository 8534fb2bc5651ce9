"""Heads of RoBERTa, XLM-R and CamemBERT (Liu et al. 2019, Conneau et al. 2020, Martin et al. 2020).

The encoder is BERT's, with positions that start behind the padding id.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.bert import PoolerHead
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.layers import Keys, Linear
from flaxfer.models.ops import dropout, dropout_site


class DenseHead(nnx.Module):
    """A head for CLS tokens: dropout, a tanh layer, dropout, a projection; none is pretrained."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: Keys):
        width, std = (config.hidden_size,), config.initializer_range
        self.dense = Linear(width, width, std=std, rngs=rngs)
        self.output = Linear(width, (num_outputs,), std=std, rngs=rngs)
        self.rate = config.classifier_dropout

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return logits, (B, E, C) in the dtype of the input."""
        x_BED = dropout(x_BED, self.rate, dropout_site(dropout_key, 0))
        x_BED = jnp.tanh(self.dense(x_BED))
        return self.output(dropout(x_BED, self.rate, dropout_site(dropout_key, 1)))


def choice_head(config: EncoderConfig, num_outputs: int, *, rngs: Keys) -> PoolerHead:
    """Return BERT's head with the encoder's dropout rate, as in `RobertaForMultipleChoice`."""
    config = dataclasses.replace(config, classifier_dropout=config.hidden_dropout)
    return PoolerHead(config, num_outputs, rngs=rngs)
