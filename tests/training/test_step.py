"""The loss is the mean over examples however they are batched; a step is one compiled program."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from flaxfer.config import Optimizer, Task, Train
from flaxfer.data import packing
from flaxfer.data.loader import TrainPlan, put_rows
from flaxfer.data.tokenize import Tokenized
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import platform
from flaxfer.runtime.sharding import tree_shardings
from flaxfer.training import step
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import TrainState, init_state
from tests.helpers import encoder_config, mesh_of, random_tokenized

SCORE = Task("score", "regression", "pearson")
TOPIC = Task("topic", "classification", "accuracy", ("a", "b", "c"))
# With eps = 1 the first step of Adam is g / (|g| + 1): smooth in g, so rounding is not amplified;
# nor is it by the correction of the moments, if 1 - b2 is exact.
SMOOTH = Optimizer(
    learning_rate=1.0,
    b1=0.0,
    b2=0.5,
    eps=1.0,
    weight_decay=0.0,
    schedule="constant",
    warmup=0,
    clip_norm=0.0,
)
# A learning rate so low that float32 parameters stay as they are.
UNMOVED = dataclasses.replace(SMOOTH, learning_rate=1e-12)
TRAIN = Train(batch_size=8, row_length=32, max_bucket_sizes=2)
IN_TWO = dataclasses.replace(TRAIN, gradient_accumulation_steps=2)
TOTAL = 100


@functools.cache
def data_of(task: Task) -> Tokenized:
    return random_tokenized(20, len(task.labels))


@functools.cache
def params_of(outputs: int) -> dict[str, Any]:
    return ModelSpec(encoder_config(layers=1), num_outputs=outputs).random_params(1)


class Trainer:
    """A task, settings and a fresh state."""

    def __init__(
        self,
        task: Task = SCORE,
        train: Train = TRAIN,
        optimizer: Optimizer = SMOOTH,
        dtype: Any = jnp.float32,
        dropout: float = 0.0,
    ):
        outputs = max(len(task.labels), 1)
        self.mesh = mesh_of()
        self.plan = TrainPlan.make(data_of(task), train, seeds=(3,), pad_id=0, multiple=1)
        self.model = ModelSpec(encoder_config(layers=1, dropout=dropout), num_outputs=outputs)
        spec = step.StepSpec(
            self.model,
            task,
            label_smoothing=train.label_smoothing,
            optimizer=optimizer,
            total_steps=TOTAL,
            dtype=jnp.dtype(dtype),
        )
        self.function = step.make_train_step(spec, self.mesh)
        self.params = params_of(outputs)
        self.state = init_state(
            self.params, make_optimizer(optimizer, TOTAL, self.params), self.mesh
        )

    def batch(self, number: int = 0) -> dict[str, jax.Array]:
        return put_rows(self.plan.batch(number), self.mesh, None)

    def step(self, batch: dict[str, Any], seed: int = 0) -> dict[str, float]:
        key = jax.random.key(seed, impl="rbg")
        self.state, metrics = self.function(self.state, batch, key)
        return {name: float(value) for name, value in metrics.items()}


def unpacked(task: Task, indices: np.ndarray) -> packing.Batch:
    """Every example in a row of its own."""
    rows = [[i] for i in range(len(indices))]
    return packing.build_rows(data_of(task), indices, rows, len(rows), 32, 1, pad_id=0)


@pytest.fixture(scope="module")
def reference() -> tuple[float, dict[str, Any]]:
    """Mean squared error and its gradient over the first batch, unpacked."""
    trainer = Trainer()
    batch = unpacked(SCORE, trainer.plan.indices(0))

    def mean_loss(params: dict[str, Any]) -> jax.Array:
        logits_nC = trainer.model.apply(params, batch, None)[:, 0]
        return ((logits_nC[:, 0] - batch["label_BE"][:, 0]) ** 2).mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(trainer.params)
    return float(loss), gradient


def assert_took_the_step(
    trainer: Trainer, metrics: dict[str, float], wanted: tuple[float, dict[str, Any]]
) -> None:
    """The new parameters are those of one smooth step along the wanted gradient."""
    loss, gradient = wanted
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
    assert metrics["loss"] == pytest.approx(loss, abs=1e-6, rel=1e-6)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    expected = jax.tree.map(lambda p, g: p - g / (jnp.abs(g) + 1), trainer.params, gradient)
    for new, want in zip(*map(jax.tree.leaves, (trainer.state.params, expected)), strict=True):
        np.testing.assert_allclose(new, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("packed", "gradient_accumulation_steps"), [(True, 1), (True, 4), (False, 1)]
)
def test_the_gradient_is_that_of_the_mean_over_examples(
    packed: bool, gradient_accumulation_steps: int, reference: tuple[float, dict[str, Any]]
) -> None:
    trainer = Trainer(
        train=dataclasses.replace(
            TRAIN, packing=packed, gradient_accumulation_steps=gradient_accumulation_steps
        )
    )
    batch = trainer.batch()
    assert batch["mask_BE"].shape[0] == gradient_accumulation_steps
    assert packed == (batch["mask_BE"].shape[2] > 1)
    metrics = trainer.step(batch)
    assert_took_the_step(trainer, metrics, reference)
    assert metrics["learning_rate"] == 1.0


def test_micro_batches_of_uneven_numbers_of_examples(
    reference: tuple[float, dict[str, Any]],
) -> None:
    trainer = Trainer()
    indices = trainer.plan.indices(0)
    parts = (indices[:5], indices[5:6], indices[6:], indices[8:])
    assert [len(part) for part in parts] == [5, 1, 2, 0]
    micro = [
        packing.build_rows(
            data_of(SCORE), part, [[i] for i in range(len(part))], 5, 32, 1, pad_id=0
        )
        for part in parts
    ]
    batch = {name: np.stack([part[name] for part in micro]) for name in micro[0]}
    metrics = trainer.step(put_rows(batch, trainer.mesh, None))
    assert_took_the_step(trainer, metrics, reference)


def test_loss_of_a_classification_with_label_smoothing() -> None:
    trainer = Trainer(TOPIC, dataclasses.replace(TRAIN, label_smoothing=0.2))
    batch = unpacked(TOPIC, trainer.plan.indices(0))
    logits_BEC = trainer.model.apply(trainer.params, batch, None)
    log_p_nC = scipy.special.log_softmax(np.asarray(logits_BEC, np.float64)[:, 0], axis=-1)
    label_n = batch["label_BE"][:, 0]
    expected_n = -(0.8 * log_p_nC[np.arange(8), label_n] + 0.2 * log_p_nC.mean(axis=-1))
    loss = trainer.step(trainer.batch())["loss"]
    assert loss == pytest.approx(expected_n.mean(), rel=1e-5)


def test_padding_changes_nothing(reference: tuple[float, dict[str, Any]]) -> None:
    zeros, anything = Trainer(), Trainer()
    batch = {
        name: np.pad(array, ((0, 0), (0, 7), (0, 0))) for name, array in zeros.plan.batch(0).items()
    }
    noise = dict(batch)
    padding, empty = batch["segment_BT"] == 0, batch["mask_BE"] == 0
    assert padding[:, -7:].all() and empty[:, -7:].all() and empty[:, :-7].any()
    noise["token_BT"] = np.where(padding, 7, batch["token_BT"])
    noise["type_BT"] = np.where(padding, 1, batch["type_BT"])
    noise["label_BE"] = np.where(empty, np.float32(9), batch["label_BE"])
    metrics = zeros.step(put_rows(batch, zeros.mesh, None))
    assert_took_the_step(zeros, metrics, reference)
    assert metrics == anything.step(put_rows(noise, zeros.mesh, None))
    pairs = zip(*map(jax.tree.leaves, (zeros.state, anything.state)), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


def test_each_bucket_size_compiles_one_program() -> None:
    trainer = Trainer(train=IN_TWO, optimizer=UNMOVED, dropout=0.3)
    before = step.compiled_programs(trainer.function)
    rows = []
    for number in range(8):  # Three epochs.
        batch = trainer.batch(number)
        rows.append(batch["token_BT"].shape[1])
        trainer.step(batch)
        if number == 2:
            after_one_epoch = step.compiled_programs(trainer.function)
    assert set(rows[:3]) == set(rows) == set(trainer.plan.bucket_sizes)
    assert before == 0
    assert step.compiled_programs(trainer.function) == after_one_epoch == len(set(rows)) == 2


def test_equal_settings_share_their_program() -> None:
    assert Trainer().function is Trainer().function
    other = Trainer(train=dataclasses.replace(TRAIN, epochs=7.0)).function
    assert other is Trainer().function
    assert Trainer(optimizer=dataclasses.replace(SMOOTH, b1=0.5)).function is not other
    assert Trainer(dropout=0.1).function is not other


def test_the_old_state_is_donated_and_the_given_parameters_are_not() -> None:
    trainer = Trainer()
    # Already where the state is to be, as the parameters of the stage before are.
    given = jax.device_put(trainer.params, tree_shardings(trainer.params, trainer.mesh))
    optimizer = make_optimizer(SMOOTH, TOTAL, given)
    old = trainer.state = init_state(given, optimizer, trainer.mesh)
    trainer.step(trainer.batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    for leaf in jax.tree.leaves(given):
        np.asarray(leaf)


def test_bfloat16_moves_float32_weights(reference: tuple[float, dict[str, Any]]) -> None:
    slow = Optimizer(learning_rate=1e-5, schedule="constant", warmup=0)
    trainer = Trainer(optimizer=slow, dtype=jnp.bfloat16)
    batch = trainer.batch()
    losses = [trainer.step(batch)["loss"] for _ in range(100)]
    state: TrainState = trainer.state
    floats = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype != jnp.int32]
    assert {str(leaf.dtype) for leaf in floats} == {"float32"}
    assert losses[-1] < losses[0]
    assert 1e-5 < abs(losses[0] / reference[0] - 1) < 0.1, "products are rounded to bfloat16"
    start = trainer.params["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
    end = state.params["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
    moved = np.abs(np.asarray(end - start))
    assert np.median(moved) > 2e-4, "a hundred steps of 1e-5, of mostly the same direction"


@pytest.mark.skipif(
    platform.compute_dtype("auto", "cpu") != jnp.bfloat16,
    reason="needs a CPU that multiplies bfloat16",
)
def test_a_cpu_multiplies_bfloat16_in_its_library_and_the_program_can_be_kept() -> None:
    trainer = Trainer(dtype=jnp.bfloat16, dropout=0.1)
    key = jax.random.key(0, impl="rbg")
    compiled = trainer.function.lower(trainer.state, trainer.batch(), key).compile()
    text = compiled.as_text()
    products = re.findall(r"= (\w+)\[[\d,]*\]\S* dot\(", text[text.index("\nENTRY") :])
    assert products, "the head's, which are float32"
    assert set(products) == {"f32"}, (
        "a bfloat16 product outside the library takes ten times as long"
    )
    assert "ynn_fusion" in text
    assert "onednn" not in text, "it could not be written to the compilation cache"


def test_dropout_is_a_function_of_seed_and_step() -> None:
    def losses(seed: int) -> list[float]:
        trainer = Trainer(train=IN_TWO, optimizer=UNMOVED, dropout=0.3)
        batch = trainer.batch()
        return [trainer.step(batch, seed)["loss"] for _ in range(3)]

    first = losses(seed=0)
    assert losses(seed=0) == first
    assert len(set(first)) == 3, "the parameters do not move, but every step drops other units"
    assert not set(losses(seed=1)) & set(first)


def test_micro_batches_drop_different_units() -> None:
    trainer = Trainer(train=IN_TWO, optimizer=UNMOVED, dropout=0.3)
    twice = {name: array[[0, 0]] for name, array in trainer.plan.batch(0).items()}
    once = dict(twice, mask_BE=twice["mask_BE"] * np.array([1, 0], np.float32)[:, None, None])
    both = trainer.step(put_rows(twice, trainer.mesh, None))["loss"]
    trainer.state = dataclasses.replace(trainer.state, step=jnp.zeros_like(trainer.state.step))
    first = trainer.step(put_rows(once, trainer.mesh, None))["loss"]
    # Were the units the same, the mean over two copies would be that of the first alone.
    assert abs(both - first) > 1e-4
