"""Kernels of attention against XLA's matmuls, and their choice."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from flaxfer.errors import ConfigError
from flaxfer.models.attention import attention, choose_kernel, cudnn, splash
from flaxfer.models.layers import Execution

B, T, H, K = 2, 256, 2, 64


def arrays(seed=0, dtype=jnp.float32, length=T):
    rng = np.random.default_rng(seed)
    query, key, value = (
        jnp.asarray(rng.standard_normal((B, length, H, K)), dtype) for _ in range(3)
    )
    # Two examples and padding in the first row, one example that fills the second.
    segment = np.ones((B, length), np.int32)
    segment[0, length // 3 :] = 2
    segment[0, length - length // 4 :] = 0
    return query, key, value, jnp.asarray(segment)


def both(function, query, key, value, segment):
    """Return outputs and gradients at tokens, for a loss with different weights of all outputs."""
    weight = jnp.asarray(np.random.default_rng(9).standard_normal(query.shape), jnp.float32)
    weight *= (segment > 0)[..., None, None]

    def loss(query, key, value):
        out = function(query, key, value, segment, segment)
        return (out.astype(jnp.float32) * weight).sum(), out * (segment > 0)[..., None, None]

    (_, out), gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
    return out, *gradient


def mesh_of(platform, names=("data", "fsdp", "tensor"), capability="8.0"):
    device = types.SimpleNamespace(platform=platform)
    if platform in ("gpu", "cuda", "rocm"):
        device.compute_capability = capability
    devices = np.array([device], object).reshape((1,) * len(names))
    return types.SimpleNamespace(devices=devices, axis_names=names)


def query_of(length=512, width=64, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((2, length, 4, width), dtype)


def assert_close(results, references, tolerance):
    for result, reference in zip(results, references, strict=True):
        np.testing.assert_allclose(result, reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("length", [128, 256])
def test_splash_equals_matmuls(length):
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    inputs = arrays(length=length)
    kernel = functools.partial(splash, mesh=mesh, interpret=True)
    assert_close(both(kernel, *inputs), both(attention, *inputs), 2e-5)


@pytest.mark.parametrize("scored", [False, True])
def test_arguments_for_cudnn_describe_the_same_attention(scored):
    """JAX's XLA implementation has the interface of the cuDNN kernel."""
    inputs = arrays(2)
    score = None
    if scored:
        score = jnp.asarray(np.random.default_rng(3).standard_normal((B, H, T, T)), jnp.float32)
    kernel = functools.partial(cudnn, score_BHTS=score, implementation="xla")
    reference = functools.partial(attention, score_BHTS=score)
    assert_close(both(kernel, *inputs), both(reference, *inputs), 2e-5)


@pytest.mark.parametrize(
    ("platform", "changes", "kernel"),
    [
        ("gpu", {}, "cudnn"),
        ("cuda", {}, "cudnn"),
        ("cuda", {"has_scores": True}, "cudnn"),
        ("cuda", {"has_dropout": True}, "xla"),
        ("cuda", {"query_BTHK": query_of(dtype=jnp.float32)}, "xla"),
        ("cuda", {"query_BTHK": query_of(width=132)}, "xla"),
        ("cuda", {"query_BTHK": query_of(width=60)}, "xla"),
        ("cuda", {"query_BTHK": query_of(length=63)}, "xla"),
        ("tpu", {}, "splash"),
        ("tpu", {"has_dropout": True}, "xla"),
        ("tpu", {"has_scores": True}, "xla"),
        ("tpu", {"query_BTHK": query_of(length=576)}, "xla"),
        ("tpu", {"query_BTHK": query_of(length=128)}, "xla"),
        ("cpu", {}, "xla"),
    ],
)
def test_auto_takes_a_kernel_if_supported(platform, changes, kernel):
    needs = {"query_BTHK": query_of(), "has_scores": False, "has_dropout": False} | changes
    execution = Execution(attention="auto", mesh=mesh_of(platform))
    assert choose_kernel(execution, **needs) == kernel
    plain = dataclasses.replace(execution, attention="xla")
    assert choose_kernel(plain, **needs) == "xla"


@pytest.mark.parametrize(
    ("platform", "capability", "kernel"),
    [
        ("gpu", "7.5", "xla"),
        ("gpu", "8.0", "cudnn"),
        ("gpu", "12.0", "cudnn"),
        ("rocm", "gfx942", "xla"),
    ],
)
def test_auto_takes_cudnn_where_it_has_flash_attention(platform, capability, kernel):
    execution = Execution(attention="auto", mesh=mesh_of(platform, capability=capability))
    assert choose_kernel(execution, query_of(), has_scores=False, has_dropout=False) == kernel


def test_splash_does_not_support_batched_seeds():
    mesh = mesh_of("tpu", ("seed", "data", "fsdp", "tensor"))
    execution = Execution(attention="auto", mesh=mesh)
    assert choose_kernel(execution, query_of(), has_scores=False, has_dropout=False) == "xla"


@pytest.mark.parametrize(
    ("kernel", "platform", "length", "message"),
    [
        ("splash", "cpu", 128, "it needs a TPU"),
        ("splash", "tpu", 64, "rows need a multiple of 128 tokens, not 64: set train.row_length"),
        ("cudnn", "cpu", 64, "it needs an NVIDIA GPU of compute capability 8.0 or higher"),
        ("cudnn", "gpu", 64, "it needs bfloat16: set train.compute_dtype"),
    ],
)
def test_an_unsupported_kernel_is_refused(kernel, platform, length, message):
    query, key, value, segment = arrays(length=length)
    with pytest.raises(ConfigError) as caught:
        attention(
            query,
            key,
            value,
            segment,
            segment,
            execution=Execution(attention=kernel, mesh=mesh_of(platform)),
        )
    assert message in caught.value.details
    assert caught.value.where == "train.attention"


def test_a_kernel_with_dropout_is_refused():
    query, key, value, segment = arrays(length=128)
    with pytest.raises(ConfigError, match="splash cannot") as caught:
        attention(
            query,
            key,
            value,
            segment,
            segment,
            dropout_rate=0.1,
            dropout_key=jax.random.key(0),
            execution=Execution(attention="splash", mesh=mesh_of("tpu")),
        )
    assert list(caught.value.details) == [
        "no dropout of probabilities: set model.attention_dropout = 0"
    ]


def test_single_queries_are_never_computed_by_a_kernel():
    query, key, value, segment = arrays(length=128)
    execution = Execution(attention="splash", mesh=mesh_of("tpu"))
    few = attention(query[:, :3], key, value, segment[:, :3], segment, execution=execution)
    whole = attention(query, key, value, segment, segment)
    np.testing.assert_allclose(few, whole[:, :3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("scored", [False, True])
def test_attention_and_gradients_equal_the_plain_formula(platform, scored):
    inputs = arrays(6, length=64)
    score = None
    if scored:
        score = jnp.asarray(np.random.default_rng(3).standard_normal((B, H, 64, 64)), jnp.float32)

    def plain(query, key, value, query_segment, key_segment):
        scores = jnp.einsum("BTHK,BSHK->BHTS", query, key) + (score if scored else 0.0)
        same = query_segment[:, None, :, None] == key_segment[:, None, None, :]
        probability = jax.nn.softmax(jnp.where(same, scores / K**0.5, -jnp.inf), axis=-1)
        return jnp.einsum("BHTS,BSHK->BTHK", probability, value)

    execution = Execution(jnp.float32, attention="xla", mesh=mesh_of(platform))
    custom = functools.partial(attention, score_BHTS=score, execution=execution)
    assert_close(both(custom, *inputs), both(plain, *inputs), 5e-6)
