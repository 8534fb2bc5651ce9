"""Group-sequential tests: verdicts after several numbers of seeds, at one level for all looks.

A study that is judged after 5, 10, 15 and 20 seeds, each time at level 0.05, finds a difference
that does not exist in 12.6 % of all cases (Armitage, McPherson & Rowe 1969). Here the looks
share the level. The share that a look may use depends on its information (Lan & DeMets 1983), by
the spending function that resembles O'Brien & Fleming's (1979) boundary: early looks decide about
large differences only, and the last look is judged nearly as strictly as a study without looks.

**Information** is 1 / variance of the difference. The variance is V_examples + V_seeds / R for R
seeds: the examples of the test set stay, while seeds are added. Both parts are estimated at each
look, and so is the information of the last look, which is the maximum. A look spends by its share
of it, whatever was expected before; the share never falls, and the last look spends what is left.
If the examples dominate, the share is large from the first look on, because more seeds would not
change the result.

The differences of several looks have the joint distribution of a Brownian motion at times
proportional to information (Jennison & Turnbull 2000, ch. 3): cov(D_j, D_k) = V_examples +
V_seeds / R_k for j < k. Boundaries follow by recursive integration (Armitage, McPherson & Rowe
1969; Jennison & Turnbull 2000, ch. 19).

**With few seeds** a difference over its standard error is not normal, and `inference` does not
treat it as such. The boundary of a normal variable is converted to a level, and the p value of the
look, with its heavy tails, is compared with that (the significance level approach, Jennison &
Turnbull 2000, section 11.4). This is exact for the first look, whose p value is uniform, and
approximate for later ones, whose p values are correlated a little less than those of normal
variables with known variance. `benchmarks/looks.py` measures the error rates of whole studies.

**All p values here are of one side.** A test of both sides at level alpha is two tests at alpha /
2; a claim of equivalence at level alpha is two tests at alpha, which must both reject (Schuirmann
1987). The repeated p value of a look is the smallest level at which it crosses its boundary; the
smallest of them up to now is the sequential p value, which is valid whenever and for whatever
reason a study stops (Jennison & Turnbull 1989, Liu & Anderson 2008). It replaces the p value in
Holm's procedure, which passes the level of a rejected comparison on to the others (Maurer & Bretz
2013).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

LARGEST = 0.3
"""Largest p value of one side that is told apart from 1: up to 0.317, a larger level spends more
between any two looks, so that the p value is well defined."""
LEAST = 1e-12
"""Smallest p value of one side."""
MIN_GROWTH = 0.0025
"""Smallest relative growth of information between two looks in the integration. A larger growth
overstates the probability of crossing (Slepian 1962)."""
LIMIT = 9.0
"""Standard normal variables beyond it are neglected."""


def spent(share: float, alpha: float) -> float:
    """Return the level spent up to a share of the information (Lan & DeMets 1983).

    Args:
      share: information so far over that of the last look.
      alpha: level of the test of one side.
    """
    if share <= 0:
        return 0.0
    if share >= 1:
        return alpha
    return float(2 * special.ndtr(special.ndtri(alpha / 2) / math.sqrt(share)))


def critical_values(
    shares: Sequence[float], alpha: float, information: Sequence[float] | None = None
) -> list[float]:
    """Return the z value that each look must exceed, for a test of one side.

    Args:
      shares: share of the maximum information by which each look spends; does not fall.
      alpha: level of the test of one side.
      information: of the looks, in any unit; by default the shares. It determines how correlated
        the looks are.

    Returns:
      A value for each look; infinite if nothing is left for it.
    """
    path, before = _Path(), 0.0
    critical: list[float] = []
    for share, ratio in zip(shares, _growth(information or shares), strict=True):
        # Without a new share, the difference is nothing but an error of the integration.
        left = spent(share, alpha) - path.crossed if share > before else 0.0
        critical.append(path.boundary(left, ratio))
        path, before = path.step(critical[-1], ratio), share
    return critical


def crossing_probabilities(critical: Sequence[float], information: Sequence[float]) -> list[float]:
    """Return the probabilities that a z value exceeds its boundary at each look or before.

    Args:
      critical: boundary of each look.
      information: of the looks, in any unit.
    """
    path, crossed = _Path(), []
    for boundary, ratio in zip(critical, _growth(information), strict=True):
        path = path.step(boundary, ratio)
        crossed.append(path.crossed)
    return crossed


def _growth(information: Sequence[float]) -> list[float]:
    """Return the growth of information at each look, as a ratio; infinite at the first."""
    later = itertools.pairwise(information)
    return [math.inf, *(max(new / old, 1 + MIN_GROWTH) for old, new in later)]


@dataclasses.dataclass(frozen=True)
class Progress:
    """The looks that a comparison has had, and what they may spend.

    Attributes:
      seeds: number of seeds per condition at each look.
      shares: share of the maximum information, as estimated at the look itself.
      information: of all looks, as estimated at the newest one.
    """

    seeds: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    information: tuple[float, ...] = ()

    def after(self, seeds: int, last: int, of_examples: float, of_seeds: float) -> Progress:
        """Return the progress after another look.

        Args:
          seeds: number of seeds per condition at this look.
          last: number of seeds at the last look.
          of_examples: variance of the difference over examples, with infinitely many seeds.
          of_seeds: the other part of the variance, times the number of seeds.
        """
        if not of_examples + of_seeds > 0:
            of_examples, of_seeds = 0.0, 1.0  # Nothing is known, so more seeds count in full.
        every = (*self.seeds, seeds)
        information = tuple(1 / (of_examples + of_seeds / number) for number in every)
        share = information[-1] * (of_examples + of_seeds / last)
        share = min(max(share, *self.shares, 0.0), 1.0) if seeds < last else 1.0
        return Progress(every, (*self.shares, share), information)

    def critical_p(self, alpha: float) -> float:
        """Return the p value of one side at which the newest look rejects.

        The interval at the nominal level 1 - 2 * `critical_p(alpha / 2)` is the repeated confidence
        interval at level 1 - alpha (Jennison & Turnbull 1989): the probability that the intervals
        of all looks cover the difference is 1 - alpha.
        """
        return float(special.ndtr(-critical_values(self.shares, alpha, self.information)[-1]))

    def repeated_p(self, p: float) -> float:
        """Return the smallest level of a test of one side at which the newest look rejects.

        Args:
          p: p value of one side at this look.

        Returns:
          A value from `LEAST` to `LARGEST`, or 1.
        """
        if self.critical_p(LARGEST) < p:
            return 1.0
        low, high = math.log(LEAST), math.log(LARGEST)
        return math.exp(_solve(lambda log: p - self.critical_p(math.exp(log)), low, high, 24))


@dataclasses.dataclass(frozen=True)
class _Path:
    """Distribution of the z value of those paths that have not crossed a boundary yet.

    Attributes:
      nodes, masses: the distribution as points and their probabilities.
      crossed: probability of the other paths.
    """

    nodes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    masses: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(1))
    crossed: float = 0.0

    def _tail(self, boundary: float, ratio: float) -> float:
        """Return the probability of crossing the boundary of the next look."""
        mean, sd = math.sqrt(1 / ratio), math.sqrt(1 - 1 / ratio)
        return float(self.masses @ special.ndtr((mean * self.nodes - boundary) / sd))

    def boundary(self, level: float, ratio: float) -> float:
        """Return the boundary of the next look that is crossed with a probability."""
        if level <= 0:
            return math.inf
        return _solve(lambda z: self._tail(z, ratio) - level, -LIMIT, 8 * LIMIT)

    def step(self, boundary: float, ratio: float) -> _Path:
        """Return the distribution after the next look."""
        mean, sd = math.sqrt(1 / ratio), math.sqrt(1 - 1 / ratio)
        low, high = -LIMIT, max(min(boundary, LIMIT), -LIMIT)
        # The integrand is smooth on the scale of sd.
        nodes, weights = _gauss_legendre(16 + 16 * math.ceil((high - low) / sd / 8))
        nodes = low + (high - low) / 2 * (nodes + 1)
        z = (nodes[:, None] - mean * self.nodes) / sd
        density = np.exp(-(z**2) / 2) @ self.masses / (sd * math.sqrt(2 * math.pi))
        masses = (high - low) / 2 * weights * density
        return _Path(nodes, masses, self.crossed + self._tail(boundary, ratio))


@functools.cache
def _gauss_legendre(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(size)


def _solve(falling: Callable[[float], float], low: float, high: float, steps: int = 45) -> float:
    """Return the zero of a falling function between two points by bisection, or the nearer one."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
