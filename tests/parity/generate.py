"""Write the reference files of PyTorch's results: python -m tests.parity.generate [--check].

Needs torch. With --check, compare the files with new results instead and fail, naming the arrays
that differ.
"""

from __future__ import annotations

import argparse
import sys

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if parser.parse_args().check:
        problems = [problem for case in cases.CASES for problem in differences(case)]
        print("\n".join(problems) or "the reference files are up to date")
        return 1 if problems else 0
    for case in cases.CASES:
        reference.write(case, compute(case))
        print(f"{reference.path(case)}: {reference.path(case).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
