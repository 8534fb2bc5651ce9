"""Losses, gradients and parameters that are not finite, and memory that runs out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError, DivergedError
from flaxfer.training import loop
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.vocabulary import row_decay
from tests.helpers import random_tokenized
from tests.training.helpers import (
    OPTIMIZER,
    Case,
    Killed,
    Saves,
    assert_equal_trees,
    kill_at,
    no_start,
    saved,
    saves_of,
    stage_case,
    train,
)

__all__ = ["saved"]

BAD = 5
"""An example whose label is NaN."""


def poisoned() -> tuple[Tokenized, Tokenized]:
    data = random_tokenized(14)
    data.label[BAD] = np.nan
    return data, random_tokenized(9, seed=1)


def batches(steps: int) -> list[list[int]]:
    """Examples of each step of seed 0: epochs are permutations, batches of four."""
    order = np.concatenate([np.random.default_rng((0, e)).permutation(14) for e in range(4)])
    return [order[4 * step : 4 * step + 4].tolist() for step in range(steps)]


BAD_STEPS = [number for number, batch in enumerate(batches(9), start=1) if BAD in batch]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_examples_of_its_batch(
    tmp_path: Path, saved: Saves
) -> None:
    case, first = stage_case(tmp_path, splits=poisoned(), save_every=1), BAD_STEPS[0]
    ids = [f"example:{i}" for i in batches(9)[first - 1]]
    message = f"the loss of step {first} is nan; its examples: {', '.join(ids)}"
    with pytest.raises(DivergedError, match=message):
        train(case)
    assert list(saves_of(saved, case)) == list(range(1, first)), "all are from before"
    failed = json.loads((case.folder / "failed.json").read_text())
    assert (failed["step"], failed["examples"]) == (first, ids)


@pytest.mark.slow
def test_many_examples_are_counted(tmp_path: Path) -> None:
    splits = poisoned()
    splits[0].label[:] = np.nan
    case = stage_case(tmp_path, splits=splits, batch_size=12, max_steps=1)
    with pytest.raises(DivergedError, match=r"(example:\d+, ){9}example:\d+ and 2 more"):
        train(case)


def test_steps_that_are_not_finite_are_skipped_before_one_is_an_error(
    tmp_path: Path, saved: Saves
) -> None:
    *skipped, last = BAD_STEPS
    case = stage_case(tmp_path, splits=poisoned(), save_every=1, max_skipped_steps=len(skipped))
    ids = [f"example:{i}" for i in batches(9)[last - 1]]
    with pytest.raises(DivergedError, match=f"step {last} is nan; its examples: {', '.join(ids)}"):
        train(case)
    saves, logged = saves_of(saved, case), case.log()
    assert skipped and list(saves) == list(range(1, last))
    assert [r["step"] for r in logged if r["kind"] == "skipped"] == skipped
    steps = sorted({*range(1, last)} - {*skipped})
    assert [r["step"] for r in logged if r["kind"] == "train"] == steps
    for step in range(2, last):
        before, after = saves[step - 1], saves[step]
        same = [
            np.array_equal(a, b) or a.dtype == np.int32
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        ]
        assert all(same) == (step in skipped)
        counts = [leaf for leaf in jax.tree.leaves(after) if leaf.dtype == np.int32]
        assert counts and all(count == step for count in counts), "the schedule keeps in step"
    # Token 1 occurs nowhere: its row only decays, but not in the skipped steps.
    table = [
        np.asarray(params["encoder"]["embeddings"]["word"]["embedding"][1])
        for params in (case.start(), saves[last - 1]["params"])
    ]
    factor = row_decay(OPTIMIZER, last - 1, 9, case.start(), BAD_STEPS)
    np.testing.assert_allclose(table[1], factor * table[0], rtol=1e-6)
    assert row_decay(OPTIMIZER, last - 1, 9, case.start()) < factor < 1


@pytest.mark.slow
def test_a_finished_run_says_which_steps_were_skipped(tmp_path: Path) -> None:
    case = stage_case(tmp_path, splits=poisoned(), max_skipped_steps=3)
    train(case)
    assert case.done()["skipped_steps"] == BAD_STEPS


@pytest.mark.slow
def test_skipping_changes_nothing_where_all_is_finite(tmp_path: Path, saved: Saves) -> None:
    plain, skipping = stage_case(tmp_path), stage_case(tmp_path, max_skipped_steps=1)
    train(plain)
    train(skipping)
    assert skipping.log() == plain.log()
    for step, items in saves_of(saved, plain).items():
        assert_equal_trees(saves_of(saved, skipping)[step], items)


@pytest.mark.slow
def test_skipped_steps_have_a_cap_that_a_kill_does_not_reset(tmp_path: Path) -> None:
    case = stage_case(tmp_path, splits=poisoned(), save_every=1, max_skipped_steps=1)
    first, second = BAD_STEPS[:2]
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, CheckpointStore, "save", first, after=True)
        with pytest.raises(Killed):
            train(case)
    with pytest.raises(DivergedError, match=f"the loss of step {second} is nan"):
        train(case, starts=[no_start])
    newest = case.spec.checkpoints.newest()
    assert newest is not None and newest.step == second - 1


def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    case = stage_case(tmp_path)
    run = case.run()
    assert run.prepare()
    params = case.start()
    moments = {"mu": np.zeros(3, np.float32), "count": np.int32(1)}
    run.save(1, {"params": params, "opt_state": moments}, None)
    assert run.error is None and run.saved_step == 1
    moments["mu"][2] = np.inf
    run.save(2, {"params": params, "opt_state": moments}, None)
    assert run.ended and run.error is not None
    assert run.error.what == "after step 2, opt_state/mu is not finite"
    newest = case.spec.checkpoints.newest()
    assert newest is not None and newest.step == 1
    assert "after step 2, opt_state/mu" in case.spec.failure()


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int, error: Callable[[], Any]) -> None:
    """Let the numbered step call `error`, which raises."""
    real: Callable[..., Any] = loop.make_train_step

    def make(*args: Any) -> Any:
        function = real(*args)

        def step(state: Any, *rest: Any) -> Any:
            if int(state.step) == call - 1:
                error()
            return function(state, *rest)

        step._cache_size = function._cache_size
        step.lower = function.lower
        return step

    monkeypatch.setattr(loop, "make_train_step", make)


@pytest.mark.parametrize(
    ("error", "asked", "step"),
    [
        (lambda: jnp.zeros(1 << 46, jnp.uint8), "70368744177664 bytes could not be allocated", 1),
        (lambda: np.zeros(1 << 60, np.uint8), "1.00 EiB could not be allocated", 1),
        pytest.param(lambda: bytearray(1 << 60), "MemoryError", 4, marks=pytest.mark.slow),
    ],
)
def test_out_of_memory_says_what_was_trained_and_what_to_change(
    error: Callable[[], Any], asked: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = stage_case(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, step, error)
        with pytest.raises(ConfigError) as caught:
            train(case)
    text = str(caught.value)
    count = sum(leaf.size for leaf in jax.tree.leaves(case.start()))
    assert text.startswith("direct/target seed 0: out of memory in batches of 4 examples, ")
    assert " rows of 32 tokens at a time" in text and f"{4 * count:,} bytes of parameters" in text
    assert asked in text
    for remedy in ("train.gradient_accumulation_steps", "train.remat", "train.batch_size"):
        assert remedy in text
    newest = case.spec.checkpoints.newest_whole()
    assert (newest.step if newest else 0) == (2 if step > 2 else 0)
