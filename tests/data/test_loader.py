"""Order, batches and row counts: functions of (seed, step), every example where it belongs."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxfer.config import Train
from flaxfer.data import loader
from flaxfer.data.loader import BatchSize, TrainPlan, eval_batches, put_rows
from flaxfer.data.tokenize import Tokenized
from flaxfer.tasks import TASK_TYPES
from tests.helpers import mesh_of, random_tokenized

DATA = random_tokenized(23)
TRAIN = Train(batch_size=4, epochs=3, row_length=32, max_bucket_sizes=2)


def plan_of(
    data: Tokenized = DATA, train: Train = TRAIN, seed: int = 0, multiple: int = 1
) -> TrainPlan:
    return TrainPlan.make(data, train, (seed,), pad_id=0, multiple=multiple)


def examples_of(batch: dict[str, np.ndarray]) -> list[int]:
    index_BE = np.asarray(batch["index_BE"])
    return index_BE[index_BE >= 0].tolist()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 30), size=st.integers(1, 9), seed=st.integers(0, 3))
def test_every_epoch_is_a_permutation(n: int, size: int, seed: int) -> None:
    train = dataclasses.replace(TRAIN, batch_size=size)
    plan = plan_of(random_tokenized(n), train, seed)
    assert plan.total_steps == -(-3 * n // size)
    stream = np.concatenate([plan.indices(step) for step in range(plan.total_steps)])
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_order_depends_on_seed_and_step_alone() -> None:
    plan = plan_of()
    backwards = [plan.indices(step) for step in reversed(range(plan.total_steps))][::-1]
    forwards = [plan_of().indices(step) for step in range(plan.total_steps)]
    np.testing.assert_array_equal(forwards, backwards)
    other = [plan_of(seed=1).indices(step) for step in range(plan.total_steps)]
    assert not np.array_equal(forwards, other)
    epochs = np.concatenate(forwards)[: 2 * 23].reshape(2, 23)
    assert not np.array_equal(*epochs), "epochs have orders of their own"


def test_the_order_is_that_of_the_permutations() -> None:
    wanted = [np.random.default_rng((7, epoch)).permutation(23) for epoch in range(3)]
    plan = plan_of(seed=7)
    steps = [plan.indices(step) for step in range(plan.total_steps)]
    np.testing.assert_array_equal(np.concatenate(steps)[: 3 * 23], np.concatenate(wanted))
    large = plan_of(train=dataclasses.replace(TRAIN, batch_size=60), seed=7)
    np.testing.assert_array_equal(large.indices(0), np.concatenate(wanted)[:60])
    assert large.indices(0).dtype == np.int64


def test_accumulation_and_packing_leave_the_batches_as_they_are() -> None:
    plain = plan_of(train=dataclasses.replace(TRAIN, packing=False))
    variants = [plan_of(), plan_of(train=dataclasses.replace(TRAIN, gradient_accumulation_steps=2))]
    for step in range(plain.total_steps):
        wanted = sorted(plain.indices(step))
        assert sorted(examples_of(plain.batch(step))) == wanted
        for plan in variants:
            batch = plan.batch(step)
            assert sorted(examples_of(batch)) == wanted
            assert batch["token_BT"].shape[0] == plan.train.gradient_accumulation_steps
            assert (
                batch["mask_BE"].sum(axis=(1, 2)) == 4 / plan.train.gradient_accumulation_steps
            ).all()
    assert plain.slots == 1 and plain.bucket_sizes == (4,)


def test_packed_rows_hold_the_tokens_of_their_examples() -> None:
    batch = plan_of().batch(2)
    for row, slot in zip(*np.nonzero(batch["mask_BE"][0]), strict=True):
        example = batch["index_BE"][0, row, slot]
        place = batch["segment_BT"][0, row] == slot + 1
        tokens = DATA.token[DATA.offset[example] : DATA.offset[example + 1]]
        np.testing.assert_array_equal(batch["token_BT"][0, row, place], tokens)
        assert batch["label_BE"][0, row, slot] == DATA.label[example]
    size = BatchSize.of(batch)
    assert size.examples == 4
    assert size.tokens == DATA.lengths[plan_of().indices(2)].sum()
    assert size.slots == batch["token_BT"].size


@pytest.mark.parametrize("multiple", [1, 3])
def test_row_counts_are_few_and_hold_every_batch(multiple: int) -> None:
    plan = plan_of(random_tokenized(50, longest=30), multiple=multiple)
    rows = {plan.batch(step)["token_BT"].shape[1] for step in range(plan.total_steps)}
    assert rows == set(plan.bucket_sizes)
    assert len(rows) <= 2
    assert all(count % multiple == 0 for count in rows)


def test_a_batch_beyond_all_planned_rows_gets_its_own_count() -> None:
    plan = dataclasses.replace(plan_of(), bucket_sizes=(2, 4), multiple=4)
    assert [plan.bucket_size(needed) for needed in (1, 2, 3, 4, 5, 9)] == [2, 2, 4, 4, 8, 12]


def test_max_steps_goes_before_epochs() -> None:
    assert plan_of(train=dataclasses.replace(TRAIN, max_steps=5)).total_steps == 5
    assert plan_of(train=dataclasses.replace(TRAIN, epochs=0.5)).total_steps == 3


def test_padding_share_counts_the_first_epoch() -> None:
    plan = plan_of()
    batches = [plan.batch(step) for step in range(6)]
    filled = np.concatenate([(batch["segment_BT"] > 0).ravel() for batch in batches])
    assert plan.padding_share() == pytest.approx(1 - filled.mean())


def test_batches_from_a_step_on_are_the_tail_of_all() -> None:
    plan, mesh = plan_of(), mesh_of(2)
    plan = dataclasses.replace(plan, bucket_sizes=(4,))
    whole = list(plan.batches(0, mesh))
    tail = list(plan.batches(7, mesh))
    assert len(whole) == plan.total_steps
    assert len(tail) == plan.total_steps - 7
    for (size, batch), (wanted_size, wanted) in zip(tail, whole[7:], strict=True):
        assert size == wanted_size
        assert batch.keys() == wanted.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], wanted[name])
    assert list(plan.batches(plan.total_steps, mesh)) == []


def test_rows_are_split_over_data_and_fsdp() -> None:
    mesh = mesh_of(2, 2, 2)
    placed = put_rows({"x": np.arange(16).reshape(1, 8, 2)}, mesh, None)["x"]
    shards = {shard.index[1].start or 0 for shard in placed.addressable_shards}
    assert shards == {0, 2, 4, 6}
    assert {shard.data.shape for shard in placed.addressable_shards} == {(1, 2, 2)}
    assert isinstance(placed, jax.Array)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(
    ("rows", "n"), [(rows, n) for rows in (1, 4) for n in (1, rows - 1, rows, rows + 1, 13) if n]
)
def test_evaluation_meets_every_example_once(n: int, rows: int, packing: bool) -> None:
    data = random_tokenized(n)
    train = dataclasses.replace(TRAIN, eval_rows=rows, packing=packing)
    for multiple in (1, 3):
        batches = list(eval_batches(data, train, 0, multiple))
        assert {batch["token_BT"].shape for batch in batches} == {(rows * multiple, 32)}
        assert len({batch["mask_BE"].shape for batch in batches}) == 1
        met = list(itertools.chain.from_iterable(map(examples_of, batches)))
        assert sorted(met) == list(range(n))
        for batch in batches:
            filled = batch["index_BE"] >= 0
            assert (batch["mask_BE"] == filled).all()
            np.testing.assert_array_equal(
                batch["label_BE"][filled], data.label[batch["index_BE"][filled]]
            )


@pytest.mark.parametrize("choices", [1, 2])
def test_batches_of_an_evaluation_are_those_built_one_by_one(choices: int) -> None:
    data = random_tokenized(80)
    if choices > 1:
        data = dataclasses.replace(
            data,
            task_type=TASK_TYPES["multiple_choice"],
            label=np.arange(40, dtype=np.int32) % choices,
            choices=choices,
            example=np.repeat(np.arange(40, dtype=np.int32), choices),
        )
    train = dataclasses.replace(TRAIN, eval_rows=1)
    together = list(eval_batches(data, train, 0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "BATCHES_AT_ONCE", 1)
        alone = list(eval_batches(data, train, 0, 1))
    assert len(together) == len(alone) > loader.BATCHES_AT_ONCE
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].flags.c_contiguous


def test_few_shapes_for_many_sets() -> None:
    sets = [random_tokenized(40, seed=seed) for seed in range(8)]
    slots = {next(eval_batches(data, TRAIN, 0, 1))["mask_BE"].shape[1] for data in sets}
    assert slots == {8, 16}
