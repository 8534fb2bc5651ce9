r"""Measure the descriptive statistics on simulated seeds: coverage, and claims without an effect.

python -m benchmarks.descriptive > benchmarks/results/descriptive.json

Prints a JSON line to stdout and the section of BENCHMARKS.md to stderr. The scores of direct runs
have mean 0 and standard deviation 1, those of staged runs are shifted to a known probability of
improvement. Examples do not vary, so that all intervals are about seeds alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from benchmarks import common, summary
from flaxfer.runtime import host
from flaxfer.statistics import descriptive

LEVEL = 0.95
DRAWS = 500
BETTER = (0.5, 0.76, 0.92)
"""Probabilities of improvement; there is no effect at the first."""

COLUMNS = (
    "scores", "seeds", "better", "coverage", "coverage_bootstrap", "coverage_multi", "below_half",
    "below_fifth",
)  # fmt: skip


def draw(scores: str, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return scores of direct and of staged runs without a shift."""
    direct, staged = (
        rng.standard_t(3, shape) if scores == "t, 3 df" else rng.standard_normal(shape)
        for _ in range(2)
    )
    return direct, staged * (3 if scores == "normal, staged sd 3" else 1)


def simulate(scores: str, seeds: int, better: float, studies: int) -> dict[str, Any]:
    """Return shares of simulated studies; claims are about the first condition without effect."""
    rng = np.random.default_rng((seeds, round(100 * better)))
    direct, staged = draw(scores, (10**6,), rng)
    shift = -float(np.quantile(staged - direct, 1 - better))
    covered: list[tuple[bool, ...]] = []
    for other, one in zip(*draw(scores, (studies, seeds), rng), strict=True):
        one = one + shift
        _, low, high = descriptive.probability_better(one, other, LEVEL)
        picked = (runs[rng.integers(seeds, size=(DRAWS, seeds))] for runs in (one, other))
        first, second = (runs[..., None] for runs in picked)
        bootstrap = np.quantile(
            (first > second.swapaxes(1, 2)).mean(axis=(1, 2)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        )
        rows = (np.tile(runs, (DRAWS, 1)) for runs in (other, one))
        multi = descriptive.multi_bootstrap(*rows, LEVEL, rng)
        order = descriptive.almost_stochastic_order(one, other, DRAWS, rng)
        bound, _ = descriptive.Descriptive(*[0.0] * 6, *order).bounds(1 - LEVEL, 1)
        covered.append((
            low <= better <= high, bootstrap[0] <= better <= bootstrap[1],
            multi[0] <= shift <= multi[1], bound < 0.5, bound < 0.2,
        ))  # fmt: skip
    shares = np.mean(covered, axis=0).tolist()
    return dict(zip(COLUMNS, (scores, seeds, better, *shares), strict=True)) | {"studies": studies}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=600)
    options = parser.parse_args()
    simulated = [
        simulate(scores, seeds, better, options.studies)
        for scores in ("normal", "t, 3 df", "normal, staged sd 3")
        for seeds in (3, 5, 10, 20)
        for better in BETTER
    ]
    record = {"level": LEVEL, "draws": DRAWS, "simulated": simulated, "machine": common.machine()}
    record |= {"versions": common.versions("numpy", "scipy")}
    record |= {"date": host.now(), "git": common.commit()}
    print(section(record), file=sys.stderr)
    print(json.dumps(record))


def section(record: dict[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    return (
        "## Descriptive statistics on simulated seeds\n"
        f"Shares of {record['simulated'][0]['studies']} simulated studies, by "
        "benchmarks/descriptive.py. Better: the true probability of improvement. Coverage: of its "
        f"nominal {record['level']:.0%} interval, and of a percentile bootstrap over seeds. "
        "Coverage multi: of the difference, by the multi-bootstrap. Below half, below fifth: the "
        "bound of almost stochastic order, one-sided, is below 0.5 or 0.2; where better is 0.5 and "
        "the deviations are equal, these are false claims, nominally at most "
        f"{1 - record['level']:.2f}. Versions: {summary.provenance([record])}\n\n"
        f"{summary.columns(record['simulated'], COLUMNS)}"
    )


if __name__ == "__main__":
    common.guarded(main)
