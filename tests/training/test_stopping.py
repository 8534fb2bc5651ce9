"""A stage that a signal stops is saved where it is, and ends as if nothing had happened."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.errors import PreemptedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.runtime import signals
from flaxfer.training import loop
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.run import Run
from tests.training.helpers import (
    Case,
    Killed,
    Saves,
    assert_equal_trees,
    kill_at,
    no_start,
    record_saves,
    saved,
    saves_of,
    stage_case,
    train,
    without_times,
)
from tests.training.test_rehearsal import rehearsing_case

__all__ = ["saved"]

SLOW = pytest.mark.slow
KINDS = ["alone", *(pytest.param(kind, marks=SLOW) for kind in ("batched", "rehearsing"))]


def cases_of(kind: str, store: Path, **changes: Any) -> list[Case]:
    """Stages with dropout whose epochs end in the middle of a step of two micro-batches."""
    if kind == "rehearsing":
        return [rehearsing_case(store, 0, **changes)]
    seeds = (0, 1) if kind == "batched" else (0,)
    return [stage_case(store, seed, max_steps=5, **changes) for seed in seeds]


@dataclasses.dataclass
class Whole:
    cases: list[Case]
    saves: Saves


@pytest.fixture(scope="module", params=KINDS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Whole]:
    """An undisturbed run that saves every step; it evaluates after 2, 4 and 5."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        saves = record_saves(monkeypatch)
        cases = cases_of(request.param, tmp_path_factory.mktemp("whole"), save_every=1)
        train(*cases)
        assert all(list(saves_of(saves, case)) == [1, 2, 3, 4, 5] for case in cases)
    return request.param, Whole(cases, saves)


def signal_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, number: int = signal.SIGTERM
) -> None:
    """Let a signal arrive at the numbered call of a function."""
    real, calls = getattr(owner, name), iter(range(1, 100))

    def function(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, function)


def train_until_signal(cases: list[Case], owner: Any, name: str, call: int) -> PreemptedError:
    with pytest.MonkeyPatch.context() as monkeypatch:
        signal_at(monkeypatch, owner, name, call)
        with pytest.raises(PreemptedError) as error, signals.handled():
            train(*cases, starts=[None if newest(case) == 0 else no_start for case in cases])
    return error.value


def newest(case: Case) -> int:
    checkpoint = case.spec.checkpoints.newest()
    return checkpoint.step if checkpoint else 0


def assert_same(cases: list[Case], saves: Saves, whole: Whole) -> None:
    """Compare losses, dev scores, notes, and all that was saved, to the bit."""
    for case, expected in zip(cases, whole.cases, strict=True):
        assert case.log() == expected.log()
        assert without_times(case.done()) == without_times(expected.done())
        wanted = saves_of(whole.saves, expected)
        for step, items in saves_of(saves, case).items():
            assert_equal_trees(items, wanted[step])
        assert_equal_trees(case.best_params(), expected.best_params())


@pytest.mark.parametrize(
    ("owner", "name", "call", "step", "scored"),
    [
        # Asked before and after every step.
        pytest.param(loop, "compiled_programs", 6, 3, False, id="in-a-step"),
        pytest.param(Evaluator, "predict_seeds", 2, 4, False, id="in-an-evaluation"),
        pytest.param(CheckpointStore, "save", 2, 4, True, id="in-a-save", marks=SLOW),
        pytest.param(Evaluator, "predict_seeds", 3, 5, False, id="in-the-last-evaluation"),
    ],
)
def test_a_stopped_run_is_saved_where_it_is_and_continues_to_the_same_end(
    owner: Any, name: str, call: int, step: int, scored: bool, whole: tuple[str, Whole],
    tmp_path: Path, saved: Saves, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kind, expected = whole
    cases = cases_of(kind, tmp_path)
    if owner is CheckpointStore:  # Called for every seed.
        call = (call - 1) * len(cases) + 1
    error = train_until_signal(cases, owner, name, call)
    assert error.exit_code == 75
    seeds = "seeds 0, 1" if kind == "batched" else "seed 0"
    where = f"{cases[0].spec.condition}/{cases[0].spec.name} {seeds}"
    assert str(error) == f"stopped by SIGTERM in {where} after step {step} of 5"
    for case in cases:
        checkpoint = case.spec.checkpoints.newest()
        assert checkpoint is not None and checkpoint.step == step
        assert (checkpoint.notes["dev"] is not None) == np.isfinite(checkpoint.score) == scored
    capsys.readouterr()
    train(*cases, starts=[no_start] * len(cases))
    assert f"continues after step {step}" in capsys.readouterr().err
    assert_same(cases, saved, expected)


def test_a_stop_before_the_first_step_loses_nothing(tmp_path: Path) -> None:
    (case,) = cases_of("alone", tmp_path)
    error = train_until_signal([case], loop, "make_train_step", 1)
    assert (str(error), newest(case)) == ("stopped by SIGTERM", 0)


@pytest.mark.slow
def test_starts_that_are_stopped_again_and_again_get_to_the_end(
    tmp_path: Path, saved: Saves
) -> None:
    (case,), steps = cases_of("alone", tmp_path), []
    for owner, name in [(Run, "log_step")] * 3 + [(Evaluator, "predict_seeds")] * 3:
        train_until_signal([case], owner, name, 1)
        steps.append(newest(case))
    assert steps == [2, 4, 5, 5, 5, 5]
    train(case, starts=[no_start])
    assert [record["step"] for record in case.log("dev")] == [2, 4, 5]
    assert list(saves_of(saved, case)) == [2, 4, 5]


@pytest.mark.slow
def test_seeds_that_are_scored_already_are_not_scored_again(
    tmp_path: Path, saved: Saves, whole: tuple[str, Whole]
) -> None:
    kind, expected = whole
    if kind != "batched":
        pytest.skip("there is one seed")
    cases = cases_of(kind, tmp_path)
    train_until_signal(cases, Evaluator, "predict_seeds", 2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, CheckpointStore, "add_score", 1, after=True)
        with pytest.raises(Killed):
            train(*cases, starts=[no_start] * 2)
    train(*cases, starts=[no_start] * 2)
    assert_same(cases, saved, expected)


@pytest.mark.parametrize(
    "save", [{"save_every": 3}, pytest.param({"save_minutes": 1e-9}, marks=SLOW)]
)
def test_a_run_that_is_killed_between_evaluations_continues_from_its_last_save(
    save: dict[str, Any], whole: tuple[str, Whole], tmp_path: Path, saved: Saves
) -> None:
    kind, expected = whole
    cases = cases_of(kind, tmp_path, **save)
    calls = len(cases) * (2 if "save_every" in save else 3)
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, CheckpointStore, "save", calls, after=True)
        with pytest.raises(Killed):
            train(*cases)
    for case in cases:
        assert [checkpoint.step for checkpoint in case.spec.checkpoints.all()] == [2, 3]
        best = case.spec.checkpoints.best()
        assert best is not None and best.step == 2, "a checkpoint without scores is never the best"
    train(*cases, starts=[no_start] * len(cases))
    assert_same(cases, saved, expected)


def test_saving_more_often_changes_no_identity_but_skipping_steps_does(tmp_path: Path) -> None:
    folder = stage_case(tmp_path).folder
    assert stage_case(tmp_path, save_every=3, save_minutes=0.5).folder == folder
    assert stage_case(tmp_path, max_skipped_steps=1).folder != folder
