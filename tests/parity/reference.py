"""Committed results of PyTorch: one file per case, with joined arrays to save headers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.parity.cases import Batch, Case

FOLDER = Path(__file__).parent / "reference"


def path(case: Case) -> Path:
    """Return the file of a case."""
    return FOLDER / f"{case.name}.npz"


def write(case: Case, arrays: Batch) -> None:
    """Store arrays in float32."""
    FOLDER.mkdir(exist_ok=True)
    shapes = json.dumps({name: x.shape for name, x in arrays.items()})
    values = np.concatenate([x.astype(np.float32).ravel() for x in arrays.values()])
    np.savez_compressed(path(case), shapes=np.array(shapes), values=values)


def read(case: Case) -> Batch:
    """Return the arrays by name."""
    with np.load(path(case)) as file:
        shapes, values = json.loads(str(file["shapes"])), file["values"]
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    assert ends[-1] == len(values)
    parts = np.split(values, ends[:-1])
    return {n: x.reshape(shape) for (n, shape), x in zip(shapes.items(), parts, strict=True)}
