"""Batched seeds give the results that they have one by one, whatever comes between."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flaxfer.config import Optimizer, Task
from flaxfer.data.loader import TrainPlan
from flaxfer.errors import DivergedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import read_config
from flaxfer.models.ops import dropout
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.sharding import row_shards, seed_mesh
from flaxfer.training import loop, state, step
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.optimizer import make_optimizer
from tests.helpers import encoder_config, mesh_of, random_tokenized
from tests.training.helpers import (
    SCORE,
    TRAIN,
    Case,
    Killed,
    Saves,
    assert_close_trees,
    assert_same_run,
    kill_at,
    no_start,
    record_saves,
    saved,
    saves_of,
    script_scores,
    stage_case,
    train,
)

__all__ = ["saved"]


TOPIC = Task("topic", "classification", "accuracy", ("a", "b", "c"))
BERT = encoder_config(layers=1, dropout=0.1)
XLNET_SIZES = {"d_model": 16, "n_layer": 1, "n_head": 4, "d_inner": 32, "vocab_size": 48}
XLNET = read_config({"model_type": "xlnet", "pad_token_id": 0, **XLNET_SIZES}).with_dropout(0.1)
# A large eps: what is rounding in a gradient that is zero must not become a step.
OPTIMIZER = Optimizer(learning_rate=1e-2, eps=1e-3)
EVALUATIONS = [2, 4, 6, 7]
SEEDS = (0, 1, 5)


def seed_case(store: Path, seed: int, **changes: Any) -> Case:
    return stage_case(store, seed, **{"optimizer": OPTIMIZER, "max_steps": 7} | changes)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(loop, "say", lines.append)
    monkeypatch.setattr(loop, "warn", lines.append)
    return lines


@pytest.mark.parametrize(
    ("task", "encoder", "changes"),
    [
        pytest.param(SCORE, BERT, {}, id="bert-regression-accumulated"),
        pytest.param(
            *(TOPIC, XLNET, {"gradient_accumulation_steps": 1}),
            id="xlnet-classification",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(SCORE, BERT, {"gradient_accumulation_steps": 1, "packing": False}),
            id="unpacked",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_batched_seeds_equal_single_ones(
    task: Task, encoder: EncoderConfig, changes: dict[str, Any], tmp_path: Path, saved: Saves
) -> None:
    seeds = SEEDS if not changes else SEEDS[:2]
    apart, group = (
        [seed_case(tmp_path / n, s, task=task, encoder=encoder, **changes) for s in seeds]
        for n in ("apart", "group")
    )
    for case in apart:
        train(case)
    train(*group)
    for case, expected in zip(group, apart, strict=True):
        assert_same_run(case, expected, saved)
    assert len({case.log("train")[0]["loss"] for case in group}) == len(seeds)
    rates = [case.done()["examples_per_s"] for case in group]
    assert rates == pytest.approx([rates[0]] * len(seeds)), "each has its part of the time"


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], Saves]:
    """The seeds one by one, undisturbed."""
    folder = tmp_path_factory.mktemp("apart")
    with pytest.MonkeyPatch.context() as monkeypatch:
        saves = record_saves(monkeypatch)
        cases = [seed_case(folder, seed) for seed in SEEDS[:2]]
        for case in cases:
            train(case)
    return cases, saves


@pytest.mark.parametrize(
    ("call", "line"),
    [
        pytest.param(3, [], id="both-after-step-2"),
        pytest.param(4, ["seed 0 after step 4; seed 1 after step 2"], id="between-two-saves"),
        pytest.param(9, [], id="after-the-last-save"),
    ],
)
def test_killed_batched_seeds_continue(
    call: int, line: list[str], apart: Any, tmp_path: Path, saved: Saves, said: list[str]
) -> None:
    """The numbered save does not happen, or the cleaning up at the end."""
    group = [seed_case(tmp_path, seed) for seed in SEEDS[:2]]
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, CheckpointStore, "save", call)
        kill_at(monkeypatch, CheckpointStore, "finish", 1)
        with pytest.raises(Killed):
            train(*group)
    train(*group, starts=[no_start] * 2)
    cases, wanted = apart
    for case, expected in zip(group, cases, strict=True):
        assert_same_run(case, expected, saved | wanted)
    assert [text.partition("apart: ")[2] for text in said if "continue apart" in text] == line


def test_finished_seeds_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = [seed_case(tmp_path, seed, eval_every=7) for seed in SEEDS]
    train(group[1])
    noted = (group[1].folder / "done.json").read_bytes()
    evaluated: list[int] = []
    real = Evaluator.predict_seeds

    def predict(self: Evaluator, params: Any, data: Any, seeds: int) -> Any:
        evaluated.append(seeds)
        return real(self, params, data, seeds)

    monkeypatch.setattr(Evaluator, "predict_seeds", predict)
    train(*group, starts=[None, no_start, None])
    assert evaluated == [2]
    assert [case.done()["steps"] for case in group] == [7, 7, 7]
    assert (group[1].folder / "done.json").read_bytes() == noted


def test_one_seed_stops_early_and_the_other_continues(
    apart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, [0.5, 0.4, 0.3, 0.9], [0.1, 0.2, 0.1, 0.3])
    group = [seed_case(tmp_path, seed, patience=2) for seed in SEEDS[:2]]
    first = group[0].folder / "done.json"
    saves = record_saves(monkeypatch)
    existed: dict[int, bool] = {}
    recording = CheckpointStore.save

    def save(self: CheckpointStore, step: int, *rest: Any) -> None:
        existed[step] = first.exists()
        recording(self, step, *rest)

    monkeypatch.setattr(CheckpointStore, "save", save)
    train(*group)
    stopped, whole = (case.done() for case in group)
    assert (stopped["steps"], stopped["best_step"], stopped["stopped_early"]) == (6, 2, True)
    assert (whole["steps"], whole["best_step"], whole["stopped_early"]) == (7, 7, False)
    assert existed == {2: False, 4: False, 6: False, 7: True}, "finished while the other is not"
    assert [r["step"] for r in group[0].log("train")] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in group[0].log("dev")] == [2, 4, 6]
    cases, wanted = apart
    for case, expected, number in zip(group, cases, (6, 7), strict=True):
        own = saves_of(saves, case)
        assert list(own) == [step for step in EVALUATIONS if step <= number]
        assert_close_trees(own[number], saves_of(wanted, expected)[number])


def test_one_seed_diverges_and_the_other_comes_to_its_end(
    apart: Any, tmp_path: Path, saved: Saves, said: list[str]
) -> None:
    group = [seed_case(tmp_path, seed) for seed in SEEDS[:2]]
    with pytest.raises(DivergedError, match=r"the loss of step 1 is (inf|nan)") as caught:
        train(*group, starts=[lambda: spoilt(group[0]), None])
    assert caught.value.where == "direct/target seed 0" and caught.value.details == ()
    assert not group[0].is_done() and group[0].spec.checkpoints.newest() is None
    assert group[0].log("train") == []
    cases, wanted = apart
    assert_same_run(group[1], cases[1], saved | wanted)
    assert any("seed 0" in line and "the other seeds continue" in line for line in said)


def test_all_seeds_diverge(tmp_path: Path, saved: Saves) -> None:
    group = [seed_case(tmp_path, seed) for seed in SEEDS[:2]]
    with pytest.raises(DivergedError) as caught:
        train(*group, starts=[lambda: spoilt(group[0])] * 2)
    assert caught.value.where == "direct/target seed 0"
    assert [detail[:20] for detail in caught.value.details] == ["direct/target seed 1"]
    assert saved == {}


def spoilt(case: Case) -> Any:
    """Parameters as a step of an absurd learning rate leaves them."""
    params = case.start()
    params["head"]["output"]["kernel"] *= 1e30
    return params


@pytest.mark.parametrize(
    ("sizes", "shape", "number"),
    [
        ((2, 1, 1), (2, 1, 1, 1), 2),
        pytest.param((2, 1, 1), (1, 2, 1, 1), 3, marks=pytest.mark.slow),
        pytest.param((4, 1, 2), (2, 2, 1, 2), 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_batched_seeds_on_a_mesh(
    sizes: tuple[int, int, int],
    shape: tuple[int, ...],
    number: int,
    apart: Any,
    tmp_path: Path,
    saved: Saves,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    functions: list[Any] = []
    specs: list[Any] = []
    real = loop.make_train_step

    def make(*args: Any, **rest: Any) -> Any:
        function = real(*args, **rest)

        def spied(own: Any, batch: Any, key: Any) -> Any:
            new = function(own, batch, key)
            kernel = new[0].params["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
            specs.append((kernel.sharding.spec, batch["token_BT"].sharding.spec))
            assert jax.tree.leaves(own)[0].is_deleted(), "the old state is donated"
            return new

        functions.append(function)
        spied._cache_size = function._cache_size
        spied.lower = function.lower
        return spied

    monkeypatch.setattr(loop, "make_train_step", make)
    mesh = mesh_of(*sizes)
    seeds = seed_mesh(mesh, number)
    assert seeds.devices.shape == shape and row_shards(seeds) == shape[1]
    assert seeds.devices.ravel().tolist() == mesh.devices.ravel().tolist()
    group = [seed_case(tmp_path, seed, mesh=mesh) for seed in SEEDS[:number]]
    train(*group)
    assert step.compiled_programs(functions[0]) == 1, "the state comes out where it goes in"
    (kernel, rows), *others = specs
    assert {*others} == {(kernel, rows)}
    tensor = "tensor" if sizes[2] > 1 else None
    assert (*kernel, None, None, None)[:3] == ("seed" if shape[0] > 1 else None, None, tensor)
    assert rows == PartitionSpec("seed", None, ("data", "fsdp"))
    cases, wanted = apart
    for case, expected in zip(group, cases, strict=False):
        assert_same_run(case, expected, saved | wanted)


def test_batches_of_a_group_are_those_of_its_seeds() -> None:
    data, train = (
        random_tokenized(23),
        dataclasses.replace(TRAIN, max_bucket_sizes=3, gradient_accumulation_steps=1),
    )
    group = TrainPlan.make(data, train, SEEDS, 0, 1)
    alone = [TrainPlan.make(data, train, (seed,), 0, 1) for seed in SEEDS]
    for number in range(6):
        batch = group.batch(number)
        assert batch["token_BT"].shape[:2] == (3, 1)
        own = [plan.batch(number) for plan in alone]
        rows = [np.any(one["segment_BT"][0] > 0, axis=-1).sum() for one in own]
        assert batch["token_BT"].shape[2] in group.bucket_sizes
        assert batch["token_BT"].shape[2] >= max(rows)
        for i, (one, filled) in enumerate(zip(own, rows, strict=True)):
            for name, array in one.items():
                np.testing.assert_array_equal(batch[name][i, 0, :filled], array[0, :filled])
            assert not batch["mask_BE"][i, 0, filled:].any()


def test_optimiser_state_is_stacked_and_taken_apart_again() -> None:
    mesh = mesh_of(2)
    states = []
    for seed in SEEDS[:2]:
        params = ModelSpec(BERT).random_params(seed)
        optimizer = make_optimizer(OPTIMIZER, 10, params)
        states.append(state.init_state(params, optimizer, mesh))
    stacked = state.stack(states, seed_mesh(mesh, 2))
    for i, own in enumerate(states):
        again = state.unstack(stacked, i, mesh)
        for one, other in zip(*map(jax.tree.leaves, (again, own)), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.sharding == other.sharding


def test_dropout_of_a_seed_is_that_of_its_key() -> None:
    keys = [dropout_key(seed, jax.default_backend(), jax.device_count()) for seed in SEEDS]
    x = jnp.ones((4, 64))
    mapped = jax.vmap(lambda key: dropout(x, 0.5, key))(jnp.stack(keys))
    for own, key in zip(mapped, keys, strict=True):
        np.testing.assert_array_equal(own, dropout(x, 0.5, key))
    assert len({own.tobytes() for own in map(np.asarray, mapped)}) == len(SEEDS)
