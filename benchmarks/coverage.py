r"""Simulated studies with a known truth: coverage of the intervals, false positives, power.

python -m benchmarks.coverage > benchmarks/results/coverage.json

Prints a JSON line to stdout and the table of BENCHMARKS.md to stderr. A study is two paths, their
runs and a test set. A run's score on an example has the mean of its path, an effect of the example
that all runs share, another that the runs of a path share, one of the seed, and noise of the run on
the example. For accuracy an example is right where that is positive; for Pearson it is the
error of a predicted score. The truth is the mean difference over all seeds and examples, which
the symmetry of the paths makes 0, or a long simulation finds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flaxfer.tasks.resampling import Resampled

from benchmarks import common
from flaxfer.statistics import inference
from flaxfer.tasks import resampling

DRAWS = 1000
ALPHA = 0.05
FAMILY = 10
"""Comparisons of one study in the simulation of Holm's correction."""

ALONE = (
    "metric", "n", "seeds", "sd", "shared", "effect", "coverage", "coverage_plain", "rejected",
    "width", "width_plain",
)  # fmt: skip
BATCHES_AHEAD = ("seeds", "effect", "families", "any_before", "any_after", "rejected_after")
"""Columns of the tables."""


class World(NamedTuple):
    """What studies are drawn from.

    Attributes:
      metric: `accuracy` or `pearson`.
      n: examples.
      seeds: a path.
      sd: of the effect of the seeds of direct and of staged, beside examples of standard deviation
        1: 0.15 makes accuracies of one path differ by about 0.035.
      shared: correlation of the effects of one seed on both paths.
      effect: that staged gains.
    """

    metric: str = "accuracy"
    n: int = 1000
    seeds: int = 3
    sd: tuple[float, float] = (0.05, 0.05)
    shared: float = 0.0
    effect: float = 0.0


def draw(world: World, rng: np.random.Generator, studies: int = 1) -> np.ndarray:
    """(studies, n, 2 * seeds): how good each run is on each example, direct before staged."""
    n, seeds = world.n, world.seeds
    example = rng.standard_normal((studies, n, 1, 1))
    of_path = 0.3 * rng.standard_normal((studies, n, 2, 1))
    common_part = rng.standard_normal((studies, 1, 1, seeds))
    own = rng.standard_normal((studies, 1, 2, seeds))
    seed = np.sqrt(world.shared) * common_part + np.sqrt(1 - world.shared) * own
    noise = 0.4 * rng.standard_normal((studies, n, 2, seeds))
    level = np.array([0.0, world.effect])[:, None] + np.array(world.sd)[:, None] * seed
    return (0.8 + level + example + of_path + noise).reshape(studies, n, 2 * seeds)


def measure(world: World, good: np.ndarray, rng: np.random.Generator) -> Resampled:
    """The metric of the runs of a study."""
    if world.metric == "accuracy":
        return resampling.mean(good > 0)
    score = rng.standard_normal(len(good))
    # The better, the smaller the error; its sign is the example's, so that runs agree on it.
    error = np.exp(-0.4 * good) * rng.standard_normal((len(good), 1))
    return resampling.pearson(score[:, None] + error, score)


def truth(world: World) -> float:
    """The difference over very many seeds and examples."""
    if world.effect == 0 and world.sd[0] == world.sd[1]:
        return 0.0
    rng = np.random.default_rng(99)
    large = world._replace(n=2000, seeds=50)
    values = [measure(large, draw(large, rng)[0], rng).observed() for _ in range(40)]
    means = np.array(values).reshape(-1, 2, 50).mean(axis=(0, 2))
    return float(means[1] - means[0])


def intervals(
    world: World, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[inference.Interval, tuple[float, float]]:
    """The interval of a simulated study, and that of a bootstrap that resamples seeds as well."""
    runs = measure(world, draw(world, rng)[0], rng)
    scores = runs.observed()
    drawn = np.concatenate([runs.values(w) for w in resampling.resamples(world.n, draws, rng)])
    direct, staged = np.split(np.arange(2 * world.seeds), 2)
    made = inference.hierarchical_interval(
        scores[direct], scores[staged], drawn[:, direct], drawn[:, staged], rng=rng
    )
    picked = rng.integers(0, world.seeds, (2, draws, world.seeds))
    each = np.arange(draws)[:, None]
    plain = drawn[each, staged[picked[1]]].mean(axis=1) - drawn[each, direct[picked[0]]].mean(
        axis=1
    )
    low, high = np.quantile(plain, [0.025, 0.975])
    return made, (float(low), float(high))


def simulate(world: World, studies: int, seed: int = 0) -> dict[str, Any]:
    """Coverage, share of rejections, and median width, over simulated studies."""
    rng = np.random.default_rng((seed, world.n, world.seeds))
    true = truth(world)
    made = [intervals(world, rng) for _ in range(studies)]
    own, plain = [one for one, _ in made], [other for _, other in made]
    return {
        **world._asdict(),
        "studies": studies,
        "truth": round(true, 5),
        "coverage": float(np.mean([one.low <= true <= one.high for one in own])),
        "coverage_plain": float(np.mean([low <= true <= high for low, high in plain])),
        "rejected": float(np.mean([one.p <= ALPHA for one in own])),
        "width": float(np.median([one.high - one.low for one in own])),
        "width_plain": float(np.median([high - low for low, high in plain])),
    }


def families(world: World, count: int, seed: int = 1) -> dict[str, Any]:
    """How often a family of comparisons has any rejection, before and after Holm's correction."""
    rng = np.random.default_rng((seed, world.n, world.seeds))
    p = [[intervals(world, rng)[0].p for _ in range(FAMILY)] for _ in range(count)]
    before = np.mean([min(of) <= ALPHA for of in p])
    after = np.mean([min(inference.holm(of)) <= ALPHA for of in p])
    found = np.mean([np.mean(np.array(inference.holm(of)) <= ALPHA) for of in p])
    return {
        **world._asdict(),
        "families": count,
        "of": FAMILY,
        "any_before": float(before),
        "any_after": float(after),
        "rejected_after": float(found),
    }


def worlds() -> list[World]:
    """What is simulated."""
    made = [
        World(metric, n, seeds, effect=effect)
        for metric in ("accuracy", "pearson")
        for n in (200, 1000)
        for seeds in (3, 5, 10)
        for effect in (0.0, 0.2)
    ]
    made += [World(seeds=seeds, sd=(0.15, 0.15)) for seeds in (3, 5, 10)]
    made += [World(seeds=seeds, sd=(0.15, 0.0)) for seeds in (3, 5)]
    made += [World(seeds=seeds, sd=(0.0, 0.0)) for seeds in (3, 5)]
    return made + [World(seeds=seeds, sd=(0.15, 0.15), shared=0.5) for seeds in (3, 5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--families", type=int, default=40)
    options = parser.parse_args()
    alone = [simulate(world, options.studies) for world in worlds()]
    together = [
        families(World(seeds=seeds, n=200, sd=(0.1, 0.1), effect=effect), options.families)
        for seeds in (3, 5, 10)
        for effect in (0.0, 0.4)
    ]
    record = {"level": 0.95, "alpha": ALPHA, "draws": DRAWS, "alone": alone, "families": together}
    record |= {"machine": common.machine(), "versions": common.versions("numpy")}
    record |= {"date": common.date(), "git": common.commit()}
    print(section(record), file=sys.stderr)
    print(json.dumps(record))


def section(record: dict[str, Any]) -> str:
    """The section of BENCHMARKS.md."""
    lines = [
        "## Intervals and verdicts on simulated studies",
        f"Shares of {record['alone'][0]['studies']} simulated studies with a known truth, by "
        "benchmarks/coverage.py; a coverage of 0.95 has a standard error of about "
        f"{np.sqrt(0.95 * 0.05 / record['alone'][0]['studies']):.3f}. Plain: a bootstrap that "
        "resamples seeds like examples. Sd: of the effect of the seeds of direct and staged. "
        "Shared: its correlation over the paths. "
        f"numpy {record['versions']['numpy']}, {record['date'][:10]}.\n",
        *_table(record["alone"], ALONE),
        f"\nFamilies of {FAMILY} comparisons, n = 200, sd 0.1: the share of families with any "
        "rejection at level 0.05 before and after Holm's correction, and the share of comparisons "
        "rejected after it.\n",
        *_table(record["families"], BATCHES_AHEAD),
    ]
    return "\n".join(lines) + "\n"


def _table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    def cell(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return " / ".join(map(str, value))
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    head = [f"| {' | '.join(name.replace('_', ' ') for name in columns)} |"]
    head.append(f"| {' | '.join('---' for _ in columns)} |")
    return head + [f"| {' | '.join(cell(one[c]) for c in columns)} |" for one in records]


if __name__ == "__main__":
    common.guarded(main)
