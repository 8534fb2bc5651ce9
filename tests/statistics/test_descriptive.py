"""Descriptive statistics against hand computation, SciPy, closed forms and simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize, special, stats

from flaxfer.statistics.descriptive import (
    Descriptive,
    almost_stochastic_order,
    describe,
    multi_bootstrap,
    probability_better,
    violation_ratio,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


@pytest.mark.parametrize(
    ("staged", "direct", "ratio"),
    [
        # Squares of the differences of quantiles: 1 of 2, 1 of 11, 1 of 5 and 1 of 9.
        ((4, 1), (2, 3), 1 / 2),
        ((5, 0, 3), (2, 1, 2), 1 / 11),
        ((0, 3), (1,), 1 / 5),
        ((1, 2, 4), (3, 0), 1 / 9),
        ((3, 4), (1, 2), 0.0),
        ((1, 2), (3, 4), 1.0),
        ((1, 2), (2, 1), 0.5),
        ((1, 2), (1, 1, 2, 2), 0.5),
    ],
)
def test_violation_ratio_by_hand(
    staged: tuple[float, ...], direct: tuple[float, ...], ratio: float
) -> None:
    assert violation_ratio(array(*staged), array(*direct)) == pytest.approx(ratio, abs=1e-15)
    assert violation_ratio(array(*direct), array(*staged)) == pytest.approx(1 - ratio, abs=1e-15)


def test_violation_ratio_of_normal_distributions() -> None:
    """The integrals have a closed form: the difference of the quantiles is a + b z."""
    z = special.ndtri((np.arange(100_000) + 0.5) / 100_000)
    for a, b in ((-0.5, 1.0), (0.3, 2.0), (-1.0, 0.25)):
        density, below = np.exp(-((a / b) ** 2) / 2) / np.sqrt(2 * np.pi), special.ndtr(a / b)
        expected = ((a**2 + b**2) * below + a * b * density) / (a**2 + b**2)
        assert violation_ratio(z, a + (1 + b) * z) == pytest.approx(expected, abs=2e-4)


def test_violation_ratio_is_an_integral_over_quantiles() -> None:
    rng = np.random.default_rng(0)
    for m, n in ((3, 5), (7, 4), (20, 12)):
        staged, direct = rng.standard_normal(m), rng.standard_normal(n)
        t = (np.arange(420_000) + 0.5) / 420_000
        gap = np.quantile(direct, t, method="inverted_cdf")
        gap -= np.quantile(staged, t, method="inverted_cdf")
        expected = np.square(gap[gap > 0]).sum() / np.square(gap).sum()
        assert violation_ratio(staged, direct) == pytest.approx(expected, rel=1e-9)


def test_deviation_of_the_violation_ratio_over_all_resamples() -> None:
    staged, direct = array(1, 2, 4), array(0, 3)
    ratios = [
        float(violation_ratio(array(*one), array(*other)))
        for one in itertools.product(staged, repeat=3)
        for other in itertools.product(direct, repeat=2)
    ]
    ratio, sd = almost_stochastic_order(staged, direct, 40_000, np.random.default_rng(0))
    assert ratio == pytest.approx(1 / 9) and sd == pytest.approx(np.std(ratios), rel=0.01)


def test_more_comparisons_give_larger_bounds() -> None:
    one = Descriptive(0, 0, 1, 0.5, 0, 1, violation=0.2, violation_sd=0.1)
    # Normal quantiles from a table: 1.6449 for 0.95, 2.5758 for 0.995.
    assert one.bounds(0.05, 1) == pytest.approx((0.36449, 0.96449), abs=1e-5)
    assert one.bounds(0.05, 10) == pytest.approx((0.45758, 1.0), abs=1e-5)


@pytest.mark.parametrize("sizes", [(3, 3), (5, 4), (2, 20)])
def test_probability_better_equals_scipy_and_the_definition(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    m, n = sizes
    for shift in (0, 1, 2):
        staged, direct = rng.integers(0, 4, m) + float(shift), rng.integers(0, 4, n).astype(float)
        estimate, low, high = probability_better(staged, direct, 0.95)
        u = stats.mannwhitneyu(staged, direct, method="asymptotic").statistic
        assert estimate == pytest.approx(u / (m * n), abs=1e-15)

        def distance(tested: float, estimate: float = estimate) -> float:
            """Standard score of the estimate, in the notation of Hanley & McNeil (1982)."""
            q1, q2 = tested / (2 - tested), 2 * tested**2 / (1 + tested)
            others = (m + n) / 2 - 1
            variance = tested * (1 - tested) + others * (q1 + q2 - 2 * tested**2)
            return abs(estimate - tested) * math.sqrt(m * n / variance) - stats.t.isf(
                0.025, m + n - 2
            )

        for end, limit in ((low, 0), (high, 1)):
            if estimate == limit:
                assert end == limit
            else:
                edge = abs(limit - 1e-9)
                inside = estimate if 0 < estimate < 1 else abs(estimate - 1e-9)
                assert end == pytest.approx(optimize.brentq(distance, edge, inside), abs=1e-9)


def simulated(n: int, probability: float, studies: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw normal scores of n staged and n direct runs, with a probability of improvement."""
    rng = np.random.default_rng(n)
    shift = math.sqrt(2) * special.ndtri(probability)
    return rng.standard_normal((studies, n)) + shift, rng.standard_normal((studies, n))


def coverage_of_bootstrap(staged: np.ndarray, direct: np.ndarray, truth: float) -> float:
    """The share of percentile intervals over resampled seeds that hold the truth."""
    rng, n = np.random.default_rng(0), staged.shape[1]
    covered = 0
    for one, other in zip(staged, direct, strict=True):
        picked = one[rng.integers(n, size=(300, n))], other[rng.integers(n, size=(300, n))]
        greater = (picked[0][:, :, None] > picked[1][:, None]).mean(axis=(1, 2))
        low, high = np.quantile(greater, [0.025, 0.975])
        covered += low <= truth <= high
    return covered / len(staged)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_intervals_of_the_probability_cover_it(n: int) -> None:
    for probability in (0.5, 0.75, 0.9):
        staged, direct = simulated(n, probability, 500)
        ends = [probability_better(*pair, 0.95)[1:] for pair in zip(staged, direct, strict=True)]
        covered = np.mean([low <= probability <= high for low, high in ends])
        assert covered > 0.93
        if n < 20:
            assert coverage_of_bootstrap(staged, direct, probability) < covered


def test_multi_bootstrap_of_seeds_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    direct, staged = rng.standard_normal(6), rng.standard_normal(4) + 1
    rows = 40_000
    low, high, p = multi_bootstrap(
        np.tile(direct, (rows, 1)), np.tile(staged, (rows, 1)), 0.9, np.random.default_rng(1)
    )
    reference = stats.bootstrap(
        (staged, direct),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        confidence_level=0.9,
        n_resamples=rows,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    ends = reference.confidence_interval
    assert (low, high) == pytest.approx((ends.low, ends.high), abs=0.02)
    below = np.mean(reference.bootstrap_distribution <= 0)
    assert p == pytest.approx(2 * below, abs=0.01) and 0 < p < 1


class Drawn:
    """A stand-in for a random generator that returns given draws."""

    def __init__(self, *places: np.ndarray):
        self.places = list(places)

    def integers(self, high: int, size: tuple[int, ...]) -> np.ndarray:
        places = self.places.pop(0)
        assert places.shape == size and places.max() < high
        return places


@pytest.mark.parametrize(
    ("paired", "low", "high", "p"),
    [
        (False, -0.04375000000000012, 0.29375000000000007, 0.08),
        (True, -0.06578124999999996, 0.2753124999999997, 0.12),
    ],
)
def test_multi_bootstrap_equals_the_published_code(
    paired: bool, low: float, high: float, p: float
) -> None:
    """Recorded with language/multiberts/multibootstrap.py of google-research/language, 865fae6.

    With `right` as below, and pandas as pd:

        runs = pd.DataFrame({"seed": [0, 1, 2, 3] * 2, "intervention": [False] * 4 + [True] * 4})
        accuracy = lambda labels, predictions: np.mean(labels == predictions)
        one = multibootstrap(runs, right, np.ones(40, bool), accuracy, paired, nboot=300, rng=1)
        report_ci(one)["delta"]
    """
    runs, n, draws = 4, 40, 300
    right = np.random.RandomState(0).rand(2 * runs, n) < np.repeat([0.6, 0.7], runs)[:, None]
    random, places, scores = np.random.RandomState(1), [], []
    for _ in range(draws):  # In the order in which the published code draws.
        places.append([random.choice(runs, runs) for _ in range(1 if paired else 2)])
        scores.append(right[:, random.choice(n, n)].mean(axis=1))
    direct_dr, staged_dr = np.split(np.array(scores), 2, axis=1)
    drawn: Any = Drawn(*np.array(places).swapaxes(0, 1)[::-1])  # Staged before direct.
    measured = multi_bootstrap(direct_dr, staged_dr, 0.95, drawn, paired)
    assert measured == pytest.approx((low, high, 2 * p), abs=1e-12)  # Theirs is one-sided.


def test_p_of_the_multi_bootstrap_is_at_least_that_of_one_resample() -> None:
    ones = np.ones((500, 3))
    for sign in (1, -1):
        p = multi_bootstrap(ones, (1 + sign) * ones, 0.95, np.random.default_rng(0))[2]
        assert p == 2 / 500
    assert multi_bootstrap(ones, ones, 0.95, np.random.default_rng(0))[2] == 1


def test_multi_bootstrap_adds_the_variance_of_examples() -> None:
    """Examples and a share (R - 1) / R of the variance over seeds, shared draws of examples."""
    rng = np.random.default_rng(0)
    draws = 100_000
    direct, staged = rng.standard_normal(3), rng.standard_normal(5)
    example, effect = rng.standard_normal((2, draws, 1))
    direct_dr, staged_dr = direct + 0.5 * example, staged + 0.5 * example + 0.7 * effect
    low, high, _ = multi_bootstrap(direct_dr, staged_dr, 0.95, np.random.default_rng(1))
    # What all runs share cancels out. Normal enough for its quantiles.
    variance = 0.7**2 + direct.var() / 3 + staged.var() / 5
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.02)
    middle = staged.mean() - direct.mean()
    assert (low + high) / 2 == pytest.approx(middle, abs=0.03)


def test_the_direction_of_the_metric_decides_what_is_better() -> None:
    staged, direct = array(1, 2, 4), array(0, 3)
    rng = np.random.default_rng(0)
    resampled = [runs + rng.standard_normal((1000, 1)) for runs in (direct, staged)]
    one, other = (
        describe(
            direct,
            staged,
            *resampled,
            larger_is_better=larger,
            level=0.95,
            rng=np.random.default_rng(1),
        )
        for larger in (True, False)
    )
    assert one is not None and other is not None
    assert (one.better, one.violation) == (4 / 6, pytest.approx(1 / 9))
    assert (other.better, other.violation) == (pytest.approx(2 / 6), pytest.approx(8 / 9))
    assert other.better_low == pytest.approx(1 - one.better_high)
    # Differences are staged minus direct whatever is better.
    assert (one.multi_low, one.multi_high) == pytest.approx((other.multi_low, other.multi_high))


def test_a_single_run_has_no_descriptive_statistics() -> None:
    one, two = np.zeros((5, 1)), np.zeros((5, 2))
    options = {"larger_is_better": True, "level": 0.95, "rng": np.random.default_rng(0)}
    assert describe(one[0], two[0], one, two, **options) is None
