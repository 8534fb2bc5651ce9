"""Intervals, tests, effect sizes and verdicts for staged minus direct.

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
  effect is drawn from a normal distribution whose variance is the observed variance of the means
  over a chi-squared draw (a fiducial or generalised interval, Weerahandi 1993; with infinitely many
  examples it is the t interval). The part already covered by resampling examples is subtracted
  first.
- Runs of the two conditions are **not paired by seed**, although a seed fixes the order of the data
  and the head in both. Pairing would leave only the degrees of freedom of one condition. Unpaired,
  the variances of the conditions add up, with the degrees of freedom of Welch (1947). This is right
  if the scores of the conditions are uncorrelated over seeds, conservative if they are positively
  correlated, and allows different numbers of runs. `benchmarks/coverage.py` measures all of these.

The p value is the level at which the interval would reach 0.

With few runs the tails of the seed effect are heavy, and may leave what is possible: the difference
of two shares lies between -1 and 1. The interval is intersected with the possible differences. All
true differences lie there, so the interval covers them as often as before; and as 0 is one of them,
neither p value nor verdict changes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import special  # Importing scipy.stats takes several times as long.

Over = Literal["seeds and examples", "examples alone"]
Verdict = Literal["helps", "hurts", "no evidence"]

MIN_EFFECT = 0.008
"""Smallest standardised difference for `needed_seeds`; it takes about 250,000 seeds."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Interval and p value of a difference, staged minus direct.

    Attributes:
      difference: of the mean scores.
      low, high: ends of the interval, possible differences.
      over: sources of variation. `examples alone` is conditional on these runs and says nothing
        about other seeds.
      p: two-sided p value of no difference; at least 1 / number of resamples.
    """

    difference: float
    low: float
    high: float
    over: Over
    p: float


def hierarchical_interval(
    direct: np.ndarray,
    staged: np.ndarray,
    direct_dr: np.ndarray,
    staged_dr: np.ndarray,
    *,
    level: float = 0.95,
    largest: float = math.inf,
    rng: np.random.Generator,
) -> Interval:
    """Compute the interval of staged minus direct over seeds and examples (see the module).

    If a condition has a single run, the interval is over examples alone.

    Args:
      direct: (runs,) scores of the direct runs on all examples.
      staged: (runs,) scores of the staged runs.
      direct_dr: (draws, runs) scores of the direct runs in resamples of the examples.
      staged_dr: (draws, runs) scores of the staged runs in the same resamples.
      level: nominal coverage.
      largest: largest possible absolute difference.
      rng: generator for the seed effect.
    """
    by_examples = staged_dr.mean(axis=1) - direct_dr.mean(axis=1)
    draws = len(by_examples)
    over: Over = "examples alone"
    deviation = np.zeros(draws)
    if min(len(direct), len(staged)) > 1:
        over = "seeds and examples"
        variances = np.array([runs.var(ddof=1) / len(runs) for runs in (direct, staged)])
        covered = _interaction_variance(direct_dr) + _interaction_variance(staged_dr)
        freedom = np.array([len(direct) - 1, len(staged) - 1])
        if (variance := variances.sum()) > 0:
            df = variance**2 / (variances**2 / freedom).sum()
            quantiles = (np.arange(draws) + 0.5) / draws
            chi2 = rng.permutation(2 * special.gammaincinv(df / 2, quantiles))
            deviation = np.sqrt(np.maximum(variance * df / chi2 - covered, 0))
    drawn = by_examples + deviation * rng.standard_normal(draws)
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    low, high = np.clip(ends, -largest, largest)
    # Integrating over the normal variable instead of drawing it resolves smaller p values.
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(by_examples == 0, 0.0, by_examples / deviation)
    below = special.ndtr(-z).mean()
    p = max(2 * min(below, 1 - below), 1 / draws)
    difference = staged.mean() - direct.mean()
    return Interval(float(difference), float(low), float(high), over, float(min(p, 1.0)))


def _interaction_variance(scores_dr: np.ndarray) -> float:
    """Return the variance over examples of the mean of the runs' deviations from their mean."""
    runs = scores_dr.shape[1]
    deviations = scores_dr - scores_dr.mean(axis=1, keepdims=True)
    return float(deviations.var(axis=0).sum() / (runs - 1) / runs)


def permute_seeds(
    direct: np.ndarray, staged: np.ndarray, max_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Permute condition labels across runs (Fisher 1935), conditional on the examples.

    Unlike `scipy.stats.permutation_test`, which doubles the smaller tail, this compares absolute
    differences; the two disagree if the conditions have different numbers of runs.

    Args:
      direct: (runs,) scores of the direct runs.
      staged: (runs,) scores of the staged runs.
      max_permutations: number of permutations to draw if there are more than that.
      rng: generator for drawn permutations.

    Returns:
      The two-sided p value, and the smallest p value possible with so many runs, such as 0.1 for 3
      and 3.
    """
    scores = np.concatenate([direct, staged])
    size = len(staged)
    permutations = math.comb(len(scores), size)
    exact = permutations <= max_permutations
    if exact:
        picked = np.array(list(itertools.combinations(range(len(scores)), size)))
    else:
        rows = np.tile(np.arange(len(scores)), (max_permutations, 1))
        picked = rng.permuted(rows, axis=1)[:, :size]
    total = scores[picked].sum(axis=1)
    differences = total / size - (scores.sum() - total) / len(direct)
    observed = staged.mean() - direct.mean()
    # With equally many runs, swapping all labels gives a difference of the same absolute value.
    smallest = (2 if len(direct) == len(staged) else 1) / permutations
    if not exact:
        smallest = max(smallest, 1 / (max_permutations + 1))
    return permutation_p(differences, observed, exact), smallest


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


def power(difference: float, sd: float, seeds: int, alpha: float = 0.05) -> float:
    """Return the power of a two-sided t test of two conditions with `seeds` seeds each.

    Both conditions have the standard deviation `sd` over seeds, on a fixed test set (Cohen 1988,
    Statistical Power Analysis, ch. 2). The square of the noncentral t statistic is noncentral F,
    which covers both tails; SciPy's lower tail of the former is NaN for some arguments.
    """
    df = 2 * (seeds - 1)
    critical = special.stdtrit(df, alpha / 2) ** 2
    return float(1 - special.ncfdtr(1, df, (difference / sd) ** 2 * seeds / 2, critical))


def needed_seeds(
    difference: float, sd: float | None, target: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Return the smallest number of seeds per condition, at least 2, that reaches a power.

    Args:
      difference: between the means of two conditions, of either sign.
      sd: standard deviation over seeds within each condition.
      target: power to reach.
      alpha: level of the two-sided test.

    Returns:
      None if `sd` is 0 or None, or the difference is below `MIN_EFFECT` standard deviations.
    """
    if not sd or abs(difference) / sd < MIN_EFFECT:
        return None
    # The normal approximation is close, so the search starts there.
    z = special.ndtri(target) - special.ndtri(alpha / 2)
    seeds = max(2, int(2 * (z * sd / difference) ** 2))
    while power(difference, sd, seeds, alpha) < target:
        seeds += 1
    while seeds > 2 and power(difference, sd, seeds - 1, alpha) >= target:
        seeds -= 1
    return seeds


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for multiple testing (Holm 1979), in the order of `p`.

    Rejecting adjusted p values of at most alpha keeps the probability of any false rejection at
    most alpha. SciPy has corrections of the false discovery rate only.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def verdict(
    difference: float, p_holm: float | None, larger_is_better: bool, alpha: float
) -> Verdict:
    """Return `helps` or `hurts` if the adjusted p value is at most `alpha`.

    Without a p value, as with a single seed, the verdict is `no evidence`.
    """
    if p_holm is None or p_holm > alpha or difference == 0:
        return "no evidence"
    return "helps" if (difference > 0) == larger_is_better else "hurts"
