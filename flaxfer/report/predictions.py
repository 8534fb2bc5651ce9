"""Predictions of a study's target runs, with the quality of each and the texts of the examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.evaluation.texts import read_texts
from flaxfer.report.data import Entry
from flaxfer.statistics import reading
from flaxfer.statistics.scores import Row
from flaxfer.tasks import task_type


@dataclasses.dataclass(frozen=True)
class SetPredictions:
    """Predictions for the n examples of a set in one language.

    Attributes:
      row: the set.
      ids, gold: of the examples, as in the predictions files.
      runs: by condition and seed, the predictions.
      files: by condition and seed, the files of the predictions.
      texts: by id, the parts of the example's text; empty if they are not recorded.
      task: that was predicted.
    """

    row: Row
    ids: list[str]
    gold: list[Any]
    runs: Mapping[str, Mapping[int, list[Any]]]
    files: Mapping[str, Mapping[int, Path]]
    texts: Mapping[str, Sequence[str]]
    task: Task

    @property
    def name(self) -> str:
        """Language, and the set where it is called otherwise."""
        return " / ".join(dict.fromkeys((self.row.language, self.row.set)))

    def qualities(self) -> dict[str, dict[int, np.ndarray]]:
        """Return the quality of each prediction by condition and seed, (n,).

        It is that of `flaxfer.tasks.showing`.
        """
        return {
            condition: {seed: self._quality(predictions) for seed, predictions in of.items()}
            for condition, of in self.runs.items()
        }

    def _quality(self, predictions: Sequence[Any]) -> np.ndarray:
        showing, pairs = task_type(self.task).showing, zip(self.gold, predictions, strict=True)
        return np.array([showing.quality(self.task, self.row.language, *pair) for pair in pairs])


def read_predictions(entry: Entry) -> list[SetPredictions]:
    """Return the predictions for the sets that all target runs have predicted.

    Raises:
      DataError: a file is damaged, or runs predicted different examples.
    """
    found = []
    for name in dict.fromkeys(row.set for row in entry.scores.rows):
        files = _files(entry, name)
        if not files:
            continue
        task = entry.study.task_of(name)
        read = {key: reading.read(path, task) for key, path in files.items()}
        texts = read_texts(next(iter(files.values())))
        for row in entry.scores.rows:
            if row.set == name and all(row.language in of for of in read.values()):
                of_runs = {key: of[row.language] for key, of in read.items()}
                found.append(_set_predictions(row, of_runs, files, texts, task))
    return found


def _files(entry: Entry, name: str) -> dict[tuple[str, int], Path]:
    """Return the predictions files of a set by condition and seed; none if one is missing."""
    splits = [s for s in entry.study.data if (s.stage, s.split) == ("target", name)]
    if not splits:
        return {}
    file = f"predictions/{name}-{splits[0].fingerprint[:12]}.jsonl"
    runs = [run for run in entry.study.runs if run.stage == "target"]
    files: dict[tuple[str, int], Path] = {
        (run.condition, run.seed): entry.folder(run) / file for run in runs
    }
    return files if all(path.is_file() for path in files.values()) else {}


def _set_predictions(
    row: Row,
    of_runs: Mapping[tuple[str, int], reading.Predicted],
    files: Mapping[tuple[str, int], Path],
    texts: Mapping[str, Sequence[str]],
    task: Task,
) -> SetPredictions:
    first = next(iter(of_runs.values()))
    runs: dict[str, dict[int, list[Any]]] = {}
    paths: dict[str, dict[int, Path]] = {}
    for (condition, seed), predicted in of_runs.items():
        if (predicted.ids, predicted.gold) != (first.ids, first.gold):
            raise DataError(
                f"its examples or their labels are not those of {first.path}",
                where=str(predicted.path),
                hint="delete the folders evaluations and predictions of the older of the two stages"
                ", and run the study",
            )
        runs.setdefault(condition, {})[seed] = predicted.prediction
        paths.setdefault(condition, {})[seed] = files[condition, seed]
    return SetPredictions(row, first.ids, first.gold, runs, paths, texts, task)
