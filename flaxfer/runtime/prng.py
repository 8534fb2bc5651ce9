"""Random number generators for dropout.

A key carries its generator, so models simply call `jax.random`.
"""

from __future__ import annotations

import math

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np


def dropout_key(seed: int, platform: str, devices: int) -> jax.Array:
    """Return the key from which all dropout keys of a run are derived.

    Its generator is the hardware's `rbg` on one TPU or GPU, otherwise `HASH`. XLA does not split
    `rbg`: each device draws the bits of all, which on 256 chips takes most of the step (284 instead
    of 78 million cycles for BERT-base, ce5d65a). On one TPU chip it is 4 % faster than the hash. On
    a CPU, `rbg` and threefry are 30 to 40 times slower than the hash, which the compiler fuses into
    the loop that uses the bits. A run that resumes on other devices may therefore draw other bits.

    Args:
      seed: seed of the run.
      platform: platform of its devices.
      devices: number of devices that a step is split over.
    """
    return jax.random.key(seed, impl="rbg" if platform != "cpu" and devices == 1 else HASH)


def _mixed(word: jax.Array) -> jax.Array:
    """Return the uint32 bijection `lowbias32` (Wellons 2018, "Prospecting for Hash Functions")."""
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * np.uint32(0x846CA68B)
    return word ^ (word >> 16)


def hashed(key: jax.Array | tuple[jax.Array, jax.Array], count: jax.Array) -> jax.Array:
    """Return a word per number: a word of the key enters before, one between two mixings."""
    return _mixed(_mixed(count ^ key[0]) + key[1])


def _seed(seed: jax.Array) -> jax.Array:
    word = seed.astype(jnp.uint32)
    return jnp.stack([_mixed(word), _mixed(word ^ np.uint32(0x9E3779B9))])


def _fold_in(key: jax.Array, number: jax.typing.ArrayLike) -> jax.Array:
    twice = 2 * jnp.asarray(number, jnp.uint32)
    return jnp.stack([hashed(key, twice), hashed(key[::-1], twice + 1)])


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jax.vmap(lambda number: _fold_in(key, number))(numbers).reshape(*shape, 2)


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Return the highest 8, 16 or 32 bits of a word per element."""
    word = hashed(key, jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape))
    dtype = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bit_width]
    return (word >> (32 - bit_width)).astype(dtype)


HASH = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="flaxfer",
    tag="flaxfer",
)
"""A generator by elementwise arithmetic, for dropout; not for cryptography or simulations."""
