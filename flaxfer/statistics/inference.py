"""Intervals, tests and effect sizes for staged minus direct.

Two things vary by chance: the examples of a test set and the seeds of the runs. The interval covers
both with a model of crossed random effects: a run's score is the mean of its condition, plus an
effect of the examples that all runs share, plus an effect of the seed, plus an interaction of seed
and examples, which averages out over examples.

- **Examples** are resampled with replacement (Efron 1979), identically for all runs of both
  conditions. This yields the variance of the difference over examples. Resampling the runs'
  deviations from the mean of their condition yields the interaction, which is part of the observed
  variance over seeds.
- **Seeds** are not resampled. With 3 runs, a bootstrap recovers 2/3 of the variance and none of the
  uncertainty about it, and 95 % intervals cover about 85 % where seeds matter. Instead the seed
  effect has a normal distribution whose variance is the observed variance of the means over a
  chi-squared variable (a fiducial or generalised interval, Weerahandi 1993; with infinitely many
  examples it is the t interval). The part already covered by resampling examples is subtracted
  first.
- Runs of the two conditions are **not paired by seed** unless the study declares it, although a
  seed fixes the order of the data and the head in both. Unpaired, the variances of the conditions
  add up, with the degrees of freedom of Welch (1947). This is right if the scores of the conditions
  are uncorrelated over seeds, conservative if they are positively correlated, and allows different
  numbers of runs.
- **Paired**, the differences between the runs of each seed form one group, with the degrees of
  freedom of one condition (with infinitely many examples, the paired t test). This is right for any
  correlation. The interval is shorter if the correlation is large, as it may be where seeds draw
  their own data, and longer if it is near 0. The choice is part of the design: made after looking,
  it makes false positives more frequent. `benchmarks/coverage.py` measures both.

`Difference` is the resulting distribution of the true difference. Its quantiles are the ends of the
interval, and its tails are p values: beyond 0 for the test of no difference, so that p is the level
at which the interval would reach 0; beyond a margin for the test of equivalence.

With few runs the tails of the seed effect are heavy, and may leave what is possible: the difference
of two shares lies between -1 and 1. The interval is intersected with the possible differences. All
true differences lie there, so the interval covers them as often as before; and as 0 is one of them,
neither p value nor verdict changes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np
from scipy import special  # Importing scipy.stats takes several times as long.

Over = Literal["seeds and examples", "examples alone"]

BINS = 256
"""Grid points for the resampled differences; half a bin is about 0.02 standard deviations."""
NODES = 96
"""Nodes of the integral over the chi-squared variable."""
LEAST = 1e-14
"""Probability beyond the outermost nodes."""
TINY = 1e-300
"""Smallest probability whose normal score is used."""
RESOLVED = 10
"""Resamples in a tail, below which its probability is that of a normal distribution if larger."""


@dataclasses.dataclass(frozen=True)
class Components:
    """Variance components of staged minus direct, in squared units of the metric.

    With R seeds in each condition, the difference of the means has the variance
    `examples + seeds / R`. On f times as many examples, `examples` and `interaction` are divided
    by f.

    Attributes:
      examples: variance due to the examples that all runs share.
      seeds: variance over seeds on these examples, of one run of each condition, or one pair.
      interaction: part of `seeds` due to the interaction of seeds and examples.
      total: variance of the difference of the means of the observed runs.
      groups: groups of runs from which `seeds` is estimated: both conditions, or 1 of pairs.
    """

    examples: float
    seeds: float
    interaction: float
    total: float
    groups: int = 2

    @property
    def examples_share(self) -> float:
        """Share of the variance that no number of seeds reduces; 0 if there is no variance."""
        return self.examples / self.total if self.total else 0.0


class Difference:
    """Distribution of the true difference, staged minus direct (see the module).

    It is a mixture of normal distributions: the resampled differences are the means, binned on a
    grid, and the seed effect's possible standard deviations are those of the normal distributions.
    If a condition has a single run, or there is a single pair, there is no seed effect: the
    distribution is over examples alone.

    B resamples have no more than about 1 / B to say about the probability of a tail. Where fewer
    than `RESOLVED` of them are in a tail, its probability is at least that of normally distributed
    resamples, up to `RESOLVED` / B. So p values have no smallest value; with many examples they
    equal those of the t test (Welch's, or paired), to 1e-4 of the value.

    Args:
      direct: (R,) scores of the direct runs on all examples.
      staged: (R,) scores of the staged runs.
      direct_BR: (B, R) scores of the direct runs in resamples of the examples.
      staged_BR: (B, R) scores of the staged runs in the same resamples.
      largest: largest possible absolute difference.
      paired: whether run i of both conditions has the same seed, so that their difference counts.
      learned: whether a run learned anything. Equal scores of runs that did not say nothing about
        the tasks, so there is no evidence of equivalence.

    Attributes:
      value: observed difference of the mean scores.
      over: sources of variation. `examples alone` is conditional on these runs and says nothing
        about other seeds.
      components: variance components; None if over examples alone.
    """

    def __init__(
        self,
        direct: np.ndarray,
        staged: np.ndarray,
        direct_BR: np.ndarray,
        staged_BR: np.ndarray,
        largest: float = math.inf,
        *,
        paired: bool = False,
        learned: bool = True,
    ):
        self._learned = learned
        self.value = float(staged.mean() - direct.mean())
        self.over: Over = "examples alone"
        self.components: Components | None = None
        self._largest, self._draws = largest, len(direct_BR)
        drawn = staged_BR.mean(axis=1) - direct_BR.mean(axis=1)
        self._mean, self._sd = float(drawn.mean()), float(drawn.std())
        self._place, self._share, width = _binned(drawn)
        deviation, self._weight = np.zeros(1), np.ones(1)
        groups = _groups(direct, staged, paired)
        sizes = np.array([len(runs) for runs in groups])
        if sizes.min() > 1:
            self.over = "seeds and examples"
            by_seed = np.array([runs.var(ddof=1) for runs in groups])
            drawn_groups = _groups(direct_BR, staged_BR, paired)
            interaction = np.array([_interaction(scores) for scores in drawn_groups])
            means, covered = by_seed / sizes, (interaction / sizes).sum()
            examples = float(max(self._sd**2 - covered, 0.0))
            self.components = Components(
                examples=examples,
                seeds=float(by_seed.sum()),
                interaction=float(min(interaction.sum(), by_seed.sum())),
                total=float(examples + means.sum()),
                groups=len(groups),
            )
            if (variance := means.sum()) > 0:
                df = variance**2 / (means**2 / (sizes - 1)).sum()
                chi2, self._weight = chi_squared(df)
                deviation = np.sqrt(np.maximum(variance * df / chi2 - covered, 0))
        # A normal distribution as wide as a bin makes up for the binning.
        self._deviation = np.hypot(deviation, width)
        spread = self._sd**2 + (self.components.total if self.components else 0)
        self._scale = math.sqrt(spread)

    def tail(self, x: float, *, above: bool) -> float:
        """Return the probability that the true difference is above x, or below it."""
        sign = 1 if above else -1
        z = _over(sign * (self._place - x)[:, None], self._deviation)
        probability = float(self._share @ special.ndtr(z) @ self._weight)
        z = _over(np.array(sign * (self._mean - x)), np.hypot(self._deviation, self._sd))
        normal = float(special.ndtr(z) @ self._weight)
        return max(probability, min(normal, RESOLVED / self._draws))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of the interval of a nominal coverage, both possible differences."""
        tail = (1 - level) / 2
        low, high = (self._quantile(tail, above=above) for above in (False, True))
        return max(low, -self._largest), min(high, self._largest)

    def _quantile(self, tail: float, *, above: bool) -> float:
        """Return where a tail begins, by regula falsi (Illinois variant, Dowell & Jarratt 1971)."""
        sign, target = 1 if above else -1, special.ndtri(tail)
        if not self._scale:
            return self._mean

        def excess(distance: float) -> float:
            # Normal scores of tails are nearly linear.
            probability = self.tail(self._mean + sign * distance, above=above)
            return float(special.ndtri(max(probability, TINY)) - target)

        near, far = -self._scale, self._scale
        at_near, at_far = excess(near), excess(far)
        while at_far > 0:
            near, at_near, far = far, at_far, 2 * far
            at_far = excess(far)
        side = 0
        for _ in range(100):
            place = far - at_far * (far - near) / (at_far - at_near)
            at = excess(place)
            if at > 0:
                at_far /= 2 if side > 0 else 1
                near, at_near, side = place, at, 1
            else:
                at_near /= 2 if side < 0 else 1
                far, at_far, side = place, at, -1
            if abs(at) < 1e-9 or far - near < 1e-9 * self._scale:
                break
        return self._mean + sign * place

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        return min(2 * min(self.tail(0, above=above) for above in (False, True)), 1.0)

    def p_equivalence(self, margin: float) -> float:
        """Return the p value of a difference of at least `margin` in either direction.

        It is the larger one of two one-sided tests (Schuirmann 1987): not below -margin, not above
        margin.
        """
        if not self._learned:
            return 1.0
        return min(max(self.tail(-margin, above=False), self.tail(margin, above=True)), 1.0)


def _groups(direct: np.ndarray, staged: np.ndarray, paired: bool) -> list[np.ndarray]:
    """Return the groups of runs, (..., R) each, whose variances over seeds add up."""
    return [staged - direct] if paired else [direct, staged]


def _binned(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return grid points, the share of the values at each, and the distance of the points.

    A value counts for the two points around it, more for the nearer one, which keeps the mean.
    """
    low, high = drawn.min(), drawn.max()
    if low == high:
        return drawn[:1], np.ones(1), 0.0
    place, width = np.linspace(low, high, BINS, retstep=True)
    position = np.minimum((drawn - low) / width, BINS - 1)
    left = np.minimum(position.astype(int), BINS - 2)
    right = position - left
    count = np.bincount(left, 1 - right, BINS) + np.bincount(left + 1, right, BINS)
    return place, count / len(drawn), float(width)


def chi_squared(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights that integrate over a chi-squared variable.

    The trapezoidal rule in the logarithm converges exponentially, and reaches into both tails.
    """
    shape = df / 2
    ends = special.gammaincinv(shape, LEAST), special.gammainccinv(shape, LEAST)
    log_half = np.linspace(math.log(ends[0]), math.log(ends[1]), NODES)
    log_density = shape * log_half - np.exp(log_half)
    weight = np.exp(log_density - np.max(log_density))
    return 2 * np.exp(log_half), weight / weight.sum()


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the ratio; 0 where the numerator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(numerator == 0, 0.0, numerator / denominator)


def _interaction(scores_BR: np.ndarray) -> float:
    """Return the variance over examples of a run's deviation from the mean of its group."""
    deviations = scores_BR - scores_BR.mean(axis=1, keepdims=True)
    return float(deviations.var(axis=0).sum() / (scores_BR.shape[1] - 1))


def permute_seeds(
    direct: np.ndarray,
    staged: np.ndarray,
    max_permutations: int,
    rng: np.random.Generator,
    *,
    paired: bool = False,
) -> tuple[float, float]:
    """Permute condition labels across runs (Fisher 1935), conditional on the examples.

    Unlike `scipy.stats.permutation_test`, which doubles the smaller tail, this compares absolute
    differences; the two disagree if the conditions have different numbers of runs.

    Args:
      direct: (runs,) scores of the direct runs.
      staged: (runs,) scores of the staged runs.
      max_permutations: number of permutations to draw if there are more than that.
      rng: generator for drawn permutations.
      paired: whether labels are exchanged within pairs only, so that differences change signs.

    Returns:
      The two-sided p value, and the smallest p value possible with so many runs, such as 0.1 for 3
      and 3, or 0.25 for 3 pairs.
    """
    permutations = 2 ** len(staged) if paired else math.comb(len(direct) + len(staged), len(staged))
    exact = permutations <= max_permutations
    permuted = _with_signs if paired else _with_labels
    differences = permuted(direct, staged, None if exact else max_permutations, rng)
    # With equally many runs, swapping all labels gives a difference of the same absolute value.
    smallest = (2 if len(direct) == len(staged) else 1) / permutations
    if not exact:
        smallest = max(smallest, 1 / (max_permutations + 1))
    return permutation_p(differences, staged.mean() - direct.mean(), exact), smallest


def _with_labels(
    direct: np.ndarray, staged: np.ndarray, draws: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Return the difference for drawn labels of all runs, or for all labels if `draws` is None."""
    scores, size = np.concatenate([direct, staged]), len(staged)
    if draws is None:
        picked = np.array(list(itertools.combinations(range(len(scores)), size)))
    else:
        rows = np.tile(np.arange(len(scores)), (draws, 1))
        picked = rng.permuted(rows, axis=1)[:, :size]
    total = scores[picked].sum(axis=1)
    return total / size - (scores.sum() - total) / len(direct)


def _with_signs(
    direct: np.ndarray, staged: np.ndarray, draws: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Return the mean difference of pairs for drawn signs, or for all signs if `draws` is None."""
    if draws is None:
        signs = np.array(list(itertools.product((1, -1), repeat=len(staged))))
    else:
        signs = rng.choice((1, -1), (draws, len(staged)))
    return signs @ (staged - direct) / len(staged)


def permutation_p(differences: np.ndarray, observed: float, exact: bool) -> float:
    """Return the two-sided p value of a permutation test.

    Args:
      differences: one for each permutation. Unless `exact`, they are a random sample, and the
        observed difference counts as one more (Phipson & Smyth 2010).
      observed: difference without permutation.
      exact: `differences` covers all permutations.
    """
    beyond = int((np.abs(differences) >= abs(observed) * (1 - 1e-6) - 1e-12).sum())
    return beyond / len(differences) if exact else (beyond + 1) / (len(differences) + 1)


def pooled_sd(direct: np.ndarray, staged: np.ndarray) -> float | None:
    """Return the pooled standard deviation over seeds; None if a condition has a single run."""
    if min(len(direct), len(staged)) < 2:
        return None
    squares = sum(((runs - runs.mean()) ** 2).sum() for runs in (direct, staged))
    return float(math.sqrt(squares / (len(direct) + len(staged) - 2)))


def hedges_g(direct: np.ndarray, staged: np.ndarray) -> float | None:
    """Return the effect size: the difference over the pooled standard deviation over seeds.

    The bias with few runs is corrected by 1 - 3 / (4 df - 1), where df are the degrees of freedom
    of the standard deviation (Hedges 1981). None if the standard deviation is 0 or undefined.
    """
    sd = pooled_sd(direct, staged)
    if not sd:
        return None
    df = len(direct) + len(staged) - 2
    return float((staged.mean() - direct.mean()) / sd * (1 - 3 / (4 * df - 1)))


def seed_correlation(direct: np.ndarray, staged: np.ndarray) -> float | None:
    """Return Pearson's correlation of the scores of both conditions over seeds.

    With R seeds, its standard error is about 1 / sqrt(R - 1) where it is 0.

    Args:
      direct: (pairs,) scores of the direct runs of seeds that both conditions have.
      staged: (pairs,) scores of the staged runs of the same seeds.

    Returns:
      None for fewer than three seeds, of which any two are perfectly correlated, or if the scores
      of a condition are all the same.
    """
    if len(direct) < 3 or not (np.ptp(direct) and np.ptp(staged)):
        return None
    return float(np.corrcoef(direct, staged)[0, 1])
