"""A stage ends the same whenever it was killed, stops when it should, and repeats nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.config import Data, Optimizer, Stage, Task, Train
from flaxfer.errors import CheckpointError, DivergedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.spec import ModelSpec
from flaxfer.training import loop, stage_run
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.stage_run import DONE, StageRun
from flaxfer.training.vocabulary import Vocabulary
from tests.helpers import encoder_config, mesh_of, random_tokenized

TASK = Task("score", "regression", "pearson")
ENCODER = encoder_config(layers=1, dropout=0.1)
# Fourteen examples: an epoch ends in the middle of the fourth step.
TRAIN = Train(
    batch_size=4,
    gradient_accumulation_steps=2,
    max_steps=9,
    eval_every=2,
    row_length=32,
    max_bucket_sizes=1,
    eval_rows=4,
    log_every=1,
)
EVALUATIONS = [2, 4, 6, 8, 9]
TIMES = ("seconds", "compile_seconds", "examples_per_s", "useful_tokens_per_s", "input_stall_share")


class Killed(Exception):
    """Stands for a kill: nothing catches it."""


def run_of(folder: Path, **train: Any) -> StageRun:
    settings = dataclasses.replace(TRAIN, **train)
    return StageRun(
        name="direct/target",
        folder=folder,
        settings=Stage(TASK, Data(()), {}, Optimizer(learning_rate=1e-2), settings),
        seed=0,
        train=random_tokenized(14),
        dev=random_tokenized(9, seed=1),
        evaluator=Evaluator(
            ModelSpec(ENCODER, num_outputs=1), TASK, settings, jnp.dtype("float32"), mesh_of()
        ),
        vocabulary=Vocabulary.whole(ENCODER.vocab_size),
        start="random",
    )


def train(run: StageRun, begin: Callable[[], Any]) -> dict[str, Any]:
    """Trains one seed; what its done.json holds."""
    loop.train([(run, begin)])
    assert run.done is not None
    return run.done


def start() -> dict[str, Any]:
    return ModelSpec(ENCODER, num_outputs=1).random_params(0)


def no_start() -> dict[str, Any]:
    raise AssertionError("it has a checkpoint to continue from")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMES}


def log_of(run: StageRun) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """What is saved at each step, in the order of the saves."""
    return spy_on_saves(monkeypatch)


def spy_on_saves(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    found: dict[int, Any] = {}
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, items: Any, *rest: Any) -> None:
        found[step] = jax.tree.map(np.array, items)
        real(self, step, items, *rest)

    monkeypatch.setattr(CheckpointStore, "save", save)
    return found


@dataclasses.dataclass
class Finished:
    run: StageRun
    done: dict[str, Any]
    saved: dict[int, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A run that nobody disturbed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = spy_on_saves(monkeypatch)
        run = run_of(tmp_path_factory.mktemp("whole"))
        yield Finished(run, train(run, start), found)


def fail(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: int, after: bool = False
) -> None:
    """Lets the `when`-th call of a function raise, before it does anything or after."""
    real, calls = getattr(owner, name), iter(range(1, 100))

    def function(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        if number == when and not after:
            raise Killed
        result = real(*args, **kwargs)
        if number == when:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, function)


def assert_same(
    run: StageRun, done: dict[str, Any], saved: dict[int, Any], whole: Finished
) -> None:
    assert without_times(done) == without_times(whole.done)
    assert log_of(run) == log_of(whole.run)
    for step in saved:
        one, other = saved[step], whole.saved[step]
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    for one, other in zip(
        *map(jax.tree.leaves, (run.best_params(), whole.run.best_params())), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_whole_run(whole: Finished) -> None:
    assert list(whole.saved) == EVALUATIONS
    log = log_of(whole.run)
    assert [r["step"] for r in log if r["kind"] == "train"] == list(range(1, 10))
    dev = {r["step"]: r for r in log if r["kind"] == "dev"}
    assert list(dev) == EVALUATIONS
    scores = {step: record["metrics"]["pearson"] for step, record in dev.items()}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert whole.done["best_step"] == best
    assert whole.done["dev"] == dev[best]["metrics"]
    assert (whole.done["steps"], whole.done["stopped_early"]) == (9, False)
    assert 0 < whole.done["padding_share"] < 1
    assert whole.done["examples_per_s"] > 0
    assert 0 < whole.done["input_stall_share"] < 1
    assert [c.step for c in whole.run.store.all()] == [best]
    for path, leaf in jax.tree.leaves_with_path(whole.run.best_params()):
        wanted = dict(jax.tree.leaves_with_path(whole.saved[best]["params"]))[path]
        np.testing.assert_array_equal(leaf, wanted)


def test_a_finished_stage_is_not_repeated(whole: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, loop, "make_train_step", 1)
    assert train(whole.run, no_start) == whole.done


@pytest.mark.parametrize(
    ("owner", "name", "when", "after"),
    [
        pytest.param(Evaluator, "predict_seeds", 2, False, id="in-the-second-evaluation"),
        pytest.param(CheckpointStore, "save", 3, False, id="before-the-third-save"),
        pytest.param(CheckpointStore, "save", 1, True, id="after-the-first-save"),
        pytest.param(CheckpointStore, "save", 5, True, id="f23-after-the-last-save"),
        pytest.param(CheckpointStore, "finish", 1, False, id="f23-before-cleaning-up"),
        pytest.param(stage_run, "write_atomically", 1, False, id="before-it-is-marked-as-done"),
    ],
)
def test_f25_f30_killed_and_continued(
    owner: Any,
    name: str,
    when: int,
    after: bool,
    whole: Finished,
    tmp_path: Path,
    saved: dict[int, Any],
) -> None:
    run = run_of(tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail(monkeypatch, owner, name, when, after)
        with pytest.raises(Killed):
            train(run, start)
    if run.done is None:
        with open(tmp_path / "metrics.jsonl", "a") as log:
            log.write('{"step": 99, "kind": "tr')  # The half line of a kill.
    assert_same(run, train(run, no_start), saved, whole)
    assert list(saved) == EVALUATIONS
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [
        f"{whole.done['best_step']:08d}"
    ]


def test_f02_the_newest_checkpoint_is_damaged(
    whole: Finished, tmp_path: Path, saved: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path)
    scripted = [0.1, 0.5, 0.3]
    with pytest.MonkeyPatch.context() as monkeypatch:
        script(monkeypatch, scripted)
        fail(monkeypatch, CheckpointStore, "save", 3, after=True)
        with pytest.raises(Killed):
            train(run, start)
    assert [c.step for c in run.store.all()] == [4, 6]
    damaged = next((tmp_path / "checkpoints/00000006/opt_state").rglob("_METADATA"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    saved.clear()
    done = train(run, no_start)
    assert "step 6 is damaged" in caplog.text
    assert list(saved) == [6, 8, 9]
    assert done["steps"] == 9
    for one, other in zip(*map(jax.tree.leaves, (saved[9], whole.saved[9])), strict=True):
        np.testing.assert_array_equal(one, other)


def script(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Gives the dev evaluations these scores, the last one for ever."""
    numbers = iter(scores)
    last = scores[-1]

    def predict(self: Evaluator, params: Any, data: Any, seeds: int) -> Any:
        score = next(numbers, last)
        return [(np.zeros((len(data), 1)), {"pearson": score, "spearman": score, "mse": 1.0})]

    monkeypatch.setattr(Evaluator, "predict_seeds", predict)


@pytest.mark.parametrize(
    ("scores", "patience", "steps", "best"),
    [
        ([0.5, 0.4, 0.3, 0.9], 2, 6, 2),
        ([0.1, 0.5, 0.5, 0.4], 2, 8, 4),
        ([float("nan"), 0.3, 0.2, 0.4, 0.1], 2, 9, 8),
        ([float("nan"), float("nan"), 0.4], 2, 4, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 0, 9, 2),
    ],
)
def test_f13_patience(
    scores: list[float],
    patience: int,
    steps: int,
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, scores)
    run = run_of(tmp_path, patience=patience)
    done = train(run, start)
    assert (done["steps"], done["best_step"]) == (steps, best)
    assert done["stopped_early"] == (steps < 9)
    dev = [record for record in log_of(run) if record["kind"] == "dev"]
    assert [record["step"] for record in dev] == [s for s in EVALUATIONS if s <= steps]
    gains = [record["step"] for record in dev if record["best"]]
    assert gains[-1:] == [best] if np.isfinite(scores).any() and steps > 4 else gains == []


def test_patience_that_ran_out_before_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, patience=2)
    script(monkeypatch, [0.5, 0.4, 0.3, 0.9])
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, CheckpointStore, "save", 3, after=True)
        with pytest.raises(Killed):
            train(run, start)
    done = train(run, no_start)
    assert (done["steps"], done["best_step"], done["stopped_early"]) == (6, 2, True)


def test_patience_is_remembered_over_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, patience=2)
    script(monkeypatch, [0.5, 0.4, 0.3, 0.9])
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, CheckpointStore, "save", 2, after=True)
        with pytest.raises(Killed):
            train(run, start)
    assert train(run, no_start)["steps"] == 6


def test_f52_evaluating_more_often_leaves_training_alone(
    whole: Finished, tmp_path: Path, saved: dict[int, Any]
) -> None:
    run = run_of(tmp_path, eval_every=9)
    train(run, start)
    assert list(saved) == [9]
    for one, other in zip(*map(jax.tree.leaves, (saved[9], whole.saved[9])), strict=True):
        np.testing.assert_array_equal(one, other)
    losses = [
        [record["loss"] for record in log_of(r) if record["kind"] == "train"]
        for r in (run, whole.run)
    ]
    assert losses[0] == losses[1]


def test_a_loss_beyond_all_numbers_is_an_error(tmp_path: Path) -> None:
    run, params = run_of(tmp_path), start()
    params["head"]["output"]["kernel"] *= 1e30  # As a step of an absurd learning rate leaves it.
    with pytest.raises(DivergedError, match=r"the loss of step 1 is (inf|nan)") as error:
        train(run, lambda: params)
    assert error.value.exit_code == 5
    assert run.store.newest() is None and run.done is None
    with pytest.raises(DivergedError):
        train(run, lambda: params)


def test_f49_a_gradient_that_is_not_finite_is_noticed_in_its_step(
    tmp_path: Path, saved: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = loop.make_train_step

    def make(*args: Any, **rest: Any) -> Any:
        function = real(*args, **rest)

        def step(own: Any, *rest: Any) -> Any:
            new, metrics = function(own, *rest)
            infinite = jnp.where(new.step == 4, jnp.inf, metrics["gradient_norm"])
            return new, {**metrics, "gradient_norm": infinite}

        step._cache_size = function._cache_size  # type: ignore[attr-defined]
        return step

    monkeypatch.setattr(loop, "make_train_step", make)
    with pytest.raises(DivergedError, match="gradient norm of step 4 is inf"):
        train(run_of(tmp_path), start)
    assert list(saved) == [2], "the evaluation of step 4 comes after"


def test_f24_a_finished_stage_without_its_checkpoint(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (tmp_path / DONE).write_text("{}")
    with pytest.raises(
        CheckpointError, match="direct/target seed 0 is marked as finished"
    ) as error:
        run.best_params()
    assert str(tmp_path) in str(error.value) and "repeats the stage" in str(error.value)
