"""The grid of configs/controls.py: each pair can be decided, on all examples of its test set."""

from __future__ import annotations

from pathlib import Path

from flaxfer.config import grids, loading
from flaxfer.config.grids import Grid
from flaxfer.tasks import TASK_TYPES

CONTROLS = Path(__file__).parents[2] / "configs" / "controls.py"
PAIRS = {
    ("bert", "mnli", "inference"),
    ("bert", "films", "customers"),
    ("bert", "questions", "films"),
    ("xlmr", "qqp", "similarity"),
}


def test_each_pair_has_looks_a_margin_and_whole_test_sets() -> None:
    grid = loading.load_any(str(CONTROLS), TASK_TYPES, [("data_dir", "DATA")])
    assert isinstance(grid, Grid)
    keys = grids.cell_keys(grid).values()
    assert {(key.model, key.intermediate, key.target) for key in keys} == PAIRS
    for cell in grids.cells(grid).values():
        assert cell.looks == (5, 10, 15, 20)
        assert cell.margin == {cell.target.task.metric: 0.02}
        data = cell.target.data
        evaluated = [*data.test, *cell.target.evaluate.values()]
        # Without a test set of its own, a target is evaluated on most of its records.
        assert all(source.fraction == 1 for source in evaluated or data.train)
        assert evaluated or data.split[2] >= 0.8
