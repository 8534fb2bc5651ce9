"""Boundaries against published tables, the multivariate normal distribution and simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import optimize, special, stats

from flaxfer.report.sequential import METHOD
from flaxfer.statistics.sequential import (
    LARGEST,
    LEAST,
    MIN_GROWTH,
    Progress,
    critical_values,
    crossing_probabilities,
    spent,
)

LOOKS = (5, 10, 15, 20)


def equal(looks: int) -> list[float]:
    return [(k + 1) / looks for k in range(looks)]


def progress(
    looks: Sequence[int] = LOOKS, last: int = 20, of_examples: float = 0.0, of_seeds: float = 1.0
) -> Progress:
    result = Progress()
    for seeds in looks:
        result = result.after(seeds, last, of_examples, of_seeds)
    return result


def normal_crossing(critical: Sequence[float], information: Sequence[float]) -> float:
    """Return the probability of crossing, by SciPy's integral of the multivariate normal."""
    time = np.array(information)
    covariance = np.sqrt(np.minimum.outer(time, time) / np.maximum.outer(time, time))
    rng = np.random.default_rng(0)
    cdf = stats.multivariate_normal.cdf(
        critical, cov=covariance, maxpts=200_000, abseps=1e-6, rng=rng
    )
    return float(1 - cdf)


@pytest.mark.parametrize(
    ("looks", "published"),
    [  # R packages gsDesign (sfLDOF) and ldbounds, both sides at 0.05.
        (2, [2.9626, 1.9686]),
        (3, [3.7103, 2.5114, 1.9930]),
        (4, [4.3326, 2.9631, 2.3590, 2.0141]),
        (5, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
    ],
)
def test_boundaries_are_the_published_ones(looks: int, published: list[float]) -> None:
    assert critical_values(equal(looks), 0.025) == pytest.approx(published, abs=1.5e-4)


@pytest.mark.parametrize(
    ("looks", "constant"), [(2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)]
)
def test_o_brien_and_flemings_constants_have_their_level(looks: int, constant: float) -> None:
    # Jennison & Turnbull 2000, table 2.3; three decimals determine the level to 1.3e-4.
    critical = [constant / math.sqrt(time) for time in equal(looks)]
    assert 2 * crossing_probabilities(critical, equal(looks))[-1] == pytest.approx(0.05, abs=1.5e-4)


def inflation(critical: Sequence[float], information: Sequence[float], alpha: float) -> float:
    """Return by what factor looks raise the information for power 0.8, for a test of one side."""
    alone = stats.norm.ppf(0.8) + stats.norm.isf(alpha)

    def missing(drift: float) -> float:
        shifted = np.array(critical) - drift * np.sqrt(information)
        return 0.8 - crossing_probabilities(shifted.tolist(), information)[-1]

    return float((optimize.brentq(missing, 0.5 * alone, 2 * alone, xtol=1e-5) / alone) ** 2)


@pytest.mark.parametrize(
    ("looks", "constant", "published"),
    [(2, 1.977, 1.008), (3, 2.004, 1.017), (4, 2.024, 1.024), (5, 2.040, 1.028)],
)
def test_looks_cost_as_much_information_as_published(
    looks: int, constant: float, published: float
) -> None:
    # Jennison & Turnbull 2000, table 2.4, power 0.8, with the constants of table 2.3.
    critical = [constant / math.sqrt(time) for time in equal(looks)]
    assert inflation(critical, equal(looks), 0.025) == pytest.approx(published, abs=1.2e-3)


def test_the_report_states_what_looks_cost() -> None:
    factors = [
        inflation(critical_values(equal(looks), alpha), equal(looks), alpha)
        for looks in (2, 4, 10)
        for alpha in (0.025, 0.0025)
    ]
    assert min(factors) > 1
    assert f"up to {math.ceil(100 * (max(factors) - 1))}% more" in METHOD


@pytest.mark.parametrize(
    ("looks", "published"), [(2, 0.083), (3, 0.107), (4, 0.126), (5, 0.142), (10, 0.193)]
)
def test_naive_looks_have_the_published_error_rates(looks: int, published: float) -> None:
    # Armitage, McPherson & Rowe 1969, table 2. Paths that cross on both sides count twice here.
    naive = crossing_probabilities([1.95996] * looks, equal(looks))[-1]
    assert 2 * naive == pytest.approx(published, abs=8e-4)


@pytest.mark.parametrize("information", [equal(4), [0.3, 0.55, 0.56, 1.0], [0.8, 0.93, 0.98, 1.0]])
def test_boundaries_spend_the_level_by_the_multivariate_normal(information: list[float]) -> None:
    critical = critical_values(information, 0.025)
    for k in range(1, 5):
        expected = spent(information[k - 1], 0.025)
        assert normal_crossing(critical[:k], information[:k]) == pytest.approx(expected, abs=2e-5)


def test_simulated_paths_cross_as_often_as_computed() -> None:
    rng = np.random.default_rng(1)
    time = np.array([0.2, 0.5, 0.6, 1.0])
    steps = np.sqrt(np.diff(time, prepend=0))
    z = np.cumsum(steps * rng.standard_normal((400_000, 4)), axis=1) / np.sqrt(time)
    critical = critical_values(time.tolist(), 0.1)
    crossed = np.logical_or.accumulate(z > critical, axis=1).mean(axis=0)
    expected = crossing_probabilities(critical, time.tolist())
    assert expected == pytest.approx([spent(share, 0.1) for share in time])
    assert crossed == pytest.approx(expected, abs=4 * math.sqrt(0.09 / 400_000))


def test_spending_may_follow_other_shares_than_the_correlations() -> None:
    # The information of earlier looks is estimated again at each look; their spending stays.
    information, shares = [0.3, 0.7, 1.0], [0.2, 0.8, 1.0]
    critical = critical_values(shares, 0.025, information)
    expected = [spent(share, 0.025) for share in shares]
    assert crossing_probabilities(critical, information) == pytest.approx(expected)


def test_nothing_is_left_after_a_look_with_all_information() -> None:
    assert critical_values([1.0, 1.0, 1.0], 0.025)[1:] == [math.inf, math.inf]
    last = progress((20, 25), last=20)
    assert last.shares == (1.0, 1.0)
    assert (last.critical_p(0.025), last.repeated_p(1e-9)) == (0.0, 1.0)


def test_looks_without_growth_are_conservative() -> None:
    information = [0.5, 0.5 * (1 + MIN_GROWTH / 10), 1.0]
    critical = critical_values(information, 0.025)
    assert normal_crossing(critical, information) <= 0.025 + 1e-6


def test_information_counts_examples_and_seeds() -> None:
    # Variances 1 + 4 / R: 1.8, 1.4 and 1.2 with 5, 10 and 20 seeds.
    result = progress((5, 10, 20), of_examples=1.0, of_seeds=4.0)
    assert result.shares == pytest.approx((1.2 / 1.8, 1.2 / 1.4, 1.0))
    assert result.information == pytest.approx((1 / 1.8, 1 / 1.4, 1 / 1.2))
    assert progress().shares == (0.25, 0.5, 0.75, 1.0)
    assert progress(of_examples=1.0, of_seeds=0.0).shares == (1.0,) * 4
    assert progress((5, 10), of_examples=0.0, of_seeds=0.0).shares == (0.25, 0.5)


def test_shares_are_kept_and_never_fall() -> None:
    first = Progress().after(5, 20, 9.0, 1.0)
    second = first.after(10, 20, 0.0, 1.0)
    assert second.shares == (first.shares[0], first.shares[0])
    assert second.information == (5.0, 10.0)
    assert second.after(20, 20, 0.0, 1.0).shares[-1] == 1.0


def test_the_first_look_compares_with_what_it_may_spend() -> None:
    first = progress((5,))
    assert first.critical_p(0.025) == pytest.approx(spent(0.25, 0.025))
    # The last look alone is a test without looks.
    assert progress((20,)).repeated_p(0.0123) == pytest.approx(0.0123, rel=1e-4)


@pytest.mark.parametrize("looks", [LOOKS[:1], LOOKS[:2], LOOKS])
@pytest.mark.parametrize("alpha", [1e-4, 0.0025, 0.025, 0.2])
def test_a_repeated_p_value_is_the_level_whose_boundary_it_meets(
    looks: tuple[int, ...], alpha: float
) -> None:
    result = progress(looks, of_examples=0.02)
    assert result.repeated_p(result.critical_p(alpha)) == pytest.approx(alpha, rel=1e-4)


def test_repeated_p_values_are_within_their_range() -> None:
    result = progress(LOOKS[:2])
    assert result.repeated_p(0.0) == pytest.approx(LEAST, rel=1e-4)
    assert result.repeated_p(0.5) == 1.0
    assert progress().repeated_p(1.01 * progress().critical_p(LARGEST)) == 1.0


def test_repeated_intervals_cover_at_all_looks_together() -> None:
    rng = np.random.default_rng(2)
    scores = rng.standard_normal((100_000, 4)) / math.sqrt(5)  # Differences in batches of 5 seeds.
    missed = np.zeros(len(scores), bool)
    for k, seeds in enumerate(LOOKS, 1):
        tail = progress(LOOKS[:k]).critical_p(0.05)
        half = -special.ndtri(tail) / math.sqrt(seeds)
        missed |= abs(scores[:, :k].mean(axis=1)) > half
    assert missed.mean() == pytest.approx(0.1, abs=4 * 0.3 / math.sqrt(len(scores)))
