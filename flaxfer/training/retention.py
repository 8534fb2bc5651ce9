"""What a stage keeps of where it began: kept parts, mixtures with the start, old scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator, finite
from flaxfer.models.families import FAMILIES
from flaxfer.runtime.trees import Params, path_name
from flaxfer.tasks import task_type
from flaxfer.tasks.base import Scores


class Scored(NamedTuple):
    """Sets by name that one vocabulary numbers; evaluator and parameters with its rows."""

    evaluator: Evaluator
    params: Params
    sets: Mapping[str, Tokenized]


class Mixed(NamedTuple):
    """What is scored of a result, and the start that it is mixed with, of the same shapes."""

    result: Scored
    start: Params


def same_question(one: Task, other: Task) -> bool:
    """Whether a head answers both: the same task type, and the same classes in the same order."""
    return (one.type, one.labels) == (other.type, other.labels)


def pretrained_parts(family: str, task: Task) -> set[str]:
    """The parts of a task's head that pretraining has trained (BERT's pooler)."""
    names = FAMILIES[family].heads[task_type(task).head].pretrained_names
    return {path.split("/")[1] for _, path, _ in names}


def new_parts(family: str, task: Task, before: Task | None) -> tuple[str, ...]:
    """Regular expressions for the parameters that a stage begins with anew.

    Args:
      family: of the model.
      task: of the stage.
      before: the task of the stage before, if there is one.
    """
    if before is not None and same_question(before, task):
        return ()
    kept = "|".join(sorted(pretrained_parts(family, task)))
    return (f"^head/(?!({kept})/)" if kept else "^head/",)


def mixture(start: Params, result: Params, share: float, new: tuple[str, ...]) -> Params:
    """`share` of the result and the rest of the start (WiSE-FT, Wortsman et al. 2022).

    What is new has no start to be mixed with, and is the result's. `start` and `result` are of the
    same shapes; `new` as `new_parts` gives it.
    """

    def mix(path: Any, first: jax.Array, last: jax.Array) -> jax.Array:
        if any(re.search(pattern, path_name(path)) for pattern in new):
            return last
        return (1 - share) * first + share * last

    mixed: Params = jax.tree.map_with_path(mix, start, result)
    return mixed


def wise(share: float, new: tuple[str, ...], dev: Mixed, others: Mixed) -> dict[str, Any]:
    """The record of a mixture: its share, its scores of dev, and of every other set."""

    def scored(part: Mixed) -> Iterator[tuple[Scores, list[dict[str, Any]]]]:
        evaluator, result, sets = part.result
        params = mixture(part.start, result, share, new)
        for name, data in sets.items():
            outputs, scores = evaluator.predict(params, data)
            yield scores, evaluator.report(name, data, outputs)

    ((scores, _),) = scored(dev)
    entries = [entry for _, entries in scored(others) for entry in entries]
    return {"share": share, "dev": finite(scores), "evaluations": entries}


def retained(before: Scored, after: Params) -> Iterator[dict[str, Any]]:
    """A record a set and language: the metrics with the parameters of before, and with others."""
    evaluator, params, sets = before
    for name, data in sets.items():
        first, last = (
            evaluator.report(name, data, evaluator.predict(own, data)[0]) for own in (params, after)
        )
        for one, other in zip(first, last, strict=True):
            key = {k: one[k] for k in ("set", "language", "n")}
            yield {**key, "before": one["metrics"], "after": other["metrics"]}
