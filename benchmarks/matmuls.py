"""The matrix products of a train step, and the time they take alone: what no step can beat.

Of the encoder: the six maps of a layer and the two products of attention, each forward and with
respect to both of its factors. The head, of one CLS token an example, is left out.
"""

from __future__ import annotations

import collections
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from flaxfer.errors import ConfigError
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime import platform

REPEATS = 5

Product = tuple[int, int, int, int]
"""(b, m, k, n): b products of (m, k) with (k, n)."""


def products(encoder: EncoderConfig, rows: int, row_length: int) -> collections.Counter[Product]:
    """How often a train step takes each product.

    Raises:
      ConfigError: the family attends by relative positions, whose products are others.
    """
    if encoder.family == "xlnet":
        raise ConfigError("--matmul_limit knows no XLNet", hint="leave --matmul_limit out.")
    tokens, d, f = rows * row_length, encoder.hidden_size, encoder.intermediate_size
    heads = encoder.num_heads
    layer: list[Product] = [(1, tokens, d, d)] * 4 + [(1, tokens, d, f), (1, tokens, f, d)]
    layer += [
        (rows * heads, row_length, d // heads, row_length),
        (rows * heads, row_length, row_length, d // heads),
    ]
    taken: collections.Counter[Product] = collections.Counter()
    for b, m, k, n in layer:
        for product in ((b, m, k, n), (b, m, n, k), (b, k, m, n)):  # y = xw, dx = g w', dw = x' g
            taken[product] += encoder.num_layers
    return taken


def flops(taken: collections.Counter[Product]) -> int:
    """Multiplications and additions of all products."""
    return sum(2 * b * m * k * n * times for (b, m, k, n), times in taken.items())


def limit_s(encoder: EncoderConfig, rows: tuple[float, int], dtype: Any) -> float:
    """Seconds of a step's products alone.

    Args:
      encoder: whose step.
      rows: mean number of rows a step, which is rounded, and their length.
      dtype: of the factors.
    """
    taken = products(encoder, max(round(rows[0]), 1), rows[1])
    return sum(times * _seconds(product, dtype) for product, times in taken.items())


def _seconds(product: Product, dtype: Any) -> float:
    """Median time of a product."""
    b, m, k, n = product
    left_key, right_key = jax.random.split(jax.random.key(0))
    left = jax.random.normal(left_key, (b, m, k), dtype)
    right = jax.random.normal(right_key, (b, k, n), dtype)
    if b == 1:
        left, right = left[0], right[0]
    # As the step is compiled, or this would be no bound.
    options = platform.compiler_options(jax.devices()[0])
    multiply = jax.jit(jnp.matmul, compiler_options=options)
    multiply(left, right).block_until_ready()
    times = []
    for _ in range(REPEATS):
        began = time.monotonic()
        multiply(left, right).block_until_ready()
        times.append(time.monotonic() - began)
    return statistics.median(times)
