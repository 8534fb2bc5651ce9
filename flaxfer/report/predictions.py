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
from flaxfer.tasks import answers


@dataclasses.dataclass(frozen=True)
class SetPredictions:
    """Predictions for the n examples of a set in one language.

    Attributes:
      row: the set.
      ids, gold: of the examples, as in the predictions files.
      runs: by condition and seed, the predictions.
      files: by condition and seed, the files of the predictions.
      texts: by id, the parts of the example's text; empty if they are not recorded.
    """

    row: Row
    ids: list[str]
    gold: list[Any]
    runs: Mapping[str, Mapping[int, list[Any]]]
    files: Mapping[str, Mapping[int, Path]]
    texts: Mapping[str, Sequence[str]]

    def qualities(self, task: Task) -> dict[str, dict[int, np.ndarray]]:
        """Return the quality of each prediction by condition and seed, (n,)."""
        return {
            condition: {
                seed: quality(task, self.row.language, self.gold, predictions)
                for seed, predictions in of.items()
            }
            for condition, of in self.runs.items()
        }


def quality(
    task: Task, language: str, gold: Sequence[Any], predictions: Sequence[Any]
) -> np.ndarray:
    """Return how good each prediction is; larger is better, and 1 is right except in regression.

    Classes and choices: 1 or 0. Tagging: share of the words with the right tag. Question answering:
    F1 of the answer's words. Regression: minus the absolute error.
    """
    pairs = zip(gold, predictions, strict=True)
    match task.type:
        case "regression":
            return -np.abs(np.array(predictions, np.float64) - np.array(gold, np.float64))
        case "tagging":
            return np.array([_right_words(*tags) for tags in pairs])
        case "question_answering":
            score, style = answers.METRICS["f1"], task.answer_style
            return np.array([score(text, golds, language, style) for golds, text in pairs])
    return np.array([float(true == predicted) for true, predicted in pairs])


def _right_words(gold: Sequence[str | None], tags: Sequence[str]) -> float:
    right = [true == tag for true, tag in zip(gold, tags, strict=True) if true is not None]
    return float(np.mean(right)) if right else 1.0


def read_predictions(entry: Entry) -> list[SetPredictions]:
    """Return the predictions for all sets of which every target run has a file.

    Raises:
      DataError: a file is damaged, or runs predicted different examples.
    """
    found = []
    for name in dict.fromkeys(row.set for row in entry.scores.rows):
        files = _files(entry, name)
        if not files:
            continue
        read = {key: reading.read(path, entry.study.task) for key, path in files.items()}
        texts = read_texts(next(iter(files.values())))
        for row in entry.scores.rows:
            if row.set == name and all(row.language in of for of in read.values()):
                of_runs = {key: of[row.language] for key, of in read.items()}
                found.append(_set_predictions(row, of_runs, files, texts))
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
    return SetPredictions(row, first.ids, first.gold, runs, paths, texts)
