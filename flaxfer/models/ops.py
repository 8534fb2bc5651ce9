"""Custom gradients, dropout, and forms of operations that XLA compiles to faster code.

The rest of the package reads as the papers do; everything that departs from the plain formulas for
speed or memory is here. A docstring names the gain and, where it was measured, the commit: on a CPU
with benchmarks/, or as the TPU compiler's estimate of cycles, which tests/aot/gate.json records.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxfer.runtime.cpu import this_cpu

Pair = tuple[jax.Array, jax.Array]

MASKED = -1e30
"""Added to the scores of other segments; finite, so that no gradient becomes NaN."""

DISTANCE_BLOCKS = 4
"""Number of blocks of queries in `distance_scores`."""


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Return x times the normal distribution function of x (Hendrycks & Gimpel 2016).

    The backward pass keeps x alone, where JAX's gradient keeps several float32 arrays of its size
    (cc38c22).
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((cotangent * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def project(x: jax.Array, batch: tuple[int, ...], kernel: jax.Array) -> jax.Array:
    """Return the matmul of x, (*batch, ...), with a matrix: (*batch, outputs) or (-1, outputs).

    In float32, the usual dtype on CPUs, more than two axes cost copies in the backward pass. In
    bfloat16 they are free there, and save a TPU the copies between rows and tokens (48f5ddd).
    """
    if x.dtype.name in this_cpu().flat_dtypes:
        return x.reshape(-1, kernel.shape[0]) @ kernel
    return matmul(x.reshape(*batch, kernel.shape[0]), kernel)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the matmul of (..., inputs) with (inputs, outputs).

    The gradient of the kernel has a form that XLA's CPU library supports. The one that JAX derives,
    a transposed transpose, is not, and takes twice as long in bfloat16. Together with `add_bias`
    and the forms for attention, training steps are a tenth faster on a CPU (48f5ddd).
    """
    return x @ kernel


def _matmul_backward(residuals: Pair, cotangent: jax.Array) -> Pair:
    x, kernel = residuals
    rows = tuple(range(x.ndim - 1))
    return cotangent @ kernel.T, jax.lax.dot_general(x, cotangent, ((rows, rows), ((), ())))


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return the sum of x and a float32 bias of its last axes, in the dtype of x.

    The gradient of the bias is summed in float32. JAX sums it in the dtype of x, which rounds it,
    and for which XLA has no fast loop on CPUs; the float32 sum costs a TPU 0.04 % more cycles
    (48f5ddd).
    """
    return x + bias.astype(x.dtype)


def _add_bias_backward(bias: jax.Array, cotangent: jax.Array) -> Pair:
    leading = tuple(range(cotangent.ndim - bias.ndim))
    return cotangent, cotangent.astype(bias.dtype).sum(axis=leading)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalise(x: jax.Array, eps: float) -> jax.Array:
    """Return x minus its mean, over its standard deviation, along the last axis.

    The gradient takes two means in one pass over the activations, where JAX's takes two passes:
    1 % fewer TPU cycles (a155b1e).
    """
    return _normalise_forward(x, eps)[0]


def _normalise_forward(x: jax.Array, eps: float) -> tuple[jax.Array, Pair]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    normal = centred * inverse
    return normal, (normal, inverse)


def _normalise_backward(eps: float, residuals: Pair, cotangent: jax.Array) -> tuple[jax.Array]:
    normal, inverse = residuals
    mean = jnp.mean(cotangent, axis=-1, keepdims=True)
    along = jnp.mean(cotangent * normal, axis=-1, keepdims=True)
    return (inverse * (cotangent - mean - along * normal),)


normalise.defvjp(_normalise_forward, _normalise_backward)


@jax.custom_vjp
def attention_scores(query_BTHK: jax.Array, key_BSHK: jax.Array) -> jax.Array:
    """Return the dot product of every query with every key, (B, H, S, T).

    Queries are last, so that a TPU sums over keys by whole vectors (4ccbd00). The gradients of this
    and of `weighted_values` have forms that XLA's CPU library supports; some of those that JAX
    derives take ten times as long in bfloat16 (48f5ddd).
    """
    return jnp.einsum("BTHK,BSHK->BHST", query_BTHK, key_BSHK)


@jax.custom_vjp
def weighted_values(weight_BHST: jax.Array, value_BSHK: jax.Array) -> jax.Array:
    """Return the weighted sum of the values for each query, (B, T, H, K)."""
    return jnp.einsum("BHST,BSHK->BTHK", weight_BHST, value_BSHK)


def _weighted_queries(weight_BHST: jax.Array, x_BTHK: jax.Array) -> jax.Array:
    return jnp.einsum("BHST,BTHK->BSHK", weight_BHST, x_BTHK)


def _attention_scores_backward(residuals: Pair, cotangent_BHST: jax.Array) -> Pair:
    query_BTHK, key_BSHK = residuals
    return (
        weighted_values(cotangent_BHST, key_BSHK),
        _weighted_queries(cotangent_BHST, query_BTHK),
    )


def _weighted_values_backward(residuals: Pair, cotangent_BTHK: jax.Array) -> Pair:
    weight_BHST, value_BSHK = residuals
    return (
        attention_scores(cotangent_BTHK, value_BSHK),
        _weighted_queries(weight_BHST, cotangent_BTHK),
    )


attention_scores.defvjp(
    lambda *arrays: (attention_scores(*arrays), arrays), _attention_scores_backward
)
weighted_values.defvjp(
    lambda *arrays: (weighted_values(*arrays), arrays), _weighted_values_backward
)


def scaled_scores(
    query_BTHK: jax.Array, key_BSHK: jax.Array, score_BHTS: jax.Array | None, platform: str
) -> jax.Array:
    """Return `attention_scores` plus further scores, scaled, float32 (B, H, S, T).

    On a CPU the queries are scaled instead: scaling every score takes as long as a softmax
    (48f5ddd).
    """
    scale = query_BTHK.shape[-1] ** -0.5
    if platform == "cpu" and score_BHTS is None:
        query_BTHK = (query_BTHK.astype(jnp.float32) * scale).astype(query_BTHK.dtype)
        scale = 1.0
    score_BHST = attention_scores(query_BTHK, key_BSHK).astype(jnp.float32)
    if score_BHTS is not None:
        score_BHST += score_BHTS.mT
    return score_BHST * scale


def distance_scores(query_BTHK: jax.Array, distance_RHK: jax.Array) -> jax.Array:
    """Return the dot products of queries and encoded distances to keys, (B, H, T, S).

    The queries are all tokens of the row. A block of queries occurs at T + (block size) distances
    from the keys, where all queries at once would occur at 2 T: with four blocks, 3/8 less work.
    """
    tokens = query_BTHK.shape[1]
    size = -(-tokens // DISTANCE_BLOCKS)
    blocks = []
    for start in range(0, tokens, size):
        block_BTHK = query_BTHK[:, start : start + size]
        queries = block_BTHK.shape[1]
        first = tokens - start - queries
        near_RHK = distance_RHK[first : 2 * tokens - start]
        score_HBTR = jnp.einsum("BTHK,RHK->HBTR", block_BTHK, near_RHK)
        # The scores of each query begin one column before those of the previous query: reshaping to
        # rows that are one column shorter aligns them (Dai et al. 2019, appendix B).
        flat_HBX = score_HBTR.reshape(*score_HBTR.shape[:2], -1)[..., queries:]
        shifted_HBTR = flat_HBX.reshape(*score_HBTR.shape[:3], -1)
        blocks.append(shifted_HBTR[..., :tokens])
    return jnp.swapaxes(jnp.concatenate(blocks, axis=2), 0, 1)


def distance_scores_at(
    place_BT: jax.Array, query_BTHK: jax.Array, distance_RHK: jax.Array
) -> jax.Array:
    """Return `distance_scores` for queries at certain places of the row, (B, H, T, S)."""
    keys = distance_RHK.shape[0] // 2

    def window(score_HR: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(score_HR, keys - place, keys, axis=-1)

    score_BTHR = jnp.einsum("BTHK,RHK->BTHR", query_BTHK, distance_RHK)
    return jnp.swapaxes(jax.vmap(jax.vmap(window))(score_BTHR, place_BT), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(score_BHST: jax.Array, dtype: Any) -> jax.Array:
    """Return probabilities over S in `dtype`, the only array kept for the backward pass (4ccbd00).

    Args:
      score_BHST: float32.
      dtype: dtype of the probabilities.
    """
    return jax.nn.softmax(score_BHST, axis=-2).astype(dtype)


def _softmax_backward(
    dtype: Any, probability_BHST: jax.Array, cotangent_BHST: jax.Array
) -> tuple[jax.Array]:
    probability_BHST = probability_BHST.astype(jnp.float32)
    weighted_BHST = probability_BHST * cotangent_BHST
    return (weighted_BHST - probability_BHST * weighted_BHST.sum(axis=-2, keepdims=True),)


softmax.defvjp(lambda *arguments: (softmax(*arguments),) * 2, _softmax_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def dropped_softmax(score_BHST: jax.Array, dtype: Any, rate: float, key: jax.Array) -> jax.Array:
    """Return `softmax` after dropout.

    The backward pass keeps one array, the probabilities with a minus sign if dropped, where XLA
    would keep the mask as well (027a6b1).
    """
    return _dropped_softmax_forward(score_BHST, dtype, rate, key)[0]


def _dropped_softmax_forward(
    score_BHST: jax.Array, dtype: Any, rate: float, key: jax.Array
) -> Pair:
    probability_BHST = jax.nn.softmax(score_BHST, axis=-2).astype(dtype)
    sign_BHST = _dropout_sign(score_BHST.shape, rate, key)
    signed_BHST = jnp.where(sign_BHST > 0, probability_BHST, -probability_BHST)
    return jnp.maximum(signed_BHST, 0) * _dropout_scale(rate, dtype), signed_BHST


def _dropped_softmax_backward(
    dtype: Any, rate: float, signed_BHST: jax.Array, cotangent_BHST: jax.Array
) -> tuple[jax.Array, None]:
    scaled_BHST = cotangent_BHST * _dropout_scale(rate, dtype)
    cotangent_BHST = jnp.where(signed_BHST > 0, scaled_BHST, jnp.zeros((), dtype))
    return *_softmax_backward(dtype, jnp.abs(signed_BHST), cotangent_BHST), None


dropped_softmax.defvjp(_dropped_softmax_forward, _dropped_softmax_backward)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Set a fraction of the elements to zero and scale up the rest; without a key, return x.

    A random byte per element decides, a quarter of the bits of a float. The rate is therefore
    rounded to `true_dropout_rate(rate)`; the scale uses the rounded rate, so the mean is exact.
    """
    if key is None or rate == 0.0:
        return x
    scaled = x * _dropout_scale(rate, x.dtype)
    keep = _dropout_bytes(key, x.shape) >= jnp.uint8(round(true_dropout_rate(rate) * 256))
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))


def dropout_site(key: jax.Array | None, site: int) -> jax.Array | None:
    """Return the dropout key of one place in the model; None without dropout."""
    return None if key is None else jax.random.fold_in(key, site)


def true_dropout_rate(rate: float) -> float:
    """Return the nearest multiple of 1/256, but at least 1/256 for a positive rate."""
    return min(max(round(rate * 256), 1), 255) / 256 if rate else 0.0


def _dropout_sign(shape: tuple[int, ...], rate: float, key: jax.Array) -> jax.Array:
    """Return 1 where `dropout` keeps an element and -1 where it drops it, float32.

    Computed by arithmetic: within attention, a TPU packs the result of comparing bytes into bits,
    which takes as long as the softmax (027a6b1).
    """
    threshold = round(true_dropout_rate(rate) * 256)
    random = _dropout_bytes(key, shape).astype(jnp.float32)
    return 2 * jnp.clip(random - (threshold - 1), 0, 1) - 1


def _dropout_scale(rate: float, dtype: Any) -> jax.Array:
    return jnp.asarray(1 / (1 - true_dropout_rate(rate)), dtype)


def _dropout_bytes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return random bytes that depend on the key alone, also under `jax.vmap`.

    By default `jax.vmap` draws the bits of all rbg keys from the first of them.
    """

    @jax.custom_batching.custom_vmap
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bits(key, shape, jnp.uint8)

    @draw.def_vmap
    def _(size: int, _: Any, keys: jax.Array) -> tuple[jax.Array, bool]:
        return jnp.stack([draw(keys[i]) for i in range(size)]), True

    random: jax.Array = draw(key)
    return random
