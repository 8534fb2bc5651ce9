"""A stage ends the same whenever it was killed, stops when it should, and repeats nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.config import Optimizer
from flaxfer.errors import CheckpointError, ClaimLostError, DivergedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.training import loop, run
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.record import DONE, StageRecord, open_finished
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
    script_scores,
    stage_case,
    train,
    without_times,
)

__all__ = ["saved"]

EVALUATIONS = [2, 4, 6, 8, 9]
NAN = float("nan")


@dataclasses.dataclass
class Undisturbed:
    case: Case
    saves: dict[int, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """A run that nobody disturbed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        saves = record_saves(monkeypatch)
        case = stage_case(tmp_path_factory.mktemp("whole"))
        train(case)
        yield Undisturbed(case, saves_of(saves, case))


def assert_same(case: Case, saves: dict[int, Any], whole: Undisturbed) -> None:
    assert without_times(case.done()) == without_times(whole.case.done())
    assert case.log() == whole.case.log()
    for step in saves:
        assert_equal_trees(saves[step], whole.saves[step])
    assert_equal_trees(case.best_params(), whole.case.best_params())


def test_a_whole_run(whole: Undisturbed) -> None:
    case, done = whole.case, whole.case.done()
    assert list(whole.saves) == EVALUATIONS
    assert [record["step"] for record in case.log("train")] == list(range(1, 10))
    dev = {record["step"]: record for record in case.log("dev")}
    assert list(dev) == EVALUATIONS
    scores = {step: record["metrics"]["pearson"] for step, record in dev.items()}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert done["best_step"] == best
    assert done["dev"] == dev[best]["metrics"]
    assert (done["steps"], done["stopped_early"]) == (9, False)
    assert 0 < done["padding_share"] < 1
    assert done["examples_per_s"] > 0
    assert 0 < done["input_stall_share"] < 1
    assert [checkpoint.step for checkpoint in case.spec.checkpoints.all()] == [best]
    assert_equal_trees(case.best_params(), whole.saves[best]["params"])


def test_a_finished_stage_is_not_repeated(
    whole: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole.case.done()
    kill_at(monkeypatch, loop, "make_train_step", 1)
    train(whole.case, starts=[no_start])
    assert whole.case.done() == before


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        pytest.param(Evaluator, "predict_seeds", 2, False, id="in-the-second-evaluation"),
        pytest.param(CheckpointStore, "save", 3, False, id="before-the-third-save"),
        pytest.param(CheckpointStore, "save", 1, True, id="after-the-first-save"),
        pytest.param(CheckpointStore, "save", 5, True, id="after-the-last-save"),
        pytest.param(CheckpointStore, "finish", 1, False, id="before-cleaning-up"),
        pytest.param(StageRecord, "write", 1, False, id="before-it-is-marked-as-done"),
    ],
)
def test_a_killed_run_continues_to_the_same_end(
    owner: Any,
    name: str,
    call: int,
    after: bool,
    whole: Undisturbed,
    tmp_path: Path,
    saved: Saves,
) -> None:
    case = stage_case(tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, owner, name, call, after)
        with pytest.raises(Killed):
            train(case)
    if not case.is_done():
        with open(case.folder / "metrics.jsonl", "a") as log:
            log.write('{"step": 99, "kind": "tr')  # The half line of a kill.
    train(case, starts=[no_start])
    saves = saves_of(saved, case)
    assert_same(case, saves, whole)
    assert list(saves) == EVALUATIONS
    assert [path.name for path in (case.folder / "checkpoints").iterdir()] == [
        f"{whole.case.done()['best_step']:08d}"
    ]


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(
    whole: Undisturbed, tmp_path: Path, saved: Saves, caplog: pytest.LogCaptureFixture
) -> None:
    case = stage_case(tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        script_scores(monkeypatch, [0.1, 0.5, 0.3])
        kill_at(monkeypatch, CheckpointStore, "save", 3, after=True)
        with pytest.raises(Killed):
            train(case)
    assert [checkpoint.step for checkpoint in case.spec.checkpoints.all()] == [4, 6]
    damaged = next((case.folder / "checkpoints/00000006/opt_state").rglob("_METADATA"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    saved.clear()
    train(case, starts=[no_start])
    assert "step 6 is damaged" in caplog.text
    assert list(saves_of(saved, case)) == [6, 8, 9]
    assert case.done()["steps"] == 9
    assert_equal_trees(saves_of(saved, case)[9], whole.saves[9])


@pytest.mark.parametrize(
    ("scores", "patience", "steps", "best"),
    [
        ([0.5, 0.4, 0.3, 0.9], 2, 6, 2),
        ([0.1, 0.5, 0.5, 0.4], 2, 8, 4),
        ([NAN, 0.3, 0.2, 0.4, 0.1], 2, 9, 8),
        ([NAN, NAN, 0.4], 2, 4, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 0, 9, 2),
    ],
)
def test_a_run_stops_when_its_patience_runs_out(
    scores: list[float],
    patience: int,
    steps: int,
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script_scores(monkeypatch, scores)
    case = stage_case(tmp_path, patience=patience)
    train(case)
    done = case.done()
    assert (done["steps"], done["best_step"]) == (steps, best)
    assert done["stopped_early"] == (steps < 9)
    dev = case.log("dev")
    assert [record["step"] for record in dev] == [step for step in EVALUATIONS if step <= steps]
    gains = [record["step"] for record in dev if record["best"]]
    assert gains[-1:] == [best] if np.isfinite(scores).any() and steps > 4 else gains == []


@pytest.mark.parametrize("save", [2, 3], ids=["while-it-runs-out", "after-it-ran-out"])
def test_patience_is_remembered_over_a_kill(
    save: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = stage_case(tmp_path, patience=2)
    script_scores(monkeypatch, [0.5, 0.4, 0.3, 0.9])
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, CheckpointStore, "save", save, after=True)
        with pytest.raises(Killed):
            train(case)
    train(case, starts=[no_start])
    done = case.done()
    assert (done["steps"], done["best_step"], done["stopped_early"]) == (6, 2, True)


def test_evaluating_less_often_leaves_training_alone(
    whole: Undisturbed, tmp_path: Path, saved: Saves
) -> None:
    case = stage_case(tmp_path, eval_every=9)
    train(case)
    saves = saves_of(saved, case)
    assert list(saves) == [9]
    assert_equal_trees(saves[9], whole.saves[9])
    losses, expected = ([r["loss"] for r in one.log("train")] for one in (case, whole.case))
    assert losses == expected


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    case = stage_case(tmp_path)
    params = case.start()
    params["head"]["output"]["kernel"] *= 1e30  # As a step of an absurd learning rate leaves it.
    with pytest.raises(DivergedError, match=r"the loss of step 1 is (inf|nan)") as error:
        train(case, starts=[lambda: params])
    assert error.value.exit_code == 5
    assert case.spec.checkpoints.newest() is None and not case.is_done()
    with pytest.raises(CheckpointError, match=r"has diverged: .* the loss of step 1 is"):
        open_finished(case.folder)
    with pytest.raises(DivergedError):
        train(case, starts=[lambda: params])


def test_an_update_that_spoils_the_parameters_is_noticed_by_the_evaluation(tmp_path: Path) -> None:
    optimizer = Optimizer(learning_rate=1e38, schedule="constant", warmup=0)
    case = stage_case(tmp_path, optimizer=optimizer, max_steps=1)
    with pytest.raises(DivergedError, match="outputs for dev after step 1 are not finite"):
        train(case)
    assert [record["step"] for record in case.log("train")] == [1], "its loss was finite"
    assert case.spec.checkpoints.newest() is None and not case.is_done()
    assert "outputs for dev" in case.spec.failure()


def test_a_gradient_that_is_not_finite_is_noticed_in_its_step(
    tmp_path: Path, saved: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = loop.make_train_step

    def make(*args: Any) -> Any:
        function = real(*args)

        def step(state: Any, *rest: Any) -> Any:
            new, metrics = function(state, *rest)
            infinite = jnp.where(new.step == 4, jnp.inf, metrics["gradient_norm"])
            return new, {**metrics, "gradient_norm": infinite}

        step._cache_size = function._cache_size
        step.lower = function.lower
        return step

    monkeypatch.setattr(loop, "make_train_step", make)
    case = stage_case(tmp_path)
    with pytest.raises(DivergedError, match="gradient norm of step 4 is inf"):
        train(case)
    assert list(saves_of(saved, case)) == [2], "the evaluation of step 4 comes after"


def test_a_finished_stage_without_its_checkpoint_is_an_error(tmp_path: Path) -> None:
    case = stage_case(tmp_path)
    case.run()
    (case.folder / DONE).write_text('{"best_step": 2}')
    with pytest.raises(CheckpointError, match="marked as finished") as error:
        case.best_params()
    assert str(tmp_path) in str(error.value) and "repeats this stage" in str(error.value)


def test_nothing_is_tidied_up_in_a_folder_that_may_be_lost(tmp_path: Path) -> None:
    def lost() -> None:
        raise ClaimLostError("lost")

    case = stage_case(tmp_path)
    case.run()
    (case.folder / DONE).write_text("{}")
    with pytest.raises(ClaimLostError):
        run.Run(case.spec, no_start, lost).prepare()


def test_arrays_of_a_whole_run_are_float32(whole: Undisturbed) -> None:
    assert {leaf.dtype for leaf in jax.tree.leaves(whole.case.best_params())} == {
        np.dtype("float32")
    }
