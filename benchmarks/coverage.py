r"""Measure coverage, false positives and power of the statistics on simulated studies.

python -m benchmarks.coverage > benchmarks/results/coverage.json

Prints a JSON line to stdout and the section of BENCHMARKS.md to stderr. A study has two conditions,
a test set and a known truth. The quality of a run on an example is the sum of the mean of its
condition, an effect of the example that all runs share, another that the runs of a condition share,
an effect of the seed, and noise. For accuracy, an example is correct if its quality is positive;
for Pearson, the quality determines the error of a predicted score. The truth is the mean difference
over all seeds and examples. It is 0 if the conditions are symmetric, and otherwise comes from a
long simulation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, coverage_units, summary
from flaxfer.runtime import host
from flaxfer.statistics import inference
from flaxfer.tasks import resampling
from flaxfer.tasks.resampling import Resampled

DRAWS = 1000
ALPHA = 0.05
FAMILY = 10
"""Comparisons in a family for Holm's correction."""

STUDY_COLUMNS = (
    "metric", "n", "seeds", "sd", "shared", "effect", "coverage", "coverage_plain", "rejected",
    "width", "width_plain",
)  # fmt: skip
FAMILY_COLUMNS = ("seeds", "effect", "families", "any_before", "any_after", "rejected_after")


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
    """

    metric: str = "accuracy"
    n: int = 1000
    seeds: int = 3
    sd: tuple[float, float] = (0.05, 0.05)
    shared: float = 0.0
    effect: float = 0.0


def simulate_quality(world: World, rng: np.random.Generator) -> np.ndarray:
    """Draw the quality of each run on each example, (n, 2 * seeds), direct before staged."""
    n, seeds = world.n, world.seeds
    example = rng.standard_normal((n, 1, 1))
    condition = 0.3 * rng.standard_normal((n, 2, 1))
    shared_effect = rng.standard_normal((1, 1, seeds))
    separate_effect = rng.standard_normal((1, 2, seeds))
    seed = np.sqrt(world.shared) * shared_effect + np.sqrt(1 - world.shared) * separate_effect
    noise = 0.4 * rng.standard_normal((n, 2, seeds))
    level = np.array([0.0, world.effect])[:, None] + np.array(world.sd)[:, None] * seed
    return (0.8 + level + example + condition + noise).reshape(n, 2 * seeds)


def measure(world: World, rng: np.random.Generator) -> Resampled:
    """Return the metric of the runs of a simulated study."""
    quality = simulate_quality(world, rng)
    if world.metric == "accuracy":
        return resampling.mean(quality > 0)
    score = rng.standard_normal(len(quality))
    # The error shrinks with quality. Its sign belongs to the example, so that runs agree on it.
    error = np.exp(-0.4 * quality) * rng.standard_normal((len(quality), 1))
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


def intervals(
    world: World, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[inference.Interval, tuple[float, float]]:
    """Return the intervals of a simulated study: ours and a plain bootstrap's."""
    runs = measure(world, rng)
    scores = runs.observed()
    drawn = np.concatenate([runs.values(w) for w in resampling.resamples(world.n, draws, rng)])
    direct, staged = np.split(np.arange(2 * world.seeds), 2)
    interval = inference.hierarchical_interval(
        scores[direct], scores[staged], drawn[:, direct], drawn[:, staged], rng=rng
    )
    picked = rng.integers(0, world.seeds, (2, draws, world.seeds))
    draw = np.arange(draws)[:, None]
    means = [
        drawn[draw, runs[i]].mean(axis=1) for runs, i in zip((direct, staged), picked, strict=True)
    ]
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return interval, (float(low), float(high))


def simulate(world: World, studies: int, seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """Return coverage, share of rejections and median width over simulated studies."""
    rng = np.random.default_rng((seed, world.n, world.seeds))
    truth = true_difference(world)
    results = [intervals(world, rng, draws) for _ in range(studies)]
    proposed, plain = zip(*results, strict=True)
    return {
        **world._asdict(),
        "studies": studies,
        "truth": round(truth, 5),
        "coverage": float(np.mean([one.low <= truth <= one.high for one in proposed])),
        "coverage_plain": float(np.mean([low <= truth <= high for low, high in plain])),
        "rejected": float(np.mean([one.p <= ALPHA for one in proposed])),
        "width": float(np.median([one.high - one.low for one in proposed])),
        "width_plain": float(np.median([high - low for low, high in plain])),
    }


def families(world: World, count: int, seed: int = 1, draws: int = DRAWS) -> dict[str, Any]:
    """Return shares of families with a rejection, before and after Holm's correction."""
    rng = np.random.default_rng((seed, world.n, world.seeds))
    p = np.array([[intervals(world, rng, draws)[0].p for _ in range(FAMILY)] for _ in range(count)])
    adjusted = np.array([inference.holm(family) for family in p])
    return {
        **world._asdict(),
        "families": count,
        "of": FAMILY,
        "any_before": float(np.mean((p <= ALPHA).any(axis=1))),
        "any_after": float(np.mean((adjusted <= ALPHA).any(axis=1))),
        "rejected_after": float(np.mean(adjusted <= ALPHA)),
    }


def worlds() -> list[World]:
    """Return the simulated distributions."""
    return [
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
        *(World(seeds=seeds, sd=(0.15, 0.15), shared=0.5) for seeds in (3, 5)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--families", type=int, default=40)
    options = parser.parse_args()
    alone = [simulate(world, options.studies) for world in worlds()]
    in_families = [
        families(World(seeds=seeds, n=200, sd=(0.1, 0.1), effect=effect), options.families)
        for seeds in (3, 5, 10)
        for effect in (0.0, 0.4)
    ]
    dependent = [
        coverage_units.simulate(world, options.studies, ALPHA, DRAWS)
        for world in coverage_units.WORLDS
    ]
    record = {"level": 0.95, "alpha": ALPHA, "draws": DRAWS, "alone": alone}
    record |= {"families": in_families, "units": dependent, "machine": common.machine()}
    record |= {"versions": common.versions("numpy", "scipy")}
    record |= {"date": host.now(), "git": common.commit()}
    print(section(record), file=sys.stderr)
    print(json.dumps(record))


def section(record: dict[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    studies = record["alone"][0]["studies"]
    return (
        "## Intervals and verdicts on simulated studies\n"
        f"Shares of {studies} simulated studies with a known truth, by benchmarks/coverage.py; a "
        f"coverage of 0.95 has a standard error of about {np.sqrt(0.95 * 0.05 / studies):.3f}. "
        "Plain: a bootstrap that resamples seeds and examples alike. Sd: standard deviation of the "
        "seed effect for direct / staged. Shared: correlation of the seed effects of the two "
        f"conditions. Versions: {summary.provenance([record])}\n\n"
        f"{_table(record['alone'], STUDY_COLUMNS)}\n"
        f"Families of {FAMILY} comparisons, n = 200, sd 0.1: the share of families with any "
        "rejection at level 0.05 before and after Holm's correction, and the share of comparisons "
        f"rejected after it.\n\n{_table(record['families'], FAMILY_COLUMNS)}\n"
        "Means over parallel sets with shuffled or missing rows, and clusters of examples; the "
        "true difference is 0. Coverage, share of rejections and width with resampled units, and "
        "(rows) with rows drawn as if they were independent.\n\n"
        f"{_table(record['units'], coverage_units.COLUMNS)}"
    )


def _table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return " / ".join(map(str, value))
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    names = [name.replace("_", " ") for name in columns]
    return summary.table(names, [[cell(one[c]) for c in columns] for one in records])


if __name__ == "__main__":
    common.guarded(main)
