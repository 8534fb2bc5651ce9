"""Losses of every kind of task, in float64 and one prediction at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from flaxfer.config import Task
from flaxfer.tasks import task_type

SCORE = Task("score", "regression", "pearson")
TOPIC = Task("topic", "classification", "accuracy", ("low", "mid", "high"))
NAMES = Task("names", "tagging", "f1", ("O", "B-PER", "I-PER"))
ANSWER = Task("answer", "question_answering", "f1")
CHOICE = Task("choice", "multiple_choice", "accuracy")

MASK_BE = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
SEGMENT_BT = np.array([[1, 1, 2, 2, 2, 3, 0], [1, 1, 1, 1, 2, 2, 2]], np.int32)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=3, size=shape).astype(np.float32)


def check(task: Task, logits: np.ndarray, batch: dict[str, Any], losses: list[float]) -> None:
    """The sum and the number of losses, and a gradient that is finite everywhere."""
    total, count = task_type(task).loss(task, jnp.array(logits), batch, 0.0)
    np.testing.assert_allclose(total, sum(losses), rtol=2e-6)
    assert count == len(losses)
    gradient = jax.grad(lambda x: task_type(task).loss(task, x, batch, 0.0)[0])(jnp.array(logits))
    assert np.isfinite(gradient).all()
    # What is not there moves nothing.
    if "label_BT" not in batch:
        outside = (SEGMENT_BT == 0) if logits.shape[1] == SEGMENT_BT.shape[1] else MASK_BE == 0
        assert not np.asarray(gradient)[outside].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classification(smoothing: float) -> None:
    logits_BEC, label_BE = random(2, 3, 3), np.array([[0, 1, 2], [2, 1, 0]], np.int32)
    log_p_BEC = log_softmax(logits_BEC.astype(np.float64), axis=-1)
    chosen_BE = np.take_along_axis(log_p_BEC, label_BE[..., None], axis=-1)[..., 0]
    loss_BE = -((1 - smoothing) * chosen_BE + smoothing * log_p_BEC.mean(axis=-1))
    batch = {"label_BE": label_BE, "mask_BE": MASK_BE}
    total, count = task_type(TOPIC).loss(TOPIC, jnp.array(logits_BEC), batch, smoothing)
    np.testing.assert_allclose(total, (loss_BE * MASK_BE).sum(), rtol=2e-6)
    assert count == 5


def test_regression() -> None:
    logits_BEC = np.array([[[1.0], [-2.0], [0.0]], [[0.5], [4.0], [9.0]]], np.float32)
    label_BE = np.array([[3.0, -2.0, 1.0], [0.0, 5.0, 0.0]], np.float32)
    batch = {"label_BE": label_BE, "mask_BE": MASK_BE}
    check(SCORE, logits_BEC, batch, [4.0, 0.0, 1.0, 0.25, 1.0])


def test_tagging_counts_the_tokens_with_a_label() -> None:
    logits_BTC = random(2, 7, 3)
    label_BT = np.array([[-1, 2, 0, -1, 1, -1, -1], [-1, 1, -1, 1, -1, -1, 0]], np.int32)
    log_p_BTC = log_softmax(logits_BTC.astype(np.float64), axis=-1)
    losses = [-log_p_BTC[b, t, label_BT[b, t]] for b, t in np.argwhere(label_BT >= 0)]
    check(NAMES, logits_BTC, {"label_BT": label_BT, "mask_BE": MASK_BE}, losses)


def test_an_answer_is_looked_for_in_its_own_sequence() -> None:
    logits_BTC = random(2, 7, 2)
    start_BE = np.array([[0, 2, 5], [1, 4, 0]], np.int32)
    end_BE = np.array([[1, 4, 5], [3, 4, 0]], np.int32)
    losses = []
    for b, e in np.argwhere(MASK_BE):
        place = np.flatnonzero(SEGMENT_BT[b] == e + 1)
        first, last = log_softmax(logits_BTC[b, place].astype(np.float64), axis=0).T
        start, end = (int(x[b, e] - place[0]) for x in (start_BE, end_BE))
        losses.append(-(first[start] + last[end]) / 2)
    batch = {
        "segment_BT": SEGMENT_BT,
        "mask_BE": MASK_BE,
        "start_BE": start_BE,
        "end_BE": end_BE,
    }
    check(ANSWER, logits_BTC, batch, losses)


def test_the_choices_of_an_example_may_lie_in_different_rows() -> None:
    logits_BEC = random(2, 3, 1)
    unit_BE = np.array([[0, 1, 0], [1, 1, 0]], np.int32)  # Two choices, and three.
    label_BE = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    batch = {"label_BE": label_BE, "mask_BE": MASK_BE, "unit_BE": unit_BE}
    losses = []
    for unit in (0, 1):
        places = np.argwhere((unit_BE == unit) & (MASK_BE > 0))
        log_p = log_softmax([np.float64(logits_BEC[b, e, 0]) for b, e in places])
        right = [label_BE[b, e] for b, e in places].index(1)
        losses.append(-log_p[right])
    check(CHOICE, logits_BEC, batch, losses)


def test_scores_of_choices_may_be_huge() -> None:
    logits_BEC = np.full((1, 2, 1), 3e4, np.float32)
    logits_BEC[0, 1] -= 1.0
    batch = {
        "label_BE": np.array([[0, 1]], np.float32),
        "mask_BE": np.ones((1, 2), np.float32),
        "unit_BE": np.zeros((1, 2), np.int32),
    }
    total, _ = task_type(CHOICE).loss(CHOICE, jnp.array(logits_BEC), batch, 0.0)
    np.testing.assert_allclose(total, np.log1p(np.exp(1.0)), rtol=1e-6)
