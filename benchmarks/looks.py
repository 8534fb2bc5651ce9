r"""Measure error rates and numbers of seeds of studies that are judged at several looks.

python -m benchmarks.looks > benchmarks/results/looks.json

Prints a JSON line to stdout and the section of BENCHMARKS.md to stderr. The studies are those of
benchmarks/coverage_worlds.py, with 20 seeds. At each look the first seeds are judged, as by a study
with `seeds = dict(looks=(5, 10, 15, 20))`, and naively: p is at most 0.05 at some look.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from benchmarks import common, summary
from benchmarks.coverage_worlds import World, measure, true_difference
from flaxfer.runtime import host
from flaxfer.statistics.inference import Difference
from flaxfer.statistics.sequential import Progress
from flaxfer.tasks import resampling

LOOKS = (5, 10, 15, 20)
DRAWS = 400
ALPHA = 0.05
SD = 0.15
"""Standard deviation of the seed effect; effects are multiples of it."""

COLUMNS = (
    "metric", "n", "sd", "effect", "studies", "naive", "sequential", "last_alone", "mean_seeds",
    "saved", "covered", "equivalent", "equivalent_alone",
)  # fmt: skip


def differences(world: World, rng: np.random.Generator) -> list[Difference]:
    """Return the differences of a simulated study at all looks."""
    runs = measure(world, rng)
    scores = runs.observed()
    drawn = np.concatenate([runs.values(w) for w in resampling.resamples(world.n, DRAWS, rng)])
    return [
        Difference(
            scores[:look],
            scores[world.seeds : world.seeds + look],
            drawn[:, :look],
            drawn[:, world.seeds : world.seeds + look],
        )
        for look in LOOKS
    ]


def judge(of_looks: list[Difference], truth: float, margin: float) -> dict[str, float]:
    """Return what the looks of one study decide."""
    progress, stopped, equivalent = Progress(), 0, False
    for look, now in zip(LOOKS, of_looks, strict=True):
        parts = now.components
        if parts is None:
            raise ValueError("a look needs several seeds")
        progress = progress.after(look, LOOKS[-1], parts.examples, parts.seeds)
        # The boundary is at most the level, and takes longer to compute than the p value.
        p, p_margin = now.p, now.p_equivalence(margin)
        if not stopped and p <= ALPHA and p / 2 <= progress.critical_p(ALPHA / 2):
            stopped = look
        if not equivalent and p_margin <= ALPHA:
            equivalent = p_margin <= progress.critical_p(ALPHA)
    low, high = now.interval(1 - 2 * progress.critical_p(ALPHA / 2))
    return {
        "naive": any(one.p <= ALPHA for one in of_looks),
        "sequential": bool(stopped),
        "last_alone": now.p <= ALPHA,
        "mean_seeds": stopped or LOOKS[-1],
        "covered": low <= truth <= high,
        "equivalent": equivalent,
        "equivalent_alone": now.p_equivalence(margin) <= ALPHA,
    }


def simulate(world: World, studies: int, seed: int = 0) -> dict[str, Any]:
    """Return shares and means over simulated studies; their true effect is also the margin."""
    rng = np.random.default_rng((seed, world.n, round(1000 * world.effect)))
    truth = true_difference(world)
    # Without an effect, the margin is that of an effect of one standard deviation.
    margin = abs(truth) or true_difference(world._replace(effect=SD))
    judged = [judge(differences(world, rng), truth, margin) for _ in range(studies)]
    means = {key: float(np.mean([one[key] for one in judged])) for key in judged[0]}
    saved = 1 - means["mean_seeds"] / LOOKS[-1]
    return {**world._asdict(), "studies": studies, "margin": margin, **means, "saved": saved}


def worlds() -> list[World]:
    """Return the simulated distributions: no difference, and effects of 1 to 2 sigma."""
    last = LOOKS[-1]
    return [
        *(
            World(metric, n, last, (SD, SD))
            for metric in ("accuracy", "pearson")
            for n in (200, 1000)
        ),
        World("accuracy", 1000, last, (0.05, 0.05)),
        World("accuracy", 1000, last, (0.0, 0.0)),
        World("accuracy", 1000, last, (SD, 0.0)),
        *(World("accuracy", 4000, last, (SD, SD), effect=k * SD) for k in (0.0, 1.0, 1.5, 2.0)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    record = {"looks": LOOKS, "alpha": ALPHA, "draws": DRAWS}
    record |= {"studies": [simulate(world, options.studies) for world in worlds()]}
    record |= {"machine": common.machine(), "versions": common.versions("numpy", "scipy")}
    record |= {"date": host.now(), "git": common.commit()}
    print(section(record), file=sys.stderr)
    print(json.dumps(record))


def section(record: dict[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    return (
        "## Sequential seeds on simulated studies\n"
        f"Studies that are judged after {', '.join(map(str, record['looks']))} seeds, by "
        "benchmarks/looks.py. Shares of studies that find a difference: at any look with p at most "
        "0.05 (naive), by the boundaries (sequential), and with all seeds without looks (last "
        "alone); mean number of seeds per condition, and the share saved. Covered: the repeated "
        "interval of the last look has the true difference. Equivalent: no relevant change is "
        "claimed, with the looks and alone; the margin is the true difference, so that a claim is "
        "false, or, without a difference, that of one standard deviation. Versions: "
        f"{summary.provenance([record])}\n\n{summary.columns(record['studies'], COLUMNS)}"
    )


if __name__ == "__main__":
    common.guarded(main)
