"""Low-rank adapters against the formulas of LoRA, written out in NumPy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.config import Lora
from flaxfer.errors import ConfigError
from flaxfer.models import lora, ops
from flaxfer.models.families import read_config
from flaxfer.models.layers import Keys, Linear, fused
from flaxfer.models.spec import ModelSpec
from tests.helpers import encoder_config
from tests.models import tiny

EVERYWHERE = Lora(3, 12.0, modules=tuple(lora.BLOCK))


def adapted(
    inputs: tuple[int, ...], outputs: tuple[int, ...], settings: Lora, seed: int = 0
) -> Linear:
    linear = Linear(inputs, outputs, std=0.5, rngs=Keys(jax.random.key(seed)))
    linear.bias[...] = jnp.arange(math.prod(outputs), dtype=jnp.float32).reshape(outputs)
    adapter = lora.Adapter(linear, settings, rngs=Keys(jax.random.key(seed + 1)))
    adapter.b[...] = jax.random.normal(jax.random.key(seed + 2), adapter.b.shape)
    linear.lora = adapter
    return linear


def by_formula(linear: Any, x: np.ndarray, dropped: np.ndarray, scale: float) -> np.ndarray:
    """Return x W + b + scale * dropped A B, in float64; x is (rows, inputs)."""
    kernel, bias, a, b = (
        np.float64(array[...])
        for array in (linear.kernel, linear.bias, linear.lora.a, linear.lora.b)
    )
    rank = a.shape[-1]
    update = dropped.astype(np.float64) @ a.reshape(-1, rank) @ b.reshape(rank, -1)
    return x @ kernel.reshape(x.shape[1], -1) + bias.reshape(-1) + scale * update


@pytest.mark.parametrize(
    ("inputs", "outputs"), [((6,), (2, 4)), ((2, 4), (6,))], ids=["to-heads", "from-heads"]
)
def test_an_adapter_adds_its_scaled_product_of_the_dropped_inputs(
    inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    linear = adapted(inputs, outputs, Lora(3, 12.0, dropout=0.25))
    x = np.random.default_rng(0).normal(size=(5, 7, *inputs)).astype(np.float32)
    flat, key = x.reshape(35, -1), jax.random.key(9)
    dropped = np.asarray(ops.dropout(x, 0.25, key)).reshape(flat.shape)
    assert 0.1 < (dropped == 0).mean() < 0.4
    for lora_key, seen in ((None, flat), (key, dropped)):
        found = linear(x, lora_key)
        assert found.shape == (5, 7, *outputs)
        wanted = by_formula(linear, flat, seen, 12 / 3)
        np.testing.assert_allclose(found.reshape(35, -1), wanted, rtol=1e-5, atol=1e-5)


def test_maps_by_a_single_matmul_have_their_adapters() -> None:
    maps = [adapted((6,), (2, 4), Lora(3, 12.0, dropout=0.25), seed) for seed in (0, 10, 20)]
    maps[1].lora = None
    x = jax.random.normal(jax.random.key(0), (5, 7, 6))
    keys = list(jax.random.split(jax.random.key(1), 3))
    wanted = fused(maps, x, "cpu", keys)
    for one, other in zip(fused(maps, x, "gpu", keys), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", pytest.param("xlnet", marks=pytest.mark.slow)])
def test_a_merged_model_gives_the_logits_of_the_adapted_one(family: str) -> None:
    plain = ModelSpec(read_config(tiny.settings(family)), num_outputs=3)
    spec = dataclasses.replace(plain, lora=EVERYWHERE)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), spec.param_shapes()
    )
    batch = {name: jnp.asarray(x) for name, x in tiny.batch(family, tiny.PACKED).items()}
    used = batch["mask_BE"] > 0
    adapted_logits = jax.jit(spec.apply)(params, batch)[used]
    merged = lora.merged(params, EVERYWHERE)
    assert jax.tree.structure(merged) == jax.tree.structure(plain.param_shapes())
    logits_of = jax.jit(plain.apply)
    np.testing.assert_allclose(logits_of(merged, batch)[used], adapted_logits, atol=1e-5)
    without = logits_of(lora.without_adapters(params), batch)[used]
    assert np.abs(without - adapted_logits).max() > 0.1


def test_new_adapters_are_those_of_peft_and_change_no_other_parameter() -> None:
    settings = Lora(500, layers=(1, 2), modules=("query", "output"))
    plain = ModelSpec(encoder_config())
    spec = dataclasses.replace(plain, lora=settings)
    params = spec.random_params(3)
    for one, other in zip(
        jax.tree.leaves(lora.without_adapters(params)),
        jax.tree.leaves(plain.random_params(3)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    adapters = spec.random_adapters(3)
    jax.tree.map(np.testing.assert_array_equal, adapters, lora.adapters(params))
    assert list(adapters["encoder"]["layers"]) == [1]
    attention = adapters["encoder"]["layers"][1]["attention"]
    assert attention.keys() == {"query", "output"}
    for part in attention.values():
        # kaiming_uniform_(a=sqrt(5)) of (rank, 16): within sqrt(6 / (1 + 5)) / sqrt(16) of zero.
        a = np.asarray(part["lora"]["a"])
        assert 0.2495 < np.abs(a).max() <= 0.25
        assert a.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.02)
        assert not np.any(part["lora"]["b"])
    assert not np.array_equal(
        attention["query"]["lora"]["a"], attention["output"]["lora"]["a"].reshape(16, -1)
    )
    assert plain.random_adapters(3) == {}


def test_merging_keeps_an_axis_of_seeds() -> None:
    rng, settings = np.random.default_rng(0), Lora(3, 6.0)
    kernel, a, b = (rng.normal(size=shape) for shape in ((5, 2, 4, 6), (5, 2, 4, 3), (5, 3, 6)))
    adapter = {"a": jnp.float32(a), "b": jnp.float32(b)}
    of_seeds = {"output": {"kernel": jnp.float32(kernel), "lora": adapter}}
    wanted = kernel + 6 / 3 * np.einsum("sHKr,srD->sHKD", a, b)
    one_seed = jax.tree.map(lambda x: x[2], of_seeds)
    for params, expected in ((of_seeds, wanted), (one_seed, wanted[2])):
        found = lora.merged(params, settings)["output"]
        assert found.keys() == {"kernel"}
        np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5, atol=1e-5)


def test_layers_that_an_encoder_lacks_are_refused() -> None:
    lora.check_layers("target.lora.layers", Lora(layers=(1, 2)), 2)
    with pytest.raises(ConfigError, match="ends after layer 2, but the encoder has 2 layers"):
        lora.check_layers("target.lora.layers", Lora(layers=(1, 3)), 2)
