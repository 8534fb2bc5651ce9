"""Numbers of seeds and examples that a study needs to find a difference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from scipy import special

from flaxfer.statistics.inference import Components

TARGET = 0.8
"""Power to reach."""
MOST = 10**7
"""Largest number of seeds or examples that is considered."""
FARTHEST = 1e15
"""Largest noncentrality; SciPy returns NaN for still larger ones."""
NORMAL_DF = 1e6
"""Degrees of freedom from which a t distribution counts as normal."""


@dataclasses.dataclass(frozen=True)
class Needed:
    """Smallest designs in which a difference would be found with power `TARGET`.

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
    those of Satterthwaite (1946). Without variance over examples this is the power of the
    two-sample t test, or with one group of the paired one (Cohen 1988, Statistical Power Analysis,
    ch. 2).

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
    critical = special.stdtrit(df, alpha / 2) ** 2
    noncentrality = min(difference**2 / variance, FARTHEST)
    return float(1 - special.ncfdtr(1, df, noncentrality, critical))


def needed(difference: float, components: Components, runs: float, n: int, alpha: float) -> Needed:
    """Return the smallest designs that find a difference.

    Args:
      difference: true difference, of either sign.
      components: variance components with `n` examples.
      runs: seeds in each condition of the study.
      n: number of its examples.
      alpha: level of the two-sided test, after correction for multiple testing.
    """

    def found(seeds: float, examples: int) -> bool:
        less = n / examples
        by_seed = components.seeds - (1 - less) * components.interaction
        of_examples, groups = components.examples * less, components.groups
        return power(difference, of_examples, by_seed, seeds, alpha, groups) >= TARGET

    seeds = _smallest(lambda count: found(count, n))
    examples = _smallest(lambda count: found(runs, count))
    both: tuple[int, int] | None = None
    if seeds is None and examples is None:
        start = _smallest(lambda count: found(count, math.ceil(n * count / runs)))
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
