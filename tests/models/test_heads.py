"""Whole models: packing changes nothing, padding is harmless, names and dtypes hold."""

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

from flaxfer.evaluation.step import cast_for_eval
from flaxfer.models.families import FAMILIES, read_config
from flaxfer.models.layers import Execution, Keys
from flaxfer.models.pretrained import parameter_names, parameter_shapes
from flaxfer.models.spec import EncoderModel, ModelSpec
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.tasks import TASK_TYPES
from tests.models import tiny


@pytest.fixture(params=["bert", "roberta", "xlnet"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@functools.cache
def gradient_of(graph: Any, dtype: Any = jnp.float32) -> Any:
    """Return a jitted function to the mean loss over examples, the logits, and the gradient."""

    def loss(params: Any, batch: Any) -> Any:
        logits = tiny.logits(graph, params, batch, dtype=dtype)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label_BE"])
        count = jnp.maximum(jnp.sum(batch["mask_BE"]), 1)
        return jnp.sum(loss * batch["mask_BE"]) / count, logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def assert_close(left: Any, right: Any, tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), left, right)


@pytest.mark.parametrize("layout", [tiny.PACKED, tiny.LEFT], ids=["packed", "left"])
def test_the_place_of_an_example_changes_nothing(family: str, layout: tiny.Layout) -> None:
    """Rows may be packed or padded on the left: logits, loss and gradients stay the same."""
    graph, params = tiny.model(family)
    run = gradient_of(graph)
    (loss, logits), gradient = run(params, tiny.batch(family, tiny.RIGHT))
    (other_loss, other_logits), other_gradient = run(params, tiny.batch(family, layout))
    want = tiny.of_examples(tiny.RIGHT, logits)
    assert_close(tiny.of_examples(layout, other_logits), want, 1e-5)
    assert_close(other_loss, loss, 1e-5)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    assert_close(other_gradient, gradient, 1e-5 * largest)


@pytest.mark.parametrize("head", ["token", "span"])
def test_the_place_of_an_example_does_not_change_logits_of_tokens(family: str, head: str) -> None:
    graph, params = tiny.model(family, head)
    run = jax.jit(functools.partial(tiny.logits, graph))
    want = run(params, tiny.batch(family, tiny.RIGHT))
    assert want.shape == (tiny.ROWS, tiny.WIDTH, tiny.OUTPUTS[head])
    packed = run(params, tiny.batch(family, tiny.PACKED))
    assert np.isfinite(want).all() and np.isfinite(packed).all()
    assert_close(tiny.of_examples(tiny.PACKED, packed), tiny.of_examples(tiny.RIGHT, want), 1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_embeddings_are_scaled_to_the_root_of_the_scale(family: str, pooling: str) -> None:
    graph, params = tiny.model(family, f"{pooling}_embedding")
    batch = tiny.batch(family, tiny.PACKED)

    @jax.jit
    def outputs(params: Any) -> tuple[jax.Array, jax.Array]:
        return tiny.logits(graph, params, batch), tiny.encoder(graph, params)(batch)

    embedding, hidden = outputs(params)
    scale = np.exp(params["head"]["log_scale"]["bias"][0])
    assert abs(scale - 1) > 0.01
    for row, examples in enumerate(tiny.PACKED):
        for slot, (example, start) in enumerate(examples):
            x_TD = np.asarray(hidden[row, start : start + tiny.LENGTHS[example]], np.float64)
            vector = x_TD.mean(axis=0)
            if pooling == "cls":
                vector = x_TD[-1 if family == "xlnet" else 0]
            want = np.sqrt(scale) * vector / np.linalg.norm(vector)
            np.testing.assert_allclose(embedding[row, slot], want, atol=2e-6)


def test_outputs_at_chosen_tokens_equal_the_whole_last_layer(family: str) -> None:
    """Rows have several queries, in any order, and one of them twice."""
    batch = tiny.batch(family, tiny.PACKED)
    places = np.random.default_rng(0).integers(0, tiny.WIDTH, (tiny.ROWS, 4)).astype(np.int32)
    places[:, 3] = places[:, 0]
    encoder = tiny.encoder(*tiny.model(family))

    @jax.jit
    def outputs() -> tuple[jax.Array, jax.Array]:
        return encoder(batch), encoder(batch, cls_BE=places)

    whole, some = outputs()
    assert_close(some, np.take_along_axis(np.asarray(whole), places[..., None], axis=1), 1e-5)


def test_rows_of_padding_are_harmless(family: str) -> None:
    """Their tokens are never read, and contribute exactly zero to the gradient."""
    graph, params = tiny.model(family)
    batch, rows = tiny.batch(family, tiny.PACKED), len(tiny.PACKED)
    noise = batch["token_BT"].copy()
    noise[rows:] = np.random.default_rng(0).integers(0, 50, noise[rows:].shape)
    (loss, logits), gradient = gradient_of(graph)(params, batch)
    (noisy_loss, noisy_logits), noisy = gradient_of(graph)(params, batch | {"token_BT": noise})
    assert np.isfinite(logits).all() and np.isfinite(noisy_logits).all()
    assert noisy_loss == loss
    np.testing.assert_array_equal(noisy_logits[:rows], logits[:rows])
    jax.tree.map(np.testing.assert_array_equal, noisy, gradient)
    assert all(np.isfinite(g).all() and np.asarray(g).any() for g in jax.tree.leaves(gradient))
    nothing_counts = {n: np.zeros_like(batch[n]) for n in ("segment_BT", "mask_BE")}
    _, nothing = gradient_of(graph)(params, batch | nothing_counts)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(nothing))


def test_padding_inside_a_row_has_no_influence(family: str) -> None:
    graph, params = tiny.model(family)
    batch = tiny.batch(family, tiny.PACKED)
    (_, logits), _ = gradient_of(graph)(params, batch)
    padding = batch["segment_BT"] == 0
    assert padding[: len(tiny.PACKED)].any()
    other = batch | {"token_BT": np.where(padding, 40, batch["token_BT"]).astype(np.int32)}
    (_, other_logits), _ = gradient_of(graph)(params, other)
    used = batch["mask_BE"] > 0
    np.testing.assert_array_equal(other_logits[used], logits[used])


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_outside(name: str) -> None:
    graph, params = tiny.model(name)
    batch = tiny.batch(name, tiny.PACKED)
    encoder = tiny.encoder(graph, params)
    states = jax.eval_shape(lambda: encoder.hidden_states(batch, execution=Execution(jnp.bfloat16)))
    assert {x.dtype for x in states} == {jnp.dtype(jnp.float32)}
    (_, logits), gradient = gradient_of(graph, jnp.bfloat16)(params, batch)
    (_, want), want_gradient = gradient_of(graph)(params, batch)
    assert logits.dtype == jnp.float32
    used = batch["mask_BE"] > 0
    np.testing.assert_allclose(logits[used], want[used], atol=0.1)
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    norm, want_norm = (float(optax.tree.norm(tree)) for tree in (gradient, want_gradient))
    assert norm == pytest.approx(want_norm, rel=0.1)


@functools.cache
def of_remat(family: str, policy: Any) -> tuple[int, Any]:
    """Return the matmuls of the forward pass under a policy, and the gradient."""
    graph, params = tiny.model(family)
    batch = tiny.batch(family, tiny.PACKED)

    def score(params: Any) -> jax.Array:
        return nnx.merge(graph, params)(batch, execution=Execution(remat=policy)).sum()

    matmuls = jax.jit(score).lower(params).as_text().count("dot_general")
    return matmuls, jax.jit(jax.grad(score))(params)


@pytest.mark.parametrize("policy", ["matmuls", pytest.param("full", marks=pytest.mark.slow)])
def test_remat_changes_neither_the_gradient_nor_the_forward_pass(family: str, policy: Any) -> None:
    (plain, expected), (matmuls, gradient) = of_remat(family, "none"), of_remat(family, policy)
    assert matmuls == plain
    assert_close(gradient, expected, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_cast_to_bfloat16_once_give_the_same_logits(family: str) -> None:
    graph, params = tiny.model(family)
    batch = tiny.batch(family, tiny.PACKED)
    narrow = cast_for_eval(jnp.dtype("bfloat16"))(params)
    changed = {path for path, leaf in leaves_by_name(narrow).items() if leaf.dtype == jnp.bfloat16}
    assert changed == {
        path for path in leaves_by_name(params) if path.startswith("encoder/") and "kernel" in path
    }
    logits = jax.jit(tiny.logits, static_argnums=(0, 4))
    dtype = jnp.bfloat16
    np.testing.assert_array_equal(
        logits(graph, narrow, batch, None, dtype),
        logits(graph, params, batch, None, dtype),
    )


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, name) for family in ("bert", "roberta") for name in tiny.TOKENS[:3]),
        ("xlnet", "token_BT"),
    ],
)
def test_an_index_outside_its_table_gives_nan(family: str, name: str) -> None:
    config: Any = read_config(tiny.settings(family))
    batch = tiny.batch(family, tiny.RIGHT)
    tables = {"token_BT": config.vocab_size}
    if family != "xlnet":
        tables |= {"type_BT": config.type_vocab_size, "position_BT": config.max_length}
    embeddings = tiny.encoder(*tiny.model(family)).embeddings
    batch[name][0, 0] = tables[name] - 1
    assert np.isfinite(embeddings(batch, None)).all()
    batch[name][0, 0] = tables[name]
    outside = embeddings(batch, None)
    assert np.isnan(outside[0, 0]).all()


# Dropout of the embeddings, of each layer and behind the layers: A has the rate of attention
# probabilities, H of hidden states, C of the head. Read off transformers' modeling files.
BERT_SITES, XLNET_SITES = "H" + 2 * "AHH", "HH" + 2 * "AHHH" + "H"
SITES = {
    ("bert", "sequence"): BERT_SITES + "C",
    ("bert", "token"): BERT_SITES + "C",
    ("bert", "span"): BERT_SITES,
    ("bert", "choice"): BERT_SITES + "C",
    ("roberta", "sequence"): BERT_SITES + "CC",
    ("roberta", "token"): BERT_SITES + "C",
    ("roberta", "span"): BERT_SITES,
    ("roberta", "choice"): BERT_SITES + "H",
    ("xlnet", "sequence"): XLNET_SITES + "C",
    ("xlnet", "token"): XLNET_SITES,
    ("xlnet", "span"): XLNET_SITES,
    ("xlnet", "choice"): XLNET_SITES + "C",
}


@pytest.mark.parametrize(("family", "head"), SITES)
def test_dropout_is_where_transformers_has_it_each_with_its_own_key(family: str, head: str) -> None:
    config = read_config(tiny.settings(family))
    names = {"H": "hidden_dropout", "A": "attention_dropout", "C": "classifier_dropout"}
    batch = tiny.batch(family, tiny.RIGHT)
    _, params = tiny.model(family, head)

    def draws(letters: str) -> list[tiny.Draw]:
        """Return the draws if only these rates are positive."""
        rates: dict[str, Any] = {name: 0.1 * (s in letters) for s, name in names.items()}
        spec = ModelSpec(dataclasses.replace(config, **rates), head, tiny.OUTPUTS[head])
        return tiny.random_draws(lambda key: spec.apply(params, batch, key))

    all_draws = draws("HAC")
    keys = [key for key, _ in all_draws]
    assert len(set(keys)) == len(keys)
    letters = {draw: letter for letter in names for draw in draws(letter)}
    assert "".join(letters[draw] for draw in all_draws) == SITES[family, head]


def test_dropout_changes_the_logits_and_rate_zero_does_not(family: str) -> None:
    graph, params = tiny.model(family)
    batch = tiny.batch(family, tiny.RIGHT)
    dropped = jax.jit(lambda key: tiny.logits(graph, params, batch, key))
    (_, plain), _ = gradient_of(graph)(params, batch)
    first, second = dropped(jax.random.key(0)), dropped(jax.random.key(1))
    np.testing.assert_array_equal(dropped(jax.random.key(0)), first)
    assert min(np.abs(first - plain).max(), np.abs(first - second).max()) > 1e-3
    config = read_config(tiny.settings(family)).with_dropout(0.0)
    without = ModelSpec(config, "sequence", 3).graph()
    undropped = jax.jit(lambda key: tiny.logits(without, params, batch, key))
    np.testing.assert_allclose(undropped(jax.random.key(0)), plain, atol=1e-6)


def test_new_parameters_are_distributed_as_in_transformers(family: str) -> None:
    config: Any = dataclasses.replace(
        read_config(tiny.settings(family)), hidden_size=64, vocab_size=500, intermediate_size=128
    )
    params = leaves_by_name(ModelSpec(config, "sequence", 3).random_params(0))
    for path, array in params.items():
        assert array.dtype == np.float32
        if path.endswith("_bias/bias"):  # XLNet's: small ones, but not zeros.
            assert array.size == 64 and 0 < array.std() < 2 * config.initializer_range, path
        elif path.endswith("/bias"):
            assert not array.any(), path
        elif path.endswith("norm/scale"):
            assert (array == 1).all(), path
        elif array.size > 1000:
            assert array.std() == pytest.approx(config.initializer_range, rel=0.1), path
            assert abs(array.mean()) < 0.1 * config.initializer_range, path
    word = params["encoder/embeddings/word/embedding"]
    empty = [i for i, row in enumerate(word) if not row.any()]
    assert empty == ([] if family == "xlnet" else [config.pad_token_id])
    if family != "xlnet":
        position = params["encoder/embeddings/position/embedding"]
        empty = [i for i, row in enumerate(position) if not row.any()]
        assert empty == ([config.pad_token_id] if family == "roberta" else [])


@pytest.mark.parametrize(("family", "head"), tiny.EVERY_HEAD)
def test_every_parameter_has_one_name(family: str, head: str) -> None:
    config = read_config(tiny.settings(family))
    shapes = parameter_shapes(config, tiny.OUTPUTS[head], head)
    names, paths, _ = zip(*parameter_names(config, head), strict=True)
    assert len(set(names)) == len(names)
    assert sorted(paths) == sorted(shapes)
    if head.endswith("_embedding"):
        assert shapes["head/log_scale/bias"] == (1,)
    else:
        assert shapes["head/output/kernel"] == (16, tiny.OUTPUTS[head])


def test_the_state_consists_of_parameters_with_documented_names(family: str) -> None:
    model = EncoderModel(
        read_config(tiny.settings(family)), "sequence", 3, rngs=Keys(jax.random.key(0))
    )
    _, state, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    shapes = {path: x.shape for path, x in leaves_by_name(nnx.to_pure_dict(state)).items()}
    width, heads, inner = 16, (4, 4), 24
    want: dict[str, tuple[int, ...]] = {
        "encoder/embeddings/word/embedding": (50, width),
        "encoder/layers/0/attention/query/kernel": (width, *heads),
        "encoder/layers/0/attention/output/kernel": (*heads, width),
        "encoder/layers/0/attention_norm/scale": (width,),
        "encoder/layers/0/feed_forward/up/kernel": (width, inner),
        "encoder/layers/0/feed_forward/down/kernel": (inner, width),
        "encoder/layers/0/feed_forward_norm/bias": (width,),
        "head/output/kernel": (width, 3),
    }
    if family == "xlnet":
        want |= {
            "encoder/layers/1/attention/position/kernel": (width, *heads),
            "encoder/layers/1/attention/content_bias/bias": heads,
            "encoder/layers/1/attention/type_embedding": (2, *heads),
        }
    else:
        want |= {
            "encoder/embeddings/norm/scale": (width,),
            "encoder/layers/1/attention/value/bias": heads,
        }
    assert {path: shapes.get(path) for path in want} == want


def test_every_task_type_has_a_head_in_every_family() -> None:
    assert {each.head for each in TASK_TYPES.values()} <= set(tiny.OUTPUTS)
    for family in FAMILIES.values():
        assert set(family.heads) == set(tiny.OUTPUTS)
        assert all(
            head.reads_every_token == (name in ("token", "span", "mean_embedding"))
            for name, head in family.heads.items()
        )


@pytest.mark.parametrize(("family", "head"), tiny.EVERY_HEAD)
def test_a_new_head_alone_is_that_of_a_new_model(family: str, head: str) -> None:
    spec = ModelSpec(read_config(tiny.settings(family)), head, tiny.OUTPUTS[head])
    expected = leaves_by_name(spec.random_params(3)["head"])
    alone = leaves_by_name(spec.random_head(3))
    assert list(alone) == list(expected)
    for name, array in alone.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
