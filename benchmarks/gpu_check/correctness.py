"""Check values on this device: PyTorch's reference values, packing, and attention kernels.

A check compares arrays by the largest difference of their elements, relative to the largest element
of the reference, as tests/parity does.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, stage
from benchmarks.gpu_check.records import Child, describe
from flaxfer.models.attention import attention, choose_kernel, cudnn
from flaxfer.models.layers import Execution
from flaxfer.runtime import platform, sharding
from tests.parity import cases, compare, flax_side, reference

Figures = dict[str, Any]
Check = tuple[str, Callable[[], Figures]]

PACKED: cases.Layout = (((0, 4), (4, 3), (9, 2)), ((1, 6), (8, 5)))
ALONE: cases.Layout = (((0, 4),), ((0, 3),), ((0, 2),), ((0, 6),), ((0, 5),))
"""The same examples in packed rows with gaps, and in rows of their own."""

KERNEL_TOLERANCE = 0.02
"""Five roundings to bfloat16: scores, probabilities, their gradients and results."""

THREADS = 8
"""Checks that compile at the same time."""


class Mismatch(Exception):
    """Values differ by more than their tolerance."""


def main(arguments: Sequence[str] | None = None) -> None:
    child = Child.parse(__doc__, arguments)
    platform.use_compilation_cache(child.cache)
    # Without this a GPU multiplies float32 in TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    ended = time.monotonic() + child.seconds

    def run(check: Check) -> None:
        name, compute = check
        began = time.monotonic()
        if began > ended:
            reason = f"the part's {child.seconds:.0f} s are over"
            child.write(name, "skipped", began, reason=reason)
            return
        about = {"device": jax.devices()[0].device_kind, "versions": versions()}
        try:
            figures = compute()
        except Exception as error:  # The other checks say where the fault is not.
            child.write(name, "failed", began, reason=describe(error), **about)
        else:
            child.write(name, "ok", began, **figures, **about)

    # Most of the time is compilation, which uses one core each.
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(run, checks(child.tiny)))


def checks(tiny: bool) -> list[Check]:
    """Return the checks by value: families, attention, packing, then other heads and settings."""
    families = list({case.family: case for case in reversed(cases.CASES)}.values())
    rest = [case for case in cases.CASES if case not in families]
    lengths = ((512, 12), (128, 12))
    if tiny:  # The tests compare every case on a CPU.
        families, rest, lengths = [cases.named("bert")], [], ((64, 2),)

    def of(function: Callable[..., Figures], chosen: Sequence[cases.Case]) -> list[Check]:
        return [
            (f"{function.__name__} {case.name}", functools.partial(function, case))
            for case in chosen
        ]

    kernels = [
        (
            f"attention {length}{' scored' * scored}",
            functools.partial(kernel, length, heads, scored),
        )
        for scored in ((True,) if tiny else (False, True))
        for length, heads in lengths
    ]
    return [*of(parity, families), *kernels, *of(packing, families), *of(parity, rest)]


def parity(case: cases.Case) -> Figures:
    """Compare every quantity of a case with PyTorch's, as tests/parity/test_reference.py does."""
    model, batches = tiny_model(case), cases.batches(case)
    results = model.measure(batches[0])
    results |= model.train(batches, cases.OPTIMIZER, cases.TOTAL_STEPS)
    return compared(results, reference.read(case))


def packing(case: cases.Case) -> Figures:
    """Compare packed examples with the same ones in rows of their own."""
    model = tiny_model(case)
    packed, alone = (cases.batch(case, layout, case.width) for layout in (PACKED, ALONE))
    return compared(model.measure(packed), model.measure(alone))


def tiny_model(case: cases.Case) -> flax_side.Model:
    """Return the model of a case."""
    with tempfile.TemporaryDirectory() as folder:
        return flax_side.tiny_model(case, Path(folder))


def compared(results: cases.Batch, wanted: cases.Batch) -> Figures:
    """Return the largest difference of each quantity.

    Raises:
      Mismatch: one exceeds the tolerance of tests/parity.
    """
    largest: dict[str, float] = {}
    for name, difference in compare.differences(results, wanted).items():
        key = compare.quantity(name)
        # A NaN stays: `max` would drop it.
        largest[key] = float(np.maximum(largest.get(key, 0.0), difference))
    return within(largest, compare.TOLERANCE)


def within(largest: dict[str, float], tolerance: float, **more: Any) -> Figures:
    """Return the differences as figures.

    Raises:
      Mismatch: one is larger than the tolerance, or NaN.
    """
    wrong = {name: value for name, value in largest.items() if not value <= tolerance}
    if wrong:
        listed = ", ".join(f"{name} by {value:.2e}" for name, value in wrong.items())
        raise Mismatch(f"differs: {listed}; tolerance {tolerance}")
    return {"differences": largest, "tolerance": tolerance, **more}


def kernel(length: int, heads: int, scored: bool) -> Figures:
    """Compare cuDNN's attention in bfloat16, and its gradients, with XLA's in float32.

    Where there is no such kernel, the XLA function with the same interface stands in for it.

    Raises:
      Mismatch: it differs, or `auto` does not choose the kernel.
    """
    execution = Execution(jnp.bfloat16, attention="auto", mesh=sharding.make_mesh())
    rows, width = 4, 64
    rng = np.random.default_rng(0)
    shape = (rows, length, heads, width)
    arrays = [jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for _ in range(3)]
    if scored:
        shape = (rows, heads, length, length)
        arrays.append(jnp.asarray(rng.standard_normal(shape), jnp.bfloat16))
    segment_BT = np.ones((rows, length), np.int32)
    segment_BT[1, length // 3 :] = 2
    segment_BT[2, length // 2 :] = 0
    segment_BT[3] = 1 + np.arange(length) * 7 // length
    weight = rng.standard_normal((rows, length, heads, width)) * (segment_BT > 0)[..., None, None]
    chosen = choose_kernel(execution, arrays[0], has_scores=scored, has_dropout=False)
    wanted = "cudnn" if jax.default_backend() == "gpu" else "xla"
    if chosen != wanted:
        raise Mismatch(f"auto chooses {chosen}, not {wanted}")

    def fast(*arrays: jax.Array) -> jax.Array:
        score_BHTS = arrays[3] if scored else None
        return cudnn(*arrays[:3], segment_BT, segment_BT, score_BHTS, implementation=chosen)

    def slow(*arrays: jax.Array) -> jax.Array:
        score_BHTS = arrays[3] if scored else None
        return attention(*arrays[:3], segment_BT, segment_BT, score_BHTS=score_BHTS)

    exact = measured(slow, weight, [x.astype(jnp.float32) for x in arrays])
    names = ("output", "query", "key", "value", "scores")
    errors = {
        implementation: {
            name: float(np.abs(x - y).max() / np.abs(y).max())
            for name, x, y in zip(names, measured(function, weight, arrays), exact, strict=False)
        }
        for implementation, function in (("fast", fast), ("slow", slow))
    }
    return within(errors["fast"], KERNEL_TOLERANCE, kernel=chosen, xla_bfloat16=errors["slow"])


def measured(
    function: Callable[..., jax.Array], weight: np.ndarray, arrays: Sequence[jax.Array]
) -> list[np.ndarray]:
    """Return the outputs at tokens and the gradients of a weighted sum of them, float32."""
    weights = jnp.asarray(weight, jnp.float32)

    def loss(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = function(*arrays).astype(jnp.float32)
        return (out * weights).sum(), jnp.where(weights == 0, 0.0, out)

    compute = jax.jit(jax.value_and_grad(loss, tuple(range(len(arrays))), has_aux=True))
    (_, out), gradient = compute(*arrays)
    return [np.asarray(x, np.float32) for x in (out, *gradient)]


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that the values depend on."""
    return common.versions(*stage.PACKAGES)


if __name__ == "__main__":
    common.guarded(main)
