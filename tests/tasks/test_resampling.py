from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from flaxfer.tasks import entities, resampling
from flaxfer.tasks.resampling import Resampled

N, RUNS = 60, 4
RNG = np.random.default_rng(3)
LABEL = RNG.integers(0, 3, N)
CLASSES = np.where(RNG.random((N, RUNS)) < 0.6, LABEL[:, None], RNG.integers(0, 3, (N, RUNS)))
SCORE = np.round(RNG.uniform(0, 5, N))  # With ties.
OUTPUT = np.round(SCORE[:, None] + RNG.normal(0, 2, (N, RUNS)), 1) * [1, 3, 0.1, 1] + [0, 9, 0, 2]
TAGS = ("O", "B-A", "I-A", "B-C", "I-C")
GOLD = [[None if u < 0.1 else TAGS[int(u * 5)] for u in RNG.random(6)] for _ in range(N)]
TAGGED = [
    [[t if t and RNG.random() < 0.7 else TAGS[RNG.integers(5)] for t in row] for row in GOLD]
    for _ in range(RUNS)
]
COUNTS = np.stack([entities.sentence_counts(GOLD, run) for run in TAGGED], axis=1)


def classes(name: str, predicted_nR: np.ndarray) -> Resampled:
    return resampling.class_metric(name, range(4), LABEL.tolist(), predicted_nR.T.tolist())


Reference = Callable[[np.ndarray, int], float]
MEASURES: dict[str, tuple[Resampled, Reference]] = {
    "accuracy": (
        classes("accuracy", CLASSES),
        lambda i, r: sklearn_metrics.accuracy_score(LABEL[i], CLASSES[i, r]),
    ),
    "macro_f1": (
        classes("macro_f1", CLASSES),
        lambda i, r: sklearn_metrics.f1_score(LABEL[i], CLASSES[i, r], average="macro"),
    ),
    "mcc": (
        classes("mcc", CLASSES),
        lambda i, r: sklearn_metrics.matthews_corrcoef(LABEL[i], CLASSES[i, r]),
    ),
    "pearson": (
        resampling.pearson(OUTPUT, SCORE),
        lambda i, r: stats.pearsonr(OUTPUT[i, r], SCORE[i]).statistic,
    ),
    "spearman": (
        resampling.Spearman(OUTPUT, SCORE),
        lambda i, r: stats.spearmanr(OUTPUT[i, r], SCORE[i]).statistic,
    ),
    "mse": (
        resampling.mean((OUTPUT - SCORE[:, None]) ** 2),
        lambda i, r: sklearn_metrics.mean_squared_error(SCORE[i], OUTPUT[i, r]),
    ),
    **{
        f"entity {name}": (
            resampling.entity_metric(name, COUNTS),
            lambda i, r, name=name: entities.entity_scores(
                [GOLD[j] for j in i], [TAGGED[r][j] for j in i]
            )[name],
        )
        for name in ("f1", "precision", "recall", "accuracy")
    },
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_weighted_metric_is_that_of_repeated_examples(name: str) -> None:
    measure, reference = MEASURES[name]
    everything = np.arange(N)
    np.testing.assert_allclose(
        measure.observed(), [reference(everything, r) for r in range(RUNS)], rtol=1e-12
    )
    (weights,) = resampling.resamples(N, 5, np.random.default_rng(0))
    values = measure.values(weights)
    for row, counts in zip(values, weights.astype(int), strict=True):
        repeated = np.repeat(everything, counts)
        np.testing.assert_allclose(row, [reference(repeated, r) for r in range(RUNS)], rtol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_all_examples_of_a_unit_are_drawn_and_exchanged(name: str) -> None:
    measure, reference = MEASURES[name]
    rng = np.random.default_rng(2)
    unit_n = rng.permutation(np.append(np.arange(20), rng.integers(0, 20, N - 20)))
    grouped = measure.grouped(unit_n, 22)  # Two units are those of other sets.
    assert (grouped.n, grouped.units) == (N, 22)
    np.testing.assert_allclose(grouped.observed(), measure.observed(), rtol=1e-12)
    (weights,) = resampling.resamples(22, 5, rng)
    for row, counts in zip(grouped.values(weights), weights[:, unit_n].astype(int), strict=True):
        repeated = np.repeat(np.arange(N), counts)
        np.testing.assert_allclose(row, [reference(repeated, r) for r in range(RUNS)], rtol=1e-5)
    (swap,) = resampling.exchanges(22, 5, rng)
    expected = measure.swapped(swap[:, unit_n], [0, 1], [2, 3])
    actual = grouped.swapped(swap, [0, 1], [2, 3])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "mcc"])
def test_exchanged_predictions(name: str) -> None:
    measure, _ = MEASURES[name]
    (swap,) = resampling.exchanges(N, 4, np.random.default_rng(1))
    assert set(np.unique(swap)) == {0, 1}
    made = measure.swapped(swap, [0, 1], [2, 3])
    for row, chosen in zip(made, swap == 1, strict=True):
        mixed = CLASSES.copy()
        for a, b in ((0, 2), (1, 3)):
            mixed[chosen, a], mixed[chosen, b] = CLASSES[chosen, b], CLASSES[chosen, a]
        anew = classes(name, mixed).observed()
        np.testing.assert_allclose(row, anew[2:] - anew[:2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ranked", [False, True])
def test_exchanged_scores_are_standardised_first(ranked: bool) -> None:
    measure = MEASURES["spearman" if ranked else "pearson"][0]
    values = stats.rankdata(OUTPUT, axis=0) if ranked else OUTPUT
    score = stats.rankdata(SCORE) if ranked else SCORE
    z = stats.zscore(values, axis=0)
    (swap,) = resampling.exchanges(N, 3, np.random.default_rng(1))
    for row, chosen in zip(measure.swapped(swap, [0], [1]), swap == 1, strict=True):
        first, second = np.where(chosen, z[:, 1], z[:, 0]), np.where(chosen, z[:, 0], z[:, 1])
        expected = stats.pearsonr(second, score)[0] - stats.pearsonr(first, score)[0]
        assert row == pytest.approx([expected], abs=1e-5)


def test_a_constant_has_no_association() -> None:
    outputs = np.stack([np.full(N, 0.1), SCORE], axis=1)
    for measure in (resampling.pearson(outputs, SCORE), resampling.Spearman(outputs, SCORE)):
        np.testing.assert_allclose(measure.observed(), [0, 1])
        one = np.zeros((1, N), np.float32)
        one[0, 5] = N  # The same example n times.
        np.testing.assert_array_equal(measure.values(one), [[0, 0]])


def test_resamples_are_multinomial() -> None:
    weights = np.concatenate(list(resampling.resamples(50, 60_000, np.random.default_rng(0))))
    assert weights.shape == (60_000, 50)
    np.testing.assert_array_equal(weights.sum(axis=1), 50)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(weights.var(axis=0), 1 - 1 / 50, rtol=0.04)


def test_sentence_counts_add_up_to_the_scores_of_the_set() -> None:
    correct, predicted, gold, right, words = COUNTS[:, 0].sum(axis=0)
    scores = entities.entity_scores(GOLD, TAGGED[0])
    assert (correct / predicted, correct / gold) == (scores["precision"], scores["recall"])
    assert right / words == scores["accuracy"]
    assert words == sum(tag is not None for row in GOLD for tag in row)
    each = entities.entity_scores(GOLD[7:8], TAGGED[0][7:8])
    assert COUNTS[7, 0, 0] == round(each["precision"] * COUNTS[7, 0, 1])
