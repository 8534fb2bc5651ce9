"""Power of comparisons: what planned ones can decide, and what would be needed to decide more."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import special

from flaxfer.statistics.inference import Components, chi_squared
from flaxfer.statistics.sequential import LEAST, critical_values, crossing_probabilities

TARGET = 0.8
"""Power to reach, unless another one is asked for."""
MOST = 10**7
"""Largest number of seeds or examples that is considered."""
FARTHEST = 1e15
"""Largest noncentrality; SciPy returns NaN for still larger ones."""
NORMAL_DF = 1e6
"""Degrees of freedom from which a t distribution counts as normal."""
QUANTILES = 128
"""Values of an estimated variance, over which a power is averaged."""
RATIOS = 6
"""Values of the ratio of two estimated variances, over which a power is averaged."""
STEPS = 50
"""Largest number of steps of Newton's method."""
TOLERANCE = 1e-9
"""Relative error of a half width."""
BISECTIONS = 24
"""Halvings of an interval whose ends differ by a factor of two."""


@dataclasses.dataclass(frozen=True)
class Needed:
    """Smallest designs that are enough, such as to find a difference with power `TARGET`.

    Attributes:
      seeds: seeds in each condition, at least 2, on the same examples; None if no number is enough,
        because the examples limit the power.
      examples: examples, at least 2, with the same seeds; None if no number is enough, because the
        seeds limit it.
      both: seeds and examples, increased in the same proportion; None unless both the others are
        None, or if the difference is 0.
    """

    seeds: int | None
    examples: int | None
    both: tuple[int, int] | None


def power(
    difference: float, examples: float, seeds: float, runs: float, alpha: float, groups: int = 2
) -> float:
    """Return the power of the two-sided test of no difference.

    The difference of the means has the variance `examples + seeds / runs`, of which the second part
    is estimated with `groups * (runs - 1)` degrees of freedom; the statistic is noncentral t with
    those of Satterthwaite (1946). Without variance over examples this is the exact power of Welch's
    test with equal variances (Lee & Gurland 1975), or with one group that of the paired t test
    (Cohen 1988, Statistical Power Analysis, ch. 2).

    Args:
      difference: true difference.
      examples: variance due to the examples, `Components.examples`.
      seeds: variance of one run of each condition, `Components.seeds`.
      runs: seeds in each condition, more than 1.
      alpha: level of the test.
      groups: groups of runs from which `seeds` is estimated, `Components.groups`: 1 if runs are
        paired by seed.
    """
    variance = examples + seeds / runs
    if variance <= 0:
        return float(difference != 0)
    share = seeds / runs / variance
    df = groups * (runs - 1) / share**2 if share else math.inf
    if df > NORMAL_DF:
        shift, critical = abs(difference) / math.sqrt(variance), special.ndtri(alpha / 2)
        return float(special.ndtr(critical + shift) + special.ndtr(critical - shift))
    # The square of noncentral t is noncentral F, which covers both tails; SciPy's lower tail of the
    # former is NaN for some arguments.
    df_used, probability = _degrees_of_freedom(runs, groups)
    critical = special.stdtrit(df_used / share**2, alpha / 2) ** 2
    noncentrality = min(difference**2 / variance, FARTHEST)
    return float((1 - special.ncfdtr(1, df, noncentrality, critical)) @ probability)


def _degrees_of_freedom(runs: float, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return possible degrees of freedom of a test without variance over examples, with weights.

    Welch's (1947) test has (R - 1) / (r^2 + (1 - r)^2) of them if the estimated variance of one
    condition is the share r of the sum of both. So they are fewer than the 2 (R - 1) of that sum,
    unless both estimates are equal. If the true variances are, r is independent of the sum, and
    (2r - 1)^2 has the distribution Beta(1/2, (R - 1) / 2).

    Args:
      runs: R seeds in each condition, more than 1.
      groups: groups of runs; with a single one, the degrees of freedom are R - 1.
    """
    if groups == 1:
        return np.array([runs - 1.0]), np.ones(1)
    node, weight = np.polynomial.legendre.leggauss(RATIOS)
    squared = special.betaincinv(0.5, (runs - 1) / 2, (node + 1) / 2)
    return 2 * (runs - 1) / (1 + squared), weight / 2


@functools.lru_cache(256)
def _half_widths(components: Components, runs: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Return possible half widths of an interval, and their probabilities.

    They depend on the estimated variances over seeds: on their sum, for which there are `QUANTILES`
    values, and on their ratio, through the degrees of freedom, which are the outer axis of the
    result.

    Args:
      components: true variances.
      runs: seeds in each condition, more than 1.
      tail: probability beyond each end.
    """
    df = components.groups * (runs - 1)
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    estimated = components.seeds / runs * 2 * special.gammaincinv(df / 2, middle) / df
    df_used, probability = _degrees_of_freedom(runs, components.groups)
    widths = [_widths(components, runs, tail, estimated, each) for each in df_used]
    return np.concatenate(widths), np.repeat(probability / QUANTILES, QUANTILES)


def _widths(
    components: Components, runs: int, tail: float, estimated: np.ndarray, df: float
) -> np.ndarray:
    """Return the half width for each estimated variance of the difference over seeds.

    It is where the distribution of `inference.Difference` has a tail, with as many examples and
    resamples as are needed for a normal distribution over examples.
    """
    chi2, probability = chi_squared(df)
    # The first axis has the estimated variances, the second the possible true ones.
    possible = np.maximum(estimated[:, None] * df / chi2, components.interaction / runs)
    sd = np.sqrt(components.examples + possible)
    # Newton's method on the normal scores of the tails. They are a concave function of the half
    # width, so that it converges from below, where the half width of a normal variable is.
    score = special.ndtri(tail)
    width: np.ndarray = -score * np.sqrt(components.examples + estimated)
    for _ in range(STEPS):
        z = -width[:, None] / sd
        now = special.ndtri(special.ndtr(z) @ probability)
        slope = np.exp((now**2)[:, None] / 2 - z**2 / 2) / sd @ probability
        step = (now - score) / slope
        width = width + step
        if np.all(np.abs(step) <= TOLERANCE * width):
            break
    return width


@dataclasses.dataclass(frozen=True)
class Planned:
    """A comparison before its runs, with fixed seeds or with looks at several numbers of them.

    Looks share the level as in `sequential`, whose shares of information follow from the variances.
    Fixed seeds are a single look, which has the whole level.

    Given the estimated variances, the difference is normal, and a test rejects where the interval
    of `inference.Difference` does; the power is the mean over what may be estimated. Without
    variance over examples it is the power of Welch's test (Lee & Gurland 1975) or of the paired t
    test, and for equivalence that of two of them (Phillips 1990).

    Attributes:
      components: variances, with at least some variance over seeds.
      looks: numbers of seeds in each condition, ascending and more than 1.
      alpha: level of the comparison, after the correction for multiple testing.
    """

    components: Components
    looks: tuple[int, ...]
    alpha: float

    @functools.cached_property
    def _information(self) -> list[float]:
        of = self.components
        return [1 / (of.examples + of.seeds / look) for look in self.looks]

    def _tests(self, alpha: float) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Return each look's standard deviation, possible half widths and their probabilities.

        Args:
          alpha: level of one side, of all looks together.
        """
        shares = [each / self._information[-1] for each in self._information]
        critical = np.array(critical_values(shares, alpha, self._information))
        levels = np.maximum(special.ndtr(-critical), LEAST).tolist()
        return [
            (information**-0.5, *_half_widths(self.components, look, level))
            for look, level, information in zip(self.looks, levels, self._information, strict=True)
        ]

    @functools.cached_property
    def _two_sided(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        return self._tests(self.alpha / 2)

    @functools.cached_property
    def _one_sided(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        return self._tests(self.alpha)

    def power(self, difference: float) -> list[float]:
        """Return the probability that a difference is found, at each look or before.

        The probability of a look alone holds for few seeds, too; that several looks miss the
        difference is as probable as with normal variables.
        """
        alone = [
            sum(special.ndtr((each - width) / sd) @ weight for each in (difference, -difference))
            for sd, width, weight in self._two_sided
        ]
        boundaries = (-special.ndtri(np.minimum(alone, 1))).tolist()
        return crossing_probabilities(boundaries, self._information)

    def detectable(self, target: float = TARGET) -> list[float]:
        """Return the smallest difference that is found with a power, at each look or before."""

        def at(look: int) -> float:
            return self._smallest(lambda size: self.power(size)[look], target)

        return [at(look) for look in range(len(self.looks))]

    def equivalence_power(self, margin: float) -> list[float]:
        """Return the probability that no relevant change is shown, at each look alone.

        The true difference is 0. The probability of all looks together is no smaller than the
        largest of them.
        """
        return [
            float((2 * special.ndtr(np.maximum(margin - width, 0) / sd) - 1) @ weight)
            for sd, width, weight in self._one_sided
        ]

    def smallest_margin(self, target: float = TARGET) -> list[float]:
        """Return the smallest margin for which `equivalence_power` is enough, at each look."""

        def at(look: int) -> float:
            return self._smallest(lambda size: self.equivalence_power(size)[look], target)

        return [at(look) for look in range(len(self.looks))]

    def half_width(self, level: float) -> list[float]:
        """Return the expected half width of the interval at each look.

        With several looks it is the repeated interval, of which all cover the difference at once.
        """
        return [float(width @ weight) for _, width, weight in self._tests((1 - level) / 2)]

    def examples_share(self) -> list[float]:
        """Return the share of the variance that no number of seeds reduces, at each look."""
        return [self.components.examples * each for each in self._information]

    def _smallest(self, rising: Callable[[float], float], target: float) -> float:
        """Return where a function of a positive number reaches a power."""
        high = self._information[-1] ** -0.5
        while rising(high) < target:
            high *= 2
        low = high / 2
        while rising(low) >= target:
            low, high = low / 2, low
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if rising(middle) >= target else (middle, high)
        return high


def rescaled(components: Components, factor: float) -> Components:
    """Return the components on 1 / `factor` times as many examples, for one run of each condition.

    Examples and interaction are divided by the number of examples; the rest of the variance over
    seeds stays.
    """
    examples, interaction = components.examples * factor, components.interaction * factor
    seeds = components.seeds - components.interaction + interaction
    return dataclasses.replace(
        components,
        examples=examples,
        seeds=seeds,
        interaction=interaction,
        total=examples + seeds,
    )


def needed(difference: float, components: Components, runs: float, n: int, alpha: float) -> Needed:
    """Return the smallest designs that find a difference with power `TARGET`.

    Args:
      difference: true difference, of either sign.
      components: variance components with `n` examples.
      runs: seeds in each condition of the study.
      n: number of its examples.
      alpha: level of the two-sided test, after correction for multiple testing.
    """

    def found(of: Components, seeds: float) -> bool:
        return power(difference, of.examples, of.seeds, seeds, alpha, of.groups) >= TARGET

    return smallest_designs(components, runs, n, found)


def smallest_designs(
    components: Components, runs: float, n: int, enough: Callable[[Components, float], bool]
) -> Needed:
    """Return the smallest designs that are enough.

    Args:
      components: variance components with `n` examples.
      runs: seeds in each condition of the study.
      n: number of its examples.
      enough: whether variance components and a number of seeds are; more of either are, too.
    """

    def check(seeds: float, examples: int) -> bool:
        return enough(rescaled(components, n / examples), seeds)

    seeds = _smallest(lambda count: check(count, n))
    examples = _smallest(lambda count: check(runs, count))
    both: tuple[int, int] | None = None
    if seeds is None and examples is None:
        start = _smallest(lambda count: check(count, math.ceil(n * count / runs)))
        if start is not None:
            both = start, math.ceil(n * start / runs)
    return Needed(seeds, examples, both)


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number of at least 2 that is enough; None if it is beyond `MOST`."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
