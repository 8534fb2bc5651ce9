"""From the scores of two paths' runs, and of resamples of their examples, to a verdict.

Two things are drawn by chance: the examples of a test set, and the seeds of the runs. The interval
covers both. Its model is that of crossed random effects: the score of a run is that of its path,
plus an effect of the examples, which all runs share, plus an effect of the seed, plus what a seed
does to single examples, which averages out over examples like the former.

- **Examples** are resampled with replacement (Efron 1979), the same ones for all runs of both
  paths. This gives the variance of the difference by examples, and by resampling the runs' own
  deviations from their path's mean also the part of the variance over seeds that is only theirs.
- **Seeds** are not resampled. Of 3 runs, resampling finds 2/3 of the variance and none of the
  uncertainty about it, and 95 % intervals cover about 85 % where seeds matter. Instead the effect
  of the seeds is drawn from what is known of it: a normal variable whose variance is the observed
  variance of the means over a chi-squared draw (a fiducial or generalised interval, Weerahandi
  1993; for infinitely many examples it is the t interval). The part that resampling the examples
  already covers is taken off first.
- Runs of the two paths are **not paired by seed**, though a seed gives both the same order of data
  and head. Pairing would leave as many degrees of freedom as one path has. Unpaired, the variances
  of both paths add up, with the degrees of freedom of Welch (1947): right where the paths'
  scores are uncorrelated over seeds, too wide where they go up and down together, and good also
  for paths with different numbers of runs. `benchmarks/coverage.py` measures both.

The p value is the level at which the interval would reach 0.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from flaxfer.statistics.distributions import chi2_quantiles, normal_cdf

Over = Literal["seeds and examples", "examples alone"]
Verdict = Literal["helps", "hurts", "no evidence"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference, staged minus direct.

    Attributes:
      difference: of the mean scores.
      low, high: ends of the interval.
      over: what the interval is over. `examples alone` is conditional on these very runs, and says
        nothing of other seeds.
      p: two-sided, of no difference; at least one over the number of resamples.
    """

    difference: float
    low: float
    high: float
    over: Over
    p: float


def hierarchical_interval(
    direct: np.ndarray,
    staged: np.ndarray,
    direct_BR: np.ndarray,
    staged_BR: np.ndarray,
    *,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Interval:
    """Interval of staged minus direct over seeds and examples, as this module describes it.

    With one run of a path there is no variance over seeds, and the interval is over examples alone.

    Args:
      direct, staged: (R,) scores of the runs of a path, over all examples.
      direct_BR, staged_BR: the same in B resamples of the examples.
      level: that the interval is to cover.
      rng: draws the effect of the seeds.
    """
    by_examples = staged_BR.mean(axis=1) - direct_BR.mean(axis=1)
    over: Over = "examples alone"
    deviation = np.zeros(len(by_examples))
    if min(len(direct), len(staged)) > 1:
        over = "seeds and examples"
        seeds = np.array([runs.var(ddof=1) / len(runs) for runs in (direct, staged)])
        covered = sum(_own(runs_BR) for runs_BR in (direct_BR, staged_BR))
        freedom = np.array([len(direct) - 1, len(staged) - 1])
        if seeds.sum() > 0:
            df = float(seeds.sum() ** 2 / (seeds**2 / freedom).sum())
            chi2 = rng.permutation(chi2_quantiles(df, len(by_examples)))
            deviation = np.sqrt(np.maximum(seeds.sum() * df / chi2 - covered, 0))
    drawn = by_examples + deviation * rng.standard_normal(len(by_examples))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # The normal variable is integrated rather than drawn, which reaches further into the tail.
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(by_examples == 0, 0.0, by_examples / deviation)
    below = normal_cdf(-z).mean()
    p = max(2 * min(below, 1 - below), 1 / len(by_examples))
    return Interval(
        float(staged.mean() - direct.mean()), float(low), float(high), over, float(min(p, 1.0))
    )


def _own(runs_BR: np.ndarray) -> float:
    """Variance by examples of what sets runs apart, of the mean of R runs."""
    runs = runs_BR.shape[1]
    apart = runs_BR - runs_BR.mean(axis=1, keepdims=True)
    return float(apart.var(axis=0).sum() / (runs - 1) / runs)


def permute_seeds(
    direct: np.ndarray, staged: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Permutation test over runs: the paths' names are dealt to the runs anew (Fisher 1935).

    The examples are taken as given. Every deal is made if there are at most `most`.

    Args:
      direct, staged: (R,) scores of the runs.
      most: permutations.
      rng: draws them if there are more.

    Returns:
      The two-sided p value and the smallest that so few runs can give: 0.1 for 3 and 3.
    """
    scores = np.concatenate([direct, staged])
    chosen = len(staged)
    deals = math.comb(len(scores), chosen)
    exact = deals <= most
    if exact:
        picked = np.array(list(itertools.combinations(range(len(scores)), chosen)))
    else:
        picked = rng.permuted(np.tile(np.arange(len(scores)), (most, 1)), axis=1)[:, :chosen]
    total = scores[picked].sum(axis=1)
    differences = total / chosen - (scores.sum() - total) / len(direct)
    observed = staged.mean() - direct.mean()
    # With as many runs in both paths, exchanging them all is as far on the other side.
    fewest = (2 if len(direct) == len(staged) else 1) / deals
    return share_beyond(differences, observed, exact), max(fewest, 0 if exact else 1 / (most + 1))


def share_beyond(differences: np.ndarray, observed: float, exact: bool) -> float:
    """Two-sided p value of a permutation test.

    Args:
      differences: under permutations: all of them if `exact`, else drawn, when the observed one
        counts as a further one (Phipson & Smyth 2010).
      observed: as it is.
      exact: whether these are all permutations.
    """
    beyond = int((np.abs(differences) >= abs(observed) * (1 - 1e-6) - 1e-12).sum())
    return beyond / len(differences) if exact else (beyond + 1) / (len(differences) + 1)


def pooled_sd(direct: np.ndarray, staged: np.ndarray) -> float | None:
    """Standard deviation over seeds within the paths; None unless both have two runs."""
    if min(len(direct), len(staged)) < 2:
        return None
    squares = sum(((runs - runs.mean()) ** 2).sum() for runs in (direct, staged))
    return float(math.sqrt(squares / (len(direct) + len(staged) - 2)))


def hedges_g(direct: np.ndarray, staged: np.ndarray) -> float | None:
    """Effect size: the difference over the pooled standard deviation over seeds.

    Corrected for its bias with few runs by 1 - 3 / (4 df - 1), df the degrees of freedom of the
    standard deviation (Hedges 1981). None without that, or if it is 0.
    """
    sd = pooled_sd(direct, staged)
    if not sd:
        return None
    df = len(direct) + len(staged) - 2
    return float((staged.mean() - direct.mean()) / sd * (1 - 3 / (4 * df - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts p values, in the order given, for being a family (Holm 1979).

    Rejecting what is at most alpha keeps the chance of any false rejection at most alpha.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    made = np.empty(len(p))
    made[order] = np.minimum(np.maximum.accumulate(adjusted), 1.0)
    return made.tolist()


def verdict(
    difference: float, p_holm: float | None, larger_is_better: bool, alpha: float
) -> Verdict:
    """`helps` or `hurts` if the adjusted p value is at most `alpha`.

    Without one, as of runs of a single seed, there is no evidence about the paths.
    """
    if p_holm is None or p_holm > alpha or difference == 0:
        return "no evidence"
    return "helps" if (difference > 0) == larger_is_better else "hurts"
