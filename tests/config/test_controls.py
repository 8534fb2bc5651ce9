"""The grids of configs/controls.py: each pair can be decided, on all examples of its test set."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxfer.config import grids, loading
from flaxfer.config.grids import Grid
from flaxfer.tasks import TASK_TYPES

CONTROLS = Path(__file__).parents[2] / "configs" / "controls.py"
PAIRS = {
    "english": {("mnli", "inference"), ("films", "customers"), ("questions", "films")},
    "languages": {("qqp", "similarity")},
}


@pytest.mark.parametrize("preset", PAIRS)
def test_each_pair_has_looks_a_margin_and_whole_test_sets(preset: str) -> None:
    grid = loading.load_any(f"{CONTROLS}:{preset}", TASK_TYPES, [("data_dir", "DATA")])
    assert isinstance(grid, Grid)
    cells = grids.cells(grid).values()
    assert {(k.intermediate, k.target) for k in grids.cell_keys(grid).values()} == PAIRS[preset]
    for cell in cells:
        assert cell.looks == (5, 10, 15, 20)
        assert cell.margin == {cell.target.task.metric: 0.02}
        data = cell.target.data
        evaluated = [*data.test, *cell.target.evaluate.values()]
        # Without a test set of its own, a target is evaluated on most of its records.
        assert all(source.fraction == 1 for source in evaluated or data.train)
        assert evaluated or data.split[2] >= 0.8
