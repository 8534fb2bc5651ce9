"""Simulated studies whose coverage is measured, and the sections about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage, coverage_units, coverage_worlds
from benchmarks.coverage_worlds import World

SMALL = World(n=60, sd=(0.1, 0.1), effect=0.4)

ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "intervals": lambda: coverage.simulate(SMALL, 4, draws=50),
    "tails": lambda: coverage.simulate(SMALL._replace(tails=("seeds", "noise")), 4, draws=50),
    "units": lambda: coverage_units.simulate(coverage_units.World(n=60), 4, 0.05, 50),
    "pairs": lambda: coverage.pairing(SMALL, 4, draws=50),
    "margins": lambda: coverage.equivalence(SMALL, 4, draws=50),
    "families": lambda: coverage.families(SMALL, 10, 4, draws=50),
}


@pytest.mark.parametrize("part", coverage.PARTS)
def test_every_part_has_a_section(part: str) -> None:
    row = ROWS[part]()
    record = {"part": part, "rows": [row, row]}
    record |= {"versions": {"numpy": "2"}, "git": "abc", "date": "2026-01-01"}
    title, *text = coverage.section(record).splitlines()
    assert title.startswith("#") and text[0].count("4 simulated") + text[0].count("4 families")
    header, _, *rows = [line for line in text if line.startswith("|")]
    assert header.count("|") == rows[0].count("|") and len(rows) == 2
    assert "{" not in "".join(text)


def test_tails_are_those_of_students_t_with_the_same_variance() -> None:
    world = World(tails=("noise",))
    rng = np.random.default_rng(0)
    heavy, normal = world.draw("noise", rng, 20_000), world.draw("seeds", rng, 20_000)
    scale = 3**-0.5  # The variance of the distribution is 3.
    assert stats.kstest(heavy, stats.t(3, scale=scale).cdf).pvalue > 0.01
    assert stats.kstest(normal, stats.norm.cdf).pvalue > 0.01


@pytest.mark.parametrize("tails", [("seeds",), ("seeds", "noise")])
def test_heavy_tails_change_what_they_are_of(tails: tuple[str, ...]) -> None:
    def quality(of: tuple[str, ...]) -> np.ndarray:
        world = World(n=2, seeds=4000, sd=(10.0, 10.0), tails=of)
        return coverage_worlds.simulate_quality(world, np.random.default_rng(1))

    # The effects of the seeds are nearly all that differs between runs.
    by_run = np.diff(quality(tails), axis=0)[0], quality(tails).mean(axis=0)
    assert stats.kurtosis(by_run[1]) > 5 > abs(stats.kurtosis(quality(()).mean(axis=0)))
    assert (stats.kurtosis(by_run[0]) > 1) == ("noise" in tails)


@pytest.mark.parametrize(
    ("metric", "tails"), [("accuracy", ("seeds", "noise")), ("pearson", ("seeds", "error"))]
)
def test_coverage_with_heavy_tails(metric: str, tails: tuple[str, ...]) -> None:
    world = World(metric, 300, 5, (0.15, 0.15), tails=tails)
    shares = coverage.simulate(world, 150, draws=300)
    margin = 3 * np.sqrt(0.05 * 0.95 / 150)  # Three standard errors of a share of 150.
    assert shares["coverage"] >= 0.95 - margin
    assert shares["rejected"] <= 0.05 + margin


def test_coverage_where_seeds_differ_by_language() -> None:
    worlds = [coverage_units.World("shuffled", 3, 100, by_language=sd) for sd in (0.5, 0.0)]
    differing, alike = (coverage_units.simulate(one, 60, 0.05, 200) for one in worlds)
    assert differing["coverage"] >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 60)
    assert differing["width"] > 1.5 * alike["width"]
