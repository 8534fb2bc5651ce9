"""Rehearsal: batches that hold another task's examples, whatever its head; grouped, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.config import Optimizer, Task, Train
from flaxfer.data import packing
from flaxfer.data.loader import BatchSize, put_rows
from flaxfer.data.tokenize import Tokenized
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.trees import Params
from flaxfer.training import step
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.state import init_state
from tests.helpers import encoder_config, mesh_of, random_tokenized
from tests.training.helpers import (
    SCORE,
    Case,
    Killed,
    Saves,
    assert_close_trees,
    assert_equal_trees,
    assert_same_run,
    kill_at,
    no_start,
    random_tagged,
    record_saves,
    saved,
    saves_of,
    stage_case,
    train,
)

__all__ = ["saved"]


TOPIC = Task("topic", "classification", "accuracy", ("a", "b", "c"))
BERT = encoder_config(layers=1, dropout=0.1)
OPTIMIZER = Optimizer(learning_rate=1e-2, eps=1e-3)
DRY = encoder_config(layers=1)
OWN, OTHER = random_tokenized(14), random_tokenized(11, 3, seed=4, longest=20)
TAGS = Task("tags", "tagging", "accuracy", ("x", "y"))


def rehearsal_of(encoder: EncoderConfig, examples: int = 2, task: Task = TOPIC) -> Rehearsal:
    head = "token" if task is TAGS else "sequence"
    return Rehearsal(
        examples=examples,
        data=random_tagged(11) if task is TAGS else OTHER,
        task=task,
        train=Train(batch_size=32, row_length=48, max_bucket_sizes=6),
        model=ModelSpec(encoder, head, len(task.labels)),
    )


def params_of(encoder: EncoderConfig, seed: int, task: Task = TOPIC) -> Params:
    head = "token" if task is TAGS else "sequence"
    other = ModelSpec(encoder, head, len(task.labels)).random_params(seed + 100)["head"]
    return {**ModelSpec(encoder, num_outputs=1).random_params(seed), "rehearsed": other}


def rehearsing_case(store: Path, seed: int, encoder: EncoderConfig = BERT, **train: Any) -> Case:
    changes = {"optimizer": OPTIMIZER, "max_steps": 5} | train
    return stage_case(store, seed, encoder=encoder, rehearsal=rehearsal_of(encoder), **changes)


# --- the step ----------------------------------------------------------------------------------


def mean_loss(model: Any, params: Params, data: Tokenized, indices: np.ndarray) -> jax.Array:
    """Every example in a row of its own; the losses as textbooks have them."""
    rows = [[i] for i in range(len(indices))]
    batch = packing.build_rows(data, indices, rows, len(rows), 48, 1, pad_id=0)
    logits = model.apply(params, batch)
    if data.task_type.name == "tagging":
        label_BT = batch["label_BT"]
        probability = jax.nn.softmax(logits)[..., 1]
        right = jnp.where(label_BT == 1, probability, 1 - probability)
        return -jnp.log(right)[label_BT >= 0].mean()
    label = batch["label_BE"][:, 0]
    if logits.shape[-1] == 1:
        return ((logits[:, 0, 0] - label) ** 2).mean()
    probability = jnp.exp(logits[:, 0]) / jnp.exp(logits[:, 0]).sum(axis=-1, keepdims=True)
    return -jnp.log(probability[np.arange(len(label)), label]).mean()


@pytest.mark.parametrize(
    ("task", "gradient_accumulation_steps"),
    [(TOPIC, 2), pytest.param(TAGS, 1, marks=pytest.mark.slow)],
    ids=["classes-in-two", "tags"],
)
def test_the_gradient_is_the_mean_of_both_tasks_by_their_shares(
    task: Task, gradient_accumulation_steps: int
) -> None:
    # The first step of Adam is g / (|g| + 1), smooth in g.
    optimizer = Optimizer(
        learning_rate=1.0, b1=0.0, b2=0.5, eps=1.0, weight_decay=0.0, schedule="constant",
        warmup=0, clip_norm=0.0,
    )  # fmt: skip
    own = Train(
        batch_size=8,
        row_length=32,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_bucket_sizes=2,
    )
    other, mesh = rehearsal_of(DRY, 2, task), mesh_of()
    plan = other.plan(OWN, own, (3,), 0, 1)
    model, params = ModelSpec(DRY), params_of(DRY, 1, task)
    indices = plan.indices(0), plan.rehearsed.indices(0)
    assert [len(numbers) for numbers in indices] == [6, 2]

    def wanted_loss(params: Params) -> jax.Array:
        second = {"encoder": params["encoder"], "head": params["rehearsed"]}
        first = {"encoder": params["encoder"], "head": params["head"]}
        return 0.75 * mean_loss(model, first, OWN, indices[0]) + 0.25 * mean_loss(
            other.model, second, other.data, indices[1]
        )

    loss, gradient = jax.jit(jax.value_and_grad(wanted_loss))(params)
    spec = step.StepSpec(
        model,
        SCORE,
        optimizer=optimizer,
        total_steps=9,
        dtype=jnp.dtype("float32"),
        rehearsed=other.objective(own),
    )
    function = step.make_train_step(spec, mesh)
    begun = init_state(params, make_optimizer(optimizer, 9, params), mesh)
    key = jax.random.key(0, impl="rbg")
    after, metrics = function(begun, put_rows(plan.batch(0), mesh, None), key)
    wanted = jax.tree.map(lambda p, g: p - g / (jnp.abs(g) + 1), params, gradient)
    for path, leaf in jax.tree.leaves_with_path(after.params):
        want = dict(jax.tree.leaves_with_path(wanted))[path]
        np.testing.assert_allclose(leaf, want, atol=2e-6, err_msg=jax.tree_util.keystr(path))
    both = 0.75 * float(metrics["loss"]) + 0.25 * float(metrics["rehearsed_loss"])
    assert both == pytest.approx(float(loss), rel=1e-5)
    kernel = after.params["rehearsed"]["output"]["kernel"]
    assert np.abs(kernel - params["rehearsed"]["output"]["kernel"]).max() > 1e-3


# --- the batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("packing_", [True, False], ids=["packed", "unpacked"])
def test_a_batch_is_a_function_of_seed_and_step(packing_: bool) -> None:
    settings = Train(batch_size=8, epochs=3, row_length=32, max_bucket_sizes=2, packing=packing_)
    plan = rehearsal_of(DRY, 2).plan(OWN, settings, (3,), 0, 1)
    assert plan.total_steps == 7, "three epochs of 14 examples, six a step"
    assert plan.rehearsed is not None and plan.rehearsed.total_steps == 7
    assert len(plan.rehearsed.bucket_sizes) == 1, "no more programs than without"
    rehearsed: list[int] = []
    shapes = set()
    for number in reversed(range(7)):
        batch = plan.batch(number)
        numbers = batch["rehearsed/index_BE"]
        own = batch["index_BE"]
        assert sorted(own[own >= 0]) == sorted(plan.indices(number))
        rehearsed = sorted(numbers[numbers >= 0].tolist()) + rehearsed
        shapes.add(numbers.shape)
        tokens = OWN.lengths[plan.indices(number)].sum()
        tokens += OTHER.lengths[numbers[numbers >= 0]].sum()
        size = BatchSize.of(batch)
        assert (size.examples, size.tokens) == (8, tokens)
        assert size.slots == batch["token_BT"].size + batch["rehearsed/token_BT"].size
    assert len(shapes) == 1
    assert sorted(rehearsed[:11]) != rehearsed[:11]
    order = np.concatenate([np.random.default_rng((3, e)).permutation(11) for e in (0, 1)])
    wanted = [sorted(order[2 * i : 2 * i + 2]) for i in range(7)]
    assert rehearsed == np.concatenate(wanted).tolist()


# --- the stage ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], Saves]:
    """Two seeds one by one, undisturbed."""
    folder = tmp_path_factory.mktemp("apart")
    with pytest.MonkeyPatch.context() as monkeypatch:
        saves = record_saves(monkeypatch)
        cases = [rehearsing_case(folder, seed) for seed in (0, 5)]
        for case in cases:
            train(case)
    return cases, saves


@pytest.mark.slow  # Batched seeds and rehearsal are tested apart.
def test_batched_seeds_equal_single_ones(
    apart: tuple[list[Case], Saves], tmp_path: Path, saved: Saves
) -> None:
    cases, wanted = apart
    group = [rehearsing_case(tmp_path, seed) for seed in (0, 5)]
    train(*group)
    for case, expected in zip(group, cases, strict=True):
        assert_same_run(case, expected, saved | wanted)
        losses = [[r["rehearsed_loss"] for r in one.log("train")] for one in (case, expected)]
        np.testing.assert_allclose(*losses, atol=1e-5)
        assert len(set(losses[0])) == 5


def test_a_killed_run_continues_to_the_same_end(
    apart: tuple[list[Case], Saves], tmp_path: Path, saved: Saves
) -> None:
    cases, wanted = apart
    case = rehearsing_case(tmp_path, 5)
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, CheckpointStore, "save", 2)
        with pytest.raises(Killed):
            train(case)
    train(case, starts=[no_start])
    assert_equal_trees(saves_of(saved, case), saves_of(wanted, cases[1]))


def test_the_other_head_lies_beside_the_model_in_a_checkpoint(
    apart: tuple[list[Case], Saves],
) -> None:
    (case, _), wanted = apart
    items = saves_of(wanted, case)[case.done()["best_step"]]
    assert set(items) == {"params", "rehearsed", "opt_state"}
    assert_close_trees(case.best_params(), items["params"])
    assert set(case.best_params()) == {"encoder", "head"}


def test_packing_changes_nothing(tmp_path: Path) -> None:
    losses = []
    for packed in (True, False):
        case = rehearsing_case(tmp_path / str(packed), 0, DRY, packing=packed, max_steps=3)
        train(case)
        losses.append([(r["loss"], r["rehearsed_loss"]) for r in case.log("train")])
    np.testing.assert_allclose(*losses, atol=1e-4)
