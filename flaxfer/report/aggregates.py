"""Means over tasks, transfer gaps, and means by language family and script, as in XTREME-R."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.evaluation.records import CONDITIONS, Study
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Folded, Heading, Table, table_of
from flaxfer.report.formatting import join, plural, spread
from flaxfer.statistics.aggregates import Aggregate, Values, aggregate, scores_of
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT, Scores, with_difference


def aggregate_blocks(data: ReportData) -> list[Block]:
    """Return, for each model, its tasks with their means, and the means by family and script.

    Every study is a task, restricted to the seeds that have a run of every condition.
    """
    by_model: dict[str, list[Study]] = defaultdict(list)
    notes: dict[str, list[str]] = defaultdict(list)
    for entry in data.entries:
        study = _complete_seeds(entry)
        scores = Scores(study)
        if not study.larger_is_better:
            notes[entry.model].append(f"Smaller is better, so not a task here: {entry.name}.")
        elif study.seeds and scores.trained + scores.zero_shot:
            by_model[entry.model].append(study)
        if missing := Scores(entry.study).missing_runs():
            text = f"{entry.name} is without the seeds that lack a run: {join(missing)}."
            notes[entry.model].append(text)
    blocks: list[Block] = [Heading("Means over languages and tasks")] if by_model else []
    for model, studies in by_model.items():
        conditions = [
            name for name in CONDITIONS if all(name in study.conditions for study in studies)
        ]
        if conditions:
            source = _source(studies)
            aggregates = {name: aggregate(_values(studies, name), source) for name in conditions}
            blocks.append(_task_table(model, studies, aggregates, source, notes[model]))
            blocks.append(_group_table(model, studies, aggregates))
    return blocks


def _complete_seeds(entry: Entry) -> Study:
    """Return the study, named as in the report, with the seeds that have all conditions."""
    study = entry.study
    runs = {(run.condition, run.seed) for run in study.runs if run.stage == "target"}
    seeds = [s for s in study.seeds if all((name, s) in runs for name in study.conditions)]
    return dataclasses.replace(study, name=entry.name, seeds=seeds)


def _source(studies: Sequence[Study]) -> str:
    """Return the one language that all studies train on, or else English."""
    first, *others = {tuple(Scores(study).trained) for study in studies}
    return first[0] if not others and len(first) == 1 else "en"


def _same_seeds(studies: Sequence[Study]) -> bool:
    return len({len(study.seeds) for study in studies}) == 1


def _values(studies: Sequence[Study], condition: str) -> Values:
    """Return scores by study and language; means over seeds if studies differ in their number."""
    values = scores_of(studies, condition)
    if _same_seeds(studies):
        return values
    return {
        task: {code: score.mean() for code, score in scores.items()}
        for task, scores in values.items()
    }


def _zero_shot(studies: Sequence[Study], condition: str) -> np.ndarray | None:
    """Return the mean of the zero-shot means, over the tasks that have one."""
    values = _values(studies, condition)
    languages = {study.name: Scores(study).zero_shot for study in studies}
    zero_shot = {
        task: {code: values[task][code] for code in codes}
        for task, codes in languages.items()
        if codes
    }
    return aggregate(zero_shot).mean if zero_shot else None


def _task_table(
    model: str,
    studies: Sequence[Study],
    aggregates: Mapping[str, Aggregate],
    source: str,
    notes: Sequence[str],
) -> Table:
    records = [
        {"task": study.name, "metric": study.metric, "mean": mean}
        | _cells({name: columns[name] for name in aggregates})
        for study in studies
        for mean, columns in Scores(study).mean_columns(study.metric).items()
    ]
    notes = [f"{GAP}: the score of the language trained on minus the zero-shot mean.", *notes]
    foot = 0
    if len(studies) > 1:
        over_tasks: dict[str, Mapping[str, np.ndarray | None]] = {
            MEAN: {name: one.mean for name, one in aggregates.items()},
            ZERO_SHOT: {name: _zero_shot(studies, name) for name in aggregates},
            f"{GAP} from {source}": {name: one.gap for name, one in aggregates.items()},
        }
        defined = {
            mean: {name: value for name, value in columns.items() if value is not None}
            for mean, columns in over_tasks.items()
        }
        means = [
            {"task": "mean over tasks", "metric": "", "mean": mean} | _cells(columns)
            for mean, columns in defined.items()
            if columns
        ]
        records, foot = records + means, len(means)
        notes.append(
            "Over tasks, the zero-shot mean is over the tasks that have one, and the gap, as in "
            f"XTREME, is {source} minus the mean of the other languages, over the tasks that have "
            "both. Each study is a task."
        )
        if not _same_seeds(studies):
            notes.append("The studies have different numbers of seeds: no ± over tasks.")
    align = "lll" + "r" * (len(records[0]) - 3)
    caption = f"Means with {model}, ± standard deviation over seeds."
    return table_of(caption, records, align, notes, foot)


def _group_table(
    model: str, studies: Sequence[Study], aggregates: Mapping[str, Aggregate]
) -> Folded:
    """Return the means by language family, and by script."""
    records = []
    for attribute, label in (("families", "family"), ("scripts", "script")):
        groups = {name: getattr(one, attribute) for name, one in aggregates.items()}
        records += [
            {"group": label, "name": group}
            | _cells({name: by_group[group] for name, by_group in groups.items()})
            for group in next(iter(groups.values()))
        ]
    caption = f"By family and script with {model}: mean over the tasks that have it."
    table = table_of(caption, records, "ll" + "r" * (len(records[0]) - 2))
    scores = [Scores(study) for study in studies]
    languages = {code for one in scores for code in one.trained + one.zero_shot}
    summary = f"By language family and script: {model}, {plural(len(languages), 'language')}"
    return Folded(summary, [table])


def _cells(columns: dict[str, np.ndarray]) -> dict[str, str]:
    """Return the values of the conditions and of their difference as text."""
    return {
        name: spread(name, np.atleast_1d(values))
        for name, values in with_difference(columns).items()
    }
