"""Contrastive steps: the softmax is over the whole batch, however it is divided."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxfer.config import Data, Optimizer, Stage, Task, Train
from flaxfer.data.loader import BatchSize, TrainPlan, put_rows
from flaxfer.errors import ConfigError
from flaxfer.runtime import host
from flaxfer.runtime.sharding import row_shards
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.candidates import check_memory
from flaxfer.training.optimizer import make_optimizer, with_frozen_parts
from flaxfer.training.state import init_state
from flaxfer.training.step import StepSpec, make_train_step
from tests.helpers import encoder_config, mesh_of, random_queries

TASK = Task("find", "retrieval", "map_at_20", similarity_scale=20.0, symmetric_loss=True)
# With eps = 1, the first step of Adam is smooth in the gradient g, see test_step.py.
SMOOTH = Optimizer(
    learning_rate=1.0, b1=0.0, b2=0.5, eps=1.0, weight_decay=0.0, schedule="constant", warmup=0,
    clip_norm=0.0,
)  # fmt: skip
TRAIN = Train(batch_size=8, row_length=32, max_bucket_sizes=1)
DATA = random_queries(12, 9)


@functools.cache
def params_of(task: Task) -> dict[str, Any]:
    params = model_spec(encoder_config(layers=1), task).random_params(1)
    stage = Stage(task, data=None)
    return {**params, "head": task_type(task).start_head(stage, DATA, params["head"])}


def one_step(
    task: Task = TASK, *, devices: int = 1, parts: int = 1, packed: bool = True
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of the first step and the parameters after it."""
    mesh = mesh_of(devices)
    train = dataclasses.replace(TRAIN, gradient_accumulation_steps=parts, packing=packed)
    plan = TrainPlan.make(DATA, train, (3,), 0, row_shards(mesh))
    params = params_of(task)
    model = model_spec(encoder_config(layers=1), task)
    step = make_train_step(StepSpec(model, task, SMOOTH, 100), mesh)
    state = init_state(params, make_optimizer(SMOOTH, 100, params), mesh)
    batch = plan.batch(0)
    assert BatchSize.of(batch).examples == 8
    assert batch["token_BT"].shape[0] == parts
    state, metrics = step(state, put_rows(batch, mesh, None), jax.random.key(0, impl="rbg"))
    return {name: float(x) for name, x in metrics.items()}, jax.device_get(state.params)


@pytest.fixture(scope="module")
def reference() -> tuple[float, dict[str, Any]]:
    """Loss and gradient with each sequence in a row of its own, by plain cosines."""
    plan = TrainPlan.make(DATA, dataclasses.replace(TRAIN, packing=False), (3,), 0, 1)
    batch = {name: array[0] for name, array in plan.batch(0).items()}
    filled_B = batch["mask_BE"][:, 0] > 0
    index_S = batch["index_BE"][filled_B, 0]
    indices = plan.indices(0)
    right_n = np.array([DATA.reference[i].right[0] for i in indices])
    passages = np.unique(index_S[index_S >= len(DATA.id)])
    counted_nm = np.array(
        [[n not in DATA.reference[i].right[1:] for n in passages - len(DATA.id)] for i in indices]
    )
    back_nn = np.array(
        [
            [i == j or r not in DATA.reference[j].right for j in indices]
            for i, r in zip(indices, right_n, strict=True)
        ]
    )
    model = model_spec(encoder_config(layers=1), TASK)
    encoder = model.graph()

    def loss_of(params: dict[str, Any]) -> jax.Array:
        merged = nnx.merge(encoder, params)
        x_BTD = merged.encoder(batch)
        inside_BT1 = batch["segment_BT"][filled_B][..., None] == 1
        mean_SD = (x_BTD[filled_B] * inside_BT1).sum(axis=1) / inside_BT1.sum(axis=1)
        unit_SD = mean_SD / jnp.linalg.norm(mean_SD, axis=1, keepdims=True)
        place = {int(n): s for s, n in enumerate(index_S)}
        query_nD = unit_SD[np.array([place[int(i)] for i in indices])]
        passage_mD = unit_SD[np.array([place[int(n)] for n in passages])]
        scale = jnp.exp(params["head"]["log_scale"]["bias"][0])
        logit_nm = scale * query_nD @ passage_mD.T
        column_n = np.searchsorted(passages, right_n + len(DATA.id))
        there_n = logit_nm[np.arange(8), column_n]
        forth_n = jax.nn.logsumexp(jnp.where(counted_nm, logit_nm, -jnp.inf), axis=1)
        back_n = jax.nn.logsumexp(jnp.where(back_nn, logit_nm[:, column_n].T, -jnp.inf), axis=1)
        return ((forth_n + back_n) / 2 - there_n).mean()

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params_of(TASK))
    return float(loss), jax.device_get(gradient)


@pytest.mark.parametrize(
    "options",
    [
        {"devices": 8, "parts": 2},
        pytest.param({"packed": False}, marks=pytest.mark.slow),
        pytest.param({"parts": 4}, marks=pytest.mark.slow),
        pytest.param({"devices": 4}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_softmax_is_over_the_whole_batch(
    options: dict[str, Any], reference: tuple[float, dict[str, Any]]
) -> None:
    loss, gradient = reference
    metrics, params = one_step(**options)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-6)
    wanted = jax.tree.map(lambda p, g: p - g / (np.abs(g) + 1), params_of(TASK), gradient)
    scale = params["head"]["log_scale"]["bias"]
    assert abs(float(scale[0]) - np.log(20.0)) > 1e-4
    for new, want in zip(*map(jax.tree.leaves, (params, wanted)), strict=True):
        np.testing.assert_allclose(new, want, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_both_passes_of_micro_batches_drop_the_same_units() -> None:
    """The gradient is the derivative of the loss through all micro-batches at once."""
    mesh, model = mesh_of(), model_spec(encoder_config(layers=1, dropout=0.3), TASK)
    train = dataclasses.replace(TRAIN, gradient_accumulation_steps=2)
    batch = TrainPlan.make(DATA, train, (3,), 0, row_shards(mesh)).batch(0)
    params, key = params_of(TASK), jax.random.key(0, impl="rbg")

    def loss_of(params: dict[str, Any]) -> jax.Array:
        step_key = jax.random.fold_in(key, 0)
        outputs = [
            model.apply(
                params,
                {name: array[part] for name, array in batch.items()},
                jax.random.fold_in(step_key, part),
            )
            for part in range(2)
        ]
        total, count = task_type(TASK).loss(TASK, jnp.stack(outputs), batch, 0.0)
        return total / count

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params)
    step = make_train_step(StepSpec(model, TASK, SMOOTH, 100), mesh)
    state = init_state(params, make_optimizer(SMOOTH, 100, params), mesh)
    state, metrics = step(state, put_rows(batch, mesh, None), key)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-6)
    wanted = jax.tree.map(lambda p, g: p - g / (jnp.abs(g) + 1), params, gradient)
    for new, want in zip(*map(jax.tree.leaves, (state.params, wanted)), strict=True):
        np.testing.assert_allclose(new, want, atol=1e-6, rtol=1e-6)


def test_triplets_of_an_early_layer_train_what_is_below_and_no_scale() -> None:
    task = Task("align", "retrieval", "accuracy_at_1", triplet_margin=0.4, embedding_layer=1)
    encoder, mesh = encoder_config(layers=2), mesh_of()
    stage = Stage(task, Data(()), optimizer=dataclasses.replace(SMOOTH, weight_decay=0.1))
    settings = with_frozen_parts(stage, encoder.num_layers)
    model = model_spec(encoder, task)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), model.param_shapes()
    )
    batch = TrainPlan.make(DATA, TRAIN, (3,), 0, row_shards(mesh)).batch(0)
    state = init_state(params, make_optimizer(settings.optimizer, 100, params), mesh)
    step = make_train_step(StepSpec(model, task, settings.optimizer, 100), mesh)
    state, metrics = step(state, put_rows(batch, mesh, None), jax.random.key(0, impl="rbg"))
    # The same encoder with its first layer alone, whose output is the last one.
    lower = model_spec(encoder_config(layers=1), dataclasses.replace(task, embedding_layer=None))
    layers = {0: params["encoder"]["layers"][0]}
    cut = {**params, "encoder": {**params["encoder"], "layers": layers}}
    micro = {name: array[0] for name, array in batch.items()}
    total, count = task_type(task).loss(task, jax.jit(lower.apply)(cut, micro), micro, 0.0)
    assert metrics["loss"] == pytest.approx(float(total / count), rel=1e-5)
    start = leaves_by_name(params)
    for name, value in leaves_by_name(jax.device_get(state.params)).items():
        if name.endswith("/key/bias"):  # The softmax ignores it, so its gradient is rounding.
            continue
        still = name.startswith("encoder/layers/1/") or name.startswith("head/")
        assert np.array_equal(value, start[name]) == still, name


def test_the_memory_for_candidates_is_told_before_they_are_embedded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,003,893 candidates and 15,000 queries, 768 wide, as the model gives them and normalised."""
    data = dataclasses.replace(
        random_queries(9, 7),
        candidates=("a",) * 1_003_893,
        id=("q",) * 15_000,
        offset=np.zeros(1_018_894, np.int64),
        example=np.zeros(1, np.int32),
        cluster=("",),
    )
    size = f"{2 * 1_018_893 * 768 * 4 / 2**30:.1f} GiB"
    monkeypatch.setattr(host, "cpu_and_memory", lambda: {"memory_gib": 7.0})
    with caplog.at_level("INFO", logger="flaxfer.training"):
        check_memory("mewslix", data, 768)
        check_memory("small", random_queries(9, 7), 768)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"evaluate.mewslix: 15,000 queries and 1,003,893 candidates need {size} for their "
        "embeddings; this machine has 7.0 GiB"
    )
    with pytest.raises(ConfigError, match=r"candidates need 7\.8 GiB") as caught:
        check_memory("mewslix", data, 1024)
    assert caught.value.where == "evaluate.mewslix.candidates"
