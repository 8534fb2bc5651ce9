"""A run that has not learned begins anew as another seed would, and ends the same if killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flaxfer.training.stage_run import StageRun

from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.spec import ModelSpec
from flaxfer.tasks import TASK_TYPES
from flaxfer.training import loop, restarts
from tests.training.test_loop import (
    ENCODER,
    EVALUATIONS,
    Killed,
    fail,
    log_of,
    run_of,
    script,
    spy_on_saves,
    without_times,
)

LOST, LEARNED = [0.1] * len(EVALUATIONS), [0.9] * len(EVALUATIONS)
"""Dev scores of an attempt; of 9 examples, 2 / 3 is chance."""


def restarting(folder: Path, times: int, **changes: Any) -> StageRun:
    run = run_of(folder)
    settings = dataclasses.replace(run.settings, max_restarts=times)
    return dataclasses.replace(run, settings=settings, **changes)


def begin(run: StageRun) -> Callable[[], Any]:
    return lambda: ModelSpec(ENCODER, num_outputs=1).random_params(run.attempt_seed)


def train(*runs: StageRun) -> None:
    loop.train([(run, begin(run)) for run in runs])


def assert_same(saved: dict[int, Any], other: dict[int, Any]) -> None:
    assert list(saved) == list(other) == EVALUATIONS
    for one, two in zip(*map(jax.tree.leaves, (saved, other)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture
def second(tmp_path: Path) -> tuple[dict[int, Any], list[dict[str, Any]]]:
    """Checkpoints and metrics of the seed that the second attempt of seed 0 draws from."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        script(monkeypatch, LEARNED)
        saved = spy_on_saves(monkeypatch)
        run = dataclasses.replace(run_of(tmp_path / "second"), seed=restarts.drawn_seed(0, 1))
        train(run)
        return dict(saved), log_of(run)


def test_the_next_attempt_is_what_its_seed_makes(
    second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    script(monkeypatch, LOST + LEARNED)
    saved = spy_on_saves(monkeypatch)
    run = restarting(tmp_path, 2)
    train(run)
    assert_same(saved, second[0])
    assert log_of(run) == second[1]
    assert run.attempt_seed == restarts.drawn_seed(0, 1) != run.seed == 0
    assert run.done is not None
    (record,) = run.done["restarts"]
    assert record == restarts.records(tmp_path)[0]
    assert (record["attempt_seed"], record["steps"]) == (0, 9) and record["seconds"] > 0
    assert record["why"] == "the best dev pearson is 0.100: up to 0.667 is chance"
    assert "starts anew, 1 of 2: the best dev pearson is 0.100" in capsys.readouterr().err
    lost = [json.loads(x) for x in (tmp_path / "restarts" / "0.jsonl").read_text().splitlines()]
    assert [r["metrics"]["pearson"] for r in lost if r["kind"] == "dev"] == LOST
    first = [r["loss"] for r in lost if r["kind"] == "train"]
    assert first != [r["loss"] for r in log_of(run) if r["kind"] == "train"]


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_last_attempt_counts_whatever_it_is(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, LOST)
    run = restarting(tmp_path, times)
    train(run)
    assert run.done is not None
    draws = [record["attempt_seed"] for record in run.done["restarts"]]
    assert draws == [restarts.drawn_seed(0, i) for i in range(times)]
    assert len({*draws, run.attempt_seed}) == times + 1
    assert run.done["dev"]["pearson"] == 0.1


@pytest.mark.parametrize(
    ("owner", "name", "when", "after"),
    [
        (restarts, "give_up", 1, False),
        (restarts, "write_atomically", 1, False),
        (restarts, "write_atomically", 1, True),
        (shutil, "rmtree", -1, False),
        (os, "replace", -1, False),
        (os, "replace", -1, True),
    ],
)
def test_f25_killed_between_two_attempts(
    owner: Any,
    name: str,
    when: int,
    after: bool,
    second: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, LOST + LEARNED)
    saved = spy_on_saves(monkeypatch)
    run = restarting(tmp_path, 1)
    real = restarts.tidy
    with pytest.MonkeyPatch.context() as patch:
        if when > 0:
            fail(patch, owner, name, when, after)
        else:  # Within `tidy`, but for the call at the start, which has nothing to do.

            def tidy(folder: Path) -> None:
                with pytest.MonkeyPatch.context() as within:
                    if restarts.records(folder):
                        fail(within, owner, name, 1, after)
                    real(folder)

            patch.setattr(restarts, "tidy", tidy)
        with pytest.raises(Killed):
            train(run)
    assert run.done is None
    train(run)
    assert_same(saved, second[0])
    assert log_of(run) == second[1]
    assert run.done is not None and len(run.done["restarts"]) == 1
    assert {file.name for file in (tmp_path / "restarts").iterdir()} == {"0.json", "0.jsonl"}


def test_of_a_group_only_what_has_not_learned_begins_anew(
    second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([(0.9, 0.1)] * len(EVALUATIONS) + [(0.8,)] * len(EVALUATIONS))

    def predict(self: Evaluator, params: Any, data: Any, seeds: int) -> Any:
        scores = next(numbers)
        assert len(scores) == seeds
        outputs = np.zeros((len(data), 1))
        return [(outputs, {"pearson": s, "spearman": s, "mse": 1.0}) for s in scores]

    monkeypatch.setattr(Evaluator, "predict_seeds", predict)
    saved = spy_on_saves(monkeypatch)
    one, two = (restarting(tmp_path / str(seed), 1, seed=seed) for seed in (5, 0))
    train(one, two)
    assert_same(saved, second[0])
    assert one.done is not None and two.done is not None
    assert (one.done["restarts"], one.attempt_seed) == ([], 5)
    assert [record["attempt_seed"] for record in two.done["restarts"]] == [0]
    losses = [r["loss"] for r in log_of(two) if r["kind"] == "train"]
    assert losses == [r["loss"] for r in second[1] if r["kind"] == "train"]


def test_a_finished_stage_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, LOST)
    run = restarting(tmp_path, 1)
    train(run)
    before = without_times(run.done or {})
    train(dataclasses.replace(run, settings=dataclasses.replace(run.settings, max_restarts=3)))
    assert without_times(run.done or {}) == before


@pytest.mark.parametrize(
    ("kind", "dev", "n", "choices", "why"),
    [
        ("classification", {"accuracy": 0.9, "mcc": 0.0}, 400, 1, "mcc is 0.000"),
        ("classification", {"accuracy": 0.9, "mcc": float("nan")}, 400, 1, "mcc is 0.000"),
        ("classification", {"accuracy": 0.5, "mcc": 0.1001}, 400, 1, ""),
        ("classification", {"accuracy": 0.5, "mcc": 0.1}, 400, 1, "up to 0.100"),
        ("classification", {"accuracy": 0.5, "mcc": 0.051}, 10_000, 1, ""),
        ("regression", {"pearson": 0.19}, 100, 1, "up to 0.200"),
        ("regression", {"pearson": 0.21}, 100, 1, ""),
        ("regression", {"pearson": -0.9}, 100, 1, "pearson is -0.900"),
        ("tagging", {"f1": 0.0, "accuracy": 0.9}, 2000, 1, "f1 is 0.000"),
        ("question_answering", {"f1": 0.3}, 2000, 1, ""),
        ("multiple_choice", {"accuracy": 0.25}, 2000, 4, "accuracy beyond chance is 0.000"),
        ("multiple_choice", {"accuracy": 0.55}, 2000, 4, ""),
    ],
)
def test_what_counts_as_not_learned(
    kind: Any, dev: dict[str, float], n: int, choices: int, why: str
) -> None:
    found = restarts.why_not_learned(*TASK_TYPES[kind].learning_score(dev, choices), n)
    assert why in found and bool(found) == bool(why)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_draws_are_of_their_own(seed: int) -> None:
    draws: Sequence[int] = [restarts.drawn_seed(seed, attempt) for attempt in range(20)]
    assert draws[0] == seed and len(set(draws)) == 20
    assert all(0 <= draw < 2**31 for draw in draws[1:])
