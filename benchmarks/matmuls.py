"""The matmuls of a train step, and the time they take alone: a lower bound for the step.

For the encoder: the six projections of a layer and the two matmuls of attention, each forward and
with respect to both operands. The head, with one CLS token an example, is left out.
"""

from __future__ import annotations

import collections
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.errors import ConfigError
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime import platform

REPEATS = 5

Matmul = tuple[int, int, int, int]
"""(b, m, k, n): b matmuls of (m, k) and (k, n)."""


def matmuls(encoder: EncoderConfig, rows: int, row_length: int) -> collections.Counter[Matmul]:
    """Return the number of matmuls of each shape in a train step.

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
        for shape in ((b, m, k, n), (b, m, n, k), (b, k, m, n)):  # y = xw, dx = dy w', dw = x' dy
            counts[shape] += encoder.num_layers
    return counts


def limit_s(encoder: EncoderConfig, rows: tuple[float, int], dtype: Any) -> float:
    """Return the seconds of a step's matmuls alone.

    Args:
      encoder: encoder of the step.
      rows: mean number of rows, which is rounded, and their length.
      dtype: dtype of the operands.
    """
    counts = matmuls(encoder, max(round(rows[0]), 1), rows[1])
    return sum(count * _seconds(shape, dtype) for shape, count in counts.items())


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
