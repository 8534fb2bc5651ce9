"""The kernel for short rows, interpreted on a CPU, against XLA's attention and plain formulas."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from jax.sharding import Mesh

from flaxfer.errors import ConfigError
from flaxfer.models import attention as attention_module
from flaxfer.models import short_rows as kernel
from flaxfer.models.attention import attention, choose_kernel
from flaxfer.models.bert import SelfAttention
from flaxfer.models.families import read_config
from flaxfer.models.layers import Execution
from flaxfer.models.ops import true_dropout_rate
from flaxfer.runtime import sharding
from tests.models.test_attention import mesh_of, query_of

KEY = jax.random.key(3)
RATE = 0.1
SLOW_SHAPES = [(64, 12, 64), (96, 6, 32), (128, 12, 32), (128, 6, 64)]
SHAPES = [
    (64, 2, 64),
    (96, 1, 32),
    (256, 1, 64),
    *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SLOW_SHAPES),
]
"""Tokens, heads and width of a head."""

Inputs = tuple[jax.Array, jax.Array, jax.Array]


def one_device() -> Mesh:
    return sharding.make_mesh(devices=jax.devices()[:1])


def arrays(length: int, heads: int, width: int, rows: int = 3) -> Inputs:
    """Return stacked arrays, their bias and segments: two examples and padding, or one example."""
    rng = np.random.default_rng(length)
    stacked = rng.standard_normal((rows, length, heads, 3, width))
    bias = 0.3 * rng.standard_normal((heads, 3, width))
    segment = np.ones((rows, length), np.int32)
    segment[::2, length // 3 :] = 2
    segment[::2, length - length // 4 :] = 0
    return jnp.asarray(stacked, jnp.float32), jnp.asarray(bias, jnp.float32), jnp.asarray(segment)


def by_kernel(
    stacked: jax.Array,
    bias: jax.Array,
    segment: jax.Array,
    mesh: Mesh | None = None,
    **options: Any,
) -> jax.Array:
    rows, length, heads, _, width = stacked.shape
    group = kernel.group_size(heads, width)

    def grouped(x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:-3], heads // group, group, 3, width)
        return jnp.swapaxes(x, -3, -2).reshape(*x.shape[:-4], -1)

    out = kernel.short_rows(
        grouped(stacked),
        grouped(bias),
        segment,
        mesh or one_device(),
        heads=heads,
        interpret=True,
        **options,
    )
    return out.reshape(rows, length, heads, width)


def by_xla(stacked: jax.Array, bias: jax.Array, segment: jax.Array) -> jax.Array:
    query, key, value = jnp.moveaxis(stacked + bias, 3, 0)
    return attention(query, key, value, segment, segment)


def kept(key: jax.Array, rows: int, heads: int, length: int) -> np.ndarray:
    """Return the mask of dropout, (B, H, S, T), by the published constants of lowbias32."""

    def mixed(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
        return x ^ (x >> 16)

    words = np.asarray(jax.random.bits(key, (rows, heads, 2), jnp.uint32))[..., None, None]
    count = np.arange(length // 4 * length, dtype=np.uint32).reshape(length // 4, length)
    random = mixed(mixed(count ^ words[:, :, 0]) + words[:, :, 1])
    quarters = [random >> (24 - 8 * byte) & 255 for byte in range(4)]
    signed = np.concatenate(quarters, axis=2).astype(np.uint8).view(np.int8).astype(int)
    return signed + 128 >= 256 * true_dropout_rate(RATE)


def plain(keep: jax.Array, stacked: jax.Array, bias: jax.Array, segment: jax.Array) -> jax.Array:
    query, key, value = jnp.moveaxis(stacked + bias, 3, 0)
    score = jnp.einsum("BTHK,BSHK->BHST", query, key) * query.shape[-1] ** -0.5
    same = segment[:, None, :, None] == segment[:, None, None, :]
    probability = jax.nn.softmax(jnp.where(same, score, -jnp.inf), axis=2)
    dropped = jnp.where(keep, probability, 0) / (1 - true_dropout_rate(RATE))
    return jnp.einsum("BHST,BSHK->BTHK", dropped, value)


def results(function: Callable[..., jax.Array], inputs: Inputs) -> list[jax.Array]:
    """Return outputs, and gradients of a loss with different weights of all outputs at tokens."""
    stacked, bias, segment = inputs
    shape = (*stacked.shape[:3], stacked.shape[-1])
    weight = jnp.asarray(np.random.default_rng(9).standard_normal(shape), jnp.float32)
    weight *= (segment > 0)[..., None, None]

    @jax.jit
    def both(stacked: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
        out, back = jax.vjp(lambda *x: function(*x, segment), stacked, bias)
        return (out, *back(weight.astype(out.dtype)))

    return [*both(stacked, bias)]


def assert_close(found: list[jax.Array], expected: list[jax.Array], tolerance: float) -> None:
    """Compare arrays relative to the largest element of each."""
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(np.asarray(y)).max())


@pytest.mark.parametrize(("length", "heads", "width"), SHAPES)
def test_values_and_gradients_equal_xla(length: int, heads: int, width: int) -> None:
    inputs = arrays(length, heads, width)
    assert_close(results(by_kernel, inputs), results(by_xla, inputs), 1e-6)


@pytest.mark.parametrize(("length", "heads", "width"), [(64, 2, 32), (128, 1, 64)])
def test_dropout_equals_the_plain_formula_with_the_same_bits(
    length: int, heads: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five rows in blocks of two, so that the last block is not full."""
    monkeypatch.setattr(kernel, "BLOCK_BYTES", 2 * length * heads * width * 7 * 4)
    inputs = arrays(length, heads, width, rows=5)
    dropped = functools.partial(by_kernel, dropout_rate=RATE, dropout_key=KEY)
    keep = jnp.asarray(kept(KEY, 5, heads, length))
    assert abs(keep.mean() - (1 - true_dropout_rate(RATE))) < 0.01
    expected = results(functools.partial(plain, keep), inputs)
    assert_close(results(dropped, inputs), expected, 1e-6)


def test_bfloat16_differs_by_its_rounding() -> None:
    stacked, bias, segment = arrays(64, 1, 32)
    narrow = (stacked.astype(jnp.bfloat16), bias, segment)
    assert_close(results(by_kernel, narrow), results(by_xla, (stacked, bias, segment)), 0.02)


def test_examples_in_a_packed_row_equal_those_in_rows_of_their_own() -> None:
    stacked, bias, segment = arrays(64, 2, 32, rows=1)
    first, second = (np.flatnonzero(segment[0] == number) for number in (1, 2))
    alone = jnp.zeros((2, *stacked.shape[1:])).at[0, : len(first)].set(stacked[0, first])
    alone = alone.at[1, : len(second)].set(stacked[0, second])
    lengths = np.array([[len(first)], [len(second)]])
    apart = by_kernel(alone, bias, jnp.asarray(np.arange(64) < lengths, jnp.int32))
    packed = by_kernel(stacked, bias, segment)[0]
    np.testing.assert_allclose(packed[first], apart[0, : len(first)], rtol=0, atol=1e-6)
    np.testing.assert_allclose(packed[second], apart[1, : len(second)], rtol=0, atol=1e-6)


def test_devices_that_share_rows_and_heads_drop_the_same() -> None:
    """The heads form two groups, one for each half of the axis `tensor`."""
    inputs = arrays(64, 4, 64, rows=4)
    dropped = functools.partial(by_kernel, dropout_rate=RATE, dropout_key=KEY)
    split = functools.partial(dropped, mesh=sharding.make_mesh(2, 2, 2))
    assert_close(results(split, inputs), results(dropped, inputs), 1e-6)


def test_dropout_has_its_rate_in_every_byte_and_is_independent_within_and_between_tiles() -> None:
    """Of neighbouring keys and queries, keys that share a word, heads, rows and keys of layers."""
    rows, heads, length = 8, 6, 128
    keys = [jax.random.fold_in(KEY, number) for number in range(2)]
    masks = np.stack([kept(key, rows, heads, length) for key in keys])
    rate = true_dropout_rate(RATE)
    deviation = np.sqrt(rate * (1 - rate))
    tiles = masks.reshape(-1, 4, length // 4, length)
    by_byte = 1 - tiles.mean(axis=(0, 2, 3))
    assert np.abs(by_byte - rate).max() < 4.5 * deviation / np.sqrt(tiles[:, 0].size)
    dropped = (~tiles).sum(axis=(1, 2, 3))
    spread = scipy.stats.binomtest(int(dropped.sum()), tiles.size, rate).pvalue
    assert spread > 1e-4
    # The counts of tiles vary as those of independent draws.
    expected = tiles[0].size * rate * (1 - rate)
    statistic = ((dropped - tiles[0].size * rate) ** 2).sum() / expected
    assert 1e-4 < scipy.stats.chi2.sf(statistic, len(tiles)) < 1 - 1e-4
    centred = (rate - 1 + masks.astype(np.float64)) / deviation
    for axis, distances in enumerate(((1,), (1, 4), (1, 2), (1, 8, 32, 64), (1, 2, 8))):
        for distance in distances:
            near = np.take(centred, range(centred.shape[axis] - distance), axis)
            far = np.take(centred, range(distance, centred.shape[axis]), axis)
            assert abs((near * far).mean()) < 4.5 / np.sqrt(near.size), (axis, distance)


def encoder() -> Any:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}
    return read_config({"model_type": "bert", "vocab_size": 8, "num_hidden_layers": 1, **sizes})


def test_a_layer_takes_the_kernel_where_all_tokens_are_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interpreted = functools.partial(kernel.short_rows, interpret=True)
    monkeypatch.setattr(attention_module, "short_rows", interpreted)
    monkeypatch.setattr(Execution, "platform", "tpu")
    graph, params = nnx.split(SelfAttention(encoder(), rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), params)
    x_BTD = jax.random.normal(KEY, (2, 64, 64))
    segment_BT = jnp.ones((2, 64), jnp.int32).at[0, 40:].set(2)

    def layer(params: Any, x_BTD: jax.Array, name: Any, place: Any = None) -> jax.Array:
        execution = Execution(attention=name, mesh=one_device())
        query_BTD = x_BTD if place is None else x_BTD[:, :2]
        arguments = (query_BTD, x_BTD, segment_BT, place, None, None, execution)
        out: jax.Array = nnx.merge(graph, params)(*arguments)
        return out

    def gradients(name: str) -> list[jax.Array]:
        out, back = jax.vjp(lambda *x: layer(*x, name), params, x_BTD)
        return [out, *jax.tree.leaves(back(jnp.cos(out)))]

    # Together, since the gradient of the bias of keys is zero, but for rounding.
    found, expected = (
        [jnp.concatenate([x.ravel() for x in gradients(name)])] for name in ("short_rows", "xla")
    )
    assert_close(found, expected, 1e-6)
    place = jnp.zeros((2, 2), jnp.int32).at[:, 1].set(1)
    few = (layer(params, x_BTD, name, place) for name in ("short_rows", "xla"))
    np.testing.assert_array_equal(*few)


@pytest.mark.parametrize(
    ("platform", "changes", "message"),
    [
        ("cpu", {}, "it needs a TPU"),
        ("gpu", {}, "it needs a TPU"),
        ("tpu", {"has_scores": True}, "it has no scores of distances and types, as XLNet needs"),
        ("tpu", {"length": 72}, "rows need a multiple of 32 tokens, not 72: set train.row_length"),
        ("tpu", {"length": 288}, "rows need at most 256 tokens, not 288: set train.row_length"),
        ("seeds", {}, "it runs one seed at a time: set batched_seeds = 1"),
    ],
)
def test_what_it_does_not_support_is_refused(
    platform: str, changes: dict[str, Any], message: str
) -> None:
    mesh: Any = mesh_of(platform)
    if platform == "seeds":
        mesh = mesh_of("tpu", ("seed", "data", "fsdp", "tensor"))
    needs = {"length": 128, "has_scores": False} | changes
    query = query_of(needs.pop("length"))
    execution = Execution(attention="short_rows", mesh=mesh)
    with pytest.raises(ConfigError, match="short_rows cannot") as caught:
        choose_kernel(execution, query, has_dropout=True, **needs)
    assert list(caught.value.details) == [message]


def test_it_is_taken_by_name_alone() -> None:
    execution = Execution(attention="short_rows", mesh=mesh_of("tpu"))
    for has_dropout in (False, True):
        needs = {"has_scores": False, "has_dropout": has_dropout}
        assert choose_kernel(execution, query_of(128), **needs) == "short_rows"
        auto = dataclasses.replace(execution, attention="auto")
        assert choose_kernel(auto, query_of(128), **needs) == "xla"
