"""Variances of planned comparisons: formulas against simulations, and pilot studies."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.records import read_study
from flaxfer.statistics import variances
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.inference import Components
from flaxfer.statistics.scores import Row
from flaxfer.statistics.units import Units
from flaxfer.statistics.variances import Pilot, Stated
from tests.helpers import random_tokenized
from tests.statistics.helpers import write_study

ACCURACY = Task("nli", "classification", "accuracy", labels=("a", "b"))
PEARSON, SPEARMAN, MSE = (Task("sts", "regression", m) for m in ("pearson", "spearman", "mse"))
DATA: Tokenized = random_tokenized(120)  # Half of them English, half German.


def write(workdir: Path, sizes: tuple[int, int], noise: float = 0.5) -> Path:
    """Write a study with so many direct and staged runs."""
    outputs = {}
    for condition, size in zip(("direct", "staged"), sizes, strict=True):
        for seed in range(size):
            rng = np.random.default_rng(10 * seed + (condition == "staged"))
            values = DATA.label + noise * rng.standard_normal(len(DATA.label))
            outputs[condition, seed] = values[:, None].astype(np.float32)
    return write_study(workdir, PEARSON, outputs, DATA)


def read(workdir: Path, metric: str = "pearson") -> Pilot:
    return variances.read_pilot(read_study(workdir), workdir, metric)


@pytest.mark.parametrize(("score", "correlation"), [(0.8, 0.6), (0.5, 0.0), (0.95, 0.9)])
def test_accuracy_differs_on_the_examples_that_one_run_gets_right(
    score: float, correlation: float
) -> None:
    covariance = correlation * score * (1 - score)
    probability = {
        (1, 1): score**2 + covariance,
        (1, 0): score * (1 - score) - covariance,
        (0, 1): score * (1 - score) - covariance,
        (0, 0): (1 - score) ** 2 + covariance,
    }
    assert sum(probability.values()) == pytest.approx(1)
    expected = sum(p * (staged - direct) ** 2 for (direct, staged), p in probability.items())
    assert variances.of_one_example(ACCURACY, score, correlation) == pytest.approx(expected)


@pytest.mark.parametrize(("score", "correlation"), [(0.8, 0.7), (0.5, 0.3), (0.3, 0.9)])
def test_correlations_differ_as_simulated_ones(score: float, correlation: float) -> None:
    covariance = np.array([[1, score, score], [score, 1, correlation], [score, correlation, 1]])
    n, rng = 200, np.random.default_rng(0)
    xyz = rng.multivariate_normal(np.zeros(3), covariance, (6000, n))
    for task, values in ((PEARSON, xyz), (SPEARMAN, stats.rankdata(xyz, axis=1))):
        centred = values - values.mean(axis=1, keepdims=True)
        centred /= np.sqrt((centred**2).sum(axis=1, keepdims=True))
        first, second = ((centred[..., 0] * centred[..., i]).sum(axis=1) for i in (1, 2))
        found = variances.of_one_example(task, score, correlation) / (n - 3)
        assert found == pytest.approx(np.var(first - second), rel=0.1)


@pytest.mark.parametrize("task", [ACCURACY, PEARSON, SPEARMAN])
def test_components_are_what_two_seeds_and_two_conditions_differ_by(task: Task) -> None:
    upper = Stated(0.02, 0.8, 0.6, None).components(task, 1003)
    exact = Stated(0.02, 0.8, 0.6, 0.9).components(task, 1003)
    n = 1003 if task is ACCURACY else 1000
    both, one = (variances.of_one_example(task, 0.8, rho) / n for rho in (0.6, 0.9))
    assert upper == Components(pytest.approx(both), 2 * 0.02**2, 0.0, pytest.approx(both + 8e-4))
    assert exact.examples == pytest.approx(both - one) and exact.interaction == pytest.approx(one)
    assert exact.seeds == 2 * 0.02**2
    # Runs that agree in full do not differ.
    assert variances.of_one_example(task, 0.8, 1.0) == pytest.approx(0, abs=1e-12)
    assert Stated(0.02, 0.8, 0.6, 0.6).components(task, 1003).examples == 0


@pytest.mark.parametrize(
    ("stated", "task", "effective", "message"),
    [
        (Stated(0.001, 0.8, 0.5, 0.6), ACCURACY, 100, "at least 0.025 on 100 independent"),
        (Stated(0.1, 0.9, 0.5, None), PEARSON, 100, "at least 0.62, not 0.5"),
        (Stated(0.1, 0.5, 0.5, None), PEARSON, 3.5, "3.5 independent examples are too few"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    stated: Stated, task: Task, effective: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        stated.components(task, effective)


def test_some_metrics_have_a_formula() -> None:
    assert all(map(variances.has_formula, (ACCURACY, PEARSON, SPEARMAN)))
    assert not variances.has_formula(MSE)
    assert not variances.has_formula(Task("pos", "tagging", "accuracy", labels=("a", "b")))


def test_independent_examples_that_sets_are_worth() -> None:
    de, fr, it = (Row(language, "test", 6) for language in ("de", "fr", "it"))
    each, pairs = np.arange(6), np.repeat(np.arange(3), 2)

    def worth(**of: Units) -> float:
        rows = {row: of[row.language] for row in (de, fr, it) if row.language in of}
        return variances.effective_examples(dict.fromkeys(rows, 1 / len(rows)), rows)

    assert worth(de=Units(0, 6, each)) == pytest.approx(6)
    assert worth(de=Units(0, 3, pairs)) == pytest.approx(3)
    # Kish: 36 / (4^2 + 1 + 1).
    assert worth(de=Units(0, 3, np.array([0, 0, 0, 0, 1, 2]))) == pytest.approx(2)
    assert worth(de=Units(0, 6, each), fr=Units(1, 6, each)) == pytest.approx(12)
    assert worth(de=Units(0, 6, each), fr=Units(0, 6, each[::-1])) == pytest.approx(6)
    parts = dict(de=Units(0, 9, each), fr=Units(0, 9, each + 3), it=Units(1, 6, each))
    by_hand = (6 / 18**2) + (3 * (2 / 18) ** 2 + 6 / 18**2)
    assert worth(**parts) == pytest.approx(1 / by_hand)
    # It is the variance of a mean over sets whose examples of a unit are equal.
    rng = np.random.default_rng(0)
    drawn = {0: rng.normal(size=(200_000, 9)), 1: rng.normal(size=(200_000, 6))}
    means = [drawn[of.group][:, of.unit_n].mean(axis=1) for of in parts.values()]
    assert 1 / np.mean(means, axis=0).var() == pytest.approx(worth(**parts), rel=0.02)


def test_a_pilot_has_the_variances_of_its_comparison(tmp_path: Path) -> None:
    workdir = write(tmp_path / "pilot", (5, 3))
    pilot = read(workdir)
    evidence = compare([workdir], draws=variances.DRAWS)
    (primary,) = [one for one in evidence.comparisons if one.family == "primary"]
    expected = primary.all_runs
    assert pilot.components.examples == expected.variance_examples
    assert pilot.components.seeds == expected.variance_seeds
    assert pilot.components.interaction == expected.variance_interaction
    # German is the zero-shot language.
    assert (pilot.runs, pilot.effective, primary.n) == ((5, 3), pytest.approx(60), 60)
    of = [np.var(one.scores, ddof=1) for one in (expected.direct, expected.staged)]
    df = sum(of) ** 2 / (of[0] ** 2 / 4 + of[1] ** 2 / 2)
    assert pilot.df == pytest.approx(df)
    chi2 = stats.chi2.ppf([0.975, 0.025], df)
    assert pilot.sd_interval() == pytest.approx(np.sqrt(df / chi2))
    on = pilot.on(240)
    assert on.examples == pytest.approx(pilot.components.examples / 4)
    rest = pilot.components.seeds - pilot.components.interaction
    assert on.seeds == pytest.approx(rest + pilot.components.interaction / 4)


def test_a_pilot_of_pairs_has_the_variances_of_pairs(tmp_path: Path) -> None:
    workdir = write(tmp_path / "pilot", (5, 4))
    record = json.loads((workdir / "study.json").read_text())
    (workdir / "study.json").write_text(json.dumps(record | {"paired": True}))
    pilot = variances.read_pilot(read_study(workdir), workdir, "pearson", paired=True)
    evidence = compare([workdir], draws=variances.DRAWS)
    (primary,) = [one for one in evidence.comparisons if one.family == "primary"]
    assert pilot.components.seeds == primary.all_runs.variance_seeds
    assert (pilot.components.groups, pilot.runs, pilot.df) == (1, (4, 4), 3)


def test_a_pilot_may_have_other_metrics(tmp_path: Path) -> None:
    workdir = write(tmp_path / "pilot", (3, 3))
    found = {metric: read(workdir, metric) for metric in ("pearson", "spearman", "mse")}
    for metric, pilot in found.items():
        assert pilot.task.metric == metric
    for a, b in itertools.combinations(found.values(), 2):
        assert a.components.seeds != b.components.seeds


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((1, 3), "1 direct and 3 staged runs"), ((3, 0), "no comparison of staged with direct")],
)
def test_a_pilot_needs_several_runs_of_both_conditions(
    tmp_path: Path, sizes: tuple[int, int], message: str
) -> None:
    workdir = write(tmp_path / "pilot", sizes)
    with pytest.raises(DataError, match=message):
        read(workdir)


def test_a_pilot_needs_runs_that_differ(tmp_path: Path) -> None:
    workdir = write(tmp_path / "pilot", (2, 2), noise=0.0)
    with pytest.raises(DataError, match="all the same"):
        read(workdir)
