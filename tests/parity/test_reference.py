"""flaxfer against PyTorch's results in reference/, which generate.py wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import cases, compare, flax_side, reference


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_quantity(case: cases.Case, tmp_path: Path) -> None:
    model = flax_side.tiny_model(case, tmp_path)
    batches = cases.batches(case)
    found = model.measure(batches[0])
    found |= model.train(batches, cases.OPTIMIZER, cases.TOTAL_STEPS)
    compare.check(found, reference.read(case))
