"""The level of a score that a model reaches by chance."""

from __future__ import annotations

import math


def chance(n: int, classes: float = 2.0) -> float:
    """Return the highest score on n independent examples that counts as chance.

    The score is one with expectation 0 under chance: the level is 0.05 or, if that is more, two
    standard errors. The standard error of a correlation of 0 is 1 / sqrt(n); that of Matthews'
    correlation of K classes, 1 / sqrt(n (K - 1)), see `flaxfer.tasks.resampling.effective_classes`.

    Args:
      n: number of examples, or of clusters of dependent ones.
      classes: effective number of classes; 2 for scores other than Matthews' correlation.
    """
    return max(0.05, 2 / math.sqrt(n * (classes - 1)))
