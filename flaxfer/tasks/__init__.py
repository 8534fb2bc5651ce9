"""Task types: one module per type with everything that depends on it, and a registry.

`TASK_TYPES` has the task types by name. To add one, implement `flaxfer.tasks.base.TaskType`. A
package declares the class as an entry point in the group `flaxfer.task_types`, named like the type,
so that every process finds it; `register` adds an instance to this process alone.
"""

from __future__ import annotations

from flaxfer.config import Task
from flaxfer.errors import ConfigError
from flaxfer.runtime import plugins
from flaxfer.tasks.base import Predictions, TaskType
from flaxfer.tasks.classification import Classification
from flaxfer.tasks.multiple_choice import MultipleChoice
from flaxfer.tasks.question_answering import QuestionAnswering
from flaxfer.tasks.regression import Regression
from flaxfer.tasks.retrieval import Retrieval
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


GROUP = "flaxfer.task_types"
"""Group of the entry points."""


def register(new: TaskType) -> None:
    """Add a task type, which can then be used in configs."""
    TASK_TYPES[new.name] = new


for _type in (
    *(Classification, Regression, Tagging, QuestionAnswering, MultipleChoice, Retrieval),
):
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
            hint=f"use one of {', '.join(TASK_TYPES)}, or install the package that has it.",
        )
    return TASK_TYPES[task.type]


def register_declared() -> None:
    """Add the task types that other packages declare.

    Raises:
      ConfigError: An entry point is no task type of its name, or has the name of another one.
    """
    for name in plugins.names(GROUP):
        declared, where = plugins.load(GROUP, name), f"entry point {name!r} of {GROUP}"
        is_type = isinstance(declared, type) and issubclass(declared, TaskType)
        if not is_type or declared.name != name:
            what = f"it is {declared!r}, not a class of flaxfer.tasks.TaskType of this name"
        elif name in TASK_TYPES:
            what = "there is a task type of this name already"
        else:
            register(declared())
            continue
        hint = "correct the package that declares it, or uninstall it."
        raise ConfigError(what, where=where, hint=hint)


register_declared()  # At the end: their modules import this one.
