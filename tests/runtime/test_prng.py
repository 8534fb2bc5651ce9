"""Statistical quality of the random bits of dropout, and their sharding."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding

from flaxfer.models.ops import dropout, dropout_site, true_dropout_rate
from flaxfer.runtime import sharding
from flaxfer.runtime.prng import dropout_key

COUNT = 1 << 18
BYTES = jax.jit(lambda key: jax.random.bits(key, (COUNT,), jnp.uint8))


def key_of(seed: int = 0, step: int = 0, layer: int = 0, site: int = 0) -> jax.Array:
    """Return the key of a dropout site, derived as in the step and the models."""
    key = jax.random.fold_in(jax.random.fold_in(dropout_key(seed, "cpu", 1), step), 0)
    site_key = dropout_site(dropout_site(key, layer), site)
    assert site_key is not None
    return site_key


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
@pytest.mark.parametrize("devices", [1, 4])
def test_rbg_is_used_on_a_single_accelerator(platform: str, devices: int) -> None:
    name = str(jax.random.key_impl(dropout_key(0, platform, devices)))
    assert name == ("rbg" if platform != "cpu" and devices == 1 else "flaxfer")


def test_each_device_draws_only_the_bits_of_its_rows() -> None:
    mesh = sharding.make_mesh()
    key, rows = dropout_key(0, "tpu", mesh.size), NamedSharding(mesh, sharding.ROWS)
    draw = jax.jit(lambda k: jax.random.bits(k, (64, 4, 32), jnp.uint8), out_shardings=rows)
    text = draw.lower(key).compile().as_text()
    assert f"[{64 // mesh.size},4,32]" in text and "[64,4,32]" not in text
    np.testing.assert_array_equal(draw(key), jax.random.bits(key, (64, 4, 32), jnp.uint8))


@pytest.mark.parametrize("seed", range(4))
def test_bytes_and_pairs_of_neighbours_are_uniform(seed: int) -> None:
    values = np.asarray(BYTES(key_of(seed)))
    assert scipy.stats.chisquare(np.bincount(values, minlength=256)).pvalue > 1e-4
    for distance in (1, 2, 128, 384, 1024):
        pairs = (values[:-distance] >> 4).astype(int) * 16 + (values[distance:] >> 4)
        assert scipy.stats.chisquare(np.bincount(pairs, minlength=256)).pvalue > 1e-4


def test_bits_are_balanced_and_depend_on_every_bit_of_the_key() -> None:
    key = key_of()
    data = np.asarray(jax.random.key_data(key))
    words = np.asarray(jax.random.bits(key, (1 << 14,), jnp.uint32))
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32)
    deviation = 0.5 / np.sqrt(len(bits))
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * deviation
    for half, bit in itertools.product((0, 1), range(32)):
        changed = data.copy()
        changed[half] ^= np.uint32(1 << bit)
        other = jax.random.wrap_key_data(jnp.asarray(changed), impl=jax.random.key_impl(key))
        flipped = words ^ np.asarray(jax.random.bits(other, words.shape, jnp.uint32))
        share = np.unpackbits(flipped.view(np.uint8)).mean()
        assert abs(share - 0.5) < 0.01, (half, bit)


def test_masks_of_seeds_steps_layers_and_sites_are_independent() -> None:
    sites = itertools.product(range(2), range(3), range(3), range(3))
    masks = np.stack([np.asarray(BYTES(key_of(*site))) < 26 for site in sites]).astype(float)
    rate = true_dropout_rate(0.1)
    assert np.abs(masks.mean(axis=1) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / COUNT)
    correlation = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(COUNT)


def test_seeding_folding_and_splitting_give_distinct_keys() -> None:
    keys = [dropout_key(seed, "cpu", 1) for seed in range(500)]
    seeds = {tuple(jax.random.key_data(key).tolist()) for key in keys}
    folded = jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(key_of(), n)))(
        jnp.arange(5000)
    )
    split = jax.random.key_data(jax.random.split(key_of(), (50, 20))).reshape(-1, 2)
    assert len(seeds) == 500
    assert len(np.unique(folded, axis=0)) == 5000
    assert len(np.unique(split, axis=0)) == 1000


def test_masks_do_not_depend_on_jit_and_vmap() -> None:
    keys = jax.random.split(key_of(), 3)
    x = jnp.ones((4, 64))
    single = np.stack([dropout(x, 0.1, key) for key in keys])
    batched = jax.jit(jax.vmap(lambda key: dropout(x, 0.1, key)))(keys)
    np.testing.assert_array_equal(batched, single)
