"""The tables of a benchmark, against means of the written scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flaxfer.report.benchmarks import benchmark_blocks
from flaxfer.report.data import ReportData, read_entries
from flaxfer.report.document import Block, Folded, Heading, Table, to_html, to_markdown
from flaxfer.statistics.benchmarks import TaskRuns, mean_over_tasks, read_tasks
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.records import BenchmarkComparison
from flaxfer.statistics.sets import StudyRuns
from tests.report.benchmark_grid import SEEDS, Scores, write_benchmark_grid

DRAWS = 2000


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    folder = tmp_path_factory.mktemp("benchmark")
    return folder, write_benchmark_grid(folder)


@pytest.fixture(scope="module")
def data(grid: tuple[Path, Scores]) -> ReportData:
    folder = grid[0]
    evidence = compare(sorted((folder / "cells").iterdir()), draws=DRAWS)
    return ReportData(read_entries([folder]), evidence, folder)


def tables(blocks: list[Block]) -> dict[str, Table]:
    found = {}
    for block in blocks:
        if isinstance(block, Table):
            found[block.caption] = block
        elif isinstance(block, Folded):
            found |= tables(list(block.blocks))
    return found


@pytest.fixture(scope="module")
def shown(data: ReportData) -> dict[str, Table]:
    return tables(benchmark_blocks(data))


def table(shown: dict[str, Table], start: str) -> Table:
    (found,) = (one for caption, one in shown.items() if caption.startswith(start))
    return found


@pytest.fixture(scope="module")
def score(grid: tuple[Path, Scores]) -> Callable[[str, str, str], np.ndarray]:
    """Scores in percent of a task in a language, by seed."""

    def get(task: str, language: str, condition: str) -> np.ndarray:
        by_seed = grid[1][f"{task}-{language}"][condition]
        return 100 * np.array([np.mean(list(by_seed[seed].values())) for seed in SEEDS])

    return get


Score = Callable[[str, str, str], np.ndarray]
CONDITIONS = {"direct": "direct", "after mnli": "mnli", "after stsb": "stsb"}
LANGUAGES = {"xnli": ("en", "de", "sw"), "xquad": ("en", "de"), "mlqa": ("en", "de")}
TITLES = {"xnli": "XNLI", "xquad": "XQuAD", "mlqa": "MLQA"}


def text(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ±\N{NO-BREAK SPACE}{values.std(ddof=1):.1f}"


def test_tasks_are_means_over_languages_and_the_mean_is_over_tasks(
    shown: dict[str, Table], score: Score
) -> None:
    main = table(shown, "XTREME-R with xlmr: scores in percent, ±")
    rows = {str(record["task"]): record for record in main.records}
    assert list(rows) == ["XNLI", "XQuAD", "MLQA", "mean"]
    for column, condition in CONDITIONS.items():
        tasks = {
            task: np.mean([score(task, code, condition) for code in codes], axis=0)
            for task, codes in LANGUAGES.items()
        }
        for task, values in tasks.items():
            assert rows[TITLES[task]][column] == text(values)
        assert rows["mean"][column] == text(np.mean(list(tasks.values()), axis=0))
    assert rows["XNLI"]["languages"] == "3 of 15" and rows["XNLI"]["metric"] == "accuracy"
    assert rows["MLQA"]["metric"] == "f1, exact_match"
    notes = " ".join(main.notes)
    assert "Scoring mode corrected" in notes and "XNLI: samples of 48 examples in 1 lang" in notes
    assert "MLQA only in en, de." in notes
    assert "the mean is not the score of XTREME-R" in notes


def test_gaps_groups_and_languages(shown: dict[str, Table], score: Score) -> None:
    gaps = {record["task"]: record for record in table(shown, "XTREME-R with xlmr: tran").records}
    expected = score("xnli", "en", "mnli") - np.mean(
        [score("xnli", code, "mnli") for code in ("de", "sw")], axis=0
    )
    assert gaps["XNLI"]["after mnli"] == text(expected)
    groups = {
        (record["group"], record["name"]): record["direct"]
        for record in table(shown, "XTREME-R with xlmr: scores in percent by group").records
    }
    assert groups["resources", "2, hopefuls"] == text(score("xnli", "sw", "direct"))
    assert groups["family", "Niger-Congo"] == text(score("xnli", "sw", "direct"))
    winners = [
        np.mean([score(task, code, "direct") for code in ("en", "de")], axis=0)
        for task in LANGUAGES
    ]
    assert groups["resources", "5, winners"] == text(np.mean(winners, axis=0))
    languages = table(shown, "MLQA by language").records
    assert [record["language"] for record in languages] == ["en", "de"]
    assert languages[1]["after stsb"] == text(score("mlqa", "de", "stsb"))


@pytest.fixture(scope="module")
def compared(data: ReportData) -> dict[tuple[str, ...], BenchmarkComparison]:
    return {(one.intermediate, *one.tasks): one for one in data.evidence.benchmarks}


TASKS = ("xnli", "xquad", "mlqa")


def test_differences_and_their_variances(
    compared: dict[tuple[str, ...], BenchmarkComparison], score: Score
) -> None:
    assert {key[1:] for key in compared} >= {(task,) for task in TASKS}
    for intermediate in ("mnli", "stsb"):
        by_condition = {}
        for condition in ("direct", intermediate):
            tasks = [
                np.mean([score(task, code, condition) for code in LANGUAGES[task]], axis=0)
                for task in TASKS
            ]
            by_condition[condition] = np.array(tasks) / 100
        for i, task in enumerate(TASKS):
            one = compared[intermediate, task].comparison.all_runs
            direct, staged = by_condition["direct"][i], by_condition[intermediate][i]
            assert one.difference == pytest.approx(staged.mean() - direct.mean())
            assert one.variance_seeds == pytest.approx(direct.var(ddof=1) + staged.var(ddof=1))
        (mean,) = (
            one
            for key, one in compared.items()
            if key[0] == intermediate and len(key) == 1 + len(TASKS)
        )
        estimate = mean.comparison.all_runs
        assert set(mean.tasks) == set(TASKS)
        # Run by run: the variance over seeds is that of the means.
        direct, staged = (of.mean(axis=0) for of in by_condition.values())
        assert estimate.difference == pytest.approx(staged.mean() - direct.mean())
        assert estimate.variance_seeds == pytest.approx(direct.var(ddof=1) + staged.var(ddof=1))
        assert mean.comparison.units == sum(
            compared[intermediate, task].comparison.units for task in TASKS
        )


def test_tasks_are_resampled_independently(grid: tuple[Path, Scores]) -> None:
    """The gains are on the same lines of all sets, so draws that tasks shared would show."""
    tasks = []
    for target in ("xnli", "qa"):
        study = StudyRuns(grid[0] / f"cells/xlmr.mnli.{target}", "")
        tasks += read_tasks(study, study.sets(DRAWS, 0), DRAWS, 0)
    (mean,) = mean_over_tasks(tasks)

    def variance(one: TaskRuns) -> float:
        drawn = one.scores.resampled
        return float(
            (drawn[:, len(SEEDS) :].mean(axis=1) - drawn[:, : len(SEEDS)].mean(axis=1)).var()
        )

    assert variance(mean) == pytest.approx(sum(map(variance, tasks)) / 9, rel=0.1)


def test_verdicts_are_a_family_of_their_own(
    compared: dict[tuple[str, ...], BenchmarkComparison], data: ReportData, shown: dict[str, Table]
) -> None:
    assert len(compared) == 8 and all(
        one.comparison.family == "benchmark" for one in compared.values()
    )
    p = {key: one.comparison.all_runs.p for key, one in compared.items()}
    holm = {key: one.comparison.all_runs.p_holm for key, one in compared.items()}
    running = 0.0
    for rank, key in enumerate(sorted(p, key=lambda key: p[key])):
        running = max(running, min(1.0, (len(p) - rank) * p[key]))
        assert holm[key] == pytest.approx(running)
    records = table(shown, "XTREME-R with xlmr: staged minus direct").records
    verdicts = {(str(r["intermediate task"]), str(r["task"])): str(r["verdict"]) for r in records}
    assert verdicts["mnli", "XNLI"] == "helps" and verdicts["stsb", "XNLI"] == "undecided"
    assert len(records) == 8
    # The studies' own verdicts have their families as without a benchmark.
    assert {one.family for one in data.evidence.means} == {"primary", "secondary"}


def test_the_section_is_part_of_a_page(data: ReportData) -> None:
    blocks = [Heading("Title", 1), *benchmark_blocks(data)]
    assert "Published scores on XTREME-R" in to_html(blocks)
    assert "78.2" in to_markdown(blocks)
