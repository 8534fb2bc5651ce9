"""Power, and the numbers of seeds and examples that reach it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy import integrate, special, stats

from flaxfer.config import Task
from flaxfer.statistics import power
from flaxfer.statistics.inference import Components, Difference
from flaxfer.statistics.sequential import Progress
from flaxfer.statistics.variances import Stated
from flaxfer.tasks import resampling


def components(examples: float, sd: float, interaction: float = 0.0) -> Components:
    """Return components with a standard deviation over seeds within each condition."""
    return Components(examples, 2 * sd**2, interaction, total=1.0)


def needed(difference: float, of: Components, alpha: float = 0.05) -> power.Needed:
    return power.needed(difference, of, runs=5, n=400, alpha=alpha)


def planned(
    examples: float, sd: float, looks: tuple[int, ...], alpha: float = 0.05
) -> power.Planned:
    return power.Planned(components(examples, sd), looks, alpha)


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
    welch = stats.ttest_ind(runs[0], runs[1] + difference, axis=1, equal_var=False)
    assert (welch.pvalue <= alpha).mean() == pytest.approx(reached[1], abs=0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.0025])
@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_power_of_few_seeds_is_that_of_welchs_test(seeds: int, alpha: float) -> None:
    difference = 0.9 * planned(0.0, 1.0, (seeds,), alpha).detectable()[0]
    runs = np.random.default_rng(seeds).normal(0, 1, (2, 100_000, seeds))
    welch = stats.ttest_ind(runs[0], runs[1] + difference, axis=1, equal_var=False)
    expected = (welch.pvalue <= alpha).mean()
    assert 0.65 < expected < 0.78
    assert t_power(difference, 1.0, seeds, alpha) == pytest.approx(expected, abs=0.005)
    found = planned(0.0, 1.0, (seeds,), alpha).power(difference)
    assert found == pytest.approx([expected], abs=0.005)


def test_power_where_the_noncentral_t_is_undefined_in_scipy() -> None:
    # Three pairs; the value is a numerical integral over the chi-squared variable.
    of_pairs = power.power(8.795659805, 0.0, 3.0, 3, 0.01, groups=1)
    assert of_pairs == pytest.approx(0.541510765935, abs=1e-11)
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


def test_degrees_of_freedom_with_both_variances_are_satterthwaites() -> None:
    df = 4 / (0.02 / (0.01 + 0.02)) ** 2
    critical = stats.t.ppf(0.975, df)
    shifted = stats.nct(df, 0.5 / 0.03**0.5)
    expected = shifted.sf(critical) + shifted.cdf(-critical)
    assert power.power(0.5, 0.01, 0.1, 5, 0.05, groups=1) == pytest.approx(expected, rel=1e-6)


def test_power_with_both_variances_is_that_of_simulated_tests() -> None:
    examples, by_seed, runs = 0.5, 2.0, 4
    rng, count = np.random.default_rng(0), 40_000
    shift = 3 + rng.normal(0, np.sqrt(examples), count)
    direct, staged = rng.normal(0, np.sqrt(by_seed / 2), (2, count, runs))
    difference = shift + staged.mean(axis=1) - direct.mean(axis=1)
    estimated = (direct.var(ddof=1, axis=1) + staged.var(ddof=1, axis=1)) / runs
    squares = (direct.var(ddof=1, axis=1) / runs) ** 2 + (staged.var(ddof=1, axis=1) / runs) ** 2
    df = (examples + estimated) ** 2 / (squares / (runs - 1))
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
    assert needed(1.0, components(0.0, 1e-12)) == power.Needed(2, 2, None)


@pytest.mark.parametrize(("runs", "alpha"), [(2, 0.05), (3, 0.05), (5, 0.0025), (20, 0.01)])
def test_without_variance_over_examples_plans_are_those_of_welchs_tests(
    runs: int, alpha: float
) -> None:
    plan = planned(0.0, 0.3, (runs,), alpha)
    df, error = 2 * (runs - 1), 0.3 * np.sqrt(2 / runs)
    # One condition has a share of the sum of the variances; given it, the test is a t test.
    share = stats.beta.ppf((np.arange(800) + 0.5) / 800, (runs - 1) / 2, (runs - 1) / 2)
    welch = (runs - 1) / (share**2 + (1 - share) ** 2)
    # Given the estimated over the true deviation, too, the difference is normal.
    ratio = np.linspace(1e-6, 8, 1601)[:, None]
    density = stats.chi.pdf(ratio * np.sqrt(df), df) * np.sqrt(df)

    def mean(values: np.ndarray) -> float:
        by_ratio = values.mean(axis=1, keepdims=True) * density
        return float(integrate.simpson(by_ratio[:, 0], x=ratio[:, 0]))

    (size,) = plan.detectable(0.9)
    width = ratio * stats.t.ppf(1 - alpha / 2, welch)
    found = special.ndtr(size / error - width) + special.ndtr(-size / error - width)
    assert mean(found) == pytest.approx(0.9, abs=1e-3)
    assert plan.half_width(1 - alpha) == pytest.approx([mean(width) * error], rel=3e-3)
    assert plan.examples_share() == [0]
    (margin,) = plan.smallest_margin(0.9)  # As by Phillips (1990) for equal variances.
    room = np.maximum(margin / error - ratio * stats.t.ppf(1 - alpha, welch), 0)
    assert mean(2 * special.ndtr(room) - 1) == pytest.approx(0.9, abs=2e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.0025])
def test_without_variance_over_seeds_plans_are_those_of_normal_tests(alpha: float) -> None:
    plan = planned(0.01, 1e-7, (4,), alpha)
    z, z_one, z_power = (stats.norm.ppf(p) for p in (1 - alpha / 2, 1 - alpha, 0.8))
    assert plan.detectable() == pytest.approx([0.1 * (z + z_power)], rel=1e-4)
    assert plan.half_width(1 - alpha) == pytest.approx([0.1 * z], rel=1e-4)
    both = stats.norm.ppf(0.9)  # Each of two tests fails with probability 0.1.
    assert plan.smallest_margin() == pytest.approx([0.1 * (z_one + both)], rel=1e-4)
    assert plan.examples_share() == pytest.approx([1])


def test_equivalence_power_is_that_of_simulated_tests() -> None:
    runs = np.random.default_rng(0).normal(0, 0.2, (2, 20_000, 4))
    margin = 0.5

    def p(shift: float, alternative: str) -> np.ndarray:
        shifted = runs[0] + shift, runs[1]
        welch = stats.ttest_ind(*shifted, axis=1, alternative=alternative, equal_var=False)
        return np.asarray(welch.pvalue)

    expected = (np.maximum(p(-margin, "less"), p(margin, "greater")) <= 0.05).mean()
    assert 0.3 < expected < 0.95
    assert planned(0.0, 0.2, (4,)).equivalence_power(margin) == pytest.approx([expected], abs=0.01)


@pytest.mark.parametrize("interaction", [0.0, 6e-4])
@pytest.mark.parametrize(("runs", "tail"), [(2, 0.025), (5, 0.025), (3, 1e-12)])
def test_half_widths_are_those_of_intervals(interaction: float, runs: int, tail: float) -> None:
    of = Components(2e-4, 8e-4, interaction, total=1.0)
    # The distribution of a difference with many examples, by an integral over the chi-squared.
    df, place = 2 * (runs - 1), 70
    flat, probability = power._half_widths(of, runs, tail)
    assert probability.sum() == pytest.approx(1)
    by_df = flat.reshape(power.RATIOS, power.QUANTILES)
    assert (np.diff(by_df) > 0).all() and (np.diff(by_df, axis=0) > 0).all()
    variance = of.seeds / runs * stats.chi2.ppf((place + 0.5) / power.QUANTILES, df) / df
    for welch, widths in zip(power._degrees_of_freedom(runs, 2)[0], by_df, strict=True):

        def beyond(log: float, welch: float = welch, width: float = widths[place]) -> float:
            estimated = variance * welch / np.exp(log)
            sd = np.sqrt(of.examples + max(estimated, of.interaction / runs))
            density = stats.chi2.pdf(np.exp(log), welch) * np.exp(log)
            return float(stats.norm.sf(width / sd) * density)

        ends = np.log(stats.chi2.ppf([1e-16, 1 - 1e-14], welch))
        found, _ = integrate.quad(beyond, *ends, limit=500, epsabs=0, points=[0.0])
        assert found == pytest.approx(tail, rel=1e-3)


def two_sided(
    difference: np.ndarray, examples: float, by_seed: np.ndarray, seeds: int
) -> np.ndarray:
    """P values: integrals over the possible variances, with the degrees of freedom of Welch.

    Args:
      difference: (studies,) absolute differences.
      examples: variance due to the examples.
      by_seed: (2, studies) estimated variances of the means of the conditions over seeds.
      seeds: seeds in each condition.
    """
    total = by_seed.sum(axis=0)
    df = (seeds - 1) * total**2 / (by_seed**2).sum(axis=0)
    chi2 = np.geomspace(*stats.chi2.ppf([[1e-12], [1 - 1e-12]], df), 200)
    density = np.exp(np.log(chi2) * df / 2 - chi2 / 2)
    density /= density.sum(axis=0)
    sd = np.sqrt(examples + total * df / chi2)
    p: np.ndarray = 2 * (special.ndtr(-difference / sd) * density).sum(axis=0)
    return p


@pytest.mark.parametrize("examples", [0.0, 2e-4])
def test_power_at_looks_is_that_of_simulated_studies(examples: float) -> None:
    looks, sd, size, count = (3, 6, 12), 0.05, 0.06, 5_000
    plan = planned(examples, sd, looks)
    rng = np.random.default_rng(1)
    shift = size + rng.normal(0, np.sqrt(examples), count)
    runs = rng.normal(0, sd, (2, count, looks[-1]))
    progress, found, shares = Progress(), np.zeros(count, bool), []
    for look in looks:
        progress = progress.after(look, looks[-1], examples, 2 * sd**2)
        now = runs[:, :, :look]
        difference = shift + now[1].mean(axis=1) - now[0].mean(axis=1)
        p = two_sided(np.abs(difference), examples, now.var(ddof=1, axis=2) / look, look)
        found |= p <= 2 * progress.critical_p(0.025)
        shares.append(found.mean())
    assert shares[0] < 0.3 < 0.6 < shares[-1] < 0.97
    assert plan.power(size) == pytest.approx(shares, abs=0.02)
    # Looks cost little, and each finds smaller differences.
    detectable = plan.detectable()
    assert sorted(detectable, reverse=True) == detectable
    (fixed,) = planned(examples, sd, looks[-1:]).detectable()
    assert fixed < detectable[-1] < 1.05 * fixed


def test_rescaled_components_are_those_of_more_examples() -> None:
    found = power.rescaled(Components(0.04, 0.5, 0.3, total=1.0), 0.5)
    assert found == Components(0.02, 0.35, 0.15, total=0.37)


def test_smallest_designs_are_enough() -> None:
    found = power.smallest_designs(
        Components(0.04, 0.5, 0.3, 1.0), 5, 100, lambda of, seeds: seeds * (1 - of.examples) >= 9.7
    )
    # 100 examples: 0.96 of the seeds count.
    assert found == power.Needed(11, None, None)
    found = power.smallest_designs(
        Components(0.04, 0.5, 0.3, 1.0), 5, 100, lambda of, seeds: of.examples <= 0.01
    )
    assert found == power.Needed(None, 400, None)


class World(NamedTuple):
    """Studies whose runs are right about a share of the examples.

    A condition is right about an example as it is in general, with probability `a`, and a run as
    its condition, with probability `b`; otherwise by chance with the same share. So runs of a
    condition correlate by b^2, and those of two by a^2 b^2.
    """

    n: int = 300
    runs: int = 4
    score: float = 0.75
    a: float = 0.8
    b: float = 0.9
    sd: float = 0.01

    @property
    def stated(self) -> Stated:
        """Figures that a plan of such studies states."""
        within, binomial = self.b**2, self.score * (1 - self.score)
        # Which examples a seed gains or loses is a matter of chance, too.
        gained = np.sqrt(2 / np.pi) * self.sd - self.sd**2 / (2 * binomial)
        noise = (binomial * (1 - within) + gained) / self.n
        return Stated(
            np.sqrt(self.sd**2 + noise), self.score, self.a**2 * self.b**2, correlation_seeds=within
        )

    def right(self, effect: float, rng: np.random.Generator) -> np.ndarray:
        """Draw which runs are right about which examples, (n, 2 * runs), direct first."""

        def like(kept: float, before: np.ndarray, *more: int) -> np.ndarray:
            shape = (*before.shape, *more)
            before = before.reshape(before.shape + (1,) * len(more))
            again = rng.random(shape) < self.score
            return np.where(rng.random(shape) < kept, before, again)

        general = rng.random(self.n) < self.score
        right = like(self.b, like(self.a, general, 2), self.runs)
        level = rng.normal(0, self.sd, (2, self.runs)) + np.array([[0], [effect]])
        up = rng.random(right.shape) < level / (1 - self.score)
        down = rng.random(right.shape) < -level / self.score
        return ((right | up) & ~down).reshape(self.n, -1)


def judged(world: World, effect: float, margin: float, studies: int) -> dict[str, float]:
    """Return shares and means of real comparisons of simulated studies.

    Twenty studies share their resamples, which take longest to draw.
    """
    rng = np.random.default_rng(world.n)
    found, widths = [], []
    for _ in range(0, studies, 20):
        metric = resampling.mean(np.hstack([world.right(effect, rng) for _ in range(20)]))
        drawn = np.concatenate([metric.values(w) for w in resampling.resamples(world.n, 2000, rng)])
        runs = np.split(np.arange(40 * world.runs), 40)
        scores = metric.observed()
        for number, (direct, staged) in enumerate(zip(runs[::2], runs[1::2], strict=True)):
            one = Difference(scores[direct], scores[staged], drawn[:, direct], drawn[:, staged])
            found.append((one.p <= 0.05, one.p_equivalence(margin) <= 0.05))
            if number < 5:  # They take longer.
                widths.append(np.ptp(one.interval(0.95)) / 2)
    assert len(found) == studies
    finds, none = np.mean(found, axis=0)
    return {"finds": finds, "none": none, "half_width": float(np.mean(widths))}


@pytest.mark.parametrize(
    ("world", "studies"),
    [
        (World(n=100), 160),
        pytest.param(World(), 600, marks=pytest.mark.slow),
        # The seeds dominate, so that the degrees of freedom matter.
        pytest.param(World(1500, 3, sd=0.03), 300, marks=pytest.mark.slow),
    ],
)
def test_plans_by_formula_are_those_of_real_comparisons(world: World, studies: int) -> None:
    task = Task("nli", "classification", "accuracy", labels=("a", "b"))
    components = world.stated.components(task, world.n)
    plan = power.Planned(components, (world.runs,), 0.05)
    (detectable,), (margin,) = plan.detectable(), plan.smallest_margin()
    at_effect, at_none = (judged(world, effect, margin, studies) for effect in (detectable, 0.0))
    error = 3 * np.sqrt(0.8 * 0.2 / studies)
    assert at_effect["finds"] == pytest.approx(0.8, abs=error)
    assert at_none["none"] == pytest.approx(0.8, abs=error)
    assert at_none["finds"] < 0.1
    assert at_none["half_width"] == pytest.approx(plan.half_width(0.95)[0], rel=0.08)
