"""flaxfer against PyTorch's results in reference/, which generate.py wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.parity import cases, flax_side

REFERENCE = Path(__file__).parent / "reference"


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_hidden_states_logits_gradients_and_three_steps(case: cases.Case, tmp_path: Path) -> None:
    flax_side.write_folder(case, tmp_path)
    config, params = flax_side.load(tmp_path, case.num_outputs)
    found = flax_side.results(
        config, params, cases.batch(case), cases.OPTIMIZER, cases.STEPS, cases.TOTAL_STEPS
    )
    with np.load(REFERENCE / f"{case.name}.npz") as file:
        flax_side.check(found, dict(file))
