"""An encoder with the head of a task over packed rows."""

from __future__ import annotations

import jax
from flax import nnx

from flaxfer.models.encoders import Batch, EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import Execution
from flaxfer.models.ops import dropout_site


class EncoderModel(nnx.Module):
    """Encoder and head of the family that the config names.

    All state is `nnx.Param`, float32.

    Args:
      config: config of the encoder.
      head: `sequence` scores the classes of each example, `choice` each example as one of several
        answers, `token` the tags of each token, `span` each token as first and last of an answer.
      num_outputs: outputs of the head: one for regression and `choice`, two for `span`.
      rngs: for new parameters.
    """

    def __init__(self, config: EncoderConfig, head: str, num_outputs: int, *, rngs: nnx.Rngs):
        family = FAMILIES[config.family]
        self.encoder = family.encoder(config, rngs=rngs)
        self.head = family.heads[head].module(config, num_outputs, rngs=rngs)
        self.reads_every_token = family.heads[head].reads_every_token

    def __call__(
        self,
        batch: Batch,
        *,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """Return logits, float32: (B, E, C) for each CLS token, or (B, T, C) for each token.

        Args:
          batch: packed rows, and for heads of CLS tokens `cls_BE`, int32: the place of each
            example's CLS token in its row; any for slots without an example. The logits of such
            slots, and of padding, are meaningless.
          dropout_key: dropout key of the step; None for no dropout.
          execution: how the layers compute; the head computes in float32.
        """
        x_BXD = self.encoder(
            batch,
            cls_BE=None if self.reads_every_token else batch["cls_BE"],
            dropout_key=dropout_site(dropout_key, 0),
            execution=execution,
        )
        return self.head(x_BXD, dropout_site(dropout_key, 1))
