"""An encoder with the head of a task over packed rows."""

from __future__ import annotations

import jax
from flax import nnx

from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import Execution, dropout_site


class EncoderModel(nnx.Module):
    """Encoder and head of the family that the config names.

    All its state is `nnx.Param`, float32.

    Args:
      config: of the encoder.
      head: `sequence` scores the classes of each example, `choice` each example as one of several
        answers, `token` the tags of each token, `span` each token as first and as last of an
        answer.
      num_outputs: of the head. A regression has one, as `choice` has; `span` has two.
      rngs: for fresh parameters.
    """

    def __init__(self, config: EncoderConfig, head: str, num_outputs: int, *, rngs: nnx.Rngs):
        family = FAMILIES[config.family]
        self.encoder = family.encoder(config, rngs=rngs)
        self.head = family.heads[head].module(config, num_outputs, rngs=rngs)
        self.reads_every_token = family.heads[head].reads_every_token

    def __call__(
        self,
        token_BT: jax.Array,
        type_BT: jax.Array,
        position_BT: jax.Array,
        segment_BT: jax.Array,
        cls_BE: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """Logits, float32: (B, E, C) for each CLS token, or (B, T, C) for each token.

        Args:
          token_BT: int32, rows of the vocabulary; padding has any.
          type_BT: int32, which text of a pair a token belongs to.
          position_BT: int32, from 0 within each example, whatever the family.
          segment_BT: int32, the number of the example within its row from 1 on; 0 for padding.
          cls_BE: int32, where in the row each example's CLS token is; any token of the
            row for slots without an example, whose logits mean nothing. The heads `token` and
            `span` do not read it; their logits of padding mean nothing.
          dropout_key: of this step; None for no dropout.
          execution: how the layers compute; the head computes in float32.
        """
        x_BXD = self.encoder(
            token_BT,
            type_BT,
            position_BT,
            segment_BT,
            cls_BE=None if self.reads_every_token else cls_BE,
            dropout_key=dropout_site(dropout_key, 0),
            execution=execution,
        )
        return self.head(x_BXD, dropout_site(dropout_key, 1))
