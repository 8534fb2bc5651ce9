"""Metrics of a user's own, from the evaluation of a run to the comparison of runs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

import flaxfer
from flaxfer.config import Task
from flaxfer.errors import ConfigError
from flaxfer.runtime import plugins
from flaxfer.statistics.comparisons import compare
from flaxfer.tasks import custom, task_type
from tests.helpers import random_tokenized
from tests.statistics.helpers import write_study

LABELS = ("no", "yes")
TASK = Task("polarity", "classification", "accuracy", LABELS)


def equal(gold: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    return np.array(gold) == np.array(predictions)


def counts(gold: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """What F2 of the class `yes` is made of."""
    true, said = np.array(gold) == "yes", np.array(predictions) == "yes"
    return np.stack([true & said, true, said], axis=1)


def f2(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    hits, true, said = np.moveaxis(sums, -1, 0)
    return 5 * hits / np.maximum(4 * true + said, 1)


SHARE = flaxfer.Metric("share", "classification", equal, range=(0.0, 1.0))
F2 = flaxfer.Metric("f2", "classification", counts, f2, (0.0, 1.0))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(custom, "_REGISTERED", {})
    for metric in (SHARE, F2):
        flaxfer.register_metric(metric)
    yield
    custom._declared.cache_clear()


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    data = random_tokenized(200, classes=2)
    task = dataclasses.replace(TASK, metric="f2")
    form = task_type(task)
    assert form.metrics_of(task) == ("accuracy", "macro_f1", "mcc", "f2")
    assert form.metrics_of(TASK) == ("accuracy", "macro_f1", "mcc")
    outputs = rng.normal(size=(200, 2)).astype(np.float32)
    predictions = form.predictions(task, data, outputs)
    chosen = rng.random(200) < 0.7
    scores = form.scores(predictions, chosen)
    expected = sklearn.metrics.fbeta_score(
        data.label[chosen], outputs.argmax(axis=1)[chosen], beta=2.0
    )
    assert scores["f2"] == pytest.approx(expected, abs=1e-12)
    assert scores["accuracy"] == predictions.scores(chosen)["accuracy"]


def test_resamples_are_those_of_the_examples() -> None:
    rng = np.random.default_rng(1)
    gold = rng.choice(LABELS, 50).tolist()
    runs = [rng.choice(LABELS, 50).tolist() for _ in range(3)]
    weights = rng.integers(0, 4, (20, 50)).astype(np.float64)
    values = F2.resampled(gold, runs).values(weights)
    for b in range(20):
        for r, run in enumerate(runs):
            expected = sklearn.metrics.fbeta_score(
                gold, run, beta=2.0, pos_label="yes", sample_weight=weights[b]
            )
            assert values[b, r] == pytest.approx(expected, abs=1e-12)


def study_with(folder: Path, metric: str) -> Path:
    """A study of two seeds that is judged by a metric; all have the same predictions."""
    rng = np.random.default_rng(3)
    data = random_tokenized(80, classes=2)
    outputs = {
        (condition, seed): np.float32(np.eye(2)[data.label] + noise * rng.standard_normal((80, 2)))
        for condition, noise in (("direct", 1.0), ("staged", 0.5))
        for seed in (0, 1)
    }
    return write_study(folder, dataclasses.replace(TASK, metric=metric), outputs, data)


def test_a_custom_metric_is_compared_like_one_of_the_package(tmp_path: Path) -> None:
    """The share of right answers is the accuracy, so everything about it must be, too."""
    expected, compared, other = (
        compare([study_with(tmp_path / metric, metric)], draws=500)
        for metric in ("accuracy", "share", "f2")
    )
    assert len(expected.comparisons + expected.means) == 4
    for name in ("comparisons", "means"):
        for a, b, c in zip(
            *(getattr(one, name) for one in (expected, compared, other)), strict=True
        ):
            assert (b.metric, b.all_runs) == ("share", a.all_runs)
            assert b.all_runs.difference > 0 and c.all_runs.difference != a.all_runs.difference


def test_its_direction_and_range_count() -> None:
    error = flaxfer.Metric(
        "error", "classification", lambda g, p: ~equal(g, p), range=(0.0, 1.0),
        larger_is_better=False,
    )  # fmt: skip
    flaxfer.register_metric(error)
    form = task_type(TASK)
    assert not form.larger_is_better("error") and form.larger_is_better("f2")
    assert form.metric_range("error") == (0.0, 1.0)
    assert form.has_metric("error") and not form.has_metric("eror")
    assert not task_type(Task("s", "regression", "pearson")).has_metric("error")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": lambda g, p: 1 / 0}, "it failed: ZeroDivisionError"),
        ({"features": lambda g, p: np.ones(3)}, r"the shape \(3,\) instead of \(4,\)"),
        ({"features": lambda g, p: np.full(len(g), np.nan)}, "not finite"),
        ({"formula": lambda sums, n: 7.0}, r"7.0 is not within its range \(0.0, 1.0\)"),
        ({"formula": lambda sums, n: np.nan}, "nan is not within its range"),
    ],
)
def test_a_wrong_metric_is_an_error_that_names_it(changes: dict[str, Any], message: str) -> None:
    metric = dataclasses.replace(SHARE, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        metric.score(["no"] * 4, ["no"] * 4)
    assert caught.value.where == "metric 'share' of classification"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "accuracy"}, "classification has a metric of this name"),
        ({"task_type": "clasification"}, "did you mean 'classification'"),
    ],
)
def test_a_name_that_is_taken_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        flaxfer.register_metric(dataclasses.replace(SHARE, **changes))


def test_entry_points_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    custom._declared.cache_clear()
    declared = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{value}", custom.GROUP)
        for name, value in {"f2": "F2", "wrong": "SHARE", "broken": "NOTHING"}.items()
    ]
    entry_points = importlib.metadata.EntryPoints(declared)
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points.select)
    monkeypatch.setattr(custom, "_REGISTERED", {})
    assert plugins.names(custom.GROUP) == ("broken", "f2", "wrong")
    assert custom.find("classification", "f2") is F2
    assert custom.find("regression", "f2") is None and custom.find("regression", "f3") is None
    for name, message in (("wrong", "not a flaxfer.Metric of this name"), ("broken", "imported")):
        with pytest.raises(ConfigError, match=message):
            custom.find("classification", name)


def test_without_its_definition_a_study_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could know which direction is better."""
    folder = study_with(tmp_path / "study", "f2")
    monkeypatch.setattr(custom, "_REGISTERED", {})
    with pytest.raises(ConfigError, match="'f2' is no metric of classification") as caught:
        compare([folder], draws=10)
    assert "register_metric" in str(caught.value)
