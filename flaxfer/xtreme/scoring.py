"""Scores of all files of a submission, and what is missing or wrong in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxfer.errors import DataError
from flaxfer.runtime.files import write_atomically
from flaxfer.xtreme import files, metrics
from flaxfer.xtreme.alignment import check
from flaxfer.xtreme.benchmarks import (
    BENCHMARKS,
    KINDS,
    LANGUAGES,
    UNPUBLISHED,
    Mode,
    averages,
    file_name,
)

SIDES = ("predictions", "labels")


@dataclasses.dataclass
class Result:
    """The scores of a submission.

    Attributes:
      scores: By mode, task, language and metric, percentages.
      missing: By task and side, the languages without a file.
      faults: Files that have no scores, why, and what to do.
      notes: What else is to be known.
      predictions: By task and language, predictions as the published script reads them.
    """

    scores: dict[Mode, dict[str, dict[str, dict[str, float]]]]
    missing: dict[str, dict[str, list[str]]] = dataclasses.field(default_factory=dict)
    faults: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    predictions: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def report(self, benchmark: str) -> dict[str, dict[str, Any]]:
        """Return the averages of each mode, see `averages`."""
        return {mode: averages(benchmark, mode, scores) for mode, scores in self.scores.items()}


def benchmarks_of(predictions: Path) -> list[str]:
    """Return the benchmarks that have a task of a submission that the other does not have.

    Without such a task, it is XTREME-R.
    """
    tasks = files.find(predictions)[0].keys()
    one, other = (BENCHMARKS[name].keys() & tasks for name in ("xtreme", "xtreme-r"))
    return ["xtreme"] * bool(one - other) + ["xtreme-r"] * bool(other - one or not one - other)


def score(
    predictions: Path, labels: Path, modes: Sequence[Mode], benchmarks: Sequence[str]
) -> Result:
    """Score every file of a submission.

    Args:
      predictions: Folder with a folder for each task, with a file for each language.
      labels: Folder of the same structure with the labels.
      modes: Of `benchmarks.MODES`.
      benchmarks: Keys of `BENCHMARKS`, whose tasks and languages are scored.

    Raises:
      DataError: If a folder is missing or ambiguous, or has no file of any task.
    """
    result = Result({mode: {} for mode in modes})
    found = {}
    for side, folder in zip(SIDES, (predictions, labels), strict=True):
        found[side], notes = files.find(folder)
        result.notes += notes
    for task in KINDS:
        wanted = {code for name in benchmarks for code in BENCHMARKS[name].get(task, ())}
        codes = [code for code in LANGUAGES[task] if code in wanted]
        paths = [found[side].get(task, {}) for side in SIDES]
        missing = {
            side: without
            for side, those in zip(SIDES, paths, strict=True)
            if (without := [code for code in codes if code not in those])
        }
        if missing:
            result.missing[task] = missing
        present = [code for code in codes if all(code in those for those in paths)]
        if "corrected" in modes:
            _score_corrected(result, task, {c: (paths[0][c], paths[1][c]) for c in present})
        if "official" in modes and task not in UNPUBLISHED:
            _score_official(result, task, present, predictions, labels)
    return result


def _score_corrected(result: Result, task: str, paths: dict[str, tuple[Path, Path]]) -> None:
    known: set[Any] = set()
    classes: dict[Any, str] = {}
    for language, (predicted_path, gold_path) in paths.items():
        try:
            predicted = files.read(predicted_path, task, "predictions")
            gold = files.read(gold_path, task, "labels")
            result.notes += check(gold, predicted, task, gold_path, predicted_path)
            scores = metrics.corrected(gold, predicted, task, language)
        except DataError as error:
            result.faults.append(_line(error))
            continue
        result.scores["corrected"].setdefault(task, {})[language] = scores
        result.predictions.setdefault(task, {})[language] = files.written(task, predicted)
        known |= files.classes(gold, task, gold_path).keys()
        classes = files.classes(predicted, task, predicted_path) | classes
    result.notes += [
        f"{place}: {name!r} is no label of {task}: it counts as wrong"
        for name, place in classes.items()
        if name not in known
    ]


def _score_official(
    result: Result, task: str, languages: Sequence[str], predictions: Path, labels: Path
) -> None:
    for language in languages:
        name = file_name(task, language)
        try:
            scores = metrics.official(labels / name, predictions / name, task, language)
        except DataError as error:
            known = result.notes if "corrected" in result.scores else result.faults
            known.append(f"official: {_line(error)}")
        else:
            result.scores["official"].setdefault(task, {})[language] = scores


def _line(error: DataError) -> str:
    """Return an error as one line."""
    details = "; ".join([*error.details[:3], *["..."] * bool(error.details[3:])])
    return f"{error.where}: {error.what}{f' ({details})' if details else ''}; {error.hint}"


def write(result: Result, folder: Path) -> None:
    """Write the predictions with the names and formats that the published script reads.

    LAReQA is left out: the published script stops at a folder of that name.

    Raises:
      DataError: If the folder has files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError("this exists already", where=str(folder), hint="name a new --output.")
    for task, texts in result.predictions.items():
        for language, text in texts.items():
            if task not in UNPUBLISHED:
                path = folder / file_name(task, language)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text)
