from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from benchmarks import coverage
from flaxfer.statistics import inference
from flaxfer.statistics.inference import Difference

DIRECT, STAGED = np.array([0.70, 0.74, 0.71, 0.69]), np.array([0.75, 0.83, 0.74])
B = 10_000


def unchanged(scores: np.ndarray, draws: int = B) -> np.ndarray:
    """Return resamples of infinitely many examples, which equal the scores."""
    return np.tile(scores, (draws, 1))


def welch(direct: np.ndarray, staged: np.ndarray) -> Difference:
    return Difference(direct, staged, unchanged(direct, 9), unchanged(staged, 9))


def normal(mean: float, sd: float) -> Difference:
    """Return the distribution with this variance over examples and none over seeds."""
    shift = mean + sd * special.ndtri((np.arange(B) + 0.5) / B)[:, None]
    same = np.zeros(3)
    return Difference(same, same + mean, unchanged(same), unchanged(same) + shift)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999, 1 - 1e-6])
def test_with_infinitely_many_examples_the_interval_is_welchs(level: float) -> None:
    result = welch(DIRECT, STAGED)
    expected = stats.ttest_ind(STAGED, DIRECT, equal_var=False)
    assert result.over == "seeds and examples"
    assert result.value == pytest.approx(STAGED.mean() - DIRECT.mean())
    assert result.interval(level) == pytest.approx(expected.confidence_interval(level), rel=1e-5)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-4)


@pytest.mark.parametrize("runs", [2, 3, 5, 20, 500])
def test_p_is_welchs_far_in_the_tail(runs: int) -> None:
    rng = np.random.default_rng(runs)
    direct, staged = rng.normal(0, 1, (2, runs)) * [[1], [1.7]]
    staged += direct.mean() - staged.mean()
    se = np.sqrt(direct.var(ddof=1) / runs + staged.var(ddof=1) / runs)
    for t in np.geomspace(0.1, 1e6, 40):
        expected = stats.ttest_ind(staged + t * se, direct, equal_var=False).pvalue
        if expected > 1e-12:
            smallest = expected
            for sign in (1, -1):
                p = welch(direct, staged + sign * t * se).p
                assert p == pytest.approx(expected, rel=1e-4)
    assert smallest < 1e-6


def test_p_has_no_smallest_value_where_only_examples_vary() -> None:
    for z in (1.0, 1.96, 3.0, 4.0, 6.0, 8.0):
        expected = 2 * stats.norm.sf(z)
        # Beyond what B resamples show, the error is that of their variance.
        assert normal(0.02 * z, 0.02).p == pytest.approx(expected, rel=0.02)


def test_without_variance_over_seeds_the_interval_is_the_bootstraps() -> None:
    shift = np.random.default_rng(1).gamma(3, 0.02, (B, 1))
    direct, staged = np.full(3, 0.7), np.full(3, 0.72)
    result = Difference(direct, staged, unchanged(direct), unchanged(staged) + shift - 0.03)
    drawn = shift - 0.01
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert result.interval(0.95) == pytest.approx((low, high), abs=0.01 * drawn.std())
    assert result.p == pytest.approx(2 * (drawn <= 0).mean(), rel=0.05)
    assert result.p_equivalence(0.08) == pytest.approx((drawn >= 0.08).mean(), rel=0.05)


@pytest.mark.parametrize("by_seed", [0.0, 2.0])
def test_variance_explained_by_examples_is_not_counted_twice(by_seed: float) -> None:
    # Each run has an independent error of sd 1 from the examples, which resampling shows.
    rng = np.random.default_rng(2)
    direct, staged = np.hypot(1, by_seed) * rng.standard_normal((2, 200))
    drawn = direct + rng.standard_normal((4000, 200)), staged + rng.standard_normal((4000, 200))
    result = Difference(direct, staged, *drawn)
    low, high = result.interval(0.95)
    half = 1.96 * np.sqrt(2 * (1 + by_seed**2) / 200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert result.components is not None
    assert result.components.examples < 0.1 * result.components.total
    assert result.components.seeds == pytest.approx(2 * (1 + by_seed**2), rel=0.15)
    assert result.components.interaction == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("runs", [(4, 4), (3, 6)])
def test_components_are_those_of_the_analysis_of_variance(runs: tuple[int, int]) -> None:
    """For means of examples, two crossed random factors have unbiased estimates by hand."""
    rng, n = np.random.default_rng(0), 60
    example = rng.normal(0, 1, (n, 1))
    scores = [
        example + rng.normal(0, 0.8, (n, 1)) + rng.normal(0, 0.3, r) + rng.normal(0, 0.5, (n, r))
        for r in runs
    ]
    weights = rng.multinomial(n, np.full(n, 1 / n), 40_000) / n
    means = [of.mean(axis=0) for of in scores]
    result = Difference(means[0], means[1], weights @ scores[0], weights @ scores[1]).components
    assert result is not None
    # The residual mean squares estimate the interaction, by condition.
    residual = [
        ((of - of.mean(0) - of.mean(1, keepdims=True) + of.mean()) ** 2).sum() / (n - 1) / (r - 1)
        for of, r in zip(scores, runs, strict=True)
    ]
    differences = scores[1].mean(axis=1) - scores[0].mean(axis=1)
    examples = differences.var(ddof=1) - sum(s / r for s, r in zip(residual, runs, strict=True))
    assert result.examples == pytest.approx(examples / n, rel=0.05)
    assert result.interaction == pytest.approx(sum(residual) / n, rel=0.05)
    assert result.seeds == pytest.approx(sum(of.var(ddof=1) for of in means))
    total = result.examples + sum(of.var(ddof=1) / r for of, r in zip(means, runs, strict=True))
    assert result.total == pytest.approx(total)
    assert result.examples_share == pytest.approx(result.examples / total)


def test_with_one_seed_the_interval_is_over_examples_alone() -> None:
    shift = np.random.default_rng(1).normal(0, 0.02, (B, 1))
    one, two = np.array([0.7]), np.array([0.8, 0.9])
    for direct, staged in ((one, two), (two, one), (one, one + 0.1)):
        result = Difference(direct, staged, unchanged(direct), unchanged(staged) + shift)
        assert result.over == "examples alone" and result.components is None
        low, high = result.interval(0.95)
        assert high - low == pytest.approx(2 * 1.96 * 0.02, rel=0.05)


def test_a_difference_without_any_variance_is_certain() -> None:
    same = np.full(3, 0.5)
    equal, apart = welch(same, same), welch(same, same + 0.25)
    assert (equal.p, equal.interval(0.95), equal.p_equivalence(0.1)) == (1.0, (0.0, 0.0), 0.0)
    assert (apart.p, apart.interval(0.95), apart.p_equivalence(0.1)) == (0.0, (0.25, 0.25), 1.0)


@pytest.mark.parametrize("margin", [0.01, 0.06, 0.2, 3.0])
def test_equivalence_is_two_one_sided_welch_tests(margin: float) -> None:
    for direct, staged in ((DIRECT, STAGED), (STAGED, DIRECT)):
        above = stats.ttest_ind(staged + margin, direct, equal_var=False, alternative="greater")
        below = stats.ttest_ind(staged - margin, direct, equal_var=False, alternative="less")
        expected = max(above.pvalue, below.pvalue)
        assert welch(direct, staged).p_equivalence(margin) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 5])
def test_p_values_are_the_levels_at_which_intervals_reach_a_point(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    direct, staged = rng.normal(0.5, 0.05, seeds), rng.normal(0.55, 0.05, seeds)
    shift = rng.gamma(4, 0.01, (B, 1))
    result = Difference(direct, staged, direct + 0 * shift, staged + shift)
    for beyond in (1e-4, -1e-4):
        low, high = result.interval(1 - result.p * (1 + beyond))
        assert (low <= 0 <= high) == (beyond < 0)
    margin = 0.3
    low, high = result.interval(1 - 2 * result.p_equivalence(margin))
    assert max(-low, high) == pytest.approx(margin, rel=1e-5)


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


@pytest.mark.parametrize(
    ("metric", "seeds", "effect"),
    [
        ("accuracy", 3, 0.0),
        ("accuracy", 3, 0.3),
        pytest.param("accuracy", 5, 0.0, marks=pytest.mark.slow),
        ("pearson", 3, 0.0),
        pytest.param("pearson", 10, 0.0, marks=pytest.mark.slow),
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
    world = coverage.World(n=200, sd=(0.1, 0.1), effect=0.4)
    shares = coverage.families(world, coverage.FAMILY, 25, draws=500)
    assert shares["any_false_after"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 25)
    assert shares["any_false_after"] < shares["any_false_before"]
    assert shares["helps_at_margin"] is None


def test_error_rate_and_power_of_equivalence() -> None:
    world = coverage.World(n=400, seeds=5, effect=0.4)
    shares = coverage.equivalence(world, 150, draws=500)
    assert shares["no_change_at_margin"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert shares["no_change_at_0"] > 0.5


def test_family_wise_error_rate_of_both_claims() -> None:
    shares = coverage.families(coverage.World(n=200, effect=0.4), 5, 25, draws=500)
    assert shares["any_false_after"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 25)
    assert shares["any_false_after"] < shares["any_false_before"]
