"""flaxfer against PyTorch's results in reference/, written by generate.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import cases, compare, flax_side, reference


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_quantity_equals_the_reference(case: cases.Case, tmp_path: Path) -> None:
    model = flax_side.tiny_model(case, tmp_path)
    batches = cases.batches(case)
    results = model.measure(batches[0])
    results |= model.train(batches, cases.OPTIMIZER, cases.TOTAL_STEPS)
    compare.check(results, reference.read(case))
