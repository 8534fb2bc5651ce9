"""Values and gradients of layers and custom operations; see also tests/parity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from flaxfer.models.encoders import ACTIVATIONS
from flaxfer.models.layers import Keys, LayerNorm, Linear, fused
from flaxfer.models.ops import MASKED, dropout, dropped_softmax, true_dropout_rate


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_has_its_true_rate_and_keeps_the_mean(rate: float, dtype: jnp.dtype) -> None:
    count = 400_000
    x = jnp.ones((400, count // 400), dtype)
    out = np.asarray(dropout(x, rate, jax.random.key(1)), np.float64)
    true_rate = true_dropout_rate(rate)
    assert abs(true_rate - rate) <= 1 / 256
    deviation = np.sqrt(true_rate * (1 - true_rate) / count)
    assert abs((out == 0).mean() - true_rate) < 4 * deviation
    scale = float(jnp.asarray(1 / (1 - true_rate), dtype))
    assert set(np.unique(out)) == {0.0, scale}
    assert abs(out.mean() - 1) < (4 * deviation + abs(scale * (1 - true_rate) - 1)) * scale


def test_dropout_masks_values_and_gradients() -> None:
    x = jnp.linspace(1.0, 2.0, 1000).reshape(10, 100)
    out, back = jax.vjp(lambda x: dropout(x, 0.25, jax.random.key(0)), x)
    mask = np.where(out == 0, 0, np.float32(1 / 0.75))
    np.testing.assert_array_equal(back(jnp.ones_like(x))[0], mask)
    other = dropout(x, 0.25, jax.random.key(1))
    assert ((other == 0) != (out == 0)).any()


def test_without_a_key_or_rate_nothing_is_dropped() -> None:
    x = jnp.ones((4, 4))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
    assert true_dropout_rate(0.0) == 0.0


def linear(outputs: tuple[int, ...], seed: int = 0) -> Linear:
    layer = Linear((16,), outputs, std=1.0, rngs=Keys(jax.random.key(seed)))
    assert layer.bias is not None
    layer.bias[...] = jax.random.normal(jax.random.key(seed), outputs)
    return layer


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linear_map_and_gradients_equal_numpy(dtype: jnp.dtype) -> None:
    """Everything but the gradients of parameters is exact in bfloat16.

    Those are sums of equal signs, which need more digits.
    """
    rng = np.random.default_rng(0)
    x, kernel, bias, cotangent = (
        rng.integers(least, 4, shape).astype(np.float64)
        for least, shape in (
            (-3, (3, 120, 16)),
            (-3, (16, 4, 2)),
            (-3, (4, 2)),
            (1, (3, 120, 4, 2)),
        )
    )
    layer = linear((4, 2))
    assert layer.bias is not None
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    graph, params = nnx.split(layer)

    def apply(params: nnx.State, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)

    y, back = jax.vjp(apply, params, jnp.asarray(x, dtype))
    gradient, x_gradient = back(jnp.asarray(cotangent, dtype))
    np.testing.assert_array_equal(y, np.einsum("bti,ihk->bthk", x, kernel) + bias)
    np.testing.assert_array_equal(x_gradient, np.einsum("bthk,ihk->bti", cotangent, kernel))
    expected = np.einsum("bti,bthk->ihk", x, cotangent)
    rounding = 0 if dtype == jnp.float32 else 2**-9
    np.testing.assert_allclose(gradient["kernel"][...], expected, rtol=rounding, atol=0)
    # Summed in float32, whatever the dtype of the matmuls.
    np.testing.assert_array_equal(gradient["bias"][...], cotangent.sum(axis=(0, 1)))
    assert gradient["bias"][...].dtype == gradient["kernel"][...].dtype == jnp.float32


def test_fused_maps_equal_single_maps() -> None:
    maps = [linear((4, 2), seed) for seed in range(3)]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 16)), jnp.float32)
    for platform in ("cpu", "tpu"):
        for y, single in zip(fused(maps, x, platform, [None] * 3), maps, strict=True):
            np.testing.assert_allclose(y, single(x), rtol=0, atol=1e-5)


def test_layer_norm_computes_in_float32() -> None:
    norm = LayerNorm(64, 1e-12)
    rng = np.random.default_rng(0)
    # Far from zero, bfloat16 sums would lose most of the signal.
    x, y = (jnp.asarray(100 + rng.standard_normal((8, 64)), jnp.bfloat16) for _ in range(2))
    exact = np.asarray(x, np.float64) + np.asarray(y, np.float64)
    want = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(norm(x, y), want, atol=1e-4)
    assert norm(x, y).dtype == jnp.float32


def test_layer_norm_gradient_equals_finite_differences() -> None:
    norm = LayerNorm(16, 1e-2)
    rng = np.random.default_rng(0)
    x, weight = 3 + rng.standard_normal((4, 16)), rng.standard_normal((4, 16))

    def score(x: np.ndarray) -> np.ndarray:
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
        return (normal * weight).sum(axis=-1)

    steps = 1e-5 * np.eye(16)
    want = np.stack([(score(x + s) - score(x - s)) / 2e-5 for s in steps], axis=-1)
    gradient = jax.grad(lambda x: (norm(x) * weight).sum())(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(gradient, want, atol=2e-6)


def test_activations_and_their_gradients() -> None:
    x = np.linspace(-8, 8, 2001)
    bell = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    exact = scipy.special.ndtr(x)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    inner_gradient = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    tanh = 0.5 * (1 + np.tanh(inner))
    tanh_gradient = tanh + 0.5 * x * (1 - np.tanh(inner) ** 2) * inner_gradient
    expected = {
        "gelu": (x * exact, exact + x * bell),
        "gelu_new": (x * tanh, tanh_gradient),
        "relu": (np.maximum(x, 0), (x > 0).astype(float)),
    }
    same = {"gelu_python": "gelu"} | dict.fromkeys(
        ("gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"), "gelu_new"
    )
    assert expected.keys() | same.keys() == ACTIVATIONS.keys()
    for name in ACTIVATIONS:
        value, derivative = expected[same.get(name, name)]
        y, back = jax.vjp(ACTIVATIONS[name], jnp.asarray(x, jnp.float32))
        # XLA's float32 tanh is exactly 1 from 7.9 on, where 2.7e-7 are missing from it, times x.
        np.testing.assert_allclose(y, value, atol=5e-6, err_msg=name)
        gradient = back(jnp.ones_like(y))[0]
        np.testing.assert_allclose(gradient, derivative, atol=5e-6, err_msg=name)


def test_dropped_softmax_equals_softmax_and_dropout() -> None:
    """Values and gradients equal the plain composition with the same bits."""
    shape = (2, 2, 32, 32)
    score = jnp.asarray(np.random.default_rng(4).standard_normal(shape), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(5).standard_normal(shape), jnp.float32)
    score = score.at[0, 0, :5].set(MASKED)
    key = jax.random.key(7)

    def plain(score: jax.Array) -> jax.Array:
        return dropout(jax.nn.softmax(score, axis=-2), 0.25, key)

    def custom(score: jax.Array) -> jax.Array:
        return dropped_softmax(score, jnp.float32, 0.25, key)

    np.testing.assert_allclose(custom(score), plain(score), rtol=0, atol=1e-7)
    gradients = (jax.grad(lambda s, f=f: (f(s) * weight).sum())(score) for f in (custom, plain))
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-6)
    assert 0.2 < np.mean(np.asarray(custom(score)[1]) == 0) < 0.3
