"""The whole model: packing changes nothing, padding is harmless, names and dtypes hold."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flaxfer.models import layers
from flaxfer.models.families import read_config
from flaxfer.models.heads import SequenceClassifier
from flaxfer.models.pretrained import parameter_names, parameter_shapes
from tests.parity import cases, flax_side

FAMILIES = {case.name: case for case in cases.CASES if case.name in ("bert", "roberta")}
LENGTHS = (12, 7, 1, 4, 5)
ROWS = ((0,), (1, 2, 3), (4,))


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def case(request: pytest.FixtureRequest) -> cases.Case:
    return request.param


def model_of(case: cases.Case) -> tuple[Any, dict[str, Any]]:
    """Graph and parameters, far enough from their initial values for every part to matter."""
    return _model_of(case.name)


@functools.cache
def _model_of(name: str) -> tuple[Any, dict[str, Any]]:
    case = FAMILIES[name]
    config = read_config(case.settings)
    model = SequenceClassifier(config, case.num_outputs, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32),
        nnx.to_pure_dict(state),
    )
    return graph, noisy


@functools.cache
def gradient_of(graph: Any) -> Any:
    def loss(params: Any, batch: Any) -> Any:
        logits, loss = flax_side.logits_and_loss(graph, params, batch)
        return loss, logits

    return flax_side.jit(jax.value_and_grad(loss, has_aux=True))


def pack(batch: dict[str, np.ndarray], rows: tuple[tuple[int, ...], ...]) -> dict[str, np.ndarray]:
    """Puts the examples of an unpacked batch into rows, behind one another."""
    width, slots = batch["token_BT"].shape[1], max(map(len, rows))
    packed = {n: np.zeros((len(rows), width), x.dtype) for n, x in batch.items() if n[-1] == "T"}
    packed |= {n: np.zeros((len(rows), slots), x.dtype) for n, x in batch.items() if n[-1] == "E"}
    for row, examples in enumerate(rows):
        start = 0
        for slot, example in enumerate(examples):
            length = int(batch["segment_BT"][example].sum())
            for name in ("token_BT", "type_BT", "position_BT"):
                packed[name][row, start : start + length] = batch[name][example, :length]
            packed["segment_BT"][row, start : start + length] = slot + 1
            packed["summary_BE"][row, slot] = start
            packed["label_BE"][row, slot] = batch["label_BE"][example, 0]
            packed["mask_BE"][row, slot] = 1
            start += length
    return packed


def with_padding(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with rows of nothing but padding added, in the one shape that is compiled."""
    slots_or_tokens = {"E": 3, "T": 12}
    return {
        name: np.pad(x, [(0, 10 - len(x)), (0, slots_or_tokens[name[-1]] - x.shape[1])])
        for name, x in batch.items()
    }


def test_f41_packed_logits_loss_and_gradients_equal_unpacked(case: cases.Case) -> None:
    graph, params = model_of(case)
    batch = cases.batch(case, LENGTHS)
    packed = with_padding(pack(batch, ROWS))
    (loss, logits), gradient = gradient_of(graph)(params, with_padding(batch))
    (packed_loss, packed_logits), packed_gradient = gradient_of(graph)(params, packed)
    in_order = [packed_logits[row, slot] for row, e in enumerate(ROWS) for slot in range(len(e))]
    np.testing.assert_allclose(np.stack(in_order), logits[: len(LENGTHS), 0], atol=1e-5)
    np.testing.assert_allclose(packed_loss, loss, atol=1e-5)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        packed_gradient,
        gradient,
    )


def test_f50_rows_of_padding_are_harmless(case: cases.Case) -> None:
    """What stands in them is never read, and their share of the gradient is zero to the bit."""
    graph, params = model_of(case)
    padded = with_padding(pack(cases.batch(case, LENGTHS), ROWS))
    rows = len(ROWS)
    noise = padded["token_BT"].copy()
    noise[rows:] = np.random.default_rng(0).integers(0, 50, noise[rows:].shape)
    (loss, logits), gradient = gradient_of(graph)(params, padded)
    (noisy_loss, noisy_logits), noisy = gradient_of(graph)(params, padded | {"token_BT": noise})
    assert np.isfinite(logits).all() and np.isfinite(noisy_logits).all()
    assert noisy_loss == loss
    np.testing.assert_array_equal(noisy_logits[:rows], logits[:rows])
    jax.tree.map(np.testing.assert_array_equal, noisy, gradient)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(gradient))
    nothing_counts = {n: np.zeros_like(padded[n]) for n in ("segment_BT", "mask_BE")}
    _, nothing = gradient_of(graph)(params, padded | nothing_counts)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(nothing))


def test_padding_inside_a_row_has_no_influence(case: cases.Case) -> None:
    graph, params = model_of(case)
    packed = with_padding(pack(cases.batch(case, LENGTHS), ROWS))
    (_, logits), _ = gradient_of(graph)(params, packed)
    padding = packed["segment_BT"] == 0
    assert padding.any()
    other = packed | {"token_BT": np.where(padding, 40, packed["token_BT"]).astype(np.int32)}
    (_, other_logits), _ = gradient_of(graph)(params, other)
    used = packed["mask_BE"] > 0
    np.testing.assert_array_equal(other_logits[used], logits[used])


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_outside() -> None:
    case = FAMILIES["bert"]
    graph, params = model_of(case)
    packed = with_padding(pack(cases.batch(case, LENGTHS), ROWS))
    rows = [packed[n] for n in ("token_BT", "type_BT", "position_BT", "segment_BT")]
    encoder = nnx.merge(graph, params).encoder
    states = jax.eval_shape(lambda: encoder.hidden_states(*rows, dtype=jnp.bfloat16))
    assert {x.dtype for x in states} == {jnp.dtype(jnp.bfloat16)}

    def loss(params: Any) -> Any:
        logits, value = flax_side.logits_and_loss(graph, params, packed, dtype=jnp.bfloat16)
        return value, logits

    (_, logits), gradient = flax_side.jit(jax.value_and_grad(loss, has_aux=True))(params)
    (_, want), want_gradient = gradient_of(graph)(params, packed)
    assert logits.dtype == jnp.float32
    used = packed["mask_BE"] > 0
    np.testing.assert_allclose(logits[used], want[used], atol=0.1)
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    norm, want_norm = (float(optax.tree.norm(tree)) for tree in (gradient, want_gradient))
    assert norm == pytest.approx(want_norm, rel=0.1)


@pytest.mark.parametrize("name", ["token_BT", "type_BT", "position_BT"])
def test_an_index_outside_its_table_shows(case: cases.Case, name: str) -> None:
    graph, params = model_of(case)
    batch = cases.batch(case, LENGTHS)
    config = read_config(case.settings)
    limit = {
        "token_BT": config.vocab_size,
        "type_BT": config.type_vocab_size,
        "position_BT": config.max_length,
    }[name]
    embeddings = nnx.merge(graph, params).encoder.embeddings
    arrays = [np.array(batch[n]) for n in ("token_BT", "type_BT", "position_BT")]
    changed = arrays[("token_BT", "type_BT", "position_BT").index(name)]
    changed[0, 0] = limit - 1
    assert np.isfinite(embeddings(*arrays, dropout_key=None, dtype=jnp.float32)).all()
    changed[0, 0] = limit
    assert np.isnan(embeddings(*arrays, dropout_key=None, dtype=jnp.float32)[0, 0]).all()


def test_each_place_has_its_own_dropout_key(
    case: cases.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, params = model_of(case)
    batch = cases.batch(case, LENGTHS)
    keys: list[jax.Array] = []

    def spy(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
        keys.append(jax.random.key_data(key))
        return layers.dropout(x, rate, key)

    for module in ("bert", "roberta", "attention"):
        monkeypatch.setattr(f"flaxfer.models.{module}.dropout", spy)

    @flax_side.jit
    def keys_of_step(step: int) -> jax.Array:
        keys.clear()
        key = jax.random.fold_in(jax.random.key(0), step)
        flax_side.logits_and_loss(graph, params, batch, key=key)
        return jnp.stack(keys)

    found = np.concatenate([keys_of_step(0), keys_of_step(1)])
    places = 1 + 3 * case.settings["num_hidden_layers"] + (1 if case.name == "bert" else 2)
    assert len(found) == len(np.unique(found, axis=0)) == 2 * places


def test_dropout_changes_the_logits_and_rate_zero_does_not(case: cases.Case) -> None:
    graph, params = model_of(case)
    batch = with_padding(cases.batch(case, LENGTHS))
    dropped = flax_side.jit(lambda key: flax_side.logits_and_loss(graph, params, batch, key=key)[0])
    (_, plain), _ = gradient_of(graph)(params, batch)
    first, second = dropped(jax.random.key(0)), dropped(jax.random.key(1))
    np.testing.assert_array_equal(dropped(jax.random.key(0)), first)
    assert min(np.abs(first - plain).max(), np.abs(first - second).max()) > 1e-3
    without = flax_side.graph(read_config(case.settings).with_dropout(0.0), case.num_outputs)
    undropped = flax_side.jit(
        lambda key: flax_side.logits_and_loss(without, params, batch, key=key)[0]
    )
    np.testing.assert_allclose(undropped(jax.random.key(0)), plain, atol=1e-6)


def test_fresh_parameters_are_those_of_transformers(case: cases.Case) -> None:
    config = dataclasses.replace(
        read_config(case.settings), hidden_size=64, vocab_size=500, intermediate_size=128
    )
    model = SequenceClassifier(config, 3, rngs=nnx.Rngs(0))
    params = nnx.split(model, nnx.Param)[1]
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.array(x)
        for path, x in jax.tree.leaves_with_path(nnx.to_pure_dict(params))
    }
    for path, array in flat.items():
        assert array.dtype == np.float32
        if path.endswith("bias"):
            assert not array.any(), path
        elif path.endswith("norm/scale"):
            assert (array == 1).all(), path
        elif array.size > 1000:
            assert array.std() == pytest.approx(config.initializer_range, rel=0.1), path
            assert abs(array.mean()) < 0.1 * config.initializer_range, path
    word = flat["encoder/embeddings/word/embedding"]
    assert [i for i, row in enumerate(word) if not row.any()] == [config.pad_token_id]
    position = flat["encoder/embeddings/position/embedding"]
    empty = [i for i, row in enumerate(position) if not row.any()]
    assert empty == ([] if case.name == "bert" else [config.pad_token_id])


def test_the_state_is_parameters_alone_under_the_documented_names(case: cases.Case) -> None:
    config = read_config(case.settings)
    model = SequenceClassifier(config, 3, rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(nnx.split(model, nnx.Param, ...)[2])
    shapes = parameter_shapes(config, 3)
    assert shapes.keys() == {path for _, path, _ in parameter_names(config)}
    width, heads, inner = 16, (4, 4), 24
    for path, shape in {
        "encoder/embeddings/word/embedding": (50, width),
        "encoder/embeddings/norm/scale": (width,),
        "encoder/layers/0/attention/query/kernel": (width, *heads),
        "encoder/layers/1/attention/value/bias": heads,
        "encoder/layers/0/attention/output/kernel": (*heads, width),
        "encoder/layers/0/attention_norm/scale": (width,),
        "encoder/layers/0/feed_forward/up/kernel": (width, inner),
        "encoder/layers/0/feed_forward/down/kernel": (inner, width),
        "encoder/layers/0/feed_forward_norm/bias": (width,),
        "head/output/kernel": (width, 3),
    }.items():
        assert shapes[path] == shape, path
