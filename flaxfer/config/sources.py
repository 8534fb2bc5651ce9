"""Checks of sources, by the type of their task."""

from __future__ import annotations

from collections.abc import Iterator

from flaxfer.config import Source, Task
from flaxfer.config.findings import Finding, suggestion
from flaxfer.config.task_types import TaskType, TaskTypes

COMMON_ROLES = ("id", "language", "domain")


def check_source(
    at: str,
    source: Source,
    task_at: str,
    task: Task,
    task_type: TaskType,
    task_types: TaskTypes,
) -> Iterator[Finding]:
    """Yield every contradiction in a source.

    Args:
      at: Dotted key of the source.
      source: The source.
      task_at: Dotted key of its task.
      task: Its task.
      task_type: Type of the task.
      task_types: All task types by name.
    """
    if bool(source.path) == bool(source.hub):
        yield (
            (f"{at}.path", f"{at}.hub"),
            (
                f"{at}.path: set either a local file (path) or a hub id (hub), "
                f"not {'both' if source.path else 'neither'}"
            ),
        )
    yield from _roles(at, source, task_at, task_type, task_types)
    yield from _format(at, source, task_at, task_type)
    yield from _labels(at, source, task_at, task, task_type)
    if source.questions and "question" not in {*source.columns, *source.aligned}:
        yield (
            (f"{at}.questions", f"{at}.columns"),
            f"{at}.questions: no column has the role question, which they are for",
        )


def _labels(
    at: str, source: Source, task_at: str, task: Task, task_type: TaskType
) -> Iterator[Finding]:
    names = task_type.label_names(task, {*source.columns, *source.aligned})
    if names is None:
        return
    if not names and source.labels:
        keys = (f"{at}.labels", f"{task_at}.labels", f"{task_at}.type")
        yield keys, f"{at}.labels: {task_type.name} has none"
    for written, label in source.labels.items():
        if names and label not in names:
            yield (
                (f"{at}.labels", f"{at}.columns", f"{task_at}.labels", f"{task_at}.type"),
                f"{at}.labels.{written}: {label!r} is no label of {task.name}; "
                f"there are {', '.join(names)}",
            )


def _roles(
    at: str, source: Source, task_at: str, task_type: TaskType, task_types: TaskTypes
) -> Iterator[Finding]:
    type_key = f"{task_at}.type"
    own = [*task_type.roles, *COMMON_ROLES]
    for mapping, key in ((source.columns, "columns"), (source.aligned, "aligned")):
        for role in mapping:
            if role in own or task_type.has_role(role):
                continue
            known = any(other.has_role(role) for other in task_types.values())
            what = f"no role of {task_type.name}" if known else "unknown role"
            read = (f"{at}.{key}", *([type_key] if known else []))
            yield read, f"{at}.{key}.{role}: {what}; {suggestion(role, own)}"
    twice = sorted(source.columns.keys() & source.aligned.keys())
    if twice:
        yield (
            (f"{at}.columns", f"{at}.aligned"),
            (f"{at}.aligned: {', '.join(twice)} stands in columns too"),
        )
    named = {*source.roles, *source.aligned}
    keys = (f"{at}.columns", f"{at}.aligned", f"{at}.format", f"{at}.path", f"{at}.hub", type_key)
    fits = source.hub or not _of_another_type(source.file_format, task_type, task_types)
    for role in task_type.required_roles(named):
        if fits and role not in named:
            yield keys, f"{at}.columns.{role}: is missing"


def _of_another_type(file_format: str, task_type: TaskType, task_types: TaskTypes) -> bool:
    """Return whether files of a format only contain examples of other task types."""
    return file_format not in task_type.formats and any(
        file_format in other.special_formats for other in task_types.values()
    )


def _format(at: str, source: Source, task_at: str, task_type: TaskType) -> Iterator[Finding]:
    file_format = "" if source.hub else source.file_format
    if file_format and file_format not in task_type.formats:
        yield (
            (f"{at}.format", f"{at}.path", f"{at}.hub", f"{task_at}.type"),
            f"{at}.format: {task_type.name} is not read from {file_format} files; it is from "
            f"{', '.join(task_type.formats)}",
        )
    for role in COMMON_ROLES:
        if role in source.columns and file_format == "conll":
            yield (
                (f"{at}.columns", f"{at}.format", f"{at}.path", f"{at}.hub"),
                f"{at}.columns.{role}: a conll file has words and tags; align another file to it",
            )
    for role in task_type.list_roles:
        if role in source.aligned:
            yield (
                (f"{at}.aligned", f"{task_at}.type"),
                f"{at}.aligned.{role}: a line cannot hold a list; name a column",
            )
    if source.word_prefix and file_format != "conll":
        yield (
            (f"{at}.word_prefix", f"{at}.format", f"{at}.path", f"{at}.hub"),
            f"{at}.word_prefix: is for conll files",
        )
    if source.format == "lines" and source.columns:
        yield (
            (f"{at}.columns", f"{at}.format"),
            (f"{at}.columns: a source of aligned lines has no columns; name its files in aligned"),
        )
