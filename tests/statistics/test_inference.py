from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from flaxfer.statistics import inference

DIRECT, STAGED = np.array([0.70, 0.74, 0.71, 0.69]), np.array([0.75, 0.83, 0.74])
B = 20_000


def unchanged(scores: np.ndarray) -> np.ndarray:
    """Return resamples of infinitely many examples, which equal the scores."""
    return np.tile(scores, (B, 1))


def interval(direct: np.ndarray, staged: np.ndarray, *drawn: np.ndarray) -> inference.Interval:
    return inference.hierarchical_interval(direct, staged, *drawn, rng=np.random.default_rng(0))


def test_with_infinitely_many_examples_the_interval_is_welchs() -> None:
    result = interval(DIRECT, STAGED, unchanged(DIRECT), unchanged(STAGED))
    welch = stats.ttest_ind(STAGED, DIRECT, equal_var=False)
    ends = welch.confidence_interval()
    assert result.over == "seeds and examples"
    assert result.difference == pytest.approx(STAGED.mean() - DIRECT.mean())
    assert (result.low, result.high) == pytest.approx((ends.low, ends.high), rel=0.05)
    assert result.p == pytest.approx(welch.pvalue, rel=0.01)


def test_without_variance_over_seeds_the_interval_is_the_bootstraps() -> None:
    shift = np.random.default_rng(1).normal(0, 0.02, (B, 1))
    direct, staged = np.full(3, 0.7), np.full(3, 0.72)
    result = interval(direct, staged, unchanged(direct), unchanged(staged) + shift)
    low, high = np.quantile(0.02 + shift, [0.025, 0.975])
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.p == pytest.approx(2 * (0.02 + shift <= 0).mean())


@pytest.mark.parametrize("by_seed", [0.0, 2.0])
def test_variance_explained_by_examples_is_not_counted_twice(by_seed: float) -> None:
    # Each run has an independent error of sd 1 from the examples, which resampling shows.
    rng = np.random.default_rng(2)
    direct, staged = np.hypot(1, by_seed) * rng.standard_normal((2, 200))
    drawn = direct + rng.standard_normal((4000, 200)), staged + rng.standard_normal((4000, 200))
    result = interval(direct, staged, *drawn)
    half = 1.96 * np.sqrt(2 * (1 + by_seed**2) / 200)
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.1)


def test_with_one_seed_the_interval_is_over_examples_alone() -> None:
    shift = np.random.default_rng(1).normal(0, 0.02, (B, 1))
    one, two = np.array([0.7]), np.array([0.8, 0.9])
    for direct, staged in ((one, two), (two, one), (one, one + 0.1)):
        result = interval(direct, staged, unchanged(direct), unchanged(staged) + shift)
        assert result.over == "examples alone"
        assert result.high - result.low == pytest.approx(2 * 1.96 * 0.02, rel=0.05)


@pytest.mark.parametrize("most", [10_000, 30])
def test_permutations_of_seeds_match_brute_force(most: int) -> None:
    rng = np.random.default_rng(0)
    p, least = inference.permute_seeds(DIRECT, STAGED, most, rng)
    scores = np.concatenate([DIRECT, STAGED])
    orders = np.array([rng.permutation(7) for _ in range(20_000)])
    differences = scores[orders[:, :3]].mean(axis=1) - scores[orders[:, 3:]].mean(axis=1)
    expected = (np.abs(differences) >= STAGED.mean() - DIRECT.mean() - 1e-9).mean()
    assert p == pytest.approx(expected, abs=0.01 if most > 35 else 0.08)
    assert least == pytest.approx(1 / 35 if most > 35 else 1 / 31)


def test_smallest_p_of_three_seeds_is_a_tenth() -> None:
    rng = np.random.default_rng(0)
    direct, staged = np.array([0.1, 0.2, 0.3]), np.array([0.7, 0.8, 0.9])
    expected = stats.permutation_test(
        (staged, direct), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True
    ).pvalue
    assert inference.permute_seeds(direct, staged, 100, rng) == (expected, 0.1)


def test_the_observed_difference_counts_among_drawn_permutations() -> None:
    differences = np.array([0.5, -0.3, 0.1, -0.5])
    assert inference.permutation_p(differences, 0.5, exact=True) == 0.5
    assert inference.permutation_p(differences, -0.5, exact=False) == pytest.approx(3 / 5)


def test_effect_size() -> None:
    squares = 3 * DIRECT.var(ddof=1) + 2 * STAGED.var(ddof=1)
    sd = np.sqrt(squares / 5)
    assert inference.pooled_sd(DIRECT, STAGED) == pytest.approx(sd)
    expected = (STAGED.mean() - DIRECT.mean()) / sd * (1 - 3 / 19)
    assert inference.hedges_g(DIRECT, STAGED) == pytest.approx(expected)
    assert inference.hedges_g(DIRECT, STAGED[:1]) is None
    assert inference.hedges_g(np.full(2, 0.5), np.full(2, 0.5)) is None


def test_needed_seeds_equal_cohens_tables() -> None:
    # Cohen (1988), table 2.4.1, two-sided 0.05, power 0.8: seeds for d of 0.2, 0.5 and 0.8.
    assert [inference.needed_seeds(d, 1.0) for d in (0.2, -0.5, 0.8)] == [394, 64, 26]


@pytest.mark.parametrize(("difference", "target", "alpha"), [(1.7, 0.9, 0.01), (3.0, 0.8, 0.05)])
def test_needed_seeds_is_the_smallest_number(
    difference: float, target: float, alpha: float
) -> None:
    seeds = inference.needed_seeds(difference, 2.0, target, alpha)
    assert seeds is not None
    reached = [inference.power(difference, 2.0, n, alpha) for n in (seeds - 1, seeds)]
    assert reached[0] < target <= reached[1]
    # By simulation of t tests.
    runs = np.random.default_rng(0).normal(0, 2, (2, 20_000, seeds))
    rejected = stats.ttest_ind(runs[0], runs[1] + difference, axis=1).pvalue <= alpha
    assert rejected.mean() == pytest.approx(reached[1], abs=0.01)


def test_power_where_the_noncentral_t_is_undefined_in_scipy() -> None:
    # The value is a numerical integral over the chi-squared variable.
    assert inference.power(8.795659805, 1.0, 2, 0.01) == pytest.approx(0.541510765935, abs=1e-11)
    every = [inference.power(d, 1.0, n) for d in np.geomspace(0.008, 1000, 50) for n in (2, 9, 200)]
    assert np.isfinite(every).all() and max(every) == pytest.approx(1)


def test_there_may_be_no_number_of_seeds() -> None:
    for difference, sd in ((0.0, 1.0), (1.0, 0.0), (1.0, None), (1e-3, 1.0)):
        assert inference.needed_seeds(difference, sd) is None


def test_holms_correction() -> None:
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which must not be below the one before.
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.9, 0.5]) == [1.0, 1.0]
    assert inference.holm([]) == []
    # Its definition: hypotheses are rejected from the smallest p on while p <= alpha / (m - i).
    p = np.random.default_rng(0).uniform(0, 0.05, 12)
    for alpha in (0.01, 0.05, 0.2):
        passed = np.sort(p) <= alpha / np.arange(12, 0, -1)
        rejected = 12 if passed.all() else int(passed.argmin())
        assert sum(adjusted <= alpha for adjusted in inference.holm(p)) == rejected


def test_verdicts() -> None:
    assert inference.verdict(0.1, 0.05, True, 0.05) == "helps"
    assert inference.verdict(0.1, 0.01, False, 0.05) == "hurts"
    assert inference.verdict(-0.1, 0.01, False, 0.05) == "helps"
    assert inference.verdict(0.1, 0.051, True, 0.05) == "no evidence"
    assert inference.verdict(0.1, None, True, 0.05) == "no evidence"


@pytest.mark.parametrize(
    ("metric", "seeds", "effect"),
    [
        ("accuracy", 3, 0.0),
        ("accuracy", 3, 0.3),
        ("accuracy", 5, 0.0),
        ("pearson", 3, 0.0),
        ("pearson", 10, 0.0),
    ],
)
def test_coverage(metric: str, seeds: int, effect: float) -> None:
    world = coverage.World(metric, 200, seeds, effect=effect, sd=(0.1, 0.1))
    shares = coverage.simulate(world, 150, seed=5, draws=500)
    margin = 3 * np.sqrt(0.05 * 0.95 / 150)  # Three standard errors of a share of 150.
    assert shares["coverage"] >= 0.95 - margin
    if not effect:
        assert shares["rejected"] <= 0.05 + margin


def test_coverage_with_large_variance_over_seeds() -> None:
    # The plain bootstrap fails here, so the simulation can detect bad coverage.
    shares = coverage.simulate(coverage.World(n=200, sd=(0.5, 0.5)), 200, draws=500)
    margin = 3 * np.sqrt(0.05 * 0.95 / 200)
    assert shares["coverage"] >= 0.95 - margin > shares["coverage_plain"]


def test_family_wise_error_rate() -> None:
    world = coverage.World(n=200, sd=(0.1, 0.1))
    shares = coverage.families(world, 25, draws=500)
    assert shares["any_after"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 25)
    assert shares["any_after"] < shares["any_before"]
