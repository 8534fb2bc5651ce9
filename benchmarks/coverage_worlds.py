"""Simulated studies with a known truth, for `coverage` and `looks`.

A study has two conditions and a test set. The quality of a run on an example is the sum of the mean
of its condition, an effect of the example that all runs share, another that the runs of a condition
share, an effect of the seed, and noise. For accuracy, an example is correct if its quality is
positive; for Pearson, the quality determines the error of a predicted score. The truth is the mean
difference over all seeds and examples. It is 0 if the conditions are symmetric, and otherwise comes
from a long simulation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxfer.tasks import resampling
from flaxfer.tasks.resampling import Resampled

TAILS = 3
"""Degrees of freedom of Student's t distribution, where it replaces the normal one."""


class World(NamedTuple):
    """Distribution of simulated studies.

    Attributes:
      metric: `accuracy` or `pearson`.
      n: number of examples.
      seeds: number of seeds per condition.
      sd: standard deviation of the seed effect for direct and staged, where that of the example
        effect is 1; with 0.15, accuracies of one condition differ by about 0.035.
      shared: correlation of the effects of one seed on both conditions.
      effect: advantage of staged.
      tails: what has heavy tails and the same variance: the effects of the `seeds`, the `noise`
        of a run on an example, or for Pearson the `error` of an example.
    """

    metric: str = "accuracy"
    n: int = 1000
    seeds: int = 3
    sd: tuple[float, float] = (0.05, 0.05)
    shared: float = 0.0
    effect: float = 0.0
    tails: tuple[str, ...] = ()

    def draw(self, what: str, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Draw effects with variance 1 from the distribution that they have."""
        if what in self.tails:
            return rng.standard_t(TAILS, shape) / np.sqrt(TAILS / (TAILS - 2))
        return rng.standard_normal(shape)


def simulate_quality(world: World, rng: np.random.Generator) -> np.ndarray:
    """Draw the quality of each run on each example, (n, 2 * seeds), direct before staged."""
    n, seeds = world.n, world.seeds
    example = rng.standard_normal((n, 1, 1))
    condition = 0.3 * rng.standard_normal((n, 2, 1))
    shared_effect = world.draw("seeds", rng, 1, 1, seeds)
    separate_effect = world.draw("seeds", rng, 1, 2, seeds)
    seed = np.sqrt(world.shared) * shared_effect + np.sqrt(1 - world.shared) * separate_effect
    noise = 0.4 * world.draw("noise", rng, n, 2, seeds)
    level = np.array([0.0, world.effect])[:, None] + np.array(world.sd)[:, None] * seed
    return (0.8 + level + example + condition + noise).reshape(n, 2 * seeds)


def measure(world: World, rng: np.random.Generator) -> Resampled:
    """Return the metric of the runs of a simulated study."""
    quality = simulate_quality(world, rng)
    if world.metric == "accuracy":
        return resampling.mean(quality > 0)
    score = rng.standard_normal(len(quality))
    # The error shrinks with quality. Its sign belongs to the example, so that runs agree on it.
    error = np.exp(-0.4 * quality) * world.draw("error", rng, len(quality), 1)
    return resampling.pearson(score[:, None] + error, score)


def true_difference(world: World) -> float:
    """Return the difference over very many seeds and examples."""
    if world.effect == 0 and world.sd[0] == world.sd[1]:
        return 0.0
    rng = np.random.default_rng(99)
    large = world._replace(n=2000, seeds=50)
    scores = [measure(large, rng).observed() for _ in range(40)]
    direct, staged = np.array(scores).reshape(-1, 2, 50).mean(axis=(0, 2))
    return float(staged - direct)


INTERVALS = [
    *(
        World(metric, n, seeds, effect=effect)
        for metric in ("accuracy", "pearson")
        for n in (200, 1000)
        for seeds in (3, 5, 10)
        for effect in (0.0, 0.2)
    ),
    *(World(seeds=seeds, sd=(0.15, 0.15)) for seeds in (3, 5, 10)),
    *(World(seeds=seeds, sd=(0.15, 0.0)) for seeds in (3, 5)),
    *(World(seeds=seeds, sd=(0.0, 0.0)) for seeds in (3, 5)),
]
"""Studies whose intervals are measured alone."""

HEAVY = [
    World(metric, seeds=seeds, sd=(0.15, 0.15), tails=tails)
    for metric, of_examples in (("accuracy", "noise"), ("pearson", "error"))
    for tails in (("seeds",), (of_examples,), ("seeds", of_examples))
    for seeds in (3, 5, 10)
]
"""Studies with heavy tails."""

PAIRS = [
    World(seeds=seeds, sd=(0.15, 0.15), shared=shared)
    for seeds in (3, 5, 10)
    for shared in (0.0, 0.5, 0.8)
]
"""Studies whose runs are also paired by seed."""

MARGINS = [
    *(
        World(metric, seeds=seeds, effect=effect)
        for metric in ("accuracy", "pearson")
        for seeds in (3, 5, 10)
        for effect in (0.2, 0.4)
    ),
    *(World(seeds=seeds, sd=(0.15, 0.15), effect=0.4) for seeds in (3, 5, 10)),
]
"""Studies whose effect is taken as the margin."""
