"""Checks of sources, by the type of their task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from flaxfer.config import Kind, Source, Task
from flaxfer.config.findings import Finding, suggestion

ROLES: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("text_a", "label", "text_b"),
    "regression": ("text_a", "label", "text_b"),
    "tagging": ("words", "tags"),
    "question_answering": ("text_a", "text_b", "answers"),
    "multiple_choice": ("text_a", "choice_1", "choice_2", "label", "question"),
}
"""The roles of columns of each kind of task, beside `COMMON_ROLES` and further choices."""

COMMON_ROLES = ("id", "language", "domain")
OPTIONAL_ROLES = ("text_b", "question")
LIST_ROLES = ("words", "tags", "answers")

KIND_OF_FORMAT: Mapping[str, Kind] = {
    "conll": "tagging",
    "conllu": "tagging",
    "squad": "question_answering",
}
"""Formats that serve a single kind of task."""

CHOICE = re.compile(r"choice_([1-9]\d?)", re.ASCII)


def check_source(at: str, source: Source, task_at: str, task: Task) -> Iterator[Finding]:
    """Yield every contradiction in a source.

    Args:
      at: Dotted key of the source.
      source: The source.
      task_at: Dotted key of its task.
      task: Its task.
    """
    if bool(source.path) == bool(source.hub):
        yield (
            (f"{at}.path", f"{at}.hub"),
            (
                f"{at}.path: set either a local file (path) or a hub id (hub), "
                f"not {'both' if source.path else 'neither'}"
            ),
        )
    yield from _roles(at, source, task_at, task)
    yield from _format(at, source, task_at, task)
    kind = f"{task_at}.kind"
    named = {*source.columns, *source.aligned}
    choices = sum(bool(CHOICE.fullmatch(role)) for role in named)
    names = tuple(map(str, range(choices))) if task.kind == "multiple_choice" else task.labels
    for written, label in source.labels.items():
        if task.kind == "question_answering":
            yield (f"{at}.labels", kind), f"{at}.labels: question_answering has none"
            break
        if task.kind != "regression" and label not in names:
            yield (
                (f"{at}.labels", f"{at}.columns", f"{task_at}.labels", kind),
                (
                    f"{at}.labels.{written}: {label!r} is no label of {task.name}; "
                    f"there are {', '.join(names)}"
                ),
            )
    if source.questions and "question" not in named:
        yield (
            (f"{at}.questions", f"{at}.columns"),
            f"{at}.questions: no column has the role question, which they are for",
        )


def _roles(at: str, source: Source, task_at: str, task: Task) -> Iterator[Finding]:
    """Whether the roles of columns are those of the kind of task."""
    kind = f"{task_at}.kind"
    known = {*COMMON_ROLES, *(role for roles in ROLES.values() for role in roles)}
    own = [*ROLES[task.kind], *COMMON_ROLES]
    for mapping, key in ((source.columns, "columns"), (source.aligned, "aligned")):
        for role in mapping:
            number = CHOICE.fullmatch(role)
            if role in own or (number and task.kind == "multiple_choice"):
                continue
            what = f"no role of {task.kind}" if role in known or number else "unknown role"
            read = (f"{at}.{key}", *([kind] if what != "unknown role" else []))
            yield read, f"{at}.{key}.{role}: {what}; {suggestion(role, own)}"
    twice = sorted(source.columns.keys() & source.aligned.keys())
    if twice:
        yield (
            (f"{at}.columns", f"{at}.aligned"),
            (f"{at}.aligned: {', '.join(twice)} stands in columns too"),
        )
    named = {*source.roles, *source.aligned}
    needed = [role for role in ROLES[task.kind] if role not in OPTIONAL_ROLES]
    if task.kind == "question_answering":
        needed.append("text_b")
    elif task.kind == "multiple_choice":
        last = max((int(m[1]) for role in named if (m := CHOICE.fullmatch(role))), default=0)
        needed += [f"choice_{i}" for i in range(3, last + 1)]
    keys = (f"{at}.columns", f"{at}.aligned", f"{at}.format", f"{at}.path", f"{at}.hub", kind)
    fits = source.hub or KIND_OF_FORMAT.get(source.file_format, task.kind) == task.kind
    for role in needed:
        if fits and role not in named:
            yield keys, f"{at}.columns.{role}: is missing"


def _format(at: str, source: Source, task_at: str, task: Task) -> Iterator[Finding]:
    """Whether a file of this format can hold what the kind of task needs."""
    kind = f"{task_at}.kind"
    file_format = "" if source.hub else source.file_format
    needs_lists = task.kind in ("tagging", "question_answering")
    if KIND_OF_FORMAT.get(file_format, task.kind) != task.kind or (
        needs_lists and file_format in ("csv", "tsv", "lines")
    ):
        fitting = [name for name, other in KIND_OF_FORMAT.items() if other == task.kind]
        yield (
            (f"{at}.format", f"{at}.path", f"{at}.hub", kind),
            f"{at}.format: {task.kind} is not read from {file_format} files; it is from "
            f"{', '.join((*fitting, 'jsonl', 'json', 'parquet'))}",
        )
    for role in COMMON_ROLES:
        if role in source.columns and file_format == "conll":
            yield (
                (f"{at}.columns", f"{at}.format", f"{at}.path", f"{at}.hub"),
                f"{at}.columns.{role}: a conll file has words and tags; align another file to it",
            )
    for role in LIST_ROLES:
        if role in source.aligned and role in ROLES[task.kind]:
            yield (
                (f"{at}.aligned", kind),
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
