"""Differences between results, and their tolerances.

The difference of two arrays is the largest difference of elements, relative to the largest element
of the reference. Small elements beside large ones carry the rounding of the large ones, so they
need no absolute tolerance.
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
"""Quantities by the names of arrays, complete or up to the slash."""

TOLERANCE = 1e-5

# In real models a few dimensions are far larger than the rest. Gradients of their norms are sums of
# terms that cancel (in layer 8 of E5 to a thirteenth of their size), with the rounding errors of
# the terms: up to 9e-6 of the sum in PyTorch, up to 1.4e-5 in flaxfer.
REAL_GRADIENT_TOLERANCE = 3e-5

# The softmax ignores what is added to all scores, so the gradients of the biases of keys, spans and
# choices are mathematically zero; in float32 a rounding error remains. It is compared with the
# largest of all gradients.
ZERO_GRADIENT = 1e-6


def quantity(name: str) -> str:
    """Return the quantity of an array."""
    return QUANTITIES.get(name) or QUANTITIES[name.partition("/")[0]]


def tolerance(name: str, *, real: bool) -> float:
    """Return the largest valid relative difference of an array."""
    return REAL_GRADIENT_TOLERANCE if real and quantity(name) == "gradients" else TOLERANCE


def differences(results: Batch, reference: Batch) -> dict[str, float]:
    """Return the relative difference of each array; names and shapes have to agree."""
    assert results.keys() == reference.keys(), results.keys() ^ reference.keys()
    largest = {name: float(np.abs(want).max()) for name, want in reference.items()}
    gradient = max((x for name, x in largest.items() if quantity(name) == "gradients"), default=0.0)
    relative = {}
    for name, want in reference.items():
        assert results[name].shape == want.shape, name
        scale = largest[name]
        if quantity(name) == "gradients" and scale < ZERO_GRADIENT * gradient:
            scale = gradient
        relative[name] = float(np.abs(results[name] - want).max()) / scale
    return relative


def check(results: Batch, reference: Batch, *, real: bool = False) -> None:
    """Fail if arrays differ by more than their tolerance or are NaN, with their names."""
    problems = [
        f"{name}: differs by {difference:.2e} of its largest element, tolerance {allowed}"
        for name, difference in differences(results, reference).items()
        if not difference <= (allowed := tolerance(name, real=real))
    ]
    assert not problems, "\n".join(problems)
