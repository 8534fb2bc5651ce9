"""Writes the reference files of PyTorch's results: python -m tests.parity.generate [--check].

Needs torch. With --check nothing is written; it fails, naming the array, if what is computed now
differs from the files.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from tests.parity import cases, reference, torch_side

# The values are computed in float64 and stored in float32: what differs from one machine to another
# is the last bit at most. Relative to the largest element of an array.
TOLERANCE = 2e-7


def compute(case: cases.Case) -> cases.Batch:
    """Every quantity of a case, without the rounding of float32 but for that of the result."""
    batches = cases.batches(case)
    model = torch_side.exact_model(case)
    found = torch_side.measure(model, case.kind, batches[0])
    found |= torch_side.train(model, case.kind, batches, cases.OPTIMIZER, cases.TOTAL_STEPS)
    return {name: x.astype(np.float32) for name, x in found.items()}


def differences(case: cases.Case) -> list[str]:
    """Every array of the committed file that is not what PyTorch computes now."""
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
