"""Examples to predict, which have no labels: from files, standard input or Python."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from flaxfer.config import Source, Task, effects
from flaxfer.config.findings import suggestion
from flaxfer.config.places import SourcePlace
from flaxfer.data import readers
from flaxfer.data.examples import Examples
from flaxfer.data.files import decode, read_bytes, require_line_feeds, split_lines
from flaxfer.data.tables import Column, Key, Problems, Table
from flaxfer.data.values import written
from flaxfer.errors import ConfigError, DataError
from flaxfer.tasks import task_type
from flaxfer.tasks.base import TaskType

STDIN = Path("-")
"""Standard input, in place of a file; its name in messages and ids is `stdin`."""

PROPERTIES = ("id", "language", "domain")
"""Roles of columns that are repeated with the predictions."""

SETTINGS = (
    *("format", "header", "delimiter", "quotes", "comment", "field", "encoding", "max_columns"),
    *("questions", "word_prefix", "num_records"),
)
"""Fields of `Source` that say how a file is written; with `lines`, every line is a text."""

MAX_LISTED = 10
"""Most columns that a message names."""


class Inputs(NamedTuple):
    """Examples with stand-ins for their labels.

    Attributes:
      examples: The examples.
      fields: Values by role of each example, as they were read.
    """

    examples: Examples
    fields: Sequence[Mapping[str, Any]]


def read_inputs(
    file: Path,
    task: Task,
    *,
    columns: Mapping[str, Key] | None = None,
    settings: Mapping[str, Any] | None = None,
    ignored: Collection[str] | None = (),
) -> Inputs:
    """Read the examples of a file.

    Args:
      file: A file in a format that the task type is read from, or text with an example on each
        line; `STDIN` for standard input.
      task: Task of the model.
      columns: Name or number of the column by role; others are named like their role.
      settings: How the file is written: fields of `Source`, of `SETTINGS`.
      ignored: Other columns that the file may have; None for any.

    Raises:
      DataError: The file has no records or wrong ones, all of which are listed with line and
        column, or columns that are neither read nor ignored.
      ConfigError: The format is not known, or a column, role or setting is wrong.
    """
    form = task_type(task)
    source = _source(file, task, columns or {}, settings or {})
    path = Path("stdin") if file == STDIN else file
    keys = _keys(source, form)
    if source.file_format == "lines":
        table = _lines(_content(file, "lines"), path, source, form, [*keys])
        keys = {role: role for role in keys}
    else:
        data = _content(file, source.file_format)
        table = readers.parse_table(data, path, source, keys.values())
        fixed = source.file_format in form.special_formats  # By the format itself.
        names = () if fixed else table.names
        more = _keys(source, form, keys, [name for name in names if name not in (ignored or ())])
        if names or ignored:
            _check_columns(path, names, more, [*keys], ignored, form)
        if more.keys() != keys.keys():
            keys, table = more, readers.parse_table(data, path, source, more.values())
    if source.questions and "question" not in keys:
        raise ConfigError(
            "has no effect, as no column has the role question",
            where="--source questions",
            hint="name the column: --columns question=COLUMN, or leave the setting out.",
        )
    if source.num_records and table.size != source.num_records:
        raise DataError(
            f"holds {table.size} records, not {source.num_records}",
            where=str(path),
            hint="correct the file, or num_records.",
        )
    read = {role: table.columns[key] for role, key in keys.items()}
    examples = _examples(form, read, source, table.size, table.problems, path)
    shown = [role for role in read if role not in PROPERTIES]
    fields = [{role: read[role].values[i] for role in shown} for i in range(table.size)]
    return Inputs(examples, fields)


def from_items(items: Any, task: Task) -> Examples:
    """Return the examples that Python objects stand for, each as `TaskType.item` says.

    Raises:
      DataError: They do not, are not all alike, or hold a text that cannot be used.
    """
    form, fault = task_type(task), ""
    if isinstance(items, str):
        fault = f"is one text, not a list in which each item is {form.item}"
    records: list[Mapping[str, Any]] = []
    for number, item in enumerate(() if fault else items, start=1):
        try:
            records.append(dict(item) if isinstance(item, Mapping) else form.fields_of(item))
        except (TypeError, ValueError) as error:
            fault = fault or f"item {number} cannot be used: {error}"
    roles = [*records[0]] if records else []
    wrong = [role for role in roles if not form.has_role(role) or role == form.label_role]
    if records and not fault:
        if others := [i for i, each in enumerate(records, 1) if each.keys() != records[0].keys()]:
            fault = f"item {others[0]} has other parts than item 1"
        elif wrong:
            fault = f"{wrong[0]!r} is no part of an example"
    if fault or not records:
        raise DataError(
            fault or "there are no texts",
            where="texts",
            hint=f"pass a list in which each item is {form.item}.",
        )
    n = len(records)
    columns = {
        role: Column("texts", repr(role), [each[role] for each in records], range(1, n + 1))
        for role in roles
    }
    return _examples(form, columns, Source(), n, [], Path("texts"))


def _source(
    file: Path, task: Task, columns: Mapping[str, Key], settings: Mapping[str, Any]
) -> Source:
    """Return how a file is to be read."""
    form = task_type(task)
    if unknown := [name for name in settings if name not in SETTINGS]:
        hint = suggestion(unknown[0], SETTINGS)
        raise ConfigError(f"{unknown[0]!r} is no setting", where="--source", hint=hint)
    text = file == STDIN or Path(file.name.lower().removesuffix(".gz")).suffix == ".txt"
    fields = {**({"format": "lines"} if text else {}), **settings}
    try:
        checked = pydantic.TypeAdapter(Source).validate_python({"path": "file", **fields})
    except pydantic.ValidationError as error:
        raise ConfigError(
            "settings are wrong",
            where="--source",
            hint="they have the values of a config's sources.",
            details=[f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()],
        ) from error
    fields = {name: getattr(checked, name) for name in fields}
    source = dataclasses.replace(Source(path=str(file), columns=dict(columns)), **fields)
    _check_roles(columns, form)
    _check_format(file, source, form)
    # A column may be named like its role, which only the file tells; see `read_inputs`.
    named = {"question": "question"} if form.has_role("question") else {}
    columns = {**named, **source.columns}
    place = SourcePlace(dataclasses.replace(source, columns=columns), task, form)
    problems = effects.without_effect("source", source, place, effects.SOURCE, form.name)
    if details := [message for _, message in problems]:
        hint = "leave out what has no effect."
        raise ConfigError("settings have no effect", where="--source", hint=hint, details=details)
    return source


def _check_roles(columns: Mapping[str, Key], form: TaskType) -> None:
    roles = [role for role in form.roles if role != form.label_role]
    for role in columns:
        if role == form.label_role or not (role in PROPERTIES or form.has_role(role)):
            what = "labels are not read" if role == form.label_role else "there is no such role"
            hint = suggestion(role, [*roles, *PROPERTIES])
            raise ConfigError(what, where=f"--columns {role}={columns[role]}", hint=hint)


def _check_format(file: Path, source: Source, form: TaskType) -> None:
    """Check that examples of a task type can be read from a file in its format."""
    formats = [name for name in form.formats if name != "lines"]
    roles = list(_keys(Source(), form))
    formats += ["lines"] if len(roles) == 1 else []
    if source.file_format not in formats:
        what = f"the ending of {file.name!r} does not tell how it is written"
        if source.file_format == "lines":
            what = f"a line of text cannot hold {', '.join(roles)}"
        elif source.file_format:
            what = f"{form.name} is not predicted from {source.file_format} files"
        hint = f"set the format: --source format=FORMAT, one of {', '.join(formats)}."
        raise ConfigError(what, where=str(file), hint=hint)
    unnamed = source.file_format in effects.CSV and not source.header
    missing = [role for role in roles if role not in source.columns]
    if missing and (unnamed or source.file_format == "conll"):
        options = " ".join(f"{role}=NUMBER" for role in missing)
        what, hint = "the columns have no names", f"number them from 0: --columns {options}."
        raise ConfigError(what, where=str(file), hint=hint)
    if source.file_format == "lines" and source.columns:
        raise ConfigError(
            "a text on each line has no columns",
            where="--columns",
            hint="leave it out, or set the format: --source format=tsv, for example.",
        )


def _keys(
    source: Source, form: TaskType, keys: Mapping[str, Key] | None = None, names: Sequence[str] = ()
) -> dict[str, Key]:
    """Return the columns to read by role: needed ones, and those of `names` that are named so."""
    found = {role: key for role, key in source.roles.items() if role != form.label_role}
    found |= keys or {}
    for name in names:
        known = name in PROPERTIES or (form.has_role(name) and name != form.label_role)
        if known and name not in found and name not in found.values():
            found[name] = name
    for role in form.required_roles(found):
        if role != form.label_role:
            found.setdefault(role, role)
    return found


def _content(file: Path, file_format: str) -> bytes:
    return sys.stdin.buffer.read() if file == STDIN else read_bytes(file, "path", file_format)


def _lines(data: bytes, path: Path, source: Source, form: TaskType, roles: Sequence[str]) -> Table:
    """Return a table of one column, with a value on each line; words are separated by blanks."""
    text = decode(data, source.encoding, path)
    require_line_feeds(text, path)
    lines = split_lines(text)
    (role,) = roles
    values = [line.split() for line in lines] if role in form.list_roles else lines
    return Table(len(lines), {role: Column(path.name, "", values, range(1, len(lines) + 1))}, [])


def _examples(
    form: TaskType,
    columns: Mapping[str, Column],
    source: Source,
    size: int,
    problems: Problems,
    path: Path,
) -> Examples:
    everything = range(size)
    broken = {record for record, _ in problems}
    well_formed = [i for i in everything if i not in broken]
    problems = problems + form.text_problems(columns, source, well_formed)
    for role in PROPERTIES:
        if role in columns:
            empty = columns[role].problems(well_formed, lambda v: "" if written(v) else "is empty")
            problems += empty
    if problems or not size:
        raise DataError(
            f"{len(problems)} finding(s) in the data" if problems else "the file has no record",
            where=str(path),
            hint="correct the input.",
            details=[text for _, text in sorted(problems)],
        )
    stem = Path(path.name.removesuffix(".gz")).stem
    defaults = {"id": tuple(f"{stem}:{i + 1}" for i in everything)}
    id_, language, domain = (
        columns[role].texts(everything) if role in columns else defaults.get(role, ("",) * size)
        for role in PROPERTIES
    )
    text_a, text_b = form.read_texts(columns, source, everything)
    labels = form.no_labels(text_a)
    return Examples(form, text_a, text_b, labels, id=id_, language=language, domain=domain)


def _check_columns(
    path: Path,
    names: Sequence[str],
    keys: Mapping[str, Key],
    needed: Sequence[str],
    ignored: Collection[str] | None,
    form: TaskType,
) -> None:
    """Check that every column is read or ignored, and that those to ignore exist."""
    if ignored is None:
        return
    required = [keys[role] for role in needed]
    if absent := [name for name in ignored if name not in names or name in required]:
        raise ConfigError(
            "columns to ignore are not in the file, or needed",
            where=str(path),
            hint=f"the columns are {_listed(names)}.",
            details=[f"--ignore-columns {name!r}" for name in absent],
        )
    unread = [name for name in names if name not in keys.values() and name not in ignored]
    if not unread:
        return
    roles = [*(role for role in form.roles if role != form.label_role), *PROPERTIES]
    free = [role for role in roles if role not in keys]
    details = []
    for name in unread[:MAX_LISTED]:
        spelled = name.strip().lower().replace(" ", "_").replace("-", "_")
        near = difflib.get_close_matches(spelled, free, n=1, cutoff=0.8)
        details.append(f"column {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if len(unread) > MAX_LISTED:
        details.append(f"and {len(unread) - MAX_LISTED} more")
        option = "--ignore-columns (which ignores all of them)"
    else:
        option = shlex.join(["--ignore-columns", *unread, *ignored])
    raise DataError(
        f"{len(unread)} column(s) would not be read",
        where=str(path),
        hint=f"the columns {', '.join(roles)} are read; say what others hold with --columns "
        f"ROLE=NAME, or add {option}.",
        details=details,
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(map(repr, names[:MAX_LISTED])) or "not named") + more
