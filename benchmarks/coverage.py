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
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, coverage_units, summary
from flaxfer.runtime import host
from flaxfer.statistics.inference import Difference, seed_correlation
from flaxfer.statistics.multiplicity import P, adjust
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
PAIR_COLUMNS = (
    "seeds", "shared", "correlation", "coverage_unpaired", "coverage_paired", "rejected_unpaired",
    "rejected_paired", "width_unpaired", "width_paired", "width_ratio",
)  # fmt: skip
FAMILY_COLUMNS = ("seeds", "effect", "families", "any_before", "any_after", "rejected_after")
EQUIVALENCE_COLUMNS = (
    "metric", "n", "seeds", "sd", "margin", "no_change_at_margin", "no_change_at_0", "differs_at_0",
)  # fmt: skip
CLAIM_COLUMNS = (
    "seeds", "margin", "families", "any_false_before", "any_false_after", "helps_at_margin",
    "no_change_at_0",
)  # fmt: skip


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
    ends = np.array([one.interval(0.95) for one in proposed])
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
        low, high = np.array([one.interval(0.95) for one in differences]).T
        record[f"coverage_{name}"] = float(((low <= truth) & (truth <= high)).mean())
        record[f"rejected_{name}"] = _share(one.p <= ALPHA for one in differences)
        record[f"width_{name}"] = float((high - low).mean())
    return record | {"width_ratio": record["width_paired"] / record["width_unpaired"]}


def families(world: World, count: int, seed: int = 1, draws: int = DRAWS) -> dict[str, Any]:
    """Return shares of families with a rejection, before and after Holm's correction."""
    rng = np.random.default_rng((seed, world.n, world.seeds))
    p = np.array([[intervals(world, rng, draws)[0].p for _ in range(FAMILY)] for _ in range(count)])
    corrected = [adjust([P(each) for each in family]) for family in p]
    adjusted = np.array([[one.difference for one in family] for family in corrected])
    return {
        **world._asdict(),
        "families": count,
        "of": FAMILY,
        "any_before": float(np.mean((p <= ALPHA).any(axis=1))),
        "any_after": float(np.mean((adjusted <= ALPHA).any(axis=1))),
        "rejected_after": float(np.mean(adjusted <= ALPHA)),
    }


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


def claims(world: World, count: int, seed: int = 3, draws: int = DRAWS) -> dict[str, Any]:
    """Return shares of families with a false claim, and of right claims after the correction.

    Half of the comparisons of a family have no difference, so that claiming one is false; the
    others have one as large as the margin, so that claiming no relevant change is false.
    """
    rng = np.random.default_rng((seed, world.n, world.seeds))
    margin = true_difference(world)
    kinds = [world, world._replace(effect=0.0)] * (FAMILY // 2)
    families = []
    for _ in range(count):
        drawn = [intervals(one, rng, draws)[0] for one in kinds]
        families.append([P(one.p, one.p_equivalence(margin)) for one in drawn])
    before = np.array(families) <= ALPHA
    after = np.array([adjust(family) for family in families]) <= ALPHA
    # The first axis of a claim: families; the second: comparisons; the third: its kind.
    false = [np.concatenate([of[:, ::2, 1], of[:, 1::2, 0]], axis=1) for of in (before, after)]
    return {
        **world._asdict(),
        "families": count,
        "of": FAMILY,
        "margin": round(margin, 5),
        "any_false_before": float(false[0].any(axis=1).mean()),
        "any_false_after": float(false[1].any(axis=1).mean()),
        "helps_at_margin": float(after[:, ::2, 0].mean()),
        "no_change_at_0": float(after[:, 1::2, 1].mean()),
    }


def _share(of: Iterable[bool]) -> float:
    return float(np.mean(list(of)))


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


def pairs() -> list[World]:
    """Return the distributions whose runs are also paired by seed."""
    return [
        World(seeds=seeds, sd=(0.15, 0.15), shared=shared)
        for seeds in (3, 5, 10)
        for shared in (0.0, 0.5, 0.8)
    ]


def margins() -> list[World]:
    """Return the distributions whose effect is taken as the margin."""
    return [
        *(
            World(metric, seeds=seeds, effect=effect)
            for metric in ("accuracy", "pearson")
            for seeds in (3, 5, 10)
            for effect in (0.2, 0.4)
        ),
        *(World(seeds=seeds, sd=(0.15, 0.15), effect=0.4) for seeds in (3, 5, 10)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--families", type=int, default=40)
    parser.add_argument("--only", choices=("intervals", "pairs", "margins"), help="a single part")
    options = parser.parse_args()
    record: dict[str, Any] = {"level": 0.95, "alpha": ALPHA, "draws": DRAWS}
    parts = [options.only] if options.only else ["intervals", "pairs", "margins"]
    if "intervals" in parts:
        record["alone"] = [simulate(world, options.studies) for world in worlds()]
        record["families"] = [
            families(World(seeds=seeds, n=200, sd=(0.1, 0.1), effect=effect), options.families)
            for seeds in (3, 5, 10)
            for effect in (0.0, 0.4)
        ]
        record["units"] = [
            coverage_units.simulate(world, options.studies, ALPHA, DRAWS)
            for world in coverage_units.WORLDS
        ]
    if "pairs" in parts:
        record["pairs"] = [pairing(world, options.studies) for world in pairs()]
    if "margins" in parts:
        record["equivalence"] = [equivalence(world, options.studies) for world in margins()]
        record["claims"] = [
            claims(World(seeds=seeds, effect=0.4), options.families) for seeds in (3, 5, 10)
        ]
    record |= {"machine": common.machine()}
    record |= {"versions": common.versions("numpy", "scipy")}
    record |= {"date": host.now(), "git": common.commit()}
    print(section(record), file=sys.stderr)
    print(json.dumps(record))


def section(record: dict[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    parts = (_about_intervals, _about_pairs, _about_units, _about_margins)
    return "\n\n".join(filter(None, (about(record) for about in parts)))


def _about_intervals(record: dict[str, Any]) -> str:
    if "alone" not in record:
        return ""
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
        f"rejected after it.\n\n{_table(record['families'], FAMILY_COLUMNS)}"
    )


def _about_pairs(record: dict[str, Any]) -> str:
    if "pairs" not in record:
        return ""
    studies = record["pairs"][0]["studies"]
    return (
        "### Runs paired by seed\n"
        f"Both analyses of the same {studies} simulated studies (accuracy, n = 1000, sd 0.15) "
        "without a difference. Shared: true correlation of the seed effects of the two "
        "conditions. Correlation: mean of the observed correlations of their scores. Rejected: "
        f"p of at most {ALPHA}, an error. Width: mean width; ratio: paired over unpaired. "
        f"Versions: {summary.provenance([record])}\n\n{_table(record['pairs'], PAIR_COLUMNS)}"
    )


def _about_units(record: dict[str, Any]) -> str:
    if "units" not in record:
        return ""
    return (
        "### Dependent examples\n"
        "Means over parallel sets with shuffled or missing rows, and clusters of examples; the "
        "true difference is 0. Coverage, share of rejections and width with resampled units, and "
        "(rows) with rows drawn as if they were independent.\n\n"
        f"{_table(record['units'], coverage_units.COLUMNS)}"
    )


def _about_margins(record: dict[str, Any]) -> str:
    if "equivalence" not in record:
        return ""
    alone, families = record["equivalence"], record["claims"]
    return (
        "### No relevant change\n"
        f"Shares of {alone[0]['studies']} simulated studies with p of equivalence of at "
        f"most {ALPHA}, where the true difference is the margin (an error) and where it is 0 "
        "(right); the last column has the share of the latter with p of no difference of at most "
        "as much (an error). Versions: "
        f"{summary.provenance([record])}\n\n{_table(alone, EQUIVALENCE_COLUMNS)}\n"
        f"Shares of {families[0]['families']} families of {FAMILY} comparisons with any "
        "false claim, before and after the correction; half of the comparisons have no difference, "
        "the others one of the margin. The last columns have the shares of these comparisons that "
        f"rightly claim as much, after the correction.\n\n{_table(families, CLAIM_COLUMNS)}"
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
