"""LogME beside direct maximisation, neighbours beside scikit-learn, regret by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from flaxfer.evaluation.transferability import knn_score, logme, selection


def evidence_by_search(feature: np.ndarray, label: np.ndarray) -> float:
    """The largest density of the labels over both precisions, found by simplex from a grid."""
    n = len(label)

    def loss(precisions: np.ndarray) -> float:
        alpha, beta = np.exp(precisions)
        covariance = np.eye(n) / beta + feature @ feature.T / alpha
        # The upper triangle of Cholesky, so that no small eigenvalue is taken for zero.
        root = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) / n * np.eye(n))
        exact = scipy.stats.Covariance.from_cholesky(root)
        return -float(scipy.stats.multivariate_normal.logpdf(label, np.zeros(n), exact))

    found = [
        scipy.optimize.minimize(
            loss, (a, b), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9}
        ).fun
        for a in (-3.0, 3.0)
        for b in (-3.0, 3.0)
    ]
    return -min(found) / n


@pytest.mark.parametrize(
    ("n", "width", "noise"),
    [(30, 4, 0.3), (30, 4, 3.0), (12, 20, 0.5), (20, 19, 1.0), (25, 5, 0.02), (15, 1, 1.0)],
)
def test_logme_of_scores(n: int, width: int, noise: float) -> None:
    rng = np.random.default_rng(n + width)
    feature = rng.normal(size=(n, width)) * rng.uniform(0.1, 3, width)
    label = feature @ rng.normal(size=width) + noise * rng.normal(size=n) + 1.0
    assert logme(feature, label) == pytest.approx(evidence_by_search(feature, label), abs=1e-6)


def test_logme_of_classes_is_the_mean_over_those_that_occur() -> None:
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(24, 5)) + 1
    label = rng.choice([0, 2, 5], 24)
    wanted = [evidence_by_search(feature, (label == c).astype(float)) for c in (0, 2, 5)]
    assert logme(feature, label) == pytest.approx(np.mean(wanted), abs=1e-6)


def test_logme_of_features_that_tell_nothing() -> None:
    label = np.array([1.0, 2.0, 4.0, 3.0])
    noise = -0.5 * (math.log(2 * math.pi * np.mean(label**2)) + 1)
    assert logme(np.zeros((4, 3)), label) == pytest.approx(noise, abs=1e-12)
    across = np.array([[2.0], [-1.0], [0.0], [0.0]])  # Orthogonal to the labels.
    assert logme(across, label) == pytest.approx(noise, abs=1e-8)
    constant = logme(np.full((4, 3), 0.7), label)  # Rank one: their mean at most.
    assert constant == pytest.approx(evidence_by_search(np.full((4, 3), 0.7), label), abs=1e-6)
    assert math.isnan(logme(np.ones((4, 3)), np.array([1, 1, 1, 1])))


def test_logme_prefers_features_that_tell_more_and_stays_finite() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 60)
    scores = []
    for strength in (0.0, 0.5, 2.0):
        feature = rng.normal(size=(60, 8))
        feature[:, :3] += strength * np.eye(3)[label]
        scores.append(logme(feature, label))
        assert scores[-1] == pytest.approx(logme(np.hstack([feature, feature * 0]), label))
    assert scores == sorted(scores)
    # Duplicates and more dimensions than examples: the labels can be fitted without any error.
    wide = rng.normal(size=(5, 20)).astype(np.float32)
    assert np.isfinite(logme(np.vstack([wide, wide]), np.array([0, 1, 1, 0, 1] * 2)))


@pytest.mark.parametrize("k", [1, 4, 5])
def test_neighbours(k: int) -> None:
    rng = np.random.default_rng(k)
    label = rng.integers(0, 3, 70)
    feature = rng.normal(size=(70, 6)) + 1.5 * np.eye(6)[label]
    score = label + rng.normal(size=70)
    settings = {"n_neighbors": k, "metric": "cosine", "algorithm": "brute"}
    voted = cross_val_predict(KNeighborsClassifier(**settings), feature, label, cv=LeaveOneOut())
    mean = cross_val_predict(KNeighborsRegressor(**settings), feature, score, cv=LeaveOneOut())
    accuracy = float((voted == label).mean())
    assert knn_score(feature, label, k) == pytest.approx(accuracy, abs=1e-12)
    assert 0.4 < accuracy < 1
    correlation = scipy.stats.pearsonr(mean, score).statistic
    assert knn_score(feature, score, k) == pytest.approx(correlation, abs=1e-12)
    scaled = feature * rng.uniform(0.1, 9, (70, 1))
    assert knn_score(scaled, label, k) == pytest.approx(accuracy, abs=1e-12)


def test_neighbours_of_many_and_of_few() -> None:
    rng = np.random.default_rng(3)
    feature, label = rng.normal(size=(1500, 4)), rng.integers(0, 2, 1500)
    settings = {"n_neighbors": 3, "metric": "cosine", "algorithm": "brute"}
    model = KNeighborsClassifier(**settings).fit(feature, label)
    _, near = model.kneighbors()  # Of the fitted examples: each without itself.
    wanted = float(((label[near].mean(axis=1) > 0.5) == label).mean())
    assert knn_score(feature, label, 3) == pytest.approx(wanted, abs=1e-12)
    # Three examples have two neighbours each, whatever is asked for; votes tie to the first class.
    assert knn_score(np.eye(3), np.array([0, 0, 1]), 5) == pytest.approx(2 / 3)
    assert math.isnan(knn_score(np.ones((1, 2)), np.array([1])))
    # Equal examples are neighbours of each other, and none is its own.
    twice = np.vstack([np.eye(4), np.eye(4)])
    assert knn_score(twice, np.arange(8) % 4, 1) == 1.0
    assert knn_score(twice, np.arange(8), 1) == 0.0
    assert knn_score(np.zeros((4, 2)), np.array([1, 1, 1, 1])) == 1.0
    assert math.isnan(knn_score(np.ones((4, 2)), np.full(4, 2.5)))


def test_selection() -> None:
    scores = {"none": 0.1, "nli": 0.5, "qqp": 0.4, "films": 0.1}
    outcomes = {"none": 0.80, "nli": 0.70, "qqp": 0.84, "films": 0.60}
    found = selection(scores, outcomes)
    assert found.chosen == "nli" and found.best == "qqp"
    assert found.regret == pytest.approx(0.14)
    assert found.relative_regret == pytest.approx(0.14 / 0.84)
    rank = scipy.stats.spearmanr([0.1, 0.5, 0.4, 0.1], [0.80, 0.70, 0.84, 0.60]).statistic
    assert found.rank_correlation == pytest.approx(rank, abs=1e-12)
    errors = {"none": 2.0, "nli": 1.0, "qqp": 4.0, "films": 2.0}
    small = selection(scores, errors, larger_is_better=False)
    rank = scipy.stats.spearmanr([0.1, 0.5, 0.4, 0.1], [-2.0, -1.0, -4.0, -2.0]).statistic
    assert small.best == "nli" and small.regret == 0.0
    assert small.rank_correlation == pytest.approx(rank, abs=1e-12)
    worse = selection(scores | {"nli": 0.0}, errors, larger_is_better=False)
    assert worse.chosen == "qqp" and worse.regret == worse.relative_regret == 3.0


def test_selection_by_equal_scores() -> None:
    flat = selection({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": -1.0})
    assert flat.chosen == "a" and flat.regret == 0.0
    assert math.isnan(flat.rank_correlation) and math.isnan(flat.relative_regret)
