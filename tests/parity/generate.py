"""Write the reference files of PyTorch's results: python -m tests.parity.generate.

Needs torch.
"""

from __future__ import annotations

import numpy as np

from tests.parity import cases, reference, torch_side

# Relative to the largest element of an array. Values are computed in float64 and stored in float32,
# so machines differ in the last bit at most.
TOLERANCE = 2e-7


def compute(case: cases.Case) -> cases.Batch:
    """Return every quantity of a case, computed in float64 and rounded to float32."""
    batches = cases.batches(case)
    model = torch_side.exact_model(case)
    arrays = torch_side.measure(model, case.task_type, batches[0])
    arrays |= torch_side.train(model, case.task_type, batches, cases.OPTIMIZER, cases.TOTAL_STEPS)
    return {name: x.astype(np.float32) for name, x in arrays.items()}


def differences(case: cases.Case) -> list[str]:
    """Return a line for each array of the committed file that PyTorch no longer reproduces."""
    now, committed = compute(case), reference.read(case)
    problems = [f"{case.name}: {name} is only on one side" for name in now.keys() ^ committed]
    for name in now.keys() & committed:
        scale = max(1.0, float(np.abs(committed[name]).max()))
        if now[name].shape != committed[name].shape:
            problems.append(f"{case.name}: {name} has another shape")
        elif (error := np.abs(now[name] - committed[name]).max() / scale) > TOLERANCE:
            problems.append(f"{case.name}: {name} differs by {error:.2e}")
    return sorted(problems)


def main() -> None:
    for case in cases.CASES:
        reference.write(case, compute(case))
        print(f"{reference.path(case)}: {reference.path(case).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
