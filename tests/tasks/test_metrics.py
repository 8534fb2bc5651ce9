from __future__ import annotations

import functools
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxfer.tasks import metrics

TOLERANCE = 1e-6
CLASSES = 4
SLOTS = 16  # of a batch in the tests

seeds = st.integers(0, 2**32 - 1)
# Few values, so that most are tied; or many, also far from zero with little variance.
regression_data = st.one_of(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60).map(
        lambda pairs: np.array(pairs, np.float32) / 4
    ),
    st.builds(
        lambda seed, n, shift, scale: (
            np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], n) * scale
            + shift
        ).astype(np.float32),
        seeds,
        st.integers(1, 60),
        st.sampled_from([0.0, 2.5, -300.0, 1e4]),
        st.sampled_from([1e-2, 1.0, 30.0]),
    ),
)
# Predictions and labels of a random subset of the classes.
classification_data = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60
).map(lambda pairs: np.array(pairs, np.int32))


def expected_regression(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    defined = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "pearson": float(scipy.stats.pearsonr(x, y).statistic) if defined else math.nan,
        "spearman": float(scipy.stats.spearmanr(x, y).statistic) if defined else math.nan,
        "mse": float(sklearn.metrics.mean_squared_error(y, x)),
    }


def expected_classification(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        # scikit-learn's confusion matrix warns of a single class; its value is the one we follow.
        warnings.simplefilter("ignore", UserWarning)
        return {
            "accuracy": float(sklearn.metrics.accuracy_score(label, prediction)),
            "macro_f1": float(
                sklearn.metrics.f1_score(label, prediction, average="macro", zero_division=0)
            ),
            "mcc": float(sklearn.metrics.matthews_corrcoef(label, prediction)),
        }


def logits_of(prediction: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """Logits with their largest at the prediction, the others different from each other."""
    noise = np.random.default_rng(0).uniform(-1, 0, (len(prediction), classes))
    noise[np.arange(len(prediction)), prediction] = 0.01
    return noise.astype(np.float32)


def assert_close(actual: dict[str, float], expected: dict[str, float]) -> None:
    assert list(actual) == [name for name in expected if name in actual]
    for name, value in actual.items():
        scale = max(1.0, expected[name]) if name == "mse" else 1.0
        assert value == pytest.approx(expected[name], abs=TOLERANCE * scale, nan_ok=True), name


def evaluate_regression(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return metrics.evaluate_scores(x[:, None], y)


@settings(deadline=None)
@given(regression_data)
def test_regression_equals_scipy(data):
    x, y = data.T
    assert_close(evaluate_regression(x, y), expected_regression(x, y))


@settings(deadline=None)
@given(classification_data)
def test_classification_equals_scikit_learn(data):
    prediction, label = data.T
    actual = metrics.evaluate_classes(logits_of(prediction), label)
    assert_close(actual, expected_classification(prediction, label))


update = jax.jit(metrics.accumulate, donate_argnums=0)
merge = jax.jit(lambda a, b: a.merge(b))


def split(logits: np.ndarray, label: np.ndarray, rng: random.Random) -> list[Any]:
    """Batches (2, SLOTS / 2) of random sizes; empty slots lie anywhere and hold nonsense."""
    order, batches = rng.sample(range(len(label)), len(label)), []
    while order:
        size = rng.randint(0, SLOTS)
        taken, order = order[:size], order[size:]
        slots = rng.sample(range(SLOTS), len(taken))
        batch = {
            "logits": np.full((SLOTS, logits.shape[1]), np.nan, np.float32),
            "label_BE": np.full(SLOTS, 77, label.dtype),
            "mask_BE": np.zeros(SLOTS, np.float32),
        }
        batch["logits"][slots], batch["label_BE"][slots] = logits[taken], label[taken]
        batch["mask_BE"][slots] = 1
        arrays = {k: jnp.array(x.reshape(2, 8, *x.shape[1:])) for k, x in batch.items()}
        batches.append((arrays.pop("logits"), arrays))
    return batches


def accumulated(empty: Callable[[], Any], batches: list[Any], rng: random.Random):
    """The same examples one batch after the other, and merged in a random order."""
    state = empty()
    for batch in batches:
        state = update(state, *batch)
    yield metrics.scores(state)
    parts = [update(empty(), *batch) for batch in batches]
    while len(parts) > 1:
        parts.append(merge(*[parts.pop(rng.randrange(len(parts))) for _ in range(2)]))
    yield metrics.scores(parts[0])


@settings(max_examples=40, deadline=None)
@given(regression_data, seeds)
def test_regression_does_not_depend_on_the_split(data, seed):
    rng = random.Random(seed)
    x, y = data.T
    for actual in accumulated(metrics.ScoreMetrics.empty, split(x[:, None], y, rng), rng):
        assert list(actual) == ["pearson", "mse"]
        assert_close(actual, expected_regression(x, y))


@settings(max_examples=40, deadline=None)
@given(classification_data, seeds)
def test_classification_does_not_depend_on_the_split(data, seed):
    rng = random.Random(seed)
    prediction, label = data.T
    batches = split(logits_of(prediction), label, rng)
    empty = functools.partial(metrics.ClassMetrics.empty, CLASSES)
    for actual in accumulated(empty, batches, rng):
        assert_close(actual, expected_classification(prediction, label))


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_thousands_of_batches_lose_no_digits(shift):
    """Plain float32 sums fail this: with this many terms, roundings add up to 1e-5."""
    rng = np.random.default_rng(0)
    x = (rng.gamma(2, 1, (20_000, 8)) + shift).astype(np.float32)
    y = (x - shift + rng.normal(0, 0.3, x.shape) + shift).astype(np.float32)

    @jax.jit
    def run(x, y):
        def step(state, batch):
            arrays = {"label_BE": batch[1], "mask_BE": jnp.ones(8)}
            return metrics.accumulate(state, batch[0][:, None], arrays), None

        return jax.lax.scan(step, metrics.ScoreMetrics.empty(), (x, y))[0]

    expected = expected_regression(x.ravel(), y.ravel())
    actual = metrics.scores(run(x, y))
    assert actual["pearson"] == pytest.approx(expected["pearson"], abs=TOLERANCE)
    assert actual["mse"] == pytest.approx(expected["mse"], rel=TOLERANCE)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_large_arrays_lose_no_digits(shift):
    rng = np.random.default_rng(1)
    x = (rng.gamma(2, 1, 150_000) + shift).astype(np.float32)
    y = (np.round(4 * (x - shift + rng.normal(0, 1, x.shape))) / 4 + shift).astype(np.float32)
    assert_close(evaluate_regression(x, y), expected_regression(x, y))


def test_rare_classes_lose_no_digits():
    """100,000 examples, 3 of them of another class: squares of counts need more than 24 bits."""
    label = np.zeros(100_000, np.int32)
    label[:3] = 1
    prediction = label.copy()
    prediction[[1, 500, 501]] ^= 1
    actual = metrics.evaluate_classes(logits_of(prediction, 3), label)
    assert_close(actual, expected_classification(prediction, label))


def test_confusion_matrix_has_labels_as_rows():
    prediction, label = np.random.default_rng(3).integers(0, CLASSES, (2, 50))
    logits = jnp.array(logits_of(prediction))
    actual = metrics.ClassMetrics.from_model_output(logits, jnp.array(label), jnp.ones(50))
    expected = sklearn.metrics.confusion_matrix(label, prediction)
    np.testing.assert_array_equal(actual.matrix, expected)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 65])
@pytest.mark.parametrize("value", [0.1, 3.7, 1e4 + 1 / 3])
def test_correlation_with_a_constant_is_undefined(n, value):
    constant, other = np.full(n, value, np.float32), np.arange(n, dtype=np.float32)
    for x, y in ((constant, other), (other, constant), (constant, constant)):
        actual = evaluate_regression(x, y)
        assert math.isnan(actual["pearson"]) and math.isnan(actual["spearman"])
        assert actual["mse"] == pytest.approx(expected_regression(x, y)["mse"], rel=TOLERANCE)
    # Batch by batch, the means must agree to the last bit.
    state = metrics.ScoreMetrics.empty()
    for i in range(n):
        arrays = {"label_BE": other[i : i + 1], "mask_BE": np.ones(1)}
        state = update(state, constant[None, i : i + 1], arrays)
    assert math.isnan(metrics.scores(state)["pearson"])


def test_every_constant_is_seen_as_one():
    """Also where its mean, a rounded sum over a count, is another number."""
    rng = np.random.default_rng(4)
    other = rng.normal(size=61)
    for value in rng.normal(size=200) * 10 ** rng.uniform(-3, 4, size=200):
        actual = evaluate_regression(np.full(61, value, np.float32), other)
        assert math.isnan(actual["pearson"]) and math.isnan(actual["spearman"])


def test_infinite_and_undefined_predictions():
    x, y = np.array([3, np.inf, 1, -np.inf, np.inf], np.float32), np.arange(5, dtype=np.float32)
    expected = scipy.stats.spearmanr(x, y).statistic
    assert evaluate_regression(x, y)["spearman"] == pytest.approx(expected, abs=TOLERANCE)
    x[2] = np.nan
    assert all(math.isnan(value) for value in evaluate_regression(x, y).values())


def test_sets_of_many_sizes_share_programs():
    before = metrics._score_values._cache_size()
    for n in (257, 300, 411, 512):
        evaluate_regression(np.arange(n, dtype=np.float32), np.arange(n, dtype=np.float32))
    assert metrics._score_values._cache_size() - before <= 1


def test_nothing_is_copied_to_or_from_the_device_unasked():
    x = np.arange(5, dtype=np.float32)
    state = metrics.ScoreMetrics.empty()
    with jax.transfer_guard("disallow"):
        evaluate_regression(x, x)
        metrics.scores(state)
