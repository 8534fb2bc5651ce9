"""Means over tasks, transfer gaps, and means by family and script, as in XTREME-R."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.aggregate import Aggregate, Values, aggregate, scores_of
from flaxfer.document import Block, Folded, Heading, Table
from flaxfer.reporting.material import Entry, Material
from flaxfer.reporting.wording import join, spread
from flaxfer.results import GAP, MEAN, PATHS, ZERO_SHOT, Scores, with_difference

TASKS = "mean over tasks"

Columns = Mapping[str, np.ndarray]


def aggregate_blocks(material: Material) -> list[Block]:
    """For each model its tasks with their means, and the means by family and script.

    Tasks are studies; those where smaller is better are left out, and said to be.
    """
    by_model: dict[str, list[Entry]] = defaultdict(list)
    for entry in material.entries:
        scores = Scores(entry.study)
        if entry.study.larger_is_better and scores.trained + scores.zero_shot:
            by_model[entry.model].append(entry)
    left_out = [entry.name for entry in material.entries if not entry.study.larger_is_better]
    blocks: list[Block] = [Heading("Means over languages and tasks")] if by_model else []
    for model, entries in by_model.items():
        paths = [p for p in PATHS if all(p in entry.study.paths for entry in entries)]
        if not paths:
            continue
        source = _source(entries)
        of_path = {path: aggregate(_values(entries, path), source) for path in paths}
        blocks.append(_task_table(model, entries, of_path, source, left_out))
        blocks.append(_group_table(model, entries, of_path))
    return blocks


def _source(entries: Sequence[Entry]) -> str:
    """The one language that all studies are trained on, if there is one; else English."""
    trained = {tuple(Scores(entry.study).trained) for entry in entries}
    (only, *others) = trained
    return only[0] if not others and len(only) == 1 else "en"


def _values(entries: Sequence[Entry], path: str, languages: Sequence[str] = ()) -> Values:
    """Study -> language -> scores by seed; means over seeds where studies have other numbers."""
    studies = [dataclasses.replace(entry.study, name=entry.name) for entry in entries]
    values = scores_of(studies, path)
    if len({len(study.seeds) for study in studies}) == 1:
        return values
    return {
        task: {code: score.mean() for code, score in scores.items()}
        for task, scores in values.items()
    }


def _zero_shot(entries: Sequence[Entry], path: str) -> np.ndarray | None:
    """Mean over tasks of the zero-shot means; None if a task has none."""
    own = {entry.name: Scores(entry.study).zero_shot for entry in entries}
    if not all(own.values()):
        return None
    values = _values(entries, path)
    return aggregate({t: {code: values[t][code] for code in own[t]} for t in values}).mean


def _task_table(
    model: str,
    entries: Sequence[Entry],
    of_path: Mapping[str, Aggregate],
    source: str,
    left_out: Sequence[str],
) -> Table:
    lines: list[tuple[str, str, str, Columns]] = []
    for entry in entries:
        columns = Scores(entry.study).mean_columns(entry.study.metric)
        lines += [
            (entry.name, entry.study.metric, name, _chosen(columns[name], of_path))
            for name in (MEAN, ZERO_SHOT, GAP)
            if name in columns
        ]
    foot = 0
    if len(entries) > 1:
        overall = {MEAN: {path: of_path[path].mean for path in of_path}}
        zero_shot = {path: _zero_shot(entries, path) for path in of_path}
        overall[ZERO_SHOT] = {path: v for path, v in zero_shot.items() if v is not None}
        gaps = {path: of_path[path].gap for path in of_path}
        overall[f"{GAP} from {source}"] = {path: v for path, v in gaps.items() if v is not None}
        more = [(name, with_difference(of)) for name, of in overall.items() if of]
        lines += [(TASKS, "", name, of) for name, of in more]
        foot = len(more)
    names = list(with_difference(dict.fromkeys(of_path, np.zeros(1))))
    rows = [
        [task, metric, name, *(spread(column, np.atleast_1d(of[column])) for column in names)]
        for task, metric, name, of in lines
    ]
    notes = [f"{GAP}: the score of the language trained on minus the zero-shot mean."]
    if foot:
        notes.append(
            f"Over tasks, the gap is that of XTREME: {source} minus the mean of the others, of the "
            "tasks that have both. A study counts as a task."
        )
    if left_out:
        notes.append(f"Smaller is better, so not a task here: {join(left_out)}.")
    if len({len(entry.study.seeds) for entry in entries}) > 1:
        notes.append("The studies have different numbers of seeds: means over tasks have no ±.")
    caption = f"Means with {model}, ± standard deviation over seeds."
    header = ["task", "metric", "mean", *names]
    return Table(caption, header, rows, "lll" + "r" * len(names), notes, foot)


def _chosen(columns: Columns, of_path: Mapping[str, Aggregate]) -> Columns:
    """The columns of the paths that all tasks have."""
    return with_difference({path: columns[path] for path in of_path})


def _group_table(model: str, entries: Sequence[Entry], of_path: Mapping[str, Aggregate]) -> Folded:
    """By language family, and by script."""
    codes = Counter(
        code
        for entry in entries
        for code in dict.fromkeys(row.language for row in Scores(entry.study).rows)
    )
    rows = []
    for kind in ("families", "scripts"):
        groups = {path: getattr(one, kind) for path, one in of_path.items()}
        for group in next(iter(groups.values())):
            columns = with_difference({path: of[group] for path, of in groups.items()})
            rows.append([
                {"families": "family", "scripts": "script"}[kind], group,
                *(spread(name, np.atleast_1d(values)) for name, values in columns.items()),
            ])  # fmt: skip
    names = list(with_difference(dict.fromkeys(of_path, np.zeros(1))))
    caption = f"By family and script with {model}: mean over the tasks that have it."
    header = ["group", "name", *names]
    table = Table(caption, header, rows, "ll" + "r" * len(names))
    return Folded(f"By language family and script: {model}, {len(codes)} languages", [table])
