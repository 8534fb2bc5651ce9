"""Power, and the numbers of seeds and examples that reach it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flaxfer.statistics import power
from flaxfer.statistics.inference import Components


def components(examples: float, sd: float, interaction: float = 0.0) -> Components:
    """Return components with a standard deviation over seeds within each condition."""
    return Components(examples, 2 * sd**2, interaction, total=1.0)


def needed(difference: float, of: Components, alpha: float = 0.05) -> power.Needed:
    return power.needed(difference, of, runs=5, n=400, alpha=alpha)


def t_power(difference: float, sd: float, seeds: int, alpha: float = 0.05) -> float:
    return power.power(difference, 0.0, 2 * sd**2, seeds, alpha)


def test_needed_seeds_equal_cohens_tables() -> None:
    # Cohen (1988), table 2.4.1, two-sided 0.05, power 0.8: seeds for d of 0.2, 0.5 and 0.8.
    found = [needed(d, components(0, 1)).seeds for d in (0.2, -0.5, 0.8)]
    assert found == [394, 64, 26]


@pytest.mark.parametrize(("difference", "alpha"), [(1.7, 0.01), (3.0, 0.05)])
def test_needed_seeds_is_the_smallest_number(difference: float, alpha: float) -> None:
    seeds = needed(difference, components(0, 2.0), alpha).seeds
    assert seeds is not None
    reached = [t_power(difference, 2.0, n, alpha) for n in (seeds - 1, seeds)]
    assert reached[0] < 0.8 <= reached[1]
    # By simulation of t tests.
    runs = np.random.default_rng(0).normal(0, 2, (2, 20_000, seeds))
    rejected = stats.ttest_ind(runs[0], runs[1] + difference, axis=1).pvalue <= alpha
    assert rejected.mean() == pytest.approx(reached[1], abs=0.01)


def test_power_where_the_noncentral_t_is_undefined_in_scipy() -> None:
    # The value is a numerical integral over the chi-squared variable.
    assert t_power(8.795659805, 1.0, 2, 0.01) == pytest.approx(0.541510765935, abs=1e-11)
    every = [t_power(d, 1.0, n) for d in np.geomspace(0.008, 1000, 50) for n in (2, 9, 200)]
    assert np.isfinite(every).all() and max(every) == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.05, 0.003])
def test_without_variance_over_seeds_the_test_is_normal(alpha: float) -> None:
    z = stats.norm.ppf(1 - alpha / 2)
    expected = stats.norm.sf(z - 2.5) + stats.norm.cdf(-z - 2.5)
    assert power.power(0.5, 0.04, 0.0, 3, alpha) == pytest.approx(expected)
    # Hardly any variance over seeds, and hardly any but it, are as in these limits.
    assert power.power(0.5, 0.04, 1e-9, 3, alpha) == pytest.approx(expected, rel=1e-4)
    assert power.power(0.5, 1e-12, 0.04, 3, alpha) == pytest.approx(
        t_power(0.5, 0.2 / np.sqrt(2), 3, alpha)
    )


def test_power_with_both_variances_is_that_of_simulated_tests() -> None:
    examples, by_seed, runs = 0.5, 2.0, 4
    rng, count = np.random.default_rng(0), 40_000
    shift = 3 + rng.normal(0, np.sqrt(examples), count)
    direct, staged = rng.normal(0, np.sqrt(by_seed / 2), (2, count, runs))
    difference = shift + staged.mean(axis=1) - direct.mean(axis=1)
    estimated = (direct.var(ddof=1, axis=1) + staged.var(ddof=1, axis=1)) / runs
    df = (examples + estimated) ** 2 / (estimated**2 / (2 * (runs - 1)))
    p = 2 * stats.t.sf(np.abs(difference) / np.sqrt(examples + estimated), df)
    expected = (p <= 0.05).mean()
    assert power.power(3.0, examples, by_seed, runs, 0.05) == pytest.approx(expected, abs=0.02)


def test_no_number_of_seeds_is_enough_where_examples_limit() -> None:
    # Even with infinitely many seeds, the standard error is 0.1.
    limited = components(examples=0.01, sd=0.05)
    assert power.power(0.25, 0.01, 0.0, 5, 0.05) < 0.8
    found = needed(0.25, limited)
    assert found.seeds is None and found.both is None
    assert found.examples is not None and found.examples > 400
    shares = [400 / n for n in (found.examples - 1, found.examples)]
    reached = [power.power(0.25, 0.01 * share, 2 * 0.05**2, 5, 0.05) for share in shares]
    assert reached[0] < 0.8 <= reached[1]
    # A stricter level needs more of them.
    stricter = needed(0.25, limited, alpha=0.001).examples
    assert stricter is not None and stricter > found.examples


def test_no_number_of_examples_is_enough_where_seeds_limit() -> None:
    found = needed(0.1, components(examples=1e-4, sd=0.1))
    assert found.examples is None and found.both is None
    assert found.seeds is not None and found.seeds > 5


def test_interaction_falls_with_the_number_of_examples() -> None:
    # All the variance over seeds is interaction, so that examples reduce all of the variance.
    of = components(examples=0.01, sd=0.2, interaction=0.08)
    found = needed(0.1, of)
    assert found.seeds is None and found.examples is not None
    share = 400 / found.examples
    assert power.power(0.1, 0.01 * share, 0.08 * share, 5, 0.05) == pytest.approx(0.8, abs=1e-3)


def test_where_neither_is_enough_both_are_increased() -> None:
    found = needed(0.1, components(examples=0.01, sd=0.2))
    assert found.seeds is None and found.examples is None and found.both is not None
    seeds, examples = found.both
    assert examples == 400 * seeds / 5
    variances = [(0.01 * 5 / count, 0.08, count) for count in (seeds - 1, seeds)]
    reached = [power.power(0.1, *one, 0.05) for one in variances]
    assert reached[0] < 0.8 <= reached[1]


def test_there_may_be_no_number() -> None:
    assert needed(0.0, components(1.0, 1.0)) == power.Needed(None, None, None)
    assert needed(1e-9, components(1.0, 1.0)) == power.Needed(None, None, None)
    assert needed(1.0, components(0.0, 0.0)) == power.Needed(2, 2, None)
