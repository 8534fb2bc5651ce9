"""Checks of sources, by the type of their task."""

from __future__ import annotations

from collections.abc import Iterator

from flaxfer.config import Model, Source, Task, effects
from flaxfer.config.effects import without_effect
from flaxfer.config.findings import Finding, finding, suggestion
from flaxfer.config.places import SourcePlace
from flaxfer.config.task_types import TaskType, TaskTypes

COMMON_ROLES = ("id", "language", "domain", "cluster")


def check_origin(at: str, section: Model | Source) -> Iterator[Finding]:
    """Yield an error unless a model or source has either a path or a hub id."""
    if bool(section.path) == bool(section.hub):
        both = "both" if section.path else "neither"
        message = f"set either a local path (path) or a hub id (hub), not {both}"
        yield finding(message, f"{at}.path", f"{at}.hub")


def check_source(
    at: str, source: Source, task: Task, task_type: TaskType, task_types: TaskTypes
) -> Iterator[Finding]:
    """Yield every contradiction in the source at a dotted key of a stage with the key `task`.

    Settings without effect are among them.
    """
    yield from check_origin(at, source)
    yield from _roles(at, source, task_type, task_types)
    yield from _format(at, source, task_type)
    names = task_type.label_names(task, {*source.columns, *source.aligned})
    for written, label in source.labels.items():
        if names and label not in names:
            yield finding(
                f"{label!r} is no label of {task.name}; there are {', '.join(names)}",
                *(f"{at}.labels.{written}", f"{at}.columns", "task.labels", "task.type"),
            )
    place = SourcePlace(source, task, task_type, at.startswith("evaluate."))
    for keys, text in without_effect(at, source, place, effects.SOURCE, task_type.name):
        # The type of the task is a setting of the stage, not of the source.
        yield tuple(key.removeprefix(f"{at}.") if "task." in key else key for key in keys), text
    yield from _selection(at, source)


def _selection(at: str, source: Source) -> Iterator[Finding]:
    """Yield contradictions in what selects records."""
    for key in ("keep", "keep_prefix"):
        for name, values in getattr(source, key).items():
            if not values:
                yield finding("keeps no record; name a value", f"{at}.{key}.{name}")
    for name in source.keep:
        for key in ("drop", "keep_prefix"):
            if name in getattr(source, key):
                message = f"records are already selected by keep.{name}; leave one of them out"
                yield finding(message, f"{at}.{key}.{name}", f"{at}.keep.{name}")


def _roles(
    at: str, source: Source, task_type: TaskType, task_types: TaskTypes
) -> Iterator[Finding]:
    roles = [*task_type.roles, *COMMON_ROLES]
    for key in ("columns", "aligned"):
        for role in getattr(source, key):
            if role in roles or task_type.has_role(role):
                continue
            known = any(other.has_role(role) for other in task_types.values())
            what = f"no role of {task_type.name}" if known else "unknown role"
            read = ("task.type",) if known else ()
            yield finding(f"{what}; {suggestion(role, roles)}", f"{at}.{key}.{role}", *read)
    if twice := sorted(source.columns.keys() & source.aligned.keys()):
        message = f"{', '.join(twice)} stands in columns too"
        yield finding(message, f"{at}.aligned", f"{at}.columns")
    if source.candidates and "negative" in {*source.roles, *source.aligned}:
        message = "has no negatives of its own: all candidates are searched; leave it out"
        yield finding(message, f"{at}.columns.negative", f"{at}.candidates", f"{at}.aligned")
    owners: dict[str | int, str] = {}
    for role, column in source.columns.items():
        if role not in COMMON_ROLES and owners.setdefault(column, role) != role:
            message = f"{owners[column]} is in the column {column!r}, too"
            yield finding(message, f"{at}.columns.{role}", f"{at}.columns")
    named = {*source.roles, *source.aligned}
    keys = (f"{at}.aligned", f"{at}.format", f"{at}.path", f"{at}.hub", "task.type")
    if not _of_another_type(source.file_format, task_type, task_types):
        for role in task_type.required_roles(named):
            if role not in named:
                yield finding("is missing", f"{at}.columns.{role}", *keys)


def _of_another_type(file_format: str, task_type: TaskType, task_types: TaskTypes) -> bool:
    """Return whether files of a format only contain examples of other task types."""
    return file_format not in task_type.formats and any(
        file_format in other.special_formats for other in task_types.values()
    )


def _format(at: str, source: Source, task_type: TaskType) -> Iterator[Finding]:
    file_format = source.file_format
    keys = (f"{at}.format", f"{at}.path", f"{at}.hub")
    if file_format and file_format not in task_type.formats:
        formats = ", ".join(task_type.formats)
        message = f"{task_type.name} is not read from {file_format} files; it is from {formats}"
        yield finding(message, *keys, "task.type")
    for role in COMMON_ROLES if file_format == "conll" else ():
        if role in source.columns:
            message = "a conll file has words and tags; align another file to it"
            yield finding(message, f"{at}.columns.{role}", *keys)
    for role in task_type.list_roles:
        if role in source.aligned:
            message = "a line cannot hold a list; name a column"
            yield finding(message, f"{at}.aligned.{role}", "task.type")
    if source.path and not source.hub and not file_format:
        message = "the ending of path does not tell the format; set it, as to 'tsv' or 'jsonl'"
        yield finding(message, *keys)
    if file_format == "conll" or (file_format in effects.CSV and not source.header):
        named = {f"{at}.columns.{role}": column for role, column in source.columns.items()}
        for key, column in named.items():
            if isinstance(column, str) and not column.isdecimal():
                message = f"a file without a header has no column {column!r}; give its number"
                yield finding(message, key, f"{at}.header", *keys)
    literal = source.quotes == "literal" or (source.quotes == "auto" and file_format == "tsv")
    if source.max_columns and file_format in effects.CSV and not literal:
        message = "needs lines without quoting; set quotes='literal'"
        yield finding(message, f"{at}.max_columns", f"{at}.quotes", *keys)
    if source.format == "lines" and source.columns:
        message = "a source of aligned lines has no columns; name its files in aligned"
        yield finding(message, f"{at}.columns", f"{at}.format")
