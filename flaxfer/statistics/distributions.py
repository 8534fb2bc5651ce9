"""Normal, chi-squared and t distributions, and the number of seeds that a difference needs.

scipy has all of it, but is no dependency. Integrals over a chi-squared variable are sums over a
grid of its logarithm, where the trapezoidal rule is exact to rounding.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np

from flaxfer.errors import ConfigError

_POINTS = 1001
MOST_SEEDS = 1_000_000
"""Where `needed_seeds` stops."""

_erfc = np.frompyfunc(math.erfc, 1, 1)


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """Share of a standard normal variable below each of `z`."""
    return np.asarray(_erfc(-np.asarray(z) / math.sqrt(2)), np.float64) / 2


def chi2_quantiles(df: float, count: int) -> np.ndarray:
    """Quantiles of a chi-squared variable at (i + 1/2) / count, i = 0, ..., count - 1."""
    value, share = _chi2_grid(df)
    below = np.cumsum(share) - share / 2
    return np.exp(np.interp((np.arange(count) + 0.5) / count, below, np.log(value)))


def t_tail(value: float, df: float, noncentrality: float = 0.0) -> float:
    """P(T > value) of a noncentral t variable, (Z + noncentrality) / sqrt(chi2 / df)."""
    chi2, share = _chi2_grid(df)
    return float(share @ normal_cdf(noncentrality - value * np.sqrt(chi2 / df)))


@functools.lru_cache(maxsize=1024)
def t_quantile(tail: float, df: float) -> float:
    """The value that a t variable exceeds with probability `tail`, below 1/2."""
    chi2, share = _chi2_grid(df)
    scale = np.sqrt(chi2 / df)
    value = -NormalDist().inv_cdf(tail)
    # Newton's steps from the left of a convex function stay on its left.
    while True:
        density = share @ (scale * np.exp(-((value * scale) ** 2) / 2)) / math.sqrt(2 * math.pi)
        step = (t_tail(value, df) - tail) / float(density)
        value += step
        if abs(step) <= 1e-10 * value:
            return value


def power(difference: float, sd: float, seeds: int, alpha: float = 0.05) -> float:
    """Probability that a two-sided t test of two paths with `seeds` seeds each finds a difference.

    Noncentral t (Cohen 1988, Statistical Power Analysis, ch. 2): both paths have the standard
    deviation `sd` over seeds, on a test set that is not drawn anew.
    """
    df = 2 * (seeds - 1)
    beyond = t_quantile(alpha / 2, df)
    shift = abs(difference) / sd * math.sqrt(seeds / 2)
    return t_tail(beyond, df, shift) + t_tail(beyond, df, -shift)


def needed_seeds(difference: float, sd: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """The fewest seeds a path with which `power` is reached.

    Args:
      difference: between the means of two paths that is to be found, of either sign.
      sd: standard deviation over the seeds of a path, the same for both.
      power: probability of finding it.
      alpha: level of the two-sided test.

    Returns:
      A number of at least 2.

    Raises:
      ConfigError: an argument is out of its range, or a million seeds would not do.
    """
    if not (difference and sd > 0 and alpha < power < 1 and 0 < alpha < 1):
        raise ConfigError(
            f"no number of seeds for difference {difference}, sd {sd}, power {power}, alpha"
            f" {alpha}",
            where="needed_seeds",
            hint="give a difference other than 0, a positive sd, and 0 < alpha < power < 1",
        )
    # What a normal distribution needs is next to it.
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    about = 2 * (z * sd / difference) ** 2
    if about > MOST_SEEDS:
        raise ConfigError(
            f"a difference of {difference} is too small to be found beside an sd of {sd}",
            where="needed_seeds",
            hint="ask for a larger difference",
        )
    seeds = max(2, int(about))
    while _power(difference, sd, seeds, alpha) < power:
        seeds += 1
    while seeds > 2 and _power(difference, sd, seeds - 1, alpha) >= power:
        seeds -= 1
    return seeds


_power = power  # Its name is an argument's within `needed_seeds`.


@functools.lru_cache(maxsize=1024)
def _chi2_grid(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and their shares, which add up to 1."""
    low = math.log(df) - max(12 * math.sqrt(2 / df), 80 / df)
    high = math.log(df + 12 * math.sqrt(2 * df) + 80)
    log = np.linspace(low, high, _POINTS)
    density = df / 2 * log - np.exp(log) / 2
    share = np.exp(density - np.max(density))
    return np.exp(log), share / share.sum()
