"""Scores by language as LaTeX tables, laid out as in XTREME (Hu et al. 2020, tables 10 to 20)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.evaluation.records import MIXED
from flaxfer.report.csv_tex import tex
from flaxfer.report.data import Entry, ReportData
from flaxfer.tasks import task_type

AVERAGE = "avg"
Scores = dict[tuple[str, str], dict[str, float]]
"""Scores by language, and their average, of each model and condition."""


def languages_tex(data: ReportData) -> str:
    """Return a `tabular` for each target: its languages by model and condition, means over seeds.

    The best score of each column is bold, as it is printed; metrics from 0 or -1 to 1 are printed
    as percentages.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in data.entries:
        if entry.scores.rows:
            groups.setdefault((entry.target, entry.study.metric), []).append(entry)
    tables = [_table(*key, entries) for key, entries in groups.items()]
    return (
        "% Needs \\usepackage{booktabs} and, for names beyond ASCII, a Unicode engine or font.\n"
        "% Means over seeds. Bold: the best of a column.\n" + "\n".join(tables)
    )


def _table(target: str, metric: str, entries: Sequence[Entry]) -> str:
    scores: Scores = {}
    for entry in entries:
        for condition in entry.scores.conditions:
            name = f"after {entry.intermediate}" if condition == "staged" else condition
            key, values = (entry.model, name), _by_language(entry, condition)
            if scores.setdefault(key, values) != values:  # Other seeds than in another study.
                scores[entry.model, f"{name} ({entry.name})"] = values
    columns = list(dict.fromkeys(name for of in scores.values() for name in of if name != AVERAGE))
    columns.append(AVERAGE)
    study = entries[0].study
    percent = math.isfinite(max(map(abs, task_type(study.task).metric_range(metric))))
    printed = {key: {name: _number(of.get(name), percent) for name in columns}
               for key, of in scores.items()}  # fmt: skip
    best = _best(printed, columns, study.larger_is_better)
    lines: list[str] = []
    model: str | None = None
    for key, of in printed.items():
        if model not in (None, key[0]):
            lines.append(r"\midrule")
        shown = "" if key[0] == model else tex(key[0])
        model = key[0]
        cells = [rf"\textbf{{{of[c]}}}" if of[c] == best[c] else of[c] for c in columns]
        lines.append(" & ".join([shown, tex(key[1]), *cells]) + r" \\")
    unit = ", in percent" if percent else ""
    return "\n".join([
        f"% {' '.join(target.split())}: {metric}{unit}",
        rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["model", "training", *map(tex, columns)]) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ])  # fmt: skip


def _by_language(entry: Entry, condition: str) -> dict[str, float]:
    """Return the mean over seeds by language, and the mean over languages, each sets' mean."""
    scores = entry.scores
    by_row = scores.by_row(condition, entry.study.metric)
    languages = dict.fromkeys(row.language for row in scores.rows)
    means = {name: float(scores.language_mean([name], by_row).mean()) for name in languages}
    counted = [value for name, value in means.items() if name != MIXED]
    return means | {AVERAGE: float(np.mean(counted or list(means.values())))}


def _number(value: float | None, percent: bool) -> str:
    if value is None or not math.isfinite(value):
        return "--"
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def _best(
    printed: Mapping[tuple[str, str], Mapping[str, str]], columns: Sequence[str], larger: bool
) -> dict[str, str]:
    """Return the best number of each column; empty if it has none or only one row."""
    best = {}
    for column in columns:
        numbers = [of[column] for of in printed.values() if of[column] != "--"]
        choose = max if larger else min
        best[column] = choose(numbers, key=float) if len(numbers) > 1 else ""
    return best
