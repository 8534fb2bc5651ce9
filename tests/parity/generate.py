"""Writes the reference files of PyTorch's results: python -m tests.parity.generate [--check].

Needs torch. With --check nothing is written; it fails, naming the array, if what is computed now
differs from the files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from tests.parity import cases, torch_side

REFERENCE = Path(__file__).parent / "reference"
# Rounding differs a little between CPUs; relative to the largest element of an array.
TOLERANCE = 1e-6


def compute(case: cases.Case) -> dict[str, np.ndarray]:
    return torch_side.results(
        torch_side.tiny_model(case),
        cases.batch(case),
        cases.OPTIMIZER,
        cases.STEPS,
        cases.TOTAL_STEPS,
    )


def differences(case: cases.Case) -> list[str]:
    """Every array of the committed file that is not what PyTorch computes now."""
    now = compute(case)
    with np.load(REFERENCE / f"{case.name}.npz") as file:
        committed = dict(file)
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
    REFERENCE.mkdir(exist_ok=True)
    for case in cases.CASES:
        path = REFERENCE / f"{case.name}.npz"
        np.savez_compressed(path, **compute(case))
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
