"""Hand-over between stages: which parts of a head survive a change of task."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from flax import traverse_util

from flaxfer.config import Task
from flaxfer.models.families import FAMILIES
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type


def same_question(one: Task, other: Task) -> bool:
    """Return whether one head answers both tasks.

    They have the same type, and the same classes in the same order, scores in the same range, or
    embeddings that are pooled and scaled in the same way.
    """
    return _question(one) == _question(other)


def _question(task: Task) -> tuple[Any, ...]:
    names = {"labels", "score_range", "pooling", "similarity_scale", "triplet_margin"}
    settings = task_type(task).settings & names
    return task.type, *(getattr(task, name) for name in sorted(settings))


def pretrained_parts(family: str, task: Task) -> set[str]:
    """Return the parts of a task's head that are pretrained (BERT's pooler)."""
    names = FAMILIES[family].heads[task_type(task).head_of(task)].pretrained_names
    return {path.split("/")[1] for _, path, _ in names}


def fresh_patterns(
    family: str, task: Task, before: Task | None, loaded: Collection[str]
) -> tuple[str, ...]:
    """Return regular expressions for the parameters that a stage initialises.

    Args:
      family: of the model.
      task: of the stage.
      before: the task of the stage before, if there is one.
      loaded: parts of the task's head that the pretrained weights contain.
    """
    if before is not None and same_question(before, task):
        return ()
    there = {*loaded, *(pretrained_parts(family, before) if before else ())}
    kept = "|".join(sorted(pretrained_parts(family, task) & there))
    return (f"^head/(?!({kept})/)" if kept else "^head/",)


def hand_over(
    params: Params, family: str, before: Task, task: Task, pretrained_head: Callable[[], Params]
) -> Params:
    """Return the parameters of a stage with the head parts that the next task keeps.

    The whole head is kept for the same question. Otherwise only its pretrained parts are, taken
    from the stage if it has them, else from the pretrained weights.
    """
    if same_question(before, task):
        return params
    kept = pretrained_parts(family, task)
    trained = {name: part for name, part in params["head"].items() if name in kept}
    return {**params, "head": {**pretrained_head(), **trained}}


def merged(fresh: Params, start: Params, shapes: Params) -> Params:
    """Return the arrays of `start`, and those of `fresh` that it lacks.

    Args:
      fresh: new arrays.
      start: arrays that take precedence.
      shapes: shapes that the model needs.
    """
    flat = traverse_util.flatten_dict(fresh) | traverse_util.flatten_dict(start)
    for path, shape in traverse_util.flatten_dict(shapes).items():
        assert np.shape(flat[path]) == shape.shape, path
    params: Params = traverse_util.unflatten_dict(flat)
    return params
