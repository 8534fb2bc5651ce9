r"""Measure coverage, false positives and power of the statistics on simulated studies.

for part in intervals tails units pairs margins families; do
    python -m benchmarks.coverage $part > benchmarks/results/coverage-$part.json
done

Prints a JSON line to stdout and the section of BENCHMARKS.md to stderr. The studies are those of
`coverage_worlds`, and for units those of `coverage_units`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks import common, coverage_units, summary
from benchmarks.coverage_worlds import (
    HEAVY,
    INTERVALS,
    MARGINS,
    PAIRS,
    TAILS,
    World,
    measure,
    true_difference,
)
from flaxfer.runtime import host
from flaxfer.statistics.inference import Difference, seed_correlation
from flaxfer.statistics.multiplicity import P, adjust
from flaxfer.tasks import resampling

DRAWS = 1000
LEVEL = 0.95
ALPHA = 0.05
FAMILY = 10
"""Comparisons in a family, over which claims are corrected."""

STUDY_COLUMNS = (
    "metric", "n", "seeds", "sd", "effect", "coverage", "coverage_plain", "rejected", "width",
    "width_plain",
)  # fmt: skip
TAIL_COLUMNS = (
    "metric", "tails", "seeds", "coverage", "coverage_plain", "rejected", "width", "width_plain",
)  # fmt: skip
PAIR_COLUMNS = (
    "seeds", "shared", "correlation", "coverage_unpaired", "coverage_paired", "rejected_unpaired",
    "rejected_paired", "width_unpaired", "width_paired", "width_ratio",
)  # fmt: skip
EQUIVALENCE_COLUMNS = (
    "metric", "n", "seeds", "sd", "margin", "no_change_at_margin", "no_change_at_0", "differs_at_0",
)  # fmt: skip
FAMILY_COLUMNS = (
    "seeds", "without", "margin", "any_false_before", "any_false_after", "helps_at_margin",
    "no_change_at_0",
)  # fmt: skip


def resampled(
    world: World, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the direct and staged scores of a simulated study, and both in resamples."""
    runs = measure(world, rng)
    drawn = np.concatenate([runs.values(w) for w in resampling.resamples(world.n, draws, rng)])
    direct, staged = np.split(runs.observed(), 2)
    direct_BR, staged_BR = np.split(drawn, 2, axis=1)
    return direct, staged, direct_BR, staged_BR


def intervals(
    world: World, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[Difference, tuple[float, float]]:
    """Return the difference of a simulated study, and the interval of a plain bootstrap."""
    runs = resampled(world, rng, draws)
    picked = rng.integers(0, world.seeds, (2, draws, world.seeds))
    means = [
        np.take_along_axis(drawn_BR, of, axis=1).mean(axis=1)
        for drawn_BR, of in zip(runs[2:], picked, strict=True)
    ]
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return Difference(*runs), (float(low), float(high))


def simulate(world: World, studies: int, seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """Return coverage, share of rejections and median width over simulated studies."""
    rng = np.random.default_rng((seed, world.n, world.seeds))
    truth = true_difference(world)
    results = [intervals(world, rng, draws) for _ in range(studies)]
    proposed, plain = zip(*results, strict=True)
    ends = np.array([one.interval(LEVEL) for one in proposed])
    within = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return {
        **world._asdict(),
        "studies": studies,
        "truth": round(truth, 5),
        "coverage": float(within.mean()),
        "coverage_plain": float(np.mean([low <= truth <= high for low, high in plain])),
        "rejected": float(np.mean([one.p <= ALPHA for one in proposed])),
        "width": float(np.median(ends[:, 1] - ends[:, 0])),
        "width_plain": float(np.median([high - low for low, high in plain])),
    }


def pairing(world: World, studies: int, seed: int = 4, draws: int = DRAWS) -> dict[str, Any]:
    """Return coverage, rejections and mean width of both analyses of the same studies.

    `correlation` is the mean observed correlation of the conditions' scores over seeds.
    """
    rng = np.random.default_rng((seed, world.n, world.seeds))
    truth = true_difference(world)
    drawn = [resampled(world, rng, draws) for _ in range(studies)]
    correlations = [seed_correlation(*runs[:2]) for runs in drawn]
    observed = [one for one in correlations if one is not None]
    record = {**world._asdict(), "studies": studies, "correlation": float(np.mean(observed))}
    for name, paired in (("unpaired", False), ("paired", True)):
        differences = [Difference(*runs, paired=paired) for runs in drawn]
        low, high = np.array([one.interval(LEVEL) for one in differences]).T
        record[f"coverage_{name}"] = float(((low <= truth) & (truth <= high)).mean())
        record[f"rejected_{name}"] = _share(one.p <= ALPHA for one in differences)
        record[f"width_{name}"] = float((high - low).mean())
    return record | {"width_ratio": record["width_paired"] / record["width_unpaired"]}


def equivalence(world: World, studies: int, seed: int = 2, draws: int = DRAWS) -> dict[str, Any]:
    """Return how often studies show no relevant change, with the world's true effect as margin.

    Where the true difference is the margin, showing it is an error; where it is 0, it is right.
    """
    rng = np.random.default_rng((seed, world.n, world.seeds))
    margin, without = true_difference(world), world._replace(effect=0.0)
    at_margin, at_0 = (
        [intervals(one, rng, draws)[0] for _ in range(studies)] for one in (world, without)
    )
    return {
        **world._asdict(),
        "studies": studies,
        "margin": round(margin, 5),
        "no_change_at_margin": _share(one.p_equivalence(margin) <= ALPHA for one in at_margin),
        "no_change_at_0": _share(one.p_equivalence(margin) <= ALPHA for one in at_0),
        "differs_at_0": _share(one.p <= ALPHA for one in at_0),
    }


def families(
    world: World, without: int, count: int, seed: int = 3, draws: int = DRAWS
) -> dict[str, Any]:
    """Return shares of families with a false claim, and of right claims after the correction.

    The first comparisons of a family have no difference, so that claiming one is false; the others
    have one as large as the margin, so that claiming no relevant change is false.

    Args:
      world: the studies that have a difference.
      without: number of comparisons without one, from 1.
      count: number of families.
      seed: of the simulation.
      draws: number of resamples.
    """
    rng = np.random.default_rng((seed, world.n, world.seeds))
    margin = true_difference(world)
    kinds = [world._replace(effect=0.0)] * without + [world] * (FAMILY - without)
    p = []
    for _ in range(count):
        drawn = [intervals(one, rng, draws)[0] for one in kinds]
        p.append([P(one.p, one.p_equivalence(margin)) for one in drawn])
    # The first axis of a claim: families; the second: comparisons; the third: its kind.
    before = np.array(p) <= ALPHA
    after = np.array([adjust(family) for family in p]) <= ALPHA
    at_margin = after[:, without:, 0]
    return {
        **world._asdict(),
        "families": count,
        "of": FAMILY,
        "without": without,
        "margin": round(margin, 5),
        "any_false_before": _any_false(before, without),
        "any_false_after": _any_false(after, without),
        "helps_at_margin": float(at_margin.mean()) if at_margin.size else None,
        "no_change_at_0": float(after[:, :without, 1].mean()),
    }


def _any_false(claims: np.ndarray, without: int) -> float:
    false = np.concatenate([claims[:, :without, 0], claims[:, without:, 1]], axis=1)
    return float(false.any(axis=1).mean())


def _share(of: Iterable[bool]) -> float:
    return float(np.mean(list(of)))


Rows = list[dict[str, Any]]

PARTS: dict[str, Callable[[int], Rows]] = {
    "intervals": lambda studies: [simulate(world, studies) for world in INTERVALS],
    "tails": lambda studies: [simulate(world, studies) for world in HEAVY],
    "units": lambda studies: [
        coverage_units.simulate(world, studies, ALPHA, DRAWS) for world in coverage_units.WORLDS
    ],
    "pairs": lambda studies: [pairing(world, studies) for world in PAIRS],
    "margins": lambda studies: [equivalence(world, studies) for world in MARGINS],
    "families": lambda studies: [
        families(World(seeds=seeds, effect=0.4), without, studies // 3)
        for without in (FAMILY, FAMILY // 2)
        for seeds in (3, 5, 10)
    ],
}
"""Simulation of each part by the number of studies."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--studies", type=int, default=300, help="(default: %(default)s)")
    options = parser.parse_args()
    record: dict[str, Any] = {"part": options.part, "rows": PARTS[options.part](options.studies)}
    record |= {"level": LEVEL, "alpha": ALPHA, "draws": DRAWS, "machine": common.machine()}
    record |= {"versions": common.versions("numpy", "scipy")}
    record |= {"date": host.now(), "git": common.commit()}
    print(section(record), file=sys.stderr)
    print(json.dumps(record))


def section(record: dict[str, Any]) -> str:
    """Return the section of BENCHMARKS.md for a part."""
    title, text, columns = ABOUT[record["part"]]
    rows = record["rows"]
    studies = rows[0].get("studies", 0) or rows[0]["families"]
    text = text.format(count=studies, error=np.sqrt(LEVEL * (1 - LEVEL) / studies))
    table = summary.columns(rows, columns)
    return f"{title}\n{text} Versions: {summary.provenance([record])}\n\n{table}"


ABOUT = {
    "intervals": (
        "## Intervals and verdicts on simulated studies",
        "Shares of {count} simulated studies with a known truth, by benchmarks/coverage.py; a "
        "coverage of 0.95 has a standard error of about {error:.3f}. Plain: a bootstrap that "
        "resamples seeds and examples alike. Sd: standard deviation of the seed effect for direct "
        "/ staged.",
        STUDY_COLUMNS,
    ),
    "tails": (
        "### Heavy tails",
        "Shares of {count} simulated studies without a difference (n = 1000, sd 0.15), in which "
        f"Student's t distribution with {TAILS} degrees of freedom replaces the normal one, with "
        "the same variance: of the effects of the seeds, of the noise of a run on an example, or "
        "of the error of an example's predicted score. Rejected: p of at most "
        f"{ALPHA}, an error.",
        TAIL_COLUMNS,
    ),
    "units": (
        "### Dependent examples, and seeds that differ by language",
        "Means over parallel sets with shuffled or missing rows, and clusters of examples; the "
        "true difference is 0, in {count} simulated studies. By language: standard deviation of "
        "the effect of a seed in a language, beside that of 0.05 in all of them. Coverage, share "
        "of rejections and width with resampled units, and (rows) with rows drawn as if they were "
        "independent.",
        coverage_units.COLUMNS,
    ),
    "pairs": (
        "### Runs paired by seed",
        "Both analyses of the same {count} simulated studies (accuracy, n = 1000, sd 0.15) "
        "without a difference. Shared: true correlation of the seed effects of the two "
        "conditions. Correlation: mean of the observed correlations of their scores. Rejected: "
        f"p of at most {ALPHA}, an error. Width: mean width; ratio: paired over unpaired.",
        PAIR_COLUMNS,
    ),
    "margins": (
        "### No relevant change",
        "Shares of {count} simulated studies with p of equivalence of at most "
        f"{ALPHA}, where the true difference is the margin (an error) and where it is 0 (right); "
        "the last column has the share of the latter with p of no difference of at most as much "
        "(an error).",
        EQUIVALENCE_COLUMNS,
    ),
    "families": (
        "### Families of comparisons",
        f"Shares of {{count}} families of {FAMILY} comparisons (accuracy, n = 1000, sd 0.05) with "
        f"any false claim at level {ALPHA}, before and after the correction. Without: comparisons "
        "without a difference; the others have one of the margin. The last columns have the shares "
        "of the comparisons that rightly claim a difference, or no relevant change, after the "
        "correction.",
        FAMILY_COLUMNS,
    ),
}
"""Title, text and columns of the section of each part."""


if __name__ == "__main__":
    common.guarded(main)
