"""Descriptive statistics that papers report beside a comparison; no verdict depends on them.

- **Multi-bootstrap** (Sellam et al. 2022): examples and seeds are resampled together. A resample
  of the examples is shared by all runs; seeds are resampled apart for the two conditions, or as
  pairs if the study is paired, as with `paired_seeds` in the authors' `multibootstrap.py`. With
  few seeds its interval is too short: resampling R seeds recovers (R - 1) / R of their variance,
  and nothing of the uncertainty about it. Where seeds alone vary, 95 % intervals of unpaired
  studies cover 73 to 81 % with 3 seeds and 92 to 94 % with 20.
- **Probability of improvement** (Bouthillier et al. 2021): how often a staged run scores better
  than a direct one, over all pairs of runs; ties count half. Its interval is the score interval of
  Newcombe (2006), with a quantile of the t instead of the normal distribution. With 3 to 20 seeds,
  95 % intervals cover 93 to 100 %; those of a percentile bootstrap over seeds cover 31 to 96 %, as
  they have no length where every staged run is better than every direct one.
- **Almost stochastic order** (Dror et al. 2019, after del Barrio et al. 2018): the violation ratio
  is the share of the squared Wasserstein distance between two distributions of scores where the
  one that should be better is worse. 0 means that it is better in every quantile, 0.5 that neither
  is better. Its upper bound is one-sided, and asymptotic for conditions that differ: between equal
  conditions with 3 to 20 seeds, a bound of 95 % is below 0.5 in 17 to 24 % of studies, and below
  0.2 in 3 to 9 %.

`benchmarks/descriptive.py` measures these shares, with normal and heavy-tailed scores, and unequal
variances for the coverage.

All but the multi-bootstrap are conditional on the examples of the test set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from flaxfer.statistics.sets import SetScores, StudyRuns


@dataclasses.dataclass(frozen=True)
class Descriptive:
    """Descriptive statistics of staged against direct.

    Attributes:
      multi_low, multi_high: Ends of the multi-bootstrap's percentile interval of staged minus
        direct.
      multi_p: Two-sided p value of the multi-bootstrap: twice the smaller share of resamples with a
        difference of at most, or at least, 0. Like the authors', a share is at least that of one
        resample.
      better: Probability that a staged run scores better than a direct one.
      better_low, better_high: Ends of its interval.
      violation: Violation ratio of the claim that staged is stochastically better.
      violation_sd: Its standard deviation over resamples of the seeds.
    """

    multi_low: float
    multi_high: float
    multi_p: float
    better: float
    better_low: float
    better_high: float
    violation: float
    violation_sd: float

    def bounds(self, alpha: float, comparisons: int) -> tuple[float, float]:
        """Return the upper bounds of the violation ratios, known as epsilon_min.

        Args:
          alpha: Error rate of each bound, over all comparisons.
          comparisons: Number of comparisons, among which `alpha` is divided (Bonferroni): more of
            them give larger bounds.

        Returns:
          The bounds for "staged is better" and "direct is better". Dominance is claimed below 0.5,
          or a stricter threshold such as 0.2.
        """
        margin = self.violation_sd * -special.ndtri(alpha / comparisons)
        ratios = self.violation, 1 - self.violation
        staged, direct = (min(max(ratio + margin, 0.0), 1.0) for ratio in ratios)
        return staged, direct


class Described(NamedTuple):
    """A comparison that is described.

    Attributes:
      workdir: Directory of the study.
      language: Language, or name of the mean.
      set: Name of the set; empty for a mean.
      all_runs: Whether collapsed runs count.
    """

    workdir: str
    language: str
    set: str
    all_runs: bool


def describe_studies(
    workdirs: Sequence[Path],
    *,
    metric: str = "",
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Mapping[Described, Descriptive]:
    """Return the descriptive statistics of all comparisons with at least two runs a condition.

    Args:
      workdirs: Directories with study.json and stages.
      metric: Metric to compare; empty for the dev metric of each study.
      draws: Number of resamples.
      level: Nominal coverage of the intervals.
      seed: Seed of all random draws.

    Raises:
      DataError: A record or a predictions file is wrong, or runs predicted different examples.
    """
    described = {}
    for workdir in workdirs:
        study = StudyRuns(workdir, metric)
        sets = study.sets(draws, seed)
        collapsed = study.collapsed(list(sets.values()))
        for scores in (*sets.values(), *study.means(sets)):
            rng = np.random.default_rng((seed, scores.n, 2))
            every = _of_runs(study, scores, np.full_like(collapsed, True), level, rng)
            sound = _of_runs(study, scores, ~collapsed, level, rng) if collapsed.any() else every
            for all_runs, statistics in ((True, every), (False, sound)):
                if statistics is not None:
                    key = Described(str(workdir), scores.language, scores.set, all_runs)
                    described[key] = statistics
    return described


def _of_runs(
    study: StudyRuns, scores: SetScores, kept: np.ndarray, level: float, rng: np.random.Generator
) -> Descriptive | None:
    """Return the statistics of the runs that `kept`, (runs,) bool, selects."""
    direct, staged = study.compared(kept)
    return describe(
        *(scores.scores[direct], scores.scores[staged]),
        *(scores.resampled[:, direct], scores.resampled[:, staged]),
        larger_is_better=scores.larger_is_better,
        level=level,
        rng=rng,
        paired=study.paired,
    )


def describe(
    direct: np.ndarray,
    staged: np.ndarray,
    direct_dr: np.ndarray,
    staged_dr: np.ndarray,
    *,
    larger_is_better: bool,
    level: float,
    rng: np.random.Generator,
    paired: bool = False,
) -> Descriptive | None:
    """Compute the descriptive statistics; None if a condition has a single run.

    Args:
      direct: (runs,) scores of the direct runs on all examples.
      staged: (runs,) scores of the staged runs.
      direct_dr: (draws, runs) scores of the direct runs in resamples of the examples.
      staged_dr: (draws, runs) scores of the staged runs in the same resamples.
      larger_is_better: Direction of the scores.
      level: Nominal coverage of the intervals.
      rng: Generator for resampling the seeds.
      paired: Whether run i of both conditions has the same seed.
    """
    if min(len(direct), len(staged)) < 2:
        return None
    sign = 1 if larger_is_better else -1
    violation, sd = almost_stochastic_order(sign * staged, sign * direct, len(direct_dr), rng)
    return Descriptive(
        *multi_bootstrap(direct_dr, staged_dr, level, rng, paired),
        *probability_better(sign * staged, sign * direct, level),
        violation,
        sd,
    )


def multi_bootstrap(
    direct_dr: np.ndarray,
    staged_dr: np.ndarray,
    level: float,
    rng: np.random.Generator,
    paired: bool = False,
) -> tuple[float, float, float]:
    """Return interval and two-sided p value of staged minus direct (Sellam et al. 2022).

    Args:
      direct_dr: (draws, runs) scores of the direct runs in resamples of the examples.
      staged_dr: (draws, runs) scores of the staged runs in the same resamples.
      level: Nominal coverage of the interval.
      rng: Generator for resampling the seeds.
      paired: Whether run i of both conditions has the same seed; these are then drawn together.
    """
    staged = rng.integers(staged_dr.shape[1], size=staged_dr.shape)
    direct = staged if paired else rng.integers(direct_dr.shape[1], size=direct_dr.shape)
    difference = _mean_of(staged_dr, staged) - _mean_of(direct_dr, direct)
    low, high = np.quantile(difference, [(1 - level) / 2, (1 + level) / 2])
    smaller = min((difference <= 0).mean(), (difference >= 0).mean())
    return float(low), float(high), float(min(2 * max(smaller, 1 / len(difference)), 1.0))


def _mean_of(scores_dr: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the mean over the runs at `places`, (draws, places) int, of each draw."""
    return np.take_along_axis(scores_dr, places, axis=1).mean(axis=1)


def probability_better(
    staged: np.ndarray, direct: np.ndarray, level: float
) -> tuple[float, float, float]:
    """Return P(staged > direct) + P(staged = direct) / 2 over pairs of runs, with its interval.

    The interval holds the probabilities whose distance from the estimate is at most t standard
    deviations, where the deviation is that of the tested probability (Newcombe 2006, method 5, with
    the variance of Hanley & McNeil 1982). With few runs Newcombe's normal quantile is too small, so
    it is the quantile of a t distribution, with the degrees of freedom of all runs.

    Args:
      staged: (runs,) scores of the staged runs; larger is better.
      direct: (runs,) scores of the direct runs.
      level: Nominal coverage.
    """
    pairs = staged[:, None], direct
    estimate = float((np.greater(*pairs) + np.equal(*pairs) / 2).mean())
    m, n = len(staged), len(direct)
    others, t = (m + n) / 2 - 1, special.stdtrit(m + n - 2, (1 + level) / 2)

    def is_outside(tested: float) -> bool:
        dependence = others * ((1 - tested) / (2 - tested) + tested / (1 + tested))
        variance = tested * (1 - tested) * (1 + dependence) / (m * n)
        return (tested - estimate) ** 2 > t**2 * variance

    def end(outside: float) -> float:
        inside = estimate
        while abs(inside - outside) > 1e-12:
            middle = (inside + outside) / 2
            if is_outside(middle):
                outside = middle
            else:
                inside = middle
        return inside

    return estimate, end(0.0), end(1.0)


def almost_stochastic_order(
    staged: np.ndarray, direct: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the violation ratio of "staged is better", and its deviation over resampled seeds.

    Args:
      staged: (runs,) scores of the staged runs; larger is better.
      direct: (runs,) scores of the direct runs.
      draws: Number of resamples.
      rng: Generator for them.
    """
    resampled = (
        runs[rng.integers(len(runs), size=(draws, len(runs)))] for runs in (staged, direct)
    )
    ratio = float(violation_ratio(staged, direct))
    return ratio, float(violation_ratio(*resampled).std())


def violation_ratio(staged: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """Return the share of the squared Wasserstein distance where staged is worse.

    That is the integral of max(G(t) - F(t), 0)^2 over that of (G(t) - F(t))^2, where F and G are
    the empirical quantile functions of staged and direct (del Barrio et al. 2018). Where they are
    equal neither is better, and the ratio is 0.5.

    Args:
      staged: (..., runs) scores of the staged runs; larger is better.
      direct: (..., runs) scores of the direct runs, perhaps of another number.
    """
    # Both functions are constant between multiples of 1 / steps, so the integrals are sums.
    steps = math.lcm(staged.shape[-1], direct.shape[-1])
    staged_quantile, direct_quantile = (
        np.sort(scores, axis=-1).repeat(steps // scores.shape[-1], axis=-1)
        for scores in (staged, direct)
    )
    difference = direct_quantile - staged_quantile
    total = np.square(difference).sum(axis=-1)
    violated = np.square(np.maximum(difference, 0)).sum(axis=-1)
    return np.where(total > 0, violated / np.where(total > 0, total, 1), 0.5)
