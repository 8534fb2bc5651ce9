"""Means over languages and tasks as XTREME and XTREME-R report them.

Hu et al. (2020), table 3: the score of a task is its mean over languages, that of a model the mean
over tasks; table 4: the transfer gap of a task is the score on the English test set minus the mean
over the other languages. XTREME-R (Ruder et al. 2021) keeps both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from flaxfer.errors import DataError
from flaxfer.evaluation.records import Study
from flaxfer.statistics.languages import language
from flaxfer.statistics.scores import Scores

Values = Mapping[str, Mapping[str, np.ndarray]]
"""Task -> language code -> scores: one number, or (seeds,)."""


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """Means of scores of the shape that was given, () or (seeds,); NaN spreads into them.

    Attributes:
      tasks: mean over the languages of each task.
      mean: over tasks.
      gaps: of each task that has the source language and another one.
      gap: mean of `gaps`; None if there are none.
      families: by language family, the mean over the tasks that have it of their means over its
        languages.
      scripts: likewise by script.
    """

    tasks: dict[str, np.ndarray]
    mean: np.ndarray
    gaps: dict[str, np.ndarray]
    gap: np.ndarray | None
    families: dict[str, np.ndarray]
    scripts: dict[str, np.ndarray]


def aggregate(values: Values, source: str = "en") -> Aggregate:
    """All means of some tasks.

    Args:
      values: scores, larger being better in all tasks alike.
      source: code of the language that the transfer gap starts from.

    Raises:
      DataError: there is no task, or one without a language.
    """
    if not values or not all(values.values()):
        raise DataError(
            "there is nothing to take a mean of",
            where="aggregate",
            hint="give at least one task, and each task at least one language",
        )
    tasks = {task: _mean(scores.values()) for task, scores in values.items()}
    gaps = {
        task: scores[source] - _mean(score for code, score in scores.items() if code != source)
        for task, scores in values.items()
        if source in scores and len(scores) > 1
    }
    return Aggregate(
        tasks=tasks,
        mean=_mean(tasks.values()),
        gaps=gaps,
        gap=_mean(gaps.values()) if gaps else None,
        families=_grouped(values, lambda code: language(code).family),
        scripts=_grouped(values, lambda code: language(code).script),
    )


def scores_of(studies: Sequence[Study], path: str, metric: str = "") -> Values:
    """Study -> language -> (seeds,), for `aggregate`; several sets of a language count as one.

    Args:
      studies: one a task, of equally many seeds, each with the path.
      path: `direct`, `staged` or `scratch`.
      metric: empty for the dev metric of each study.

    Raises:
      DataError: two studies have one name.
    """
    made: dict[str, dict[str, np.ndarray]] = {}
    for study in studies:
        if study.name in made:
            raise DataError(
                f"two studies are called {study.name}",
                where="aggregate",
                hint="give one study a task, or rename one",
            )
        scores = Scores(study)
        made[study.name] = {
            code: scores.language_mean(path, [code], metric or study.metric)
            for code in scores.trained + scores.zero_shot
        }
    return made


def _grouped(values: Values, group_of: Callable[[str], str]) -> dict[str, np.ndarray]:
    """By group of languages, in alphabetical order."""
    groups: dict[str, list[np.ndarray]] = {}
    for scores in values.values():
        own: dict[str, list[np.ndarray]] = {}
        for code, score in scores.items():
            own.setdefault(group_of(code), []).append(score)
        for group, found in own.items():
            groups.setdefault(group, []).append(_mean(found))
    return {group: _mean(groups[group]) for group in sorted(groups)}


def _mean(scores: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(scores), axis=0)
