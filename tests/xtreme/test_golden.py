"""Scores of the mock data in XTREME's repository, where it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import seqeval.metrics
from sklearn.metrics import accuracy_score

from flaxfer.config.schema import BenchmarkTask
from flaxfer.xtreme import scoring
from flaxfer.xtreme.benchmarks import BENCHMARKS, MODES, file_name
from flaxfer.xtreme.metrics import NEWER

# From evaluate_test.py of github.com/google-research/xtreme at 838c13b, to the last digit.
PUBLISHED = {
    "pawsx": {"accuracy": 51.42857142857143},
    "xnli": {"accuracy": 30.666666666666668},
    "panx": {
        "f1": 57.50793650793652,
        "precision": 54.729166666666664,
        "recall": 62.750000000000014,
    },
    "udpos": {"f1": 70.21746048354693, "precision": 71.02232625883823, "recall": 69.54982073976082},
    "bucc2018": {"f1": 55.0, "precision": 55.0, "recall": 55.0},
    "tatoeba": {"accuracy": 53.611111111111114},
    "xquad": {"exact_match": 77.27272727272727, "f1": 79.9586776859504},
    "mlqa": {"exact_match": 57.142857142857146, "f1": 81.76870748299321},
    "tydiqa": {"exact_match": 88.88888888888889, "f1": 97.22222222222223},
    "mewslix": {"map@20": 14.39025156130419},
}

# What its evaluate.py computes with seqeval 0.0.12 and Python 3.11. It adds the tasks for
# "all_task" in the order of a set, which changes the last digit from run to run.
GROUPS = {
    "classification": 41.04761904761905,
    "tagging": 63.862698495741725,
    "qa": 80.37568011593986,
    "retrieval": 54.30555555555556,
}
ALL = 62.17319850507246


@pytest.fixture(scope="module")
def mock(shared: Path) -> Path:
    folder = shared / "data/xtreme-mock"
    if not folder.is_dir():
        pytest.skip(f"needs XTREME's mock data in {folder}, which is not there")
    return folder


@pytest.fixture(scope="module")
def result(mock: Path) -> scoring.Result:
    names = scoring.benchmarks_of(mock / "predictions")
    assert names == ["xtreme", "xtreme-r"]
    return scoring.score(mock / "predictions", mock / "labels", MODES, names)


def means(report: dict[str, Any]) -> dict[str, float]:
    names = [key for key in report if key.startswith("avg_") and key != "avg_metric"]
    return {key.removeprefix("avg_"): report[key] for key in names}


@pytest.mark.parametrize("task", PUBLISHED)
def test_official_scores_are_the_published_ones(task: str, result: scoring.Result) -> None:
    benchmark = "xtreme" if task in BENCHMARKS["xtreme"] else "xtreme-r"
    ours = means(result.report(benchmark)["official"][task])
    ours.pop(NEWER, None)
    assert ours == PUBLISHED[task]


def test_official_means_over_tasks_are_those_of_the_script(result: scoring.Result) -> None:
    official = result.report("xtreme")["official"]
    assert {name: official[name] for name in GROUPS} == GROUPS
    assert official["all_task"] == pytest.approx(ALL, rel=1e-15)


def test_configs_know_the_tasks_of_xtreme_r() -> None:
    assert set(get_args(BenchmarkTask)) == {f"xtreme-r/{task}" for task in BENCHMARKS["xtreme-r"]}


def sentences(path: Path) -> list[list[str]]:
    return [part.split() for part in path.read_text(encoding="utf-8").split("\n\n")]


@pytest.mark.parametrize("task", ["panx", "udpos"])
def test_scores_of_tags_are_those_of_seqeval_and_sklearn(
    task: str, mock: Path, result: scoring.Result, recwarn: pytest.WarningsRecorder
) -> None:
    for code in BENCHMARKS["xtreme"][task]:
        gold, predicted = (
            sentences(mock / side / file_name(task, code)) for side in ("labels", "predictions")
        )
        f1 = 100 * seqeval.metrics.f1_score(gold, predicted)
        scores = {mode: result.scores[mode][task][code] for mode in MODES}
        if task == "panx":
            assert scores["official"]["f1"] == scores["corrected"]["f1"] == pytest.approx(f1)
        else:
            assert scores["official"][NEWER] == pytest.approx(f1)
            words = [[tag for tags in side for tag in tags] for side in (gold, predicted)]
            assert scores["corrected"] == {"accuracy": pytest.approx(100 * accuracy_score(*words))}


def test_other_corrected_scores_are_the_same(result: scoring.Result) -> None:
    report = result.report("xtreme")
    for task in BENCHMARKS["xtreme"].keys() - {"udpos"}:
        assert means(report["corrected"][task]) == pytest.approx(means(report["official"][task]))
    assert result.faults == []


def test_the_additional_languages_of_xtreme_r_are_missing(result: scoring.Result) -> None:
    missing = {
        "predictions": ["lt", "pl", "uk", "wo", "ro"],
        "labels": ["lt", "pl", "uk", "wo", "ro"],
    }
    assert result.missing["udpos"] == missing
    report = result.report("xtreme-r")
    assert "avg_f1" not in report["official"]["udpos"]
    assert len(report["official"]["udpos"]["f1"]) == 33
    assert "all_task" not in report["official"] and "all_task" not in report["corrected"]


def test_what_is_written_has_the_same_official_scores(
    mock: Path, result: scoring.Result, tmp_path: Path
) -> None:
    scoring.write(result, tmp_path)
    again = scoring.score(tmp_path, mock / "labels", ("official",), ("xtreme", "xtreme-r"))
    assert again.scores["official"] == result.scores["official"]
