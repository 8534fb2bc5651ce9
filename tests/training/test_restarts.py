"""A run that has not learned begins anew as another seed would, and ends the same if killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Task
from flaxfer.tasks import TASK_TYPES
from flaxfer.training import restarts
from tests.training.helpers import (
    Case,
    Killed,
    assert_equal_trees,
    kill_at,
    random_tagged,
    record_saves,
    saves_of,
    script_scores,
    stage_case,
    train,
    without_times,
)

EVALUATIONS = [2, 4, 6, 8, 9]
LOST, LEARNED = [0.1] * len(EVALUATIONS), [0.9] * len(EVALUATIONS)
"""Dev scores of an attempt; of 9 examples, 2 / 3 is chance."""


def assert_same(saved: dict[int, Any], other: dict[int, Any]) -> None:
    assert list(saved) == list(other) == EVALUATIONS
    assert_equal_trees(saved, other)


@pytest.fixture
def second(tmp_path: Path) -> tuple[dict[int, Any], list[dict[str, Any]]]:
    """Checkpoints and metrics of a run whose seed is that of the second attempt of seed 0."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        script_scores(monkeypatch, LEARNED)
        saves = record_saves(monkeypatch)
        case = stage_case(tmp_path / "second", restarts.attempt_seed(0, 1))
        train(case)
        return saves_of(saves, case), case.log()


def test_the_next_attempt_is_the_run_of_its_seed(
    second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    script_scores(monkeypatch, LOST + LEARNED)
    saves = record_saves(monkeypatch)
    case = stage_case(tmp_path, max_restarts=2)
    train(case)
    assert_same(saves_of(saves, case), second[0])
    assert case.log() == second[1]
    assert case.spec.attempt_seed() == restarts.attempt_seed(0, 1) != case.spec.seed == 0
    (record,) = case.done()["restarts"]
    assert record == restarts.records(case.folder)[0]
    assert (record["attempt_seed"], record["steps"]) == (0, 9) and record["seconds"] > 0
    assert record["why"] == "the best dev pearson is 0.100: up to 0.667 is chance"
    assert "restarts, 1 of 2: the best dev pearson is 0.100" in capsys.readouterr().err
    lines = (case.folder / "restarts" / "0.jsonl").read_text().splitlines()
    lost = [json.loads(line) for line in lines]
    assert [r["metrics"]["pearson"] for r in lost if r["kind"] == "dev"] == LOST
    losses = [r["loss"] for r in lost if r["kind"] == "train"]
    assert losses != [r["loss"] for r in case.log("train")]


def test_chance_is_by_the_number_of_sentences_not_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, [0.5])
    tags = Task("tags", "tagging", "f1", ("x", "y"))
    splits = (random_tagged(14), random_tagged(9))
    case = stage_case(tmp_path, task=tags, splits=splits, max_restarts=1, max_steps=2)
    train(case)
    (record,) = case.done()["restarts"]
    assert record["why"] == "the best dev f1 is 0.500: up to 0.667 is chance"


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_last_attempt_counts_whatever_it_is(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, LOST)
    case = stage_case(tmp_path, max_restarts=times)
    train(case)
    seeds = [record["attempt_seed"] for record in case.done()["restarts"]]
    assert seeds == [restarts.attempt_seed(0, i) for i in range(times)]
    assert len({*seeds, case.spec.attempt_seed()}) == times + 1
    assert case.done()["dev"]["pearson"] == 0.1


@pytest.mark.parametrize(
    ("owner", "name", "within", "after"),
    [
        (restarts, "give_up", False, False),
        (restarts, "write_atomically", False, False),
        (restarts, "write_atomically", False, True),
        (shutil, "rmtree", True, False),
        (os, "replace", True, False),
        (os, "replace", True, True),
    ],
)
def test_a_kill_between_two_attempts_changes_nothing(
    owner: Any,
    name: str,
    within: bool,
    after: bool,
    second: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script_scores(monkeypatch, LOST + LEARNED)
    saves = record_saves(monkeypatch)
    case = stage_case(tmp_path, max_restarts=1)
    real = restarts.complete

    def complete(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if restarts.records(folder):  # Not the call before the first attempt.
                kill_at(patch, owner, name, 1, after)
            real(folder)

    with pytest.MonkeyPatch.context() as patch:
        if within:
            patch.setattr(restarts, "complete", complete)
        else:
            kill_at(patch, owner, name, 1, after)
        with pytest.raises(Killed):
            train(case)
    assert not case.is_done()
    train(case)
    assert_same(saves_of(saves, case), second[0])
    assert case.log() == second[1]
    assert len(case.done()["restarts"]) == 1
    names = {file.name for file in (case.folder / "restarts").iterdir()}
    assert names == {"0.json", "0.jsonl"}


def test_of_a_group_only_the_seed_that_has_not_learned_restarts(
    second: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, [0.9] * len(EVALUATIONS) + [0.8], [0.1])
    saves = record_saves(monkeypatch)
    one, two = (stage_case(tmp_path, seed, max_restarts=1) for seed in (5, 0))
    train(one, two)
    assert_same(saves_of(saves, two), second[0])
    assert (one.done()["restarts"], one.spec.attempt_seed()) == ([], 5)
    assert [record["attempt_seed"] for record in two.done()["restarts"]] == [0]
    losses = [record["loss"] for record in two.log("train")]
    assert losses == [r["loss"] for r in second[1] if r["kind"] == "train"]


def test_a_finished_stage_does_not_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_scores(monkeypatch, LOST)
    case: Case = stage_case(tmp_path, max_restarts=1)
    train(case)
    before = without_times(case.done())
    train(case)
    assert without_times(case.done()) == before


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
    reason = restarts.why_not_learned(*TASK_TYPES[kind].learning_score(dev, choices), n, 2.0)
    assert why in reason and bool(reason) == bool(why)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_attempts_have_seeds_of_their_own(seed: int) -> None:
    seeds: Sequence[int] = [restarts.attempt_seed(seed, attempt) for attempt in range(20)]
    assert seeds[0] == seed and len(set(seeds)) == 20
    assert all(0 <= number < 2**31 for number in seeds[1:])
