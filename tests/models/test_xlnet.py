"""Relative positions and types, against explicit sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.models.encoders import XLNetConfig
from flaxfer.models.families import read_config
from flaxfer.models.layers import Keys
from flaxfer.models.ops import distance_scores, distance_scores_at
from flaxfer.models.xlnet import Encoder, distance_encoding
from tests.models import tiny

WIDTH, HEADS, SIZE = 8, 2, 4


@pytest.mark.parametrize("clamp_len", [-1, 0, 3])
def test_distances_are_encoded_as_sinusoids(clamp_len: int) -> None:
    """Vaswani et al. 2017, with all sines before all cosines, as in Dai et al. 2019."""
    tokens = 6
    encoding = distance_encoding(tokens, WIDTH, clamp_len)
    assert encoding.shape == (2 * tokens, WIDTH)
    for row, distance in zip(encoding, range(tokens, -tokens, -1), strict=True):
        if clamp_len > 0:
            distance = max(-clamp_len, min(clamp_len, distance))
        angles = [distance / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
        np.testing.assert_allclose(row, [*np.sin(angles), *np.cos(angles)], atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 4, 5, 13])
def test_distance_scores_are_dot_products_with_encodings(tokens: int) -> None:
    rng = np.random.default_rng(0)
    query_BTHK = rng.standard_normal((3, tokens, HEADS, SIZE)).astype(np.float32)
    distance_RHK = rng.standard_normal((2 * tokens, HEADS, SIZE)).astype(np.float32)
    want_BHTS = np.empty((3, HEADS, tokens, tokens))
    for query in range(tokens):
        for key in range(tokens):
            at_HK = distance_RHK[tokens - (query - key)]
            want_BHTS[:, :, query, key] = np.sum(query_BTHK[:, query] * at_HK, axis=-1)
    scores = distance_scores(jnp.asarray(query_BTHK), jnp.asarray(distance_RHK))
    np.testing.assert_allclose(scores, want_BHTS, atol=1e-5)
    place_BE = rng.integers(0, tokens, (3, 2)).astype(np.int32)
    at_BEHK = np.take_along_axis(query_BTHK, place_BE[..., None, None], axis=1)
    some = distance_scores_at(place_BE, jnp.asarray(at_BEHK), jnp.asarray(distance_RHK))
    want = np.take_along_axis(want_BHTS, place_BE[:, None, :, None], axis=2)
    np.testing.assert_allclose(some, want, atol=1e-5)


def test_token_types_matter_only_by_equality() -> None:
    graph, params = tiny.model("xlnet")
    batch = tiny.batch("xlnet", tiny.PACKED)
    used = batch["mask_BE"] > 0

    @jax.jit
    def logits(type_BT: jax.Array) -> jax.Array:
        return tiny.logits(graph, params, batch | {"type_BT": type_BT})

    plain = logits(batch["type_BT"])[used]
    renamed = np.array([7, 0, 300], np.int32)[batch["type_BT"]]
    np.testing.assert_array_equal(logits(renamed)[used], plain)
    merged = np.minimum(batch["type_BT"], 1)
    assert np.abs(logits(merged)[used] - plain).max() > 1e-3


def test_token_order_matters_and_position_BT_is_not_read() -> None:
    graph, params = tiny.model("xlnet")
    batch = tiny.batch("xlnet", tiny.RIGHT)

    @jax.jit
    def logits(token_BT: jax.Array, position_BT: jax.Array) -> jax.Array:
        return tiny.logits(
            graph, params, batch | {"token_BT": token_BT, "position_BT": position_BT}
        )

    plain = logits(batch["token_BT"], batch["position_BT"])
    np.testing.assert_array_equal(logits(batch["token_BT"], batch["segment_BT"]), plain)
    swapped = batch["token_BT"].copy()
    swapped[0, :2] = swapped[0, 1::-1]
    assert np.abs(logits(swapped, batch["position_BT"])[0, 0] - plain[0, 0]).max() > 1e-4


@pytest.mark.parametrize("clamp_len", [-1, 1])
def test_distances_are_clamped(clamp_len: int) -> None:
    """In a single layer, tokens beyond `clamp_len` are interchangeable."""
    settings = tiny.RELATIVE | {"n_layer": 1, "clamp_len": clamp_len, "initializer_range": 0.5}
    config = read_config(settings)
    assert isinstance(config, XLNetConfig)
    encoder = Encoder(config, rngs=Keys(jax.random.key(0)))
    batch = tiny.batch("xlnet", tiny.RIGHT)
    batch["type_BT"][:] = 0

    @jax.jit
    def cls_output(token_BT: jax.Array) -> jax.Array:
        x_BTD: jax.Array = encoder(batch | {"token_BT": token_BT})
        return x_BTD[0, tiny.LENGTHS[0] - 1]

    swapped = batch["token_BT"].copy()
    swapped[0, :2] = swapped[0, 1::-1]
    difference = np.abs(cls_output(swapped) - cls_output(batch["token_BT"])).max()
    assert difference < 1e-5 if clamp_len == 1 else difference > 1e-3
