"""Scores on the tasks of a benchmark, and their mean over the studies of a grid.

Sets whose `benchmark` is a task of the benchmark are averaged over languages, whichever study they
belong to. As in XTREME, a task of question answering counts the mean of exact match and F1. The
mean over tasks is taken run by run: over the runs of a condition and seed, which share their
intermediate stage. Tasks have no examples in common, so their resamples are independent.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.evaluation.records import Study
from flaxfer.statistics.scores import MEAN, Row
from flaxfer.statistics.sets import COMPARED, Compared, SetScores, StudyRuns
from flaxfer.xtreme.benchmarks import KINDS

ANSWERS = ("f1", "exact_match")
"""Metrics of question answering, whose mean counts."""


def metrics_of(study: Study, task: str) -> tuple[str, ...]:
    """Return the metrics of a study whose mean is the score of a task of a benchmark."""
    return ANSWERS if KINDS[task] == "answers" else (study.metric,)


def tasks_of(study: Study, rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the sets of a study by benchmark and task."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        info = study.sets.get(row.set)
        if info is not None and info.benchmark is not None:
            benchmark, task = info.benchmark.split("/")
            found.setdefault((benchmark, task), []).append(row)
    return found


@dataclasses.dataclass(frozen=True)
class TaskRuns:
    """Runs with their scores on a task of a benchmark, or on the mean over several.

    Attributes:
      benchmark: name of the benchmark.
      tasks: the task, or those of the mean.
      model, intermediate: names from the grid, or else from the study.
      runs: the runs.
      scores: means over languages.
    """

    benchmark: str
    tasks: tuple[str, ...]
    model: str
    intermediate: str
    runs: Compared
    scores: SetScores


def read_tasks(
    study: StudyRuns, sets: dict[Row, SetScores], draws: int, seed: int
) -> list[TaskRuns]:
    """Return the tasks of benchmarks that a study has sets of.

    Studies with looks have none: their number of seeds depends on another comparison.

    Args:
      study: the study, read with its dev metric.
      sets: scores of its sets, from `StudyRuns.sets` with `draws` and `seed`.
      draws: number of resamples.
      seed: seed of the resamples.
    """
    record, found = study.study, []
    tasks = tasks_of(record, list(sets)) if not record.looks else {}
    for (benchmark, task), rows in tasks.items():
        by_metric = []
        for metric in metrics_of(record, task):
            of = sets
            if metric != study.metric:
                of = StudyRuns(study.workdir, metric, record).sets(draws, seed)
            by_metric.append([of[row] for row in rows if row in of])
        if len({len(of) for of in by_metric}) > 1 or not by_metric[0]:
            continue
        averaged = [_average(of, of[0]) for of in zip(*by_metric, strict=True)]
        model, intermediate = _names(record)
        runs = Compared(study.workdir, record, "score", study.runs)
        scores = study.mean(MEAN, averaged)
        found.append(TaskRuns(benchmark, (task,), model, intermediate, runs, scores))
    return found


def _names(study: Study) -> tuple[str, str]:
    if (cell := study.cell) is not None:
        fraction = "" if cell.fraction == 1 else f" ({cell.fraction:.4g} of the data)"
        return cell.model + fraction, cell.intermediate
    intermediate = study.intermediate_task.name if study.intermediate_task else ""
    return study.model.source, intermediate


def mean_over_tasks(tasks: Sequence[TaskRuns]) -> list[TaskRuns]:
    """Return the means over the tasks of each benchmark, model and intermediate task.

    A mean is over the condition and seeds that all its tasks have; over a single task, there is
    none.
    """
    groups: dict[tuple[str, str, str], list[TaskRuns]] = {}
    for one in tasks:
        groups.setdefault((one.benchmark, one.model, one.intermediate), []).append(one)
    means = []
    for (benchmark, model, intermediate), members in groups.items():
        names = tuple(name for one in members for name in one.tasks)
        places = [
            {(run.condition, run.seed): i for i, run in enumerate(one.runs.runs)} for one in members
        ]
        shared = [place for place in places[0] if all(place in of for of in places)]
        if len(members) < 2 or {condition for condition, _ in shared} != set(COMPARED):
            continue
        first = members[0].runs
        runs = [first.runs[places[0][place]] for place in shared]
        paired = all(one.runs.paired for one in members)
        study = dataclasses.replace(first.study, paired=paired)
        compared = Compared(Path(), study, "score", runs)
        aligned = [
            _aligned(one, [of[place] for place in shared], compared, number)
            for number, (one, of) in enumerate(zip(members, places, strict=True))
        ]
        scores = _average(aligned, aligned[0])
        means.append(TaskRuns(benchmark, names, model, intermediate, compared, scores))
    return means


def _aligned(task: TaskRuns, order: Sequence[int], compared: Compared, number: int) -> SetScores:
    """Return the scores of a task for the runs of a mean, with resamples in an order of its own.

    Args:
      task: the task.
      order: its runs in the order of the mean's.
      compared: the runs of the mean.
      number: number of the task in the mean.
    """
    one = task.scores
    # Sets of equal size share their draws, also those of different studies.
    rng = np.random.default_rng(zlib.crc32(task.tasks[0].encode()))
    place = {seed: i for i, seed in enumerate(_pair_seeds(task.runs))}
    pairs = [place[seed] for seed in _pair_seeds(compared)]
    return dataclasses.replace(
        one,
        unlearned=[one.unlearned[i] for i in order],
        # Units of other tasks are others.
        drawn=tuple(
            dataclasses.replace(units, group=units.group + 10_000 * number) for units in one.drawn
        ),
        scores=one.scores[list(order)],
        resampled=one.resampled[rng.permutation(len(one.resampled))][:, list(order)],
        exchanged=one.exchanged[rng.permutation(len(one.exchanged))][:, pairs],
    )


def _pair_seeds(runs: Compared) -> list[int]:
    return [runs.runs[i].seed for i in runs.pairs[0]]


def _average(parts: Sequence[SetScores], like: SetScores) -> SetScores:
    """Return the mean of the arrays of several scores of the same runs.

    `n` and the units are those of the parts together, unless all parts are of one set.
    """
    arrays: dict[str, Any] = {
        field: np.mean([getattr(one, field) for one in parts], axis=0)
        for field in ("scores", "resampled", "exchanged")
    }
    if all(one.set == like.set and one.set for one in parts):
        return dataclasses.replace(like, **arrays)
    reasons = zip(*(one.unlearned for one in parts), strict=True)
    return dataclasses.replace(
        like,
        n=sum(one.n for one in parts),
        largest=float(np.mean([one.largest for one in parts])),
        unlearned=["; ".join(filter(None, of_run)) for of_run in reasons],
        at_chance=all(one.at_chance for one in parts),
        drawn=tuple(units for one in parts for units in one.drawn),
        **arrays,
    )
