"""Losses of the task types, the same as those of transformers' model classes.

Each is a sum and the number of its terms, so that micro-batches add up to their batch.

Axes: B rows, T tokens, E sequences per row, C classes, U examples of multiple choice in the batch,
D width of embeddings, P right passages of a query, S all slots of the batch.
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


def contrastive_loss(
    embedding: jax.Array, batch: Arrays, symmetric: bool, margin: float = 0.0
) -> Sum:
    """Return the cross-entropy of each query over the passages of the batch, or its triplet loss.

    The logits are dot products. Every passage is in the batch once, however many queries it is
    right for; the other right passages of a query are left out of its softmax, and are no wrong
    ones of a triplet.

    Args:
      embedding: float32 (..., B, E, D).
      batch: `query_BE`, float32, 1 for a query, and `passage_BEP`, int32: the numbers of the right
        passages of a query, the one to learn first, or the number of a passage; -1 for none. They
        may have leading axes, as `embedding`.
      symmetric: whether the loss is the mean of this and the cross-entropy of each passage over
        the queries, without other queries that it is right for (CLIP, Radford et al. 2021).
      margin: if above 0, the loss of a query is by how much the dot product with its passage is not
        larger by this margin than the largest one with a wrong passage (Schroff et al. 2015, arXiv
        1503.03832, with the hardest negative of the batch); 0 without a wrong passage.
    """
    vector_SD = embedding.reshape(-1, embedding.shape[-1])
    passage_SP = batch["passage_BEP"].reshape(len(vector_SD), -1)
    query_S, first_S = batch["query_BE"].ravel() > 0, passage_SP[:, 0]
    passage_S = ~query_S & (first_S >= 0)
    # Rows are queries, and columns passages.
    logit_SS = jnp.matmul(vector_SD, vector_SD.T, precision="highest")
    right_SS = (first_S[:, None] == first_S) & passage_S
    other_SS = (passage_SP[:, :, None] == first_S).any(axis=1) & ~right_SS

    def losses(logit_SS: jax.Array, own_SS: jax.Array, wrong_SS: jax.Array) -> jax.Array:
        if margin:
            hardest_S = jnp.where(wrong_SS, logit_SS, IMPOSSIBLE).max(axis=-1)
            return jax.nn.relu(margin + hardest_S - right_S)
        counted_SS = jnp.where(own_SS | wrong_SS, logit_SS, IMPOSSIBLE)
        return jax.nn.logsumexp(counted_SS, axis=-1) - right_S

    right_S = jnp.sum(jnp.where(right_SS, logit_SS, 0), axis=-1)
    loss_S = losses(logit_SS, right_SS, passage_S & ~right_SS & ~other_SS)
    if symmetric:
        place_S = right_SS.argmax(axis=1)  # Row i has the similarities to the passage of query i.
        shared_SS = (right_SS | other_SS).T[place_S]
        own_SS = jnp.eye(len(vector_SD), dtype=bool)
        loss_S = (loss_S + losses(logit_SS.T[place_S], own_SS, query_S & ~shared_SS)) / 2
    return jnp.sum(jnp.where(query_S, loss_S, 0)), jnp.sum(query_S.astype(jnp.float32))


def masked_sum(loss: jax.Array, mask: jax.Array) -> Sum:
    """Return the sum of the losses where the float32 `mask` is 1, and their number."""
    return jnp.sum(loss * mask), jnp.sum(mask)


def _cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Return the losses of logits (..., C) with classes (...)."""
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target)
