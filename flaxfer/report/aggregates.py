"""Means over tasks, transfer gaps, and means by language family, script and resources."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.evaluation.records import CONDITIONS
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Folded, Table
from flaxfer.report.formatting import join, plural, spreads
from flaxfer.statistics.aggregates import Aggregate, Values, aggregate, scores_of
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT, with_difference

GROUPS = {"families": "family", "scripts": "script", "resources": "resources"}
"""Groups of languages: attributes of `Aggregate`, and their names."""
RESOURCES = "Resources: class of Joshi et al. (2020), 5 for the most labelled and unlabelled texts."


def aggregate_blocks(data: ReportData) -> list[Block]:
    """Return, for each model, its tasks with their means, and the means by group of languages.

    Studies are restricted to the seeds that have a run of every condition.
    """
    by_model: dict[str, list[Entry]] = defaultdict(list)
    notes: dict[str, list[str]] = defaultdict(list)
    for entry in data.entries:
        complete = complete_seeds(entry)
        if not entry.study.larger_is_better:
            notes[entry.model].append(f"Smaller is better, so not a task here: {entry.name}.")
        elif complete.study.seeds and complete.scores.mean_languages:
            by_model[entry.model].append(complete)
        if missing := entry.scores.missing_runs():
            text = f"{entry.name} is without the seeds that lack a run: {join(missing)}."
            notes[entry.model].append(text)
    blocks: list[Block] = []
    for model, entries in by_model.items():
        shared = set.intersection(*(set(entry.study.conditions) for entry in entries))
        if conditions := [condition for condition in CONDITIONS if condition in shared]:
            blocks += _model_blocks(model, entries, conditions, notes[model])
    return blocks


def complete_seeds(entry: Entry) -> Entry:
    """Return the entry with the seeds that have all conditions, and its name as the study's."""
    study = entry.study
    runs = {(run.condition, run.seed) for run in study.runs if run.stage == "target"}
    seeds = [s for s in study.seeds if all((name, s) in runs for name in study.conditions)]
    study = dataclasses.replace(study, name=entry.name, seeds=seeds)
    return dataclasses.replace(entry, study=study)


def _model_blocks(
    model: str, entries: Sequence[Entry], conditions: Sequence[str], notes: Sequence[str]
) -> list[Block]:
    studies = [entry.study for entry in entries]
    values = {condition: scores_of(studies, condition) for condition in conditions}
    same_seeds = len({len(study.seeds) for study in studies}) == 1
    if not same_seeds:
        values = {
            condition: {
                task: {code: scores.mean() for code, scores in by_language.items()}
                for task, by_language in by_task.items()
            }
            for condition, by_task in values.items()
        }
    # The transfer gap starts from the one language that all studies train on, or else English.
    trained, *others = {tuple(entry.scores.trained) for entry in entries}
    source = trained[0] if not others and len(trained) == 1 else "en"
    task_of = {entry.name: _task(entry) for entry in entries}
    aggregates = {condition: aggregate(of, source, task_of) for condition, of in values.items()}

    records = [
        {"task": entry.name, "metric": entry.study.metric, "mean": mean}
        | spreads(with_difference({condition: columns[condition] for condition in conditions}))
        for entry in entries
        for mean, columns in entry.scores.mean_columns(entry.study.metric).items()
    ]
    notes = [f"{GAP}: the score of the language trained on minus the zero-shot mean.", *notes]
    over_tasks: list[dict[str, str]] = []
    if len(entries) > 1:
        zero_shot = {entry.name: codes for entry in entries if (codes := entry.scores.zero_shot)}
        over_tasks = _means_over_tasks(values, aggregates, zero_shot, source, task_of)
        notes.append(
            "Over tasks, the zero-shot mean is over the tasks that have one, and the gap, as in "
            f"XTREME, is {source} minus the mean of the other languages, over the tasks that have "
            "both. A task of several studies counts once, with their mean."
        )
        if not same_seeds:
            notes.append("The studies have different numbers of seeds: no ± over tasks.")
    caption = f"Means with {model}, ± standard deviation over seeds."
    table = Table(caption, records + over_tasks, "lll", notes, len(over_tasks))

    languages = {code for of in values[conditions[0]].values() for code in of}
    summary = f"By family, script and resources: {model}, {plural(len(languages), 'language')}"
    caption = f"By group of languages with {model}: mean over the tasks that have it."
    return [table, Folded(summary, [Table(caption, _groups(aggregates), "ll", [RESOURCES])])]


def _task(entry: Entry) -> str:
    """Return the target's name, which the studies of a grid with other intermediate tasks share."""
    return entry.study.cell.target if entry.study.cell else entry.study.task.name


def _means_over_tasks(
    values: Mapping[str, Values],
    aggregates: Mapping[str, Aggregate],
    zero_shot: Mapping[str, Sequence[str]],
    source: str,
    task_of: Mapping[str, str],
) -> list[dict[str, str]]:
    """Return the rows of the mean, the zero-shot mean and the gap, if defined."""
    means: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for condition, by_task in values.items():
        means[MEAN][condition] = aggregates[condition].mean
        if zero_shot:
            scores = {t: {code: by_task[t][code] for code in zero_shot[t]} for t in zero_shot}
            means[ZERO_SHOT][condition] = aggregate(scores, source, task_of).mean
        if (gap := aggregates[condition].gap) is not None:
            means[f"{GAP} from {source}"][condition] = gap
    return [
        {"task": "mean over tasks", "metric": "", "mean": mean} | spreads(with_difference(columns))
        for mean, columns in means.items()
    ]


def _groups(aggregates: Mapping[str, Aggregate]) -> list[dict[str, str]]:
    """Return the means by language family, script and class of resources."""
    return [
        {"group": label, "name": group}
        | spreads(with_difference({c: getattr(one, kind)[group] for c, one in aggregates.items()}))
        for kind, label in GROUPS.items()
        for group in getattr(next(iter(aggregates.values())), kind)
    ]
