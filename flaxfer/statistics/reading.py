"""Predictions files, by task type: their metrics over examples, and whether the runs learned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.tasks import task_type
from flaxfer.tasks.resampling import Learning, Resampled


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The predictions in a file for the examples of one language, in the order of its lines."""

    path: Path
    ids: list[str] = dataclasses.field(default_factory=list)
    gold: list[Any] = dataclasses.field(default_factory=list)
    prediction: list[Any] = dataclasses.field(default_factory=list)


def read(path: Path, task: Task) -> dict[str, Predicted]:
    """Return the predictions of a file by language.

    Raises:
      DataError: a line is not a prediction of such a task.
    """
    gold = task_type(task).gold_key
    by_language: dict[str, Predicted] = {}
    try:
        for record in json.loads(b"[%b]" % b",".join(path.read_bytes().splitlines())):
            predicted = by_language.setdefault(record["language"], Predicted(path))
            predicted.ids.append(record["id"])
            predicted.gold.append(record[gold])
            predicted.prediction.append(record["prediction"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"this is no file of predictions of a {task.type}: {error!r}",
            where=str(path),
            hint="delete the file and that of the same name in evaluations/, and run the study",
        ) from None
    return by_language


def measured(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    """Return a metric of some runs over their examples, and the learning of each run.

    Raises:
      DataError: the runs do not predict the same examples, or a class is none of the task.
    """
    first = runs[0]
    for run in runs[1:]:
        if (run.ids, run.gold) != (first.ids, first.gold):
            raise DataError(
                f"its examples, or their labels, are not those of {first.path}",
                where=str(run.path),
                hint="delete the folders evaluations and predictions of the older of the two stages"
                ", and run the study",
            )
    predictions = [run.prediction for run in runs]
    try:
        return task_type(task).measure(task, metric, language, first.gold, predictions)
    except ValueError as error:
        raise DataError(str(error), where=str(first.path)) from None
