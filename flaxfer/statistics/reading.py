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
    gold = task_type(task).gold_key
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
            f"this is no file of predictions of a {task.type}: {error!r}",
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
      metric: one of those of the task's type.
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
    try:
        return task_type(task).measure(
            task, metric, language, first.gold, [run.prediction for run in runs]
        )
    except ValueError as error:
        raise DataError(str(error), where=str(first.path)) from None
