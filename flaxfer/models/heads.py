"""An encoder with a head that classifies, or scores, each example of a packed row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import dropout_site


class SequenceClassifier(nnx.Module):
    """Encoder and head of the family that the config names.

    All its state is `nnx.Param`, float32. A regression has one output.
    """

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: nnx.Rngs):
        family = FAMILIES[config.family]
        self.encoder = family.encoder(config, rngs=rngs)
        self.head = family.head(config, num_outputs, rngs=rngs)

    def __call__(
        self,
        token_BT: jax.Array,
        type_BT: jax.Array,
        position_BT: jax.Array,
        segment_BT: jax.Array,
        summary_BE: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        dtype: Any = jnp.float32,
    ) -> jax.Array:
        """Logits, float32 (B, E, C), one row of them for each summary token.

        Args:
          token_BT: int32, rows of the vocabulary; padding has any.
          type_BT: int32, which text of a pair a token belongs to.
          position_BT: int32, from 0 within each example, whatever the family.
          segment_BT: int32, the number of the example within its row from 1 on; 0 for padding.
          summary_BE: int32, where in the row each example's summary token is; any token of the
            row for slots without an example, whose logits mean nothing.
          dropout_key: of this step; None for no dropout.
          dtype: float32 or bfloat16, of the encoder's matrix products; the head's are float32.
        """
        x_BED = self.encoder(
            token_BT,
            type_BT,
            position_BT,
            segment_BT,
            summary_BE=summary_BE,
            dropout_key=dropout_site(dropout_key, 0),
            dtype=dtype,
        )
        return self.head(x_BED.astype(jnp.float32), dropout_site(dropout_key, 1))
