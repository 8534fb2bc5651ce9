"""Predictions files, by task type: their metrics over examples, and whether the runs learned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Task
from flaxfer.data.examples import count_units
from flaxfer.errors import DataError
from flaxfer.evaluation.records import Study
from flaxfer.tasks import TaskType, task_type
from flaxfer.tasks.measuring import measure
from flaxfer.tasks.resampling import Learning, Resampled

_RUN_AGAIN = "delete the file and that of the same name in evaluations/, and run the study"


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The predictions in a file for the examples of one language, in the order of its lines.

    The cluster of an example that has none is empty.
    """

    path: Path
    ids: list[str] = dataclasses.field(default_factory=list)
    cluster: list[str] = dataclasses.field(default_factory=list)
    gold: list[Any] = dataclasses.field(default_factory=list)
    prediction: list[Any] = dataclasses.field(default_factory=list)


def read(path: Path, task: Task) -> dict[str, Predicted]:
    """Return the predictions of a file by language.

    Raises:
      DataError: a line is not a prediction of such a task.
    """
    form = task_type(task)
    by_language: dict[str, Predicted] = {}
    for number, record in enumerate(read_records(path), 1):
        if fault := _fault(record, form):
            raise _no_prediction(path, number, f"{fault}; a prediction of {task.type} is expected")
        predicted = by_language.setdefault(record["language"], Predicted(path))
        predicted.ids.append(record["id"])
        predicted.cluster.append(record.get("cluster", ""))
        predicted.gold.append(record[form.gold_key])
        predicted.prediction.append(record["prediction"])
    return by_language


def read_records(path: Path) -> list[Any]:
    """Return the JSON values of the lines of a file.

    Raises:
      DataError: it cannot be read, or a line is not JSON.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(path), hint=_RUN_AGAIN
        ) from error
    try:
        records = json.loads(b"[%b]" % b",".join(lines))  # Faster than one by one.
    except (ValueError, RecursionError):
        records = []
    if len(records) != len(lines):
        for number, line in enumerate(lines, 1):
            try:
                json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _no_prediction(path, number, f"no JSON: {error}") from error
    return list(records)


def _fault(record: Any, form: TaskType) -> str:
    """Return why a record is no prediction of a task type; empty if it is one."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__}, no object"
    keys = ("id", "language", form.gold_key, "prediction")
    if missing := [key for key in keys if key not in record]:
        return f"no {', '.join(missing)}"
    for key in ("id", "language", "cluster"):
        if not isinstance(record.get(key, ""), str):
            return f"{key} {record[key]!r} is no text"
    return form.record_fault(record[form.gold_key], record["prediction"])


def _no_prediction(path: Path, number: int, what: str) -> DataError:
    return DataError(f"the line is damaged: {what}", where=f"{path}:{number}", hint=_RUN_AGAIN)


def require(runs: Sequence[Predicted], n: int) -> None:
    """Check that runs predict as many examples as their study.json says.

    Raises:
      DataError: a file has been cut off, or lines were added.
    """
    for run in runs:
        if len(run.ids) != n:
            raise DataError(
                f"it holds {len(run.ids)} examples of a language for which study.json says {n}",
                where=str(run.path),
                hint=_RUN_AGAIN,
            )


def require_clusters(predicted: Mapping[str, Predicted], name: str, study: Study) -> None:
    """Check that a predictions file names the clusters of its examples, see `statistics.units`.

    Files of earlier versions name none. They are right if study.json says that no text of the set
    is repeated.

    Raises:
      DataError: the clusters are not all there, or it is not known whether there are any.
    """
    cluster = [one for of in predicted.values() for one in of.cluster]
    splits = [split for split in study.data if (split.stage, split.split) == ("target", name)]
    units = splits[0].units if splits else None
    if units is None and not any(cluster):
        within = [one.texts for one in study.overlap if one.a == one.b == f"target/{name}"]
        units = len(cluster) if within == [0] else None
    elif units is None:
        units = count_units(cluster)
    if units == count_units(cluster) or not cluster:
        return
    path = next(of.path for of in predicted.values())
    raise DataError(
        "an earlier version wrote it, which did not note the examples with the same text"
        if units is None
        else f"its {len(cluster)} examples are {count_units(cluster)} clusters, not {units}",
        where=str(path),
        hint="delete the folders predictions and evaluations beside it, and run the study: it only "
        "evaluates again.",
    )


def measured(
    task: Task, metric: str, language: str, runs: Sequence[Predicted]
) -> tuple[Resampled, list[Learning]]:
    """Return a metric of some runs over their examples, and the learning of each run.

    Raises:
      DataError: the runs do not predict the same examples, or a class is none of the task.
    """
    first = runs[0]
    for run in runs[1:]:
        if (run.ids, run.gold, run.cluster) != (first.ids, first.gold, first.cluster):
            raise DataError(
                f"its examples, their labels or their clusters are not those of {first.path}",
                where=str(run.path),
                hint="delete the folders evaluations and predictions of the older of the two stages"
                ", and run the study",
            )
    predictions = [run.prediction for run in runs]
    try:
        return measure(task, metric, language, first.gold, predictions)
    except ValueError as error:
        raise DataError(
            str(error), where=", ".join(str(run.path) for run in runs[:3]), hint=_RUN_AGAIN
        ) from None
