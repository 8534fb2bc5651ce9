"""Task types: one module per type with everything that depends on it, and a registry.

`TASK_TYPES` has the task types by name. To add one, implement `flaxfer.tasks.base.TaskType` and
`register` an instance.
"""

from __future__ import annotations

from flaxfer.config import Task
from flaxfer.errors import ConfigError
from flaxfer.tasks.base import Predictions, TaskType
from flaxfer.tasks.classification import Classification
from flaxfer.tasks.multiple_choice import MultipleChoice
from flaxfer.tasks.question_answering import QuestionAnswering
from flaxfer.tasks.regression import Regression
from flaxfer.tasks.tagging import Tagging

__all__ = [
    "TASK_TYPES",
    "Predictions",
    "TaskType",
    "register",
    "task_type",
]

TASK_TYPES: dict[str, TaskType] = {}
"""Task types by name, the possible values of `Task.type`."""


def register(new: TaskType) -> None:
    """Add a task type, which can then be used in configs."""
    TASK_TYPES[new.name] = new


for _type in (Classification, Regression, Tagging, QuestionAnswering, MultipleChoice):
    register(_type())


def task_type(task: Task) -> TaskType:
    """Return the type of a task.

    Raises:
      ConfigError: If no such type is registered.
    """
    if task.type not in TASK_TYPES:
        raise ConfigError(
            f"{task.type!r} is not a task type",
            where=f"task {task.name!r}",
            hint=f"use one of {', '.join(TASK_TYPES)}, or register the type in flaxfer.tasks.",
        )
    return TASK_TYPES[task.type]
