"""What a batch's predictions cost, for every kind of task.

Each loss is the one that transformers' class for the task computes. It comes as a sum and the
number that a mean is taken over, so that micro-batches add up to the batch they are parts of.

Axes: B rows, T tokens, E sequences a row, C classes, U examples of multiple choice in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from flaxfer.config import Task

IMPOSSIBLE = -1e30
"""Score of what must not count; finite, so that no gradient becomes NaN."""

Sum = tuple[jax.Array, jax.Array]


def loss_sum(
    task: Task, label_smoothing: float, logits: jax.Array, batch: Mapping[str, jax.Array]
) -> Sum:
    """The sum of the losses of a batch, and how many they are; both () float32.

    Args:
      task: what is predicted.
      label_smoothing: share of the target's probability spread over all classes.
      logits: float32 (B, E, C), or (B, T, C) where tokens are classified.
      batch: of `packing.build_rows`.
    """
    if task.kind == "tagging":
        label_BT = batch["label_BT"]
        loss_BT = _cross_entropy(logits, jnp.maximum(label_BT, 0), label_smoothing)
        counted_BT = (label_BT >= 0).astype(jnp.float32)
        return jnp.sum(loss_BT * counted_BT), jnp.sum(counted_BT)
    if task.kind == "question_answering":
        return _span_loss(logits, batch)
    if task.kind == "multiple_choice":
        return _choice_loss(logits[..., 0], batch)
    label_BE, mask_BE = batch["label_BE"], batch["mask_BE"]
    if task.kind == "regression":
        loss_BE = jnp.square(logits[..., 0] - label_BE)
    else:
        loss_BE = _cross_entropy(logits, label_BE, label_smoothing)
    return jnp.sum(loss_BE * mask_BE), jnp.sum(mask_BE)


def _cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Of logits (..., C) with classes (...)."""
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target)


def _span_loss(logits_BTC: jax.Array, batch: Mapping[str, jax.Array]) -> Sum:
    """Mean cross-entropy of first and last token over the tokens of each sequence.

    transformers' softmax runs over padding too; without padding the two are the same.
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
    # Where there is no sequence the difference is astronomic, and a product would lose the rest.
    return jnp.sum(jnp.where(mask_BE > 0, (first_BE + last_BE) / 2, 0)), jnp.sum(mask_BE)


def _choice_loss(score_BE: jax.Array, batch: Mapping[str, jax.Array]) -> Sum:
    """Cross-entropy over the choices of each example, in whatever rows they lie."""
    counted, right = batch["mask_BE"].ravel() > 0, batch["label_BE"].ravel() > 0
    unit, size = batch["unit_BE"].ravel(), counted.size
    score = jnp.where(counted, score_BE.ravel(), IMPOSSIBLE)
    largest_U = jax.lax.stop_gradient(jax.ops.segment_max(score, unit, size))
    below = score - largest_U[unit]
    normaliser_U = jnp.log(jax.ops.segment_sum(jnp.exp(below), unit, size))
    loss = jnp.where(right, normaliser_U[unit] - below, 0)
    return jnp.sum(loss), jnp.sum(right.astype(jnp.float32))
