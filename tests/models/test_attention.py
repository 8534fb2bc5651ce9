"""The kernels of attention against XLA's products, and when they are taken."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from flaxfer.errors import ConfigError
from flaxfer.models import attention as attention_module
from flaxfer.models import layers
from flaxfer.models.attention import attention
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
    """Outputs and gradients where there are tokens; the loss weighs every output differently."""
    weight = jnp.asarray(np.random.default_rng(9).standard_normal(query.shape), jnp.float32)
    weight *= (segment > 0)[..., None, None]

    def loss(query, key, value):
        out = function(query, key, value, segment, segment)
        return (out.astype(jnp.float32) * weight).sum(), out * (segment > 0)[..., None, None]

    (_, out), gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
    return out, *gradient


def mesh_of(platform, names=("data", "fsdp", "tensor")):
    device = types.SimpleNamespace(platform=platform)
    devices = np.array([device], object).reshape((1,) * len(names))
    return types.SimpleNamespace(devices=devices, axis_names=names)


def query_of(length=512, width=64, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((2, length, 4, width), dtype)


def test_splash_gives_what_products_give():
    given = arrays()
    splash = functools.partial(attention_module._splash, interpret=True)
    for own, reference in zip(both(splash, *given), both(attention, *given), strict=True):
        np.testing.assert_allclose(own, reference, rtol=0, atol=2e-5)


def test_splash_on_a_mesh_gives_what_products_give():
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    given = arrays(1, length=128)
    splash = functools.partial(attention_module._splash_sharded, mesh=mesh, interpret=True)
    for own, reference in zip(both(splash, *given), both(attention, *given), strict=True):
        np.testing.assert_allclose(own, reference, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scored", [False, True])
def test_what_cudnn_is_asked_for_is_what_products_give(scored):
    """JAX's own products compute what the kernel of the same interface is asked for."""
    given = arrays(2)
    score = None
    if scored:
        score = jnp.asarray(np.random.default_rng(3).standard_normal((B, H, T, T)), jnp.float32)
    asked = functools.partial(attention_module._cudnn, score_BHTS=score, implementation="xla")
    reference = functools.partial(attention, score_BHTS=score)
    for own, other in zip(both(asked, *given), both(reference, *given), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("platform", "changes", "by"),
    [
        ("gpu", {}, "cudnn"),
        ("cuda", {}, "cudnn"),
        ("cuda", {"scored": True}, "cudnn"),
        ("cuda", {"drops": True}, "xla"),
        ("cuda", {"query": query_of(dtype=jnp.float32)}, "xla"),
        ("cuda", {"query": query_of(width=132)}, "xla"),
        ("cuda", {"query": query_of(width=60)}, "xla"),
        ("cuda", {"query": query_of(length=63)}, "xla"),
        ("tpu", {}, "splash"),
        ("tpu", {"drops": True}, "xla"),
        ("tpu", {"scored": True}, "xla"),
        ("tpu", {"query": query_of(length=576)}, "xla"),
        ("tpu", {"query": query_of(length=128)}, "xla"),
        ("cpu", {}, "xla"),
    ],
)
def test_auto_takes_a_kernel_where_it_can(platform, changes, by):
    given = {"query": query_of(), "scored": False, "drops": False} | changes
    execution = Execution(attention="auto", mesh=mesh_of(platform))
    chosen = attention_module._choice(execution, given["query"], given["scored"], given["drops"])
    assert chosen == by
    plain = dataclasses.replace(execution, attention="xla")
    assert attention_module._choice(plain, given["query"], False, False) == "xla"


def test_a_group_of_seeds_has_no_splash():
    execution = Execution(
        jnp.float32, "all", "auto", mesh_of("tpu", ("seed", "data", "fsdp", "tensor"))
    )
    assert attention_module._choice(execution, query_of(), False, False) == "xla"


@pytest.mark.parametrize(
    ("by", "platform", "length", "message"),
    [
        ("splash", "cpu", 128, "it runs on TPUs alone"),
        ("splash", "tpu", 64, "rows of a multiple of 128 tokens, not 64: set train.row_length"),
        ("cudnn", "cpu", 64, "it runs on NVIDIA GPUs alone"),
        ("cudnn", "gpu", 64, "it takes bfloat16 alone: set train.compute_dtype"),
    ],
)
def test_a_kernel_that_cannot_is_refused(by, platform, length, message):
    query, key, value, segment = arrays(length=length)
    with pytest.raises(ConfigError) as caught:
        attention(
            query,
            key,
            value,
            segment,
            segment,
            execution=Execution(jnp.float32, "all", by, mesh_of(platform)),
        )
    assert message in caught.value.details
    assert caught.value.where == "train.attention"


def test_a_kernel_does_not_take_the_place_of_dropout():
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
            execution=Execution(jnp.float32, "all", "splash", mesh_of("tpu")),
        )
    assert list(caught.value.details) == [
        "it drops no probabilities: set model.attention_dropout = 0"
    ]


def test_the_few_queries_of_a_last_layer_are_never_a_kernels():
    query, key, value, segment = arrays(length=128)
    execution = Execution(jnp.float32, "all", "splash", mesh_of("tpu"))
    few = attention(query[:, :3], key, value, segment[:, :3], segment, execution=execution)
    whole = attention(query, key, value, segment, segment)
    np.testing.assert_allclose(few, whole[:, :3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("scored", [False, True])
def test_products_and_their_slopes(platform, scored):
    """Against the textbook's formula, whose slopes JAX derives."""
    given = arrays(6, length=64)
    score = None
    if scored:
        score = jnp.asarray(np.random.default_rng(3).standard_normal((B, H, 64, 64)), jnp.float32)

    def plain(query, key, value, query_segment, key_segment):
        product = jnp.einsum("BTHK,BSHK->BHTS", query, key) + (score if scored else 0.0)
        same = query_segment[:, None, :, None] == key_segment[:, None, None, :]
        probability = jax.nn.softmax(jnp.where(same, product / K**0.5, -jnp.inf), axis=-1)
        return jnp.einsum("BHTS,BSHK->BTHK", probability, value)

    execution = Execution(jnp.float32, attention="xla", mesh=mesh_of(platform))
    own = functools.partial(attention, score_BHTS=score, execution=execution)
    for found, wanted in zip(both(own, *given), both(plain, *given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-6)


def test_dropped_probabilities_and_their_slopes():
    """Against the plain composition of the two, with the same bits, dropped ones and all."""
    score = jnp.asarray(np.random.default_rng(4).standard_normal((B, H, 32, 32)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(5).standard_normal(score.shape), jnp.float32)
    score = score.at[0, 0, :5].set(attention_module.MASKED)
    key = jax.random.key(7)

    def plain(score):
        return layers.dropout(jax.nn.softmax(score, axis=-2), 0.25, key)

    def own(score):
        return attention_module._dropped_softmax(score, jnp.float32, 0.25, key)

    np.testing.assert_allclose(own(score), plain(score), rtol=0, atol=1e-7)
    found, wanted = (jax.grad(lambda s, f=f: (f(s) * weight).sum())(score) for f in (own, plain))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert 0.2 < np.mean(np.asarray(own(score)[1]) == 0) < 0.3
