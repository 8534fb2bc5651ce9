"""Means over languages and tasks as XTREME and XTREME-R report them.

Hu et al. (2020), table 3: the score of a task is the mean over its languages, and the score of a
model is the mean over tasks; table 4: the transfer gap of a task is the score on the English test
set minus the mean over the other languages. XTREME-R (Ruder et al. 2021) keeps both.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from flaxfer.errors import DataError
from flaxfer.evaluation.records import Study
from flaxfer.statistics.languages import language
from flaxfer.statistics.scores import Scores

Values = Mapping[str, Mapping[str, np.ndarray]]
"""Study -> language code -> scores of shape () or (seeds,)."""


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """Means of scores, each of shape () or (seeds,) as the scores are; NaN propagates.

    Attributes:
      tasks: by task, the mean over its languages.
      mean: mean over tasks.
      gaps: transfer gaps, of the tasks that have the source language and another one.
      gap: mean of `gaps`; None if there are none.
      families: by language family, the mean over the tasks that have it, where a task counts with
        the mean over its languages of the family.
      scripts, resources: the same by script, and by class of resources.
    """

    tasks: dict[str, np.ndarray]
    mean: np.ndarray
    gaps: dict[str, np.ndarray]
    gap: np.ndarray | None
    families: dict[str, np.ndarray]
    scripts: dict[str, np.ndarray]
    resources: dict[str, np.ndarray]


def aggregate(
    values: Values, source: str = "en", task_of: Mapping[str, str] | None = None
) -> Aggregate:
    """Compute all means.

    Args:
      values: scores; larger must be better for all tasks.
      source: language code that transfer gaps start from.
      task_of: task of each study. A task counts once, with the mean over its studies. By default,
        every study is a task.

    Raises:
      DataError: there is no task, or a task without a language.
    """
    if not values or not all(values.values()):
        raise DataError(
            "there is nothing to average",
            where="aggregate",
            hint="pass at least one task, and at least one language for each task",
        )
    values = _by_task(values, task_of or {})
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
        families=_group_means(values, lambda code: language(code).family),
        scripts=_group_means(values, lambda code: language(code).script),
        resources=_group_means(values, lambda code: language(code).resources),
    )


def _by_task(values: Values, task_of: Mapping[str, str]) -> Values:
    """Average the scores of each language over the studies of a task that have it."""
    tasks: dict[str, dict[str, list[np.ndarray]]] = {}
    for study, scores in values.items():
        task = tasks.setdefault(task_of.get(study, study), {})
        for code, score in scores.items():
            task.setdefault(code, []).append(score)
    return {
        task: {code: _mean(scores) for code, scores in by_language.items()}
        for task, by_language in tasks.items()
    }


def scores_of(studies: Sequence[Study], condition: str, metric: str = "") -> Values:
    """Return study -> language -> (seeds,) for `aggregate`, averaged over a language's sets.

    Args:
      studies: with unique names and equally many seeds, each with the condition.
      condition: `direct`, `staged` or `scratch`.
      metric: metric to read; empty for the dev metric of each study.

    Raises:
      DataError: two studies have the same name.
    """
    values: dict[str, dict[str, np.ndarray]] = {}
    for study in studies:
        if study.name in values:
            raise DataError(
                f"two studies are called {study.name}",
                where="aggregate",
                hint="rename one",
            )
        scores = Scores(study)
        by_row = scores.by_row(condition, metric or study.metric)
        values[study.name] = {
            code: scores.language_mean([code], by_row) for code in scores.trained + scores.zero_shot
        }
    return values


def _group_means(values: Values, group_of: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Average by group of languages within each task, then over tasks; groups are sorted."""
    means: dict[str, list[np.ndarray]] = defaultdict(list)
    for scores in values.values():
        groups: dict[str, list[np.ndarray]] = defaultdict(list)
        for code, score in scores.items():
            groups[group_of(code)].append(score)
        for group, members in groups.items():
            means[group].append(_mean(members))
    return {group: _mean(means[group]) for group in sorted(means)}


def _mean(scores: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(scores), axis=0)
