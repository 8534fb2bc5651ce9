"""Outputs that are not finite, and scores that are undefined."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from flaxfer.config import Task
from flaxfer.errors import DivergedError
from flaxfer.evaluation.evaluator import Evaluator, require_finite
from flaxfer.evaluation.transferability import knn_score, logme
from flaxfer.study import scoring
from flaxfer.tasks import TASK_TYPES, answers, entities, metrics, task_type
from flaxfer.training.stage import Measurement
from tests.helpers import random_tokenized
from tests.training.helpers import stage_case

TOPIC = Task("topic", "classification", "accuracy", ("a", "b", "c", "d"))


@dataclasses.dataclass
class Starts:
    """Parameters of a stage for `scoring.measure`."""

    case: Any
    params: Any
    mesh: Any

    @property
    def data(self) -> Any:
        return self

    def stage(self, name: str, seed: int) -> Any:
        """Return the data of the only stage."""
        assert (name, seed) == ("target", 0)
        return self.case.data

    def reader(self) -> None:
        """Return no reader: all parameters are the same."""

    def scoring_params(self, *_: Any) -> Any:
        return self.params


def measured(folder: Path, task: Task, broken: str) -> tuple[Any, dict[str, Any]]:
    """Measure a stage on two sets, where the embedding of a word of the second may be `broken`."""
    sets = {
        name: dataclasses.replace(
            random_tokenized(6, len(task.labels), seed=seed), fingerprint=name
        )
        for name, seed in (("test", 3), ("other", 4))
    }
    case = stage_case(folder, task=task)
    evaluations = [Measurement("evaluations", f"evaluations/{name}.json", name) for name in sets]
    spec = dataclasses.replace(case.spec, measurements=tuple(evaluations))
    data = dataclasses.replace(case.data, evaluated=sets)
    case = dataclasses.replace(case, spec=spec, data=data)
    spec.folder.mkdir(parents=True)
    (spec.folder / "done.json").write_text("{}")
    params = case.start()
    word = np.array(params["encoder"]["embeddings"]["word"]["embedding"])
    if broken:
        only = set(sets["other"].token) - set(sets["test"].token)
        word[min(only)] = {"nan": np.nan, "inf": np.inf}[broken]
    params["encoder"]["embeddings"]["word"]["embedding"] = word
    scoring.measure(Starts(case, params, case.mesh), spec, lambda: None)
    files = {f.name: json.loads(f.read_text()) for f in spec.folder.rglob("*.json")}
    return spec, files


@pytest.mark.parametrize("broken", ["nan", "inf"])
def test_a_stage_with_outputs_that_are_not_finite_has_failed(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, files = measured(tmp_path, TOPIC, broken)
    assert files.keys() == {"done.json", "test.json", "failed.json"}
    assert not (spec.folder / "predictions/other.jsonl").exists()
    assert "the outputs are not finite for " in spec.failure() and "of other" in spec.failure()
    assert spec.is_settled() and not spec.is_complete()
    assert "diverged: direct/target seed 0" in capsys.readouterr().err
    # After the cause is gone, the same stage is measured again.
    (spec.folder / "failed.json").unlink()
    assert [one.name for one in spec.missing()] == ["other"]


def test_a_stage_with_finite_outputs_has_all_scores(tmp_path: Path) -> None:
    spec, files = measured(tmp_path, TOPIC, "")
    assert files.keys() == {"done.json", "test.json", "other.json"} and spec.is_complete()


def test_the_examples_without_finite_outputs_are_named() -> None:
    data = random_tokenized(30, classes=4)
    outputs = np.zeros((30, 4), np.float32)
    require_finite("test", data, outputs)
    outputs[[3, 7], 1] = np.nan, -np.inf
    with pytest.raises(
        DivergedError, match=r"for 2 of 30 examples of test: example:3, example:7\n"
    ):
        require_finite("test", data, outputs)
    with pytest.raises(DivergedError, match=r"for 30 of 30 .*example:9 and others"):
        require_finite("test", data, np.where(outputs == 0, np.nan, 0))


def test_tokens_without_finite_outputs_belong_to_their_examples() -> None:
    data = random_tokenized(5)
    tagged = dataclasses.replace(data, task_type=TASK_TYPES["tagging"])
    outputs = np.zeros((len(data.token), 2), np.float32)
    outputs[[data.offset[2], data.offset[3] - 1, data.offset[4]]] = np.nan
    with pytest.raises(DivergedError, match=r"for 2 of 5 examples of x: example:2, example:4\n"):
        require_finite("x", tagged, outputs)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "flaxfer.evaluation"):
        yield caplog


@pytest.mark.parametrize("constant", ["outputs", "scores"])
def test_an_undefined_correlation_is_null_with_a_warning(
    constant: str, warned: pytest.LogCaptureFixture
) -> None:
    data = random_tokenized(8)
    outputs = np.arange(8, dtype=np.float32)[:, None]
    if constant == "outputs":
        outputs = np.ones_like(outputs)
    else:
        data = dataclasses.replace(data, label=np.full(8, 2.5, np.float32))
    task = Task("score", "regression", "pearson")
    evaluator = Evaluator(None, task, None, None, None)
    for entry in evaluator.report("test", data, outputs):
        values = entry["metrics"]
        assert values["pearson"] is values["spearman"] is None and values["mse"] >= 0
    assert "pearson of test in de is undefined" in warned.text
    assert "spearman of test in en is undefined" in warned.text and "mse" not in warned.text


@pytest.mark.parametrize(
    ("label", "predicted"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 1]),  # Two classes are neither true nor predicted.
        ([0, 1, 2, 2], [0, 1, 0, 1]),  # One is not predicted.
        ([0, 0, 1, 1], [0, 2, 1, 3]),  # Two are not true.
        ([1, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [2, 2, 2]),
        ([3], [0]),
    ],
)
def test_macro_f1_and_mcc_with_absent_classes_are_those_of_scikit_learn(
    label: list[int], predicted: list[int]
) -> None:
    names = np.array(TOPIC.labels)
    logits = np.eye(4, dtype=np.float32)[predicted]
    single = len(set(label) | set(predicted)) == 1
    with pytest.warns(UserWarning) if single else _nothing():
        mcc = sklearn.metrics.matthews_corrcoef(label, predicted)
        macro = sklearn.metrics.f1_score(label, predicted, average="macro", zero_division=0)
    expected = {"accuracy": np.mean(np.equal(label, predicted)), "macro_f1": macro, "mcc": mcc}
    if single:  # There is no association to be seen.
        expected["mcc"] = 0.0
    assert metrics.evaluate_classes(logits, np.array(label, np.int32)) == pytest.approx(expected)
    for name, value in expected.items():
        runs = [names[predicted].tolist(), names[label].tolist()]
        measure = task_type(TOPIC).resampled(TOPIC, name, "en", names[label].tolist(), runs)
        assert measure.observed()[0] == pytest.approx(value)


def test_without_examples_scores_are_undefined() -> None:
    empty = np.zeros(0, np.int32)
    scores = [
        metrics.evaluate_classes(np.zeros((0, 3), np.float32), empty)["accuracy"],
        metrics.evaluate_scores(np.zeros((0, 1), np.float32), np.zeros(0, np.float32))["pearson"],
        answers.answer_scores([], [], [], "squad")["f1"],
        entities.scores_of_counts(np.zeros((0, 5), int))["accuracy"],
    ]
    assert all(math.isnan(score) for score in scores)


def test_of_equal_choices_the_first_is_predicted() -> None:
    task = Task("copa", "multiple_choice", "accuracy")
    data = random_tokenized(6, classes=2)
    data = dataclasses.replace(
        data, choices=2, label=np.array([0, 1, 0], np.int32), id=("x", "y", "z")
    )
    outputs = np.array([1, 1, 2, 2, 0, 3], np.float32)[:, None]
    predictions = task_type(task).predictions(task, data, outputs)
    assert [predictions.record(i)["prediction"] for i in range(3)] == [0, 0, 1]
    assert predictions.scores(np.ones(3, bool)) == {"accuracy": pytest.approx(1 / 3)}
    assert math.isnan(predictions.scores(np.zeros(3, bool))["accuracy"])


def test_features_that_are_not_finite_have_no_transferability() -> None:
    features, label = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2
    assert math.isfinite(logme(features, label)) and math.isfinite(knn_score(features, label))
    features[3, 1] = np.inf
    assert math.isnan(logme(features, label)) and math.isnan(knn_score(features, label))


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()
