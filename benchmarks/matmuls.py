"""The matmuls of a step, and the time they take alone: a lower bound for the step.

For the encoder: the six projections of a layer and the two matmuls of attention, each forward and,
in training, with respect to both operands. The head, with one CLS token an example, is left out.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, stage
from flaxfer.errors import ConfigError
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime import platform

REPEATS = 5

Matmul = tuple[int, int, int, int]
"""(b, m, k, n): b matmuls of (m, k) and (k, n)."""


def matmuls(
    encoder: EncoderConfig, rows: int, row_length: int, *, train: bool
) -> collections.Counter[Matmul]:
    """Return the number of matmuls of each shape in a step of training or evaluation.

    Raises:
      ConfigError: the family has relative positions, and with them other matmuls.
    """
    if encoder.family == "xlnet":
        raise ConfigError("--matmul_limit does not support XLNet", hint="leave --matmul_limit out.")
    tokens, d, f = rows * row_length, encoder.hidden_size, encoder.intermediate_size
    heads = encoder.num_heads
    layer: list[Matmul] = [(1, tokens, d, d)] * 4 + [(1, tokens, d, f), (1, tokens, f, d)]
    layer += [
        (rows * heads, row_length, d // heads, row_length),
        (rows * heads, row_length, row_length, d // heads),
    ]
    counts: collections.Counter[Matmul] = collections.Counter()
    for b, m, k, n in layer:
        # y = xw, dx = dy w', dw = x' dy
        for shape in ((b, m, k, n), (b, m, n, k), (b, k, m, n))[: 3 if train else 1]:
            counts[shape] += encoder.num_layers
    return counts


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for `limit`."""
    parser.add_argument(
        "--matmul_limit", action="store_true", help="time the step's matmuls alone, too"
    )


def limit(inputs: stage.StageInputs, measured: common.Measured, *, train: bool) -> dict[str, Any]:
    """Return the figures of a step's matmuls alone, beside those of the measured steps."""
    length = inputs.evaluator.train.row_length
    rows = measured.slots / length / measured.steps
    counts = matmuls(inputs.evaluator.model.encoder, max(round(rows), 1), length, train=train)
    seconds = sum(n * _seconds(shape, inputs.evaluator.dtype) for shape, n in counts.items())
    return {
        "limit_s_per_step": seconds,
        "times_limit": measured.seconds / measured.steps / seconds,
        "limit_rows": [rows, length],
    }


def _seconds(shape: Matmul, dtype: Any) -> float:
    b, m, k, n = shape
    rng = np.random.default_rng(0)
    batch = () if b == 1 else (b,)
    left = jnp.asarray(rng.standard_normal((*batch, m, k), np.float32), dtype)
    right = jnp.asarray(rng.standard_normal((*batch, k, n), np.float32), dtype)
    # Compiled with the options of the step, or this would be no bound.
    options = platform.compiler_options(jax.devices()[0])
    multiply = jax.jit(jnp.matmul, compiler_options=options)
    multiply(left, right).block_until_ready()
    times = []
    for _ in range(REPEATS):
        began = time.monotonic()
        multiply(left, right).block_until_ready()
        times.append(time.monotonic() - began)
    return statistics.median(times)
