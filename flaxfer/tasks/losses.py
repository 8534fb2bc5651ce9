"""Losses of the task types, the same as those of transformers' model classes.

Each is a sum and the number of its terms, so that micro-batches add up to their batch.

Axes: B rows, T tokens, E sequences per row, C classes, U examples of multiple choice in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

IMPOSSIBLE = -1e30
"""Score of excluded positions; finite, so that no gradient becomes NaN."""

Arrays: TypeAlias = Mapping[str, jax.Array]
Sum: TypeAlias = tuple[jax.Array, jax.Array]


def class_loss(logits_BEC: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
    """Return the cross-entropy of the class of each sequence."""
    loss_BE = _cross_entropy(logits_BEC, batch["label_BE"], label_smoothing)
    return masked_sum(loss_BE, batch["mask_BE"])


def score_loss(logits_BEC: jax.Array, batch: Arrays) -> Sum:
    """Return the squared error of the score of each sequence."""
    return masked_sum(jnp.square(logits_BEC[..., 0] - batch["label_BE"]), batch["mask_BE"])


def tag_loss(logits_BTC: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
    """Return the cross-entropy of the tag of each word."""
    label_BT = batch["label_BT"]
    loss_BT = _cross_entropy(logits_BTC, jnp.maximum(label_BT, 0), label_smoothing)
    return masked_sum(loss_BT, (label_BT >= 0).astype(jnp.float32))


def span_loss(logits_BTC: jax.Array, batch: Arrays) -> Sum:
    """Return the mean cross-entropy of the first and last token over each sequence's tokens.

    The softmax of transformers includes padding; without padding both are the same.
    """
    slot_E = 1 + jnp.arange(batch["mask_BE"].shape[1])
    inside_BET = batch["segment_BT"][:, None, :] == slot_E[:, None]

    def loss_BE(logit_BT: jax.Array, place_BE: jax.Array) -> jax.Array:
        logit_BET = jnp.where(inside_BET, logit_BT[:, None, :], IMPOSSIBLE)
        right_BE = jnp.take_along_axis(logit_BT, place_BE, axis=1)
        return jax.nn.logsumexp(logit_BET, axis=-1) - right_BE

    first_BE = loss_BE(logits_BTC[..., 0], batch["start_BE"])
    last_BE = loss_BE(logits_BTC[..., 1], batch["end_BE"])
    mask_BE = batch["mask_BE"]
    # Without a sequence the difference is huge, and a product with 0 could lose the rest.
    return jnp.sum(jnp.where(mask_BE > 0, (first_BE + last_BE) / 2, 0)), jnp.sum(mask_BE)


def choice_loss(score_BE: jax.Array, batch: Arrays) -> Sum:
    """Return the cross-entropy over the choices of each example, whatever rows they are in."""
    counted, right = batch["mask_BE"].ravel() > 0, batch["label_BE"].ravel() > 0
    unit, size = batch["unit_BE"].ravel(), counted.size
    score = jnp.where(counted, score_BE.ravel(), IMPOSSIBLE)
    largest_U = jax.lax.stop_gradient(jax.ops.segment_max(score, unit, size))
    below = score - largest_U[unit]
    normaliser_U = jnp.log(jax.ops.segment_sum(jnp.exp(below), unit, size))
    loss = jnp.where(right, normaliser_U[unit] - below, 0)
    return jnp.sum(loss), jnp.sum(right.astype(jnp.float32))


def masked_sum(loss: jax.Array, mask: jax.Array) -> Sum:
    """Return the sum of the losses where the float32 `mask` is 1, and their number."""
    return jnp.sum(loss * mask), jnp.sum(mask)


def _cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Return the losses of logits (..., C) with classes (...)."""
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target)
