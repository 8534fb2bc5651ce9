"""Predictions files, by kind of task: their metrics over examples, and whether the runs learned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.statistics import collapse, resampled
from flaxfer.statistics.collapse import Learning
from flaxfer.statistics.resampled import Resampled
from flaxfer.tasks import answers, entities

GOLD = {"regression": "score", "question_answering": "answers"}
"""By kind of task, what a line names the truth; `label` for the others."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The predictions of one run for the examples of one language of a set.

    Attributes:
      path: the file.
      ids: of the examples.
      gold, prediction: as the lines have them, one an example.
    """

    path: Path
    ids: list[str]
    gold: list[Any]
    prediction: list[Any]


def read(path: Path, task: Task) -> dict[str, Predicted]:
    """The predictions of a file by language.

    Raises:
      DataError: a line is not a prediction of such a task.
    """
    gold = GOLD.get(task.kind, "label")
    lines = path.read_bytes().splitlines()
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
        made = {}
        for code in dict.fromkeys(record["language"] for record in records):
            own = [record for record in records if record["language"] == code]
            columns = ([record[key] for record in own] for key in ("id", gold, "prediction"))
            made[code] = Predicted(path, *columns)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"this is no file of predictions of a {task.kind}: {error!r}",
            where=str(path),
            hint="delete the file and that of the same name in evaluations/, and run the study",
        ) from None
    return made


def measured(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    """A metric of some runs over their examples, and what each has learned.

    Args:
      task: that was predicted.
      metric: one of those of the task's kind.
      language: of the examples, for answers.
      runs: their predictions, R of them.

    Raises:
      DataError: the runs do not predict the same examples, or a class is none of the task.
    """
    first = runs[0]
    for run in runs[1:]:
        if (run.ids, run.gold) != (first.ids, first.gold):
            raise DataError(
                f"its examples, or their labels, are not those of {first.path}",
                where=str(run.path),
                hint="delete the folders of evaluations and predictions of the older of the two"
                " stages, and run the study",
            )
    return _KINDS[task.kind](task, metric, language, runs)


def undefined(task: Task, metric: str, gold: Sequence[Any]) -> bool:
    """Whether a metric has no value for such labels, whatever is predicted."""
    return metric in ("pearson", "spearman") and min(gold) == max(gold)


def _classes(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    """Classes, by their names, and numbers of choices."""
    chosen = task.kind == "multiple_choice"
    names = sorted(set(runs[0].gold).union(*(run.prediction for run in runs)))
    number = {name: i for i, name in enumerate(names if chosen else task.labels)}
    if not number.keys() >= set(names):
        raise DataError(f"a class is none of {', '.join(task.labels)}", where=str(runs[0].path))
    label = np.array([number[name] for name in runs[0].gold])
    predicted = np.array([[number[name] for name in run.prediction] for run in runs]).T
    mcc = resampled.class_metric("mcc", predicted, label, len(number))
    if metric == "accuracy":
        measure = resampled.mean(predicted == label[:, None])
    else:
        measure = mcc if metric == "mcc" else resampled.class_metric(
            metric, predicted, label, len(number)
        )  # fmt: skip
    constant = [collapse.constant_classes(column, label) for column in predicted.T]
    return measure, _learning("mcc", mcc, constant)


def _scores(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    score = np.array(runs[0].gold, np.float64)
    output = np.array([run.prediction for run in runs], np.float64).T
    pearson = resampled.pearson(output, score)
    measure: Resampled = pearson
    if metric == "spearman":
        measure = resampled.Spearman(output, score)
    elif metric == "mse":
        measure = resampled.mean((output - score[:, None]) ** 2)
    constant = [collapse.constant_outputs(column, score) for column in output.T]
    return measure, _learning("pearson", pearson, constant)


def _tags(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    gold = runs[0].gold
    counts = [entities.sentence_counts(gold, run.prediction) for run in runs]
    features = np.stack(counts, axis=1)
    label = _tagged(gold, gold)
    constant = [collapse.constant_classes(_tagged(gold, run.prediction), label) for run in runs]
    f1 = resampled.entity_metric("f1", features)
    return resampled.entity_metric(metric, features), _learning("f1", f1, constant)


def _tagged(gold: Sequence[Sequence[str | None]], tags: Sequence[Sequence[str]]) -> np.ndarray:
    """The tags of all words that have a true one."""
    pairs = (
        pair for sentence in zip(gold, tags, strict=True) for pair in zip(*sentence, strict=True)
    )
    return np.array([tag for true, tag in pairs if true is not None])


def _answers(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    score = {"f1": answers.f1, "exact_match": answers.exact_match}

    def scored(name: str) -> Resampled:
        values = [
            [
                score[name](text, golds, language, task.answer_style)
                for text, golds in zip(run.prediction, run.gold, strict=True)
            ]
            for run in runs
        ]
        return resampled.mean(np.array(values).T)

    label = np.array([golds[0] if golds else "" for golds in runs[0].gold])
    constant = [collapse.constant_classes(np.array(run.prediction), label) for run in runs]
    f1 = scored("f1")
    return (f1 if metric == "f1" else scored(metric)), _learning("f1", f1, constant)


def _learning(name: str, measure: Resampled, constant: Sequence[str]) -> list[Learning]:
    values = measure.observed().tolist()
    return [Learning(name, value, why) for value, why in zip(values, constant, strict=True)]


_KINDS = {
    "classification": _classes,
    "multiple_choice": _classes,
    "regression": _scores,
    "tagging": _tags,
    "question_answering": _answers,
}
