"""Intervals within the possible differences of each metric."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Task
from flaxfer.report.writing import write_report
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.inference import Difference
from flaxfer.statistics.scores import GAP
from flaxfer.tasks import TASK_TYPES
from tests.statistics.helpers import RunKey, write_lines

CLASSES = Task("nli", "classification", "macro_f1", labels=("a", "b"))
SCORES = Task("sts", "regression", "pearson")
BOUNDS = {
    ("classification", "accuracy"): 1.0,
    ("classification", "macro_f1"): 1.0,
    ("classification", "mcc"): 2.0,
    ("regression", "pearson"): 2.0,
    ("regression", "spearman"): 2.0,
    ("regression", "mse"): np.inf,
}


def write(workdir: Path, task: Task) -> Path:
    """Two seeds a condition, with scores that differ as much as they can."""
    classes = task.type == "classification"
    gold_key = TASK_TYPES[task.type].gold_key
    gold = np.random.default_rng(0).integers(0, 2, 40)
    runs: dict[RunKey, list[dict[str, Any]]] = {}
    shares = {"direct": (0.95, 0.05), "staged": (1.0, 0.1)}
    for condition, right in shares.items():
        for seed, share in enumerate(right):
            wrong = np.random.default_rng(seed).uniform(size=40) >= share
            runs[condition, seed] = [
                {gold_key: "ab"[g] if classes else g, "prediction": "ab"[p] if classes else p}
                for g, p in zip(gold.tolist(), (gold ^ wrong).tolist(), strict=True)
            ]
    return write_lines(workdir, task, runs)


@pytest.mark.parametrize(("kind", "metric"), BOUNDS)
def test_intervals_of_few_seeds_hold_only_possible_differences(
    kind: str, metric: str, tmp_path: Path
) -> None:
    task = CLASSES if kind == "classification" else SCORES
    evidence = compare([write(tmp_path / "study", task)], metric=metric, draws=2000)
    assert len(evidence.comparisons) == 2 and len(evidence.means) == 2
    for one in (*evidence.comparisons, *evidence.means):
        bound = BOUNDS[kind, metric] * (2 if one.language == GAP else 1)
        estimate = one.all_runs
        assert -bound <= estimate.low <= estimate.difference <= estimate.high <= bound
        low, high = estimate.low_simultaneous, estimate.high_simultaneous
        assert low is not None and high is not None
        assert -bound <= low <= estimate.low and estimate.high <= high <= bound
        assert estimate.verdict == "undecided"
        if one.language == GAP:
            assert estimate.low < -0.1 and estimate.high > 0.1
        elif np.isfinite(bound):  # Two seeds know so little that everything is possible.
            assert (estimate.low, estimate.high) == (-bound, bound)
        else:
            assert estimate.low < -1 and estimate.high > 1


def test_every_number_of_a_report_is_possible(tmp_path: Path) -> None:
    workdir = write(tmp_path / "study", CLASSES)
    written = [path for path in write_report(workdir) if path.is_file()]
    files = {path.name: path.read_text(encoding="utf-8") for path in written}
    rows = list(csv.DictReader(io.StringIO(files["comparisons.csv"])))
    for row in rows:
        bound = 2 if row["language"] == GAP else 1
        for kind in ("_simultaneous", "") if row["p_holm"] else ("",):
            ends = float(row[f"low{kind}"]), float(row[f"high{kind}"])
            assert -bound <= ends[0] <= ends[1] <= bound
        if row["runs"] == "all" and row["language"] != GAP:
            assert ends == (-1, 1)
    assert sum(row["runs"] == "all" for row in rows) == 4
    assert "[-1.000,\N{NO-BREAK SPACE}+1.000]" in files["report.html"]
    assert "$[-1.000, +1.000]$" in files["results.tex"]


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.9])
def test_the_largest_difference_changes_neither_p_nor_verdict(shift: float) -> None:
    rng = np.random.default_rng(4)
    direct, staged = rng.uniform(0, 0.1, 3), shift + rng.uniform(0, 0.1, 3)
    drawn = direct + rng.normal(0, 0.01, (500, 1)), staged + rng.normal(0, 0.01, (500, 1))
    free, bounded = (Difference(direct, staged, *drawn, largest) for largest in (np.inf, 0.91))
    assert (free.p, free.value, free.over) == (bounded.p, bounded.value, bounded.over)
    (low, high), ends = free.interval(0.95), bounded.interval(0.95)
    assert ends == (max(low, -0.91), min(high, 0.91))
    assert (low <= 0 <= high) == (ends[0] <= 0 <= ends[1])


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_metrics_are_bounded_except_errors(kind: str) -> None:
    form = TASK_TYPES[kind]
    for metric in form.metrics:
        low, high = form.metric_range(metric)
        correlation = metric in ("mcc", "pearson", "spearman")
        expected = (-1, 1) if correlation else (0, 1)
        assert (low, high) == ((-np.inf, np.inf) if metric == "mse" else expected)
