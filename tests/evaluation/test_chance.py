"""The level of chance, beside the scores of random predictions."""

from __future__ import annotations

import numpy as np
import pytest

from flaxfer.evaluation.chance import chance
from flaxfer.tasks import TASK_TYPES
from flaxfer.tasks.resampling import class_metric, effective_classes, pearson

N = 300


@pytest.mark.parametrize(
    "share", [(0.5, 0.5), (1 / 3,) * 3, (0.2,) * 5, (0.6, 0.2, 0.1, 0.1), (0.9, 0.1)]
)  # fmt: skip
def test_the_level_is_two_standard_errors_of_random_predictions(share: tuple[float, ...]) -> None:
    rng = np.random.default_rng(len(share))
    names = range(len(share))
    gold = np.repeat(names, np.round(N * np.array(share)).astype(int)).tolist()
    predicted = [rng.permutation(gold).tolist() for _ in range(3000)]
    scores = class_metric("mcc", names, gold, predicted).observed()
    level = chance(len(gold), effective_classes(gold))
    assert level == pytest.approx(2 * scores.std(), rel=0.05)
    assert scores.mean() == pytest.approx(0, abs=0.01)


def test_equally_frequent_classes_count_as_they_are() -> None:
    for classes in (2, 3, 7):
        labels = list(range(classes)) * 40
        assert effective_classes(labels) == pytest.approx(classes)
        assert chance(100, classes) == pytest.approx(2 / np.sqrt(100 * (classes - 1)))
    assert effective_classes(["a"] * 9) == 2
    assert effective_classes(["a"] * 9 + ["b"]) == pytest.approx(2)
    assert chance(10_000, 3) == 0.05


def test_scores_without_classes_vary_like_a_correlation() -> None:
    rng = np.random.default_rng(0)
    scores = pearson(rng.standard_normal((N, 3000)), rng.standard_normal(N)).observed()
    assert chance(N) == pytest.approx(2 * scores.std(), rel=0.05)
    assert TASK_TYPES["regression"].effective_classes([1.0, 2.0, 3.0]) == 2
    assert TASK_TYPES["tagging"].effective_classes([["O"], ["B-A"]]) == 2
    assert TASK_TYPES["multiple_choice"].effective_classes([0, 1, 2, 3]) == pytest.approx(4)
