"""Columns to checked examples, and sources to the splits of a task.

Labels are mapped by name, never by number, and whatever does not fit the task is an error that
lists the file, line and column of every finding. Records are left out only where the config says so
(`keep`, `drop`, `drop_unlabeled`, `fraction`), and are counted.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Data, Source, Task
from flaxfer.data import readers
from flaxfer.data.examples import Examples
from flaxfer.data.hub import read_hub
from flaxfer.data.readers import Column
from flaxfer.errors import ConfigError, DataError

__all__ = ["Examples", "load_splits", "read_source"]

logger = logging.getLogger("flaxfer.data")

NO_LABEL = ("", "-1")
"""How data sets write that a record has no label, unless the task has a label of that name."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

Problems = list[tuple[int, str]]
"""Number of a record, counted from 0, and what is wrong with it."""


def read_source(source: Source, task: Task, data_dir: str = "", seed: int = 0) -> Examples:
    """Reads a data set and checks every record that is used against the task.

    Args:
      source: which, and how its columns map to roles.
      task: what labels there are, or the range of scores.
      data_dir: where a relative path of the source starts.
      seed: of the draw where `source.fraction` is below 1.

    Raises:
      DataError: with file, line and column of everything that is wrong.
    """
    where, columns, size, problems = _read(source, data_dir)
    if source.rows and size != source.rows:
        raise DataError(
            f"holds {size} records, not {source.rows}",
            where=where,
            mend="fetch the file again if it is cut off; else set `rows` to what it holds.",
        )
    wanted = _filter(source, columns, size)
    broken = {record for record, _ in problems}
    labels = _labels(columns["label"], source, task, [i for i in wanted if i not in broken])
    left_out = broken | labels.missing
    used = [i for i in wanted if i not in left_out]
    problems += labels.problems + _value_problems(columns, used)
    if problems:
        raise _refused(where, problems, labels, task)
    examples = _examples(source, columns, labels, used)
    if source.fraction < 1:
        count = round(source.fraction * len(examples))
        drawn = np.random.default_rng(seed).choice(len(examples), count, replace=False)
        examples = examples.take(np.sort(drawn))
    logger.info(
        "%s: %d records read, %d left out by keep and drop, %d without a label, %d used; %s",
        where,
        size,
        size - len(wanted),
        len(labels.missing),
        len(examples),
        ", ".join(f"{k} {n}" for k, n in collections.Counter(examples.language).items()),
    )
    if not len(examples):
        raise DataError(
            f"of {size} records none is left to use",
            where=where,
            mend="check keep, drop, drop_unlabeled and fraction of the source.",
        )
    return examples


def load_splits(data: Data, task: Task, data_dir: str = "") -> dict[str, Examples]:
    """Reads the splits `train`, `dev` and, if there is one, `test`.

    Where the data has no dev set, it is cut from train: see `Data`. The cut is a function of the
    seed and the number of examples, and keeps their order.

    Raises:
      DataError: a source is wrong, or a split would be empty.
    """
    splits = {
        name: Examples.join([read_source(s, task, data_dir, data.split_seed) for s in sources])
        for name, sources in (("train", data.train), ("dev", data.dev), ("test", data.test))
        if sources
    }
    if "train" not in splits:
        raise DataError("there is no source to train on", mend="name at least one in data.train.")
    if "dev" not in splits:
        shares = dict(zip(("train", "dev", "test"), data.split, strict=True))
        if "test" in splits:
            del shares["test"]
        splits |= _cut(splits["train"], shares, data.split_seed)
    if len({examples.text_b is None for examples in splits.values()}) > 1:
        raise DataError(
            "some splits hold pairs and others single texts",
            where=", ".join(f"{name} ({part.id[0]})" for name, part in splits.items()),
            mend="map text_b in the sources of every split, or of none.",
        )
    _warn_of_overlap(splits)
    return splits


def _read(source: Source, data_dir: str) -> tuple[str, dict[str, Column], int, Problems]:
    """Name of the data set, the columns by role (or by name, for filters), size and problems."""
    names: dict[str, readers.Key] = dict(source.columns)
    for name in (*source.keep, *source.drop):
        if name not in source.columns and name not in source.aligned:
            names[name] = name
    folder = Path(data_dir).expanduser() / Path(source.path).expanduser()
    columns: dict[str, Column] = {}
    problems: Problems = []
    where, size = str(folder), 0
    if source.hub:
        where, folder = f"{source.hub}[{source.split}]", Path(data_dir).expanduser()
        table = read_hub(source, names.values())
    elif source.format != "lines":
        table = readers.read_table(folder, source, names.values())
        folder = folder.parent
    elif names:
        raise ConfigError(
            f"keep and drop name {', '.join(names)}, which is no role in `aligned`",
            where=where,
            mend=f"name one of {', '.join(source.aligned)}, or align a file to the role.",
        )
    if source.hub or source.format != "lines":
        columns = {name: table.columns[key] for name, key in names.items()}
        size, problems = table.size, table.problems
    for role, file in source.aligned.items():
        columns[role] = readers.read_lines(folder / file, source.encoding, f"aligned.{role}")
        size = size or len(columns[role].values)
    counts = {role: len(column.values) for role, column in columns.items()}
    if set(counts.values()) - {size}:
        raise DataError(
            "aligned files must have as many lines as there are records",
            where=where,
            mend="fetch the files again: one of them is cut off, or belongs to another split.",
            details=[f"{role}: {columns[role].file} has {n}" for role, n in counts.items()],
        )
    return where, columns, size, problems


def _filter(source: Source, columns: Mapping[str, Column], size: int) -> list[int]:
    """The records that `keep` and `drop` leave."""
    wanted = list(range(size))
    for name, values in source.keep.items():
        wanted = [i for i in wanted if _written(columns[name].values[i]) in values]
    for name, values in source.drop.items():
        wanted = [i for i in wanted if _written(columns[name].values[i]) not in values]
    return wanted


def _written(value: Any) -> str:
    """A value as text: what config values are compared with."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """The label of each record that has one, the records that have none, and what is wrong."""

    dtype: type[np.generic]
    values: dict[int, float]
    missing: set[int]
    problems: Problems


def _labels(column: Column, source: Source, task: Task, records: Sequence[int]) -> _Labels:
    classification = task.kind == "classification"
    index = _label_index(source, task)
    labels = _Labels(np.int32 if classification else np.float32, {}, set(), [])
    for i in records:
        value = column.values[i]
        written = _written(value)
        number = index.get(written) if classification else _score(value, task.score_range)
        if number is not None:
            labels.values[i] = number
        elif written not in NO_LABEL:
            fault = "is no label" if classification else _score_fault(value, task.score_range)
            labels.problems.append((i, f"{column.place(i)}: {written!r} {fault}"))
        elif source.drop_unlabeled:
            labels.missing.add(i)
        else:
            labels.problems.append((i, f"{column.place(i)}: {written!r} stands for no label"))
    return labels


def _label_index(source: Source, task: Task) -> dict[str, int]:
    """Label as written -> its number in the task, by way of its name."""
    names = dict(source.labels) or {label: label for label in task.labels}
    unknown = [f"{w!r} -> {n!r}" for w, n in names.items() if n not in task.labels]
    if unknown and task.kind == "classification":
        raise ConfigError(
            f"labels of the source are mapped to labels that {task.name} does not have",
            mend=f"the labels of the task are {', '.join(map(repr, task.labels))}.",
            details=unknown,
        )
    return {written: task.labels.index(name) for written, name in names.items() if not unknown}


def _score(value: Any, score_range: tuple[float, float]) -> float | None:
    """The score if the value is a number within the range, else None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return None
    try:
        score = float(value)
    except OverflowError:  # An integer of more than 308 digits.
        score = math.inf
    return score if score_range[0] <= score <= score_range[1] else None


def _score_fault(value: Any, score_range: tuple[float, float]) -> str:
    if _score(value, (-math.inf, math.inf)) is None:
        return "is not a number"
    return f"is outside {score_range[0]:g} to {score_range[1]:g}"


def _examples(
    source: Source, columns: Mapping[str, Column], labels: _Labels, used: Sequence[int]
) -> Examples:
    def texts(role: str, default: str) -> tuple[str, ...]:
        if role not in columns:
            return (default,) * len(used)
        return tuple(_written(columns[role].values[i]) for i in used)

    if source.hub:
        stem = f"{source.hub.rpartition('/')[2]}-{source.split}"
    else:
        stem = Path(columns["text_a"].file.removesuffix(".gz")).stem
    return Examples(
        text_a=texts("text_a", ""),
        text_b=texts("text_b", "") if "text_b" in columns else None,
        label=np.array([labels.values[i] for i in used], labels.dtype),
        id=texts("id", "") if "id" in columns else tuple(f"{stem}:{i + 1}" for i in used),
        language=texts("language", source.language),
        domain=texts("domain", source.domain),
    )


def _value_problems(columns: Mapping[str, Column], used: Sequence[int]) -> Problems:
    """What is wrong with texts, ids, languages and domains of the records used."""
    problems: Problems = []
    for role in ("text_a", "text_b"):
        if role in columns:
            problems += _findings(columns[role], used, _text_fault)
    for role in ("id", "language", "domain"):
        if role in columns:
            problems += _findings(columns[role], used, lambda v: "" if _written(v) else "is empty")
    if "id" in columns:
        problems += _repeated(columns["id"], used)
    return problems


def _findings(column: Column, records: Sequence[int], fault: Callable[[Any], str]) -> Problems:
    found = ((i, fault(column.values[i])) for i in records)
    return [(i, f"{column.place(i)}: {what}") for i, what in found if what]


def _text_fault(value: Any) -> str:
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}, not a text"
    if not value or value.isspace():
        return "is empty"
    if "\0" in value:
        return "holds a NUL"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"holds half of a surrogate pair, U+{ord(value[error.start]):04X}"
    return ""


def _repeated(column: Column, records: Sequence[int]) -> Problems:
    first: dict[str, int] = {}
    problems = []
    for i in records:
        name = _written(column.values[i])
        if first.setdefault(name, i) != i:
            problems.append((i, f"{column.place(i)}: {name!r} is also {column.place(first[name])}"))
    return problems


def _refused(where: str, problems: Problems, labels: _Labels, task: Task) -> DataError:
    mend = "correct the file, or leave records out with `drop`."
    if labels.problems and task.kind == "classification":
        mend += f" The labels are {', '.join(map(repr, task.labels))}; map others with `labels`."
    if labels.problems:
        mend += " `drop_unlabeled` leaves out records without a label."
    return DataError(
        f"{len(problems)} finding(s) in the data",
        where=where,
        mend=mend,
        details=[text for _, text in sorted(problems)],
    )


def _cut(examples: Examples, shares: Mapping[str, float], seed: int) -> dict[str, Examples]:
    """Divides `examples` by `shares`; `train` takes what rounding leaves."""
    total = sum(shares.values())
    counts = {name: round(share / total * len(examples)) for name, share in shares.items()}
    counts["train"] = len(examples) - sum(n for name, n in counts.items() if name != "train")
    empty = [name for name, share in shares.items() if counts[name] < 1 and share > 0]
    if empty or counts["dev"] < 1:
        raise DataError(
            f"{len(examples)} examples are too few to be divided: "
            + ", ".join(f"{name} {n}" for name, n in counts.items()),
            where=examples.id[0],
            mend="use more records, change data.split, or name sources in data.dev and data.test.",
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    parts, start = {}, 0
    for name, count in counts.items():
        if count:
            parts[name] = examples.take(np.sort(order[start : start + count]))
        start += count
    return parts


def _warn_of_overlap(splits: Mapping[str, Examples]) -> None:
    """Counts what is trained on and evaluated on: such scores flatter."""
    texts = {
        name: set(zip(part.text_a, part.text_b or part.text_a, strict=True))
        for name, part in splits.items()
    }
    for name in ("dev", "test"):
        shared = texts["train"] & texts.get(name, set())
        if shared:
            text = min(shared)[0]
            logger.warning("%d texts of %s are in train too, such as %r", len(shared), name, text)
