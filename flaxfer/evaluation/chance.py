"""The level of a score that a model reaches by chance."""

from __future__ import annotations

import math


def chance(n: int) -> float:
    """Return the highest score on n examples that counts as chance.

    The score is one with expectation 0 under chance, such as a correlation: the level is 0.05 or,
    if that is more, two standard errors of a correlation of 0.
    """
    return max(0.05, 2 / math.sqrt(n))
