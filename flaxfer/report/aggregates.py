"""Means over tasks, transfer gaps, and means by family and script, as in XTREME-R."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.evaluation.records import CONDITIONS, Study
from flaxfer.report.document import Block, Folded, Heading, Table
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import join, plural, spread
from flaxfer.statistics.aggregates import Aggregate, Values, aggregate, scores_of
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT, Scores, with_difference

Columns = Mapping[str, np.ndarray]


def aggregate_blocks(material: Material) -> list[Block]:
    """For each model its tasks with their means, and the means by family and script.

    Tasks are studies, with the seeds that have a run of every path.
    """
    by_model: dict[str, list[Study]] = defaultdict(list)
    notes: dict[str, list[str]] = defaultdict(list)
    for entry in material.entries:
        whole = _whole(entry)
        scores = Scores(whole)
        if not entry.study.larger_is_better:
            notes[entry.model].append(f"Smaller is better, so not a task here: {entry.name}.")
        elif whole.seeds and scores.trained + scores.zero_shot:
            by_model[entry.model].append(whole)
        if missing := Scores(entry.study).missing_runs():
            text = f"{entry.name} is without the seeds that lack a run: {join(missing)}."
            notes[entry.model].append(text)
    blocks: list[Block] = [Heading("Means over languages and tasks")] if by_model else []
    for model, studies in by_model.items():
        if paths := [p for p in CONDITIONS if all(p in study.conditions for study in studies)]:
            source = _source(studies)
            of_path = {path: aggregate(_values(studies, path), source) for path in paths}
            blocks.append(_task_table(model, studies, of_path, source, notes[model]))
            blocks.append(_group_table(model, studies, of_path))
    return blocks


def _whole(entry: Entry) -> Study:
    """The study by its name in the report, with the seeds that have a run of every path."""
    study = entry.study
    there = {(run.condition, run.seed) for run in study.runs if run.stage == "target"}
    seeds = [s for s in study.seeds if all((path, s) in there for path in study.conditions)]
    return dataclasses.replace(study, name=entry.name, seeds=seeds)


def _source(studies: Sequence[Study]) -> str:
    """The one language that all studies are trained on, if there is one; else English."""
    trained = {tuple(Scores(study).trained) for study in studies}
    (only, *others) = trained
    return only[0] if not others and len(only) == 1 else "en"


def _same_seeds(studies: Sequence[Study]) -> bool:
    return len({len(study.seeds) for study in studies}) == 1


def _values(studies: Sequence[Study], path: str) -> Values:
    """Study -> language -> scores by seed; means over seeds where studies have other numbers."""
    values = scores_of(studies, path)
    if _same_seeds(studies):
        return values
    return {
        task: {code: score.mean() for code, score in scores.items()}
        for task, scores in values.items()
    }


def _zero_shot(studies: Sequence[Study], path: str) -> np.ndarray | None:
    """Mean of the zero-shot means, over the tasks that have one; None if there is none."""
    own = {study.name: codes for study in studies if (codes := Scores(study).zero_shot)}
    values = _values(studies, path)
    chosen = {task: {code: values[task][code] for code in codes} for task, codes in own.items()}
    return aggregate(chosen).mean if chosen else None


def _over_tasks(
    studies: Sequence[Study], of_path: Mapping[str, Aggregate], source: str
) -> dict[str, Columns]:
    """Name of a mean over tasks -> its values by path, with their difference."""
    zero_shot = {path: _zero_shot(studies, path) for path in of_path}
    overall = {
        MEAN: {path: one.mean for path, one in of_path.items()},
        ZERO_SHOT: {path: value for path, value in zero_shot.items() if value is not None},
        f"{GAP} from {source}": {
            path: one.gap for path, one in of_path.items() if one.gap is not None
        },
    }
    return {name: with_difference(of) for name, of in overall.items() if of}


def _task_table(
    model: str,
    studies: Sequence[Study],
    of_path: Mapping[str, Aggregate],
    source: str,
    notes: Sequence[str],
) -> Table:
    lines: list[tuple[str, str, str, Columns]] = []
    for study in studies:
        for name, columns in Scores(study).mean_columns(study.metric).items():
            chosen = with_difference({path: columns[path] for path in of_path})
            lines.append((study.name, study.metric, name, chosen))
    overall = _over_tasks(studies, of_path, source) if len(studies) > 1 else {}
    lines += [("mean over tasks", "", name, of) for name, of in overall.items()]
    names = _columns(of_path)
    rows = [
        [task, metric, name, *(spread(column, np.atleast_1d(of[column])) for column in names)]
        for task, metric, name, of in lines
    ]
    told = [f"{GAP}: the score of the language trained on minus the zero-shot mean.", *notes]
    if overall:
        told.append(
            "Over tasks, the zero-shot mean is over those that have one, and the gap is that of "
            f"XTREME, {source} minus the mean of the others, over those that have both. Each study "
            "is a task."
        )
        if not _same_seeds(studies):
            told.append("The studies have different numbers of seeds: no ± over tasks.")
    caption = f"Means with {model}, ± standard deviation over seeds."
    header = ["task", "metric", "mean", *names]
    return Table(caption, header, rows, "lll" + "r" * len(names), told, len(overall))


def _columns(of_path: Mapping[str, Aggregate]) -> list[str]:
    """The paths, and their difference."""
    return list(with_difference(dict.fromkeys(of_path, np.zeros(1))))


def _group_table(model: str, studies: Sequence[Study], of_path: Mapping[str, Aggregate]) -> Folded:
    """By language family, and by script."""
    rows = []
    for kind, name in (("families", "family"), ("scripts", "script")):
        groups = {path: getattr(one, kind) for path, one in of_path.items()}
        for group in next(iter(groups.values())):
            columns = with_difference({path: of[group] for path, of in groups.items()})
            cells = (spread(column, np.atleast_1d(values)) for column, values in columns.items())
            rows.append([name, group, *cells])
    names = _columns(of_path)
    caption = f"By family and script with {model}: mean over the tasks that have it."
    table = Table(caption, ["group", "name", *names], rows, "ll" + "r" * len(names))
    scores = [Scores(study) for study in studies]
    languages = {code for one in scores for code in one.trained + one.zero_shot}
    return Folded(
        f"By language family and script: {model}, {plural(len(languages), 'language')}", [table]
    )
