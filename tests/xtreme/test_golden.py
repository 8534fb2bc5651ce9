"""Scores of the mock data in XTREME's repository, where it is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import seqeval.metrics
from sklearn.metrics import accuracy_score

from flaxfer.config.data import BenchmarkTask
from flaxfer.xtreme import scoring
from flaxfer.xtreme.benchmarks import BENCHMARKS, MODES, file_name
from flaxfer.xtreme.metrics import NEWER

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
"""What the published code gives, as `official.py` records it: benchmark -> task -> scores."""

GUIDE = Path(__file__).parents[2] / "docs/guides/xtreme.md"


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


@pytest.mark.parametrize(("benchmark", "tasks"), [("xtreme", 9), ("xtreme-r", 4)])
def test_official_scores_are_those_of_the_published_code(
    benchmark: str, tasks: int, result: scoring.Result
) -> None:
    ours = result.report(benchmark)["official"]
    golden = dict(GOLDEN[benchmark])
    # The script adds the tasks in the order of a set, which changes the last digit.
    overall = golden.pop("all_task", None)
    assert ours.get("all_task") == (overall and pytest.approx(overall, rel=1e-15))
    assert sum(isinstance(scores, dict) for scores in golden.values()) == tasks
    for task, scores in golden.items():
        value = ours[task]
        if isinstance(scores, dict):  # Of a task; the others are means over tasks.
            value = {name: value[name] for name in value if NEWER not in name}
        assert value == scores, task


def rows(result: scoring.Result) -> list[str]:
    """Return the rows of the guide's table."""
    lines = []
    for benchmark, names in (("xtreme", BENCHMARKS["xtreme"]), ("xtreme-r", ("mewslix",))):
        report = result.report(benchmark)
        for task in names:
            modes = [means(GOLDEN[benchmark][task]), *(means(report[mode][task]) for mode in MODES)]
            for metric in dict.fromkeys(name for scores in modes for name in scores):
                cells = [f"{scores[metric]:.5f}" if metric in scores else "" for scores in modes]
                count = len(BENCHMARKS[benchmark][task])
                lines.append(f"| {' | '.join([task, str(count), metric, *cells])} |")
    return [re.sub(" +", " ", line) for line in lines]


def test_the_table_of_the_guide(result: scoring.Result) -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("### Golden values\n")[2]
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert table == rows(result)
    assert f"at commit {GOLDEN['commit'][:7]}, seqeval {GOLDEN['seqeval']}" in text


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
