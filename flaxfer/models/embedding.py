"""Heads that embed sequences: vectors whose dot products are scaled cosines."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.layers import Bias, Keys, Linear


class EmbeddingHead(nnx.Module):
    """A head for vectors of sequences: scaled to one length, without dropout.

    The length is exp(log_scale / 2), so the dot product of two embeddings is their cosine times
    exp(log_scale), a logit of a contrastive loss. The scale is trained by its logarithm, as in CLIP
    (Radford et al. 2021, arXiv 2103.00020), and starts at 1. As a bias, it does not decay.
    """

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: Keys):
        self.log_scale = Bias((1,), std=0.0, rngs=rngs)

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return embeddings, (B, E, D) in the dtype of the input."""
        square_BE1 = jnp.square(x_BED).sum(axis=-1, keepdims=True)
        # The bound keeps the gradient of a zero vector, such as of an empty slot, finite.
        unit_BED = x_BED * jax.lax.rsqrt(jnp.maximum(square_BE1, 1e-24))
        return unit_BED * jnp.exp(self.log_scale.bias[...] / 2)


class PooledEmbeddingHead(EmbeddingHead):
    """The same after BERT's pooler, a tanh layer that is pretrained."""

    def __init__(self, config: EncoderConfig, num_outputs: int, *, rngs: Keys):
        super().__init__(config, num_outputs, rngs=rngs)
        width = (config.hidden_size,)
        self.pooler = Linear(width, width, std=config.initializer_range, rngs=rngs)

    def __call__(self, x_BED: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return embeddings, (B, E, D) in the dtype of the input."""
        return super().__call__(jnp.tanh(self.pooler(x_BED)), dropout_key)


def sequence_means(x_BTD: jax.Array, segment_BT: jax.Array, slots: int) -> jax.Array:
    """Return the mean of the tokens of each sequence, special tokens included.

    Args:
      x_BTD: hidden states, float32.
      segment_BT: number of each token's sequence in its row from 1, 0 for padding.
      slots: number of slots for sequences, E.

    Returns:
      float32 (B, E, D), zeros for empty slots.
    """
    member_BET = segment_BT[:, None] == 1 + jnp.arange(slots)[:, None]
    size_BE1 = jnp.maximum(member_BET.sum(axis=-1, keepdims=True), 1)
    total_BED = jnp.einsum(
        "BET,BTD->BED", member_BET.astype(x_BTD.dtype), x_BTD, precision="highest"
    )
    return total_BED / size_BE1
