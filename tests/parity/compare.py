"""How far two sides' results are apart, and how far they may be.

A difference is that of the element that differs most, relative to the element that is largest in
the reference array; so zeros and small numbers beside large ones, which carry the rounding of the
large ones, need no absolute tolerance.
"""

from __future__ import annotations

import numpy as np

from tests.parity.cases import Batch

QUANTITIES = {
    "hidden/0": "embeddings",
    "hidden": "layers",
    "pooled": "pooled output",
    "logits": "logits",
    "loss": "loss",
    "gradient": "gradients",
    "losses": "losses of ten steps",
    "stepped": "weights after ten steps",
}
"""By the names of arrays, whole or up to the stroke."""

TOLERANCE = 1e-5

# In real models a few dimensions are far larger than the rest. The gradients of the norms there are
# sums whose terms cancel (in E5's layer 8 to a thirteenth of their sizes), and float32 keeps the
# rounding of the terms: PyTorch's own is off by up to 9e-6 of the sum, flaxfer's by up to 1.4e-5.
REAL_GRADIENT_TOLERANCE = 3e-5

# Softmax drops what is added to all scores, so the gradient of a key's bias is zero by the
# mathematics, as that of a bias of spans or choices is; float32 leaves the rounding of the terms
# that cancel. It is measured by the largest of all gradients.
ZERO_GRADIENT = 1e-6


def quantity(name: str) -> str:
    """Which of the quantities an array belongs to."""
    return QUANTITIES.get(name) or QUANTITIES[name.partition("/")[0]]


def tolerance(name: str, *, real: bool) -> float:
    """The largest relative difference that an array may have."""
    return REAL_GRADIENT_TOLERANCE if real and quantity(name) == "gradients" else TOLERANCE


def differences(found: Batch, reference: Batch) -> dict[str, float]:
    """The relative difference of every array, whose names and shapes have to agree."""
    assert found.keys() == reference.keys(), found.keys() ^ reference.keys()
    largest = {name: float(np.abs(want).max()) for name, want in reference.items()}
    gradient = max((x for name, x in largest.items() if quantity(name) == "gradients"), default=0.0)
    apart = {}
    for name, want in reference.items():
        assert found[name].shape == want.shape, name
        scale = largest[name]
        if quantity(name) == "gradients" and scale < ZERO_GRADIENT * gradient:
            scale = gradient
        apart[name] = float(np.abs(found[name] - want).max()) / scale
    return apart


def check(found: Batch, reference: Batch, *, real: bool = False) -> None:
    """Fails, naming them, if arrays differ by more than their tolerance, or are not numbers."""
    problems = [
        f"{name}: differs by {difference:.2e} of its largest element, tolerance {allowed}"
        for name, difference in differences(found, reference).items()
        if not difference <= (allowed := tolerance(name, real=real))
    ]
    assert not problems, "\n".join(problems)
