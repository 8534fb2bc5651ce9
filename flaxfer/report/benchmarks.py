"""Tables of a benchmark, such as XTREME-R: tasks by condition, with means, gaps and verdicts.

A study belongs to a benchmark if its config names the task of an evaluated set (`benchmark`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.report.aggregates import GROUPS, RESOURCES, complete_seeds
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Folded, Heading, Table, Text
from flaxfer.report.formatting import (
    DASH,
    SPACE,
    join,
    label,
    p_value,
    plural,
    signed,
)
from flaxfer.statistics.aggregates import Aggregate, aggregate
from flaxfer.statistics.benchmarks import metrics_of, tasks_of
from flaxfer.statistics.languages import language
from flaxfer.statistics.records import BenchmarkComparison
from flaxfer.statistics.scores import Row
from flaxfer.xtreme.benchmarks import BENCHMARKS, KINDS
from flaxfer.xtreme.references import REFERENCES

TITLES = {"xtreme-r": "XTREME-R"}
NAMES = {
    "xnli": "XNLI",
    "xcopa": "XCOPA",
    "udpos": "UD-POS",
    "panx": "WikiANN",
    "xquad": "XQuAD",
    "mlqa": "MLQA",
    "tydiqa": "TyDiQA-GoldP",
    "tatoeba": "Tatoeba",
    "mewslix": "Mewsli-X",
    "lareqa": "LAReQA",
}
SEARCHED = ("indices", "rankings")
"""Kinds of tasks whose candidates are those of their set."""
SOURCE = "en"
"""Language that the tasks are trained in."""

Scores = dict[str, dict[str, dict[str, np.ndarray]]]
"""Condition -> task -> language -> scores in percent, (seeds,)."""


def benchmark_blocks(data: ReportData) -> list[Block]:
    """Return the tables of each benchmark and model that studies have evaluated."""
    blocks: list[Block] = []
    for benchmark in TITLES:
        by_model: dict[str, list[Entry]] = {}
        for entry in data.entries:
            fraction = entry.study.cell.fraction if entry.study.cell else 1
            if fraction == 1 and any(b == benchmark for b, _ in _rows(entry)):
                by_model.setdefault(entry.model, []).append(entry)
        for model, entries in by_model.items():
            compared = [
                one
                for one in data.evidence.benchmarks
                if (one.benchmark, one.model) == (benchmark, model)
            ]
            blocks += _model_blocks(benchmark, model, entries, compared, data.evidence.level)
    return blocks


def _rows(entry: Entry) -> dict[tuple[str, str], list[Row]]:
    """Return the sets of a study by benchmark and task, without languages of other benchmarks."""
    found = tasks_of(entry.study, entry.scores.rows)
    return {
        (benchmark, task): [row for row in rows if row.language in BENCHMARKS[benchmark][task]]
        for (benchmark, task), rows in found.items()
    }


def _scores(benchmark: str, entries: Sequence[Entry]) -> Scores:
    """Return the scores of each condition; the one after an intermediate task has its name."""
    scores: Scores = {}
    for entry in map(complete_seeds, entries):
        names = {"staged": f"after {entry.intermediate}"}
        for condition in entry.scores.conditions:
            of = scores.setdefault(names.get(condition, condition), {})
            for (owner, task), rows in _rows(entry).items():
                if owner != benchmark:
                    continue
                for row in rows:
                    values = [
                        entry.scores.values(condition, row, metric)
                        for metric in metrics_of(entry.study, task)
                    ]
                    # Studies share the runs without an intermediate task.
                    of.setdefault(task, {}).setdefault(row.language, 100 * np.mean(values, axis=0))
    sizes = {v.size for of in scores.values() for task in of.values() for v in task.values()}
    if len(sizes) > 1:  # No spread, as seeds do not correspond.
        return {
            condition: {
                task: {code: np.atleast_1d(v.mean()) for code, v in by_language.items()}
                for task, by_language in of.items()
            }
            for condition, of in scores.items()
        }
    return scores


def _model_blocks(
    benchmark: str,
    model: str,
    entries: Sequence[Entry],
    compared: Sequence[BenchmarkComparison],
    level: float,
) -> list[Block]:
    scores = _scores(benchmark, entries)
    order = [task for task in BENCHMARKS[benchmark] if any(task in of for of in scores.values())]
    means = {condition: aggregate(of, SOURCE) for condition, of in scores.items() if of}
    title = f"{TITLES[benchmark]} with {model}"
    blocks: list[Block] = [
        Heading(title, 3),
        _task_table(benchmark, title, entries, means, order),
    ]
    if compared:
        blocks.append(_difference_table(title, compared, order, level))
    blocks.append(_gap_table(title, means, order))
    blocks.append(Folded(f"By family, script and resources: {title}", [_group_table(title, means)]))
    for task in order:
        name = f"{NAMES[task]} by language: {title}"
        blocks.append(Folded(name, [_language_table(name, scores, task)]))
    published = [one for one in REFERENCES if not one.task or one.task in order]
    records = [
        {
            "task": NAMES[one.task] if one.task else "mean over tasks",
            "system": one.system,
            "score": one.score,
            "protocol": one.protocol,
        }
        for one in published
    ]
    note = "Other protocols than that of this report: compare with care."
    table = Table(f"Published scores on {TITLES[benchmark]}.", records, "llrl", [note])
    return [*blocks, Folded(f"Published scores: {title}", [table])]


def _shown(values: np.ndarray) -> str:
    """Return the mean in percent ± standard deviation over seeds."""
    if not np.all(np.isfinite(values)):
        return "undefined"
    deviation = f" ±{SPACE}{values.std(ddof=1):.1f}" if values.size > 1 else ""
    return f"{values.mean():.1f}{deviation}"


def _columns(means: Mapping[str, Aggregate], kind: str, name: str) -> dict[str, str]:
    """Return a mean of each condition, or a dash where the condition lacks it."""
    return {
        condition: _shown(np.atleast_1d(getattr(of, kind)[name]))
        if name in getattr(of, kind)
        else DASH
        for condition, of in means.items()
    }


def _over_tasks(means: Mapping[str, Aggregate], kind: str) -> tuple[list[str], dict[str, str]]:
    """Return the tasks that all conditions have, and the mean over them of each condition."""
    shared = set.intersection(*(set(getattr(of, kind)) for of in means.values()))
    tasks = [task for task in NAMES if task in shared]
    if len(tasks) < 2:
        return tasks, {}
    columns = {}
    for condition, of in means.items():
        columns[condition] = _shown(np.mean([getattr(of, kind)[task] for task in tasks], axis=0))
    return tasks, columns


def _task_table(
    benchmark: str,
    title: str,
    entries: Sequence[Entry],
    means: Mapping[str, Aggregate],
    order: Sequence[str],
) -> Table:
    records, notes = [], []
    all_tasks = BENCHMARKS[benchmark]
    for task in order:
        rows = {
            row.language: (entry, row)
            for entry in entries
            for row in _rows(entry).get((benchmark, task), [])
        }
        entry = next(iter(rows.values()))[0]
        metric = join(metrics_of(entry.study, task))
        coverage = f"{len(rows)} of {len(all_tasks[task])}"
        records.append(
            {"task": NAMES[task], "languages": coverage, "metric": metric}
            | _columns(means, "tasks", task)
        )
        absent = [code for code in all_tasks[task] if code not in rows]
        present = [code for code in all_tasks[task] if code in rows]
        if absent:
            few = len(present) < len(absent)
            notes.append(
                f"{NAMES[task]} {f'only in {join(present)}' if few else f'without {join(absent)}'}."
            )
        sampled = [row.n for entry, row in rows.values() if entry.study.sets[row.set].fraction < 1]
        if sampled:
            examples = (
                f"{min(sampled):,} examples"
                if min(sampled) == max(sampled)
                else f"{min(sampled):,} to {max(sampled):,} examples"
            )
            searched = ", which are the candidates, too" if KINDS[task] in SEARCHED else ""
            notes.append(
                f"{NAMES[task]}: samples of {examples} in {plural(len(sampled), 'language')}"
                f"{searched}."
            )
    tasks, columns = _over_tasks(means, "tasks")
    foot = 0
    if columns:
        foot = 1
        coverage = f"{len(tasks)} of {len(all_tasks)} tasks"
        records.append({"task": "mean", "languages": coverage, "metric": ""} | columns)
        if len(tasks) < len(order):
            others = join(NAMES[task] for task in order if task not in tasks)
            notes.append(f"The mean is without {others}, which a condition lacks.")
    if missing := [task for task in all_tasks if task not in order]:
        notes.append(
            f"Without {join(NAMES[task] for task in missing)}: the mean is not the score of "
            f"{TITLES[benchmark]}."
        )
    notes.insert(
        0,
        "Scoring mode corrected: UD-POS counts accuracy, as in the paper (the published script "
        "counts chunks of equal tags); question answering the mean of exact match and F1; means "
        "are over languages, then over tasks, unweighted.",
    )
    if "xcopa" in order:
        notes.append("The official XCOPA model learns Social IQa before COPA.")
    caption = f"{title}: scores in percent, ± standard deviation over seeds."
    return Table(caption, records, "lll", notes, foot)


def _difference_table(
    title: str, compared: Sequence[BenchmarkComparison], order: Sequence[str], level: float
) -> Table:
    """Return the comparisons with their verdicts, by intermediate task."""
    intermediates = dict.fromkeys(one.intermediate for one in compared)

    def place(one: BenchmarkComparison) -> tuple[int, int, int]:
        first = order.index(one.tasks[0]) if one.tasks[0] in order else 0
        return [*intermediates].index(one.intermediate), len(one.tasks) > 1, first

    records = []
    for one in sorted(compared, key=place):
        estimate = one.comparison.all_runs
        mean = len(one.tasks) > 1
        ends = (signed(100 * end, 1) for end in (estimate.low, estimate.high))
        records.append(
            {
                "intermediate task": one.intermediate,
                "task": f"mean over {len(one.tasks)} tasks" if mean else NAMES[one.tasks[0]],
                "direct": f"{100 * estimate.direct.mean:.1f}",
                "staged": f"{100 * estimate.staged.mean:.1f}",
                "staged - direct": signed(100 * estimate.difference, 1),
                f"{level:.0%} interval": f"[{f',{SPACE}'.join(ends)}]",
                "verdict": label(estimate),
                "p after Holm": p_value(estimate.p_holm),
                "units": one.comparison.units,
            }
        )
    notes = [
        "Over all runs; intervals over seeds and examples. Tasks and means are a family of their "
        "own for Holm's correction, and decide about no study.",
        "The mean over tasks is taken run by run, over the tasks of that intermediate task.",
    ]
    caption = f"{title}: staged minus direct, in percentage points."
    return Table(caption, records, "llrrrrlrr", notes)


def _gap_table(title: str, means: Mapping[str, Aggregate], order: Sequence[str]) -> Block:
    """Return the transfer gaps by task and condition."""
    gaps = [task for task in order if any(task in of.gaps for of in means.values())]
    if not gaps:
        return Text(f"{title}: no task is evaluated in {SOURCE} and another language.")
    records = [{"task": NAMES[task]} | _columns(means, "gaps", task) for task in gaps]
    tasks, columns = _over_tasks(means, "gaps")
    if columns:
        records.append({"task": f"mean over {plural(len(tasks), 'task')}"} | columns)
    caption = f"{title}: transfer gap, {SOURCE} minus the mean of the other languages, in points."
    return Table(caption, records, "l", foot=1 if columns else 0)


def _group_table(title: str, means: Mapping[str, Aggregate]) -> Table:
    """Return the means by language family, script and class of resources."""
    records = [
        {"group": name, "name": group} | _columns(means, kind, group)
        for kind, name in GROUPS.items()
        for group in sorted({group for of in means.values() for group in getattr(of, kind)})
    ]
    notes = ["Mean over the tasks that a condition has in the group.", RESOURCES]
    return Table(f"{title}: scores in percent by group of languages.", records, "ll", notes)


def _language_table(name: str, scores: Scores, task: str) -> Table:
    """Return the scores of a task by language and condition."""
    codes = dict.fromkeys(code for of in scores.values() for code in of.get(task, {}))
    records = [
        {"language": code, "name": language(code).name}
        | {
            condition: _shown(of[task][code]) if code in of.get(task, {}) else DASH
            for condition, of in scores.items()
        }
        for code in sorted(codes, key=lambda code: (code != SOURCE, code))
    ]
    return Table(f"{name}, in percent.", records, "ll")
