"""Simulated studies with dependent examples: parallel sets and clusters, part of `coverage`.

The quality of a run on an example is as in `coverage_worlds`, but the effects of the example and of
the condition on it are shared: by the translations of the example in all languages, or in part by
the examples of its cluster. A seed has an effect that all languages share, and may have another in
each. The compared score is the mean accuracy over the languages. The true difference is 0, as the
conditions are symmetric.

Each study has two intervals: with the units of `flaxfer.statistics.units`, and with examples drawn
by the number of their row, the same in all sets of equal size, as if each were independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxfer.statistics.inference import Difference
from flaxfer.statistics.reading import Predicted
from flaxfer.statistics.scores import Row
from flaxfer.statistics.units import find_units
from flaxfer.tasks import resampling
from flaxfer.tasks.resampling import Resampled

LEVEL = 0.95

COLUMNS = (
    "rows", "languages", "n", "cluster", "seeds", "by_language", "coverage_rows", "coverage",
    "rejected_rows", "rejected", "width_rows", "width",
)  # fmt: skip


class World(NamedTuple):
    """Distribution of simulated studies.

    Attributes:
      rows: of parallel sets: `equal`, `shuffled` for each language, or with up to 5 `missing` in
        each of them.
      languages: number of sets.
      n: number of examples of a set.
      cluster: number of examples of a cluster.
      seeds: number of seeds per condition.
      by_language: standard deviation of the effect of a seed in a language.
    """

    rows: str = "equal"
    languages: int = 1
    n: int = 200
    cluster: int = 1
    seeds: int = 5
    by_language: float = 0.0


WORLDS = (
    World("equal", 10, 64),
    World("shuffled", 10, 64),
    World("missing", 10, 64),
    World("missing", 10, 400),
    World(cluster=1),
    World(cluster=5),
    World(cluster=5, n=1000),
    World("shuffled", 10, cluster=5),
    *(World("shuffled", 10, seeds=seeds, by_language=0.15) for seeds in (3, 5, 10)),
    World("shuffled", 3, seeds=3, by_language=0.3),
)


def simulate(world: World, studies: int, alpha: float, draws: int, seed: int = 0) -> dict[str, Any]:
    """Return coverage, share of rejections and median width over simulated studies."""
    rng = np.random.default_rng((seed, world.n, world.cluster))
    kinds: dict[str, list[tuple[float, float, float]]] = {"_rows": [], "": []}
    for _ in range(studies):
        by_row, predicted = _draw_study(world, rng)
        units, _ = find_units(predicted, None, "")
        by_unit = [one.grouped(units[row].unit_n, units[row].total) for row, one in by_row.items()]
        for kind, sets in (("_rows", [*by_row.values()]), ("", by_unit)):
            drawn = np.mean(_resampled(sets, draws, rng), axis=0)
            scores = np.mean([one.observed() for one in sets], axis=0)
            runs = np.split(scores, 2) + np.split(drawn, 2, axis=1)
            difference = Difference(*runs)
            kinds[kind].append((*difference.interval(LEVEL), difference.p))
    record: dict[str, Any] = {**world._asdict(), "studies": studies}
    for kind, intervals in kinds.items():
        low, high, p = np.array(intervals).T
        record[f"coverage{kind}"] = float(((low <= 0) & (high >= 0)).mean())
        record[f"rejected{kind}"] = float((p <= alpha).mean())
        record[f"width{kind}"] = float(np.median(high - low))
    return record


def _draw_study(
    world: World, rng: np.random.Generator
) -> tuple[dict[Row, Resampled], dict[Row, Predicted]]:
    """Return the accuracy of the runs on each set, and the names of its examples and clusters."""
    n, languages, seeds = world.n, world.languages, world.seeds
    number = np.arange(n) // world.cluster

    def effect(*shape: int) -> np.ndarray:
        """Draw an effect for each example; a cluster shares 0.7 of its variance."""
        of_cluster = rng.standard_normal((number[-1] + 1, *shape))[number]
        share = 0.7 if world.cluster > 1 else 0.0
        return np.sqrt(share) * of_cluster + np.sqrt(1 - share) * rng.standard_normal((n, *shape))

    quality_nL2S = (
        0.8
        + effect(1, 1, 1)
        + 0.5 * effect(1, 2, 1)
        + 0.05 * rng.standard_normal((1, 1, 2, seeds))
        + world.by_language * rng.standard_normal((1, languages, 2, seeds))
        + 0.4 * rng.standard_normal((n, languages, 2, seeds))
    )
    sets, predicted = {}, {}
    for i in range(languages):
        kept = np.arange(n)
        if world.rows == "shuffled":
            kept = rng.permutation(n)
        elif world.rows == "missing":
            kept = np.sort(rng.permutation(n)[rng.integers(0, 6) :])
        row = Row(f"l{i}", f"l{i}", len(kept))
        sets[row] = resampling.mean(quality_nL2S[kept, i].reshape(len(kept), -1) > 0)
        clusters = [f"{i}-{number[k]}" if world.cluster > 1 else "" for k in kept]
        predicted[row] = Predicted(Path(), [str(k) for k in kept], clusters)
    return sets, predicted


def _resampled(sets: Sequence[Resampled], draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the accuracies of each set in resamples, (draws, runs).

    Sets with equally many units share the draws.
    """
    weights = {
        units: list(resampling.resamples(units, draws, rng))
        for units in sorted({one.units for one in sets})
    }
    return [np.concatenate([one.values(w) for w in weights[one.units]]) for one in sets]
