"""Columns to checked examples, and sources to the splits of a task.

Labels are mapped by name, never by number, and whatever does not fit the task is an error that
lists the file, line and column of every finding. Records are left out only where the config says so
(`keep`, `drop`, `drop_unlabeled`, `fraction`), and are counted.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxfer.config import Data, Source, Task
from flaxfer.data import readers
from flaxfer.data.examples import Examples
from flaxfer.data.hub import read_hub
from flaxfer.data.labels import Labels
from flaxfer.data.tables import Column, Key, Problems
from flaxfer.data.task_types import TaskType
from flaxfer.data.values import written
from flaxfer.errors import ConfigError, DataError

__all__ = ["Examples", "load_splits", "read_source"]

logger = logging.getLogger("flaxfer.data")


def read_source(
    source: Source, task: Task, task_type: TaskType, data_dir: str = "", seed: int = 0
) -> Examples:
    """Reads a data set and checks every record that is used against the task.

    Args:
      source: which, and how its columns map to roles.
      task: what labels there are, or the range of scores.
      task_type: Type of the task.
      data_dir: where a relative path of the source starts.
      seed: of the draw where `source.fraction` is below 1.

    Raises:
      DataError: with file, line and column of everything that is wrong.
    """
    where, columns, size, problems = _read(source, data_dir)
    if source.num_records and size != source.num_records:
        raise DataError(
            f"holds {size} records, not {source.num_records}",
            where=where,
            hint="fetch the file again if it is cut off; else set `num_records` to what it holds.",
        )
    wanted = _filter(source, columns, size)
    # A column that is only filtered by may have the name of a role.
    columns = {r: c for r, c in columns.items() if r in source.roles or r in source.aligned}
    broken = {record for record, _ in problems}
    readable = [i for i in wanted if i not in broken]
    labels = task_type.read_labels(columns, source, task, readable)
    left_out = broken | labels.missing
    used = [i for i in wanted if i not in left_out]
    problems += labels.problems + task_type.text_problems(columns, source, used)
    problems += _common_problems(columns, used)
    if problems:
        raise _refused(where, problems, labels, task)
    examples = _examples(source, columns, labels, used, task_type)
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
            hint="check keep, drop, drop_unlabeled and fraction of the source.",
        )
    return examples


def load_splits(
    data: Data, task: Task, task_type: TaskType, data_dir: str = ""
) -> dict[str, Examples]:
    """Reads the splits `train`, `dev` and, if there is one, `test`.

    Where the data has no dev set, it is cut from train: see `Data`. The cut is a function of the
    seed and the number of examples, and keeps their order.

    Raises:
      DataError: a source is wrong, or a split would be empty.
    """
    splits = {
        name: Examples.join(
            [read_source(s, task, task_type, data_dir, data.split_seed) for s in sources]
        )
        for name, sources in (("train", data.train), ("dev", data.dev), ("test", data.test))
        if sources
    }
    if "train" not in splits:
        raise DataError("there is no source to train on", hint="name at least one in data.train.")
    if "dev" not in splits:
        shares = dict(zip(("train", "dev", "test"), data.split, strict=True))
        if "test" in splits:
            del shares["test"]
        splits |= _cut(splits["train"], shares, data.split_seed)
    splits["train"] = _fraction(splits["train"], data.train_fraction, data.split_seed)
    if len({examples.text_b is None for examples in splits.values()}) > 1:
        raise DataError(
            "some splits hold pairs and others single texts",
            where=", ".join(f"{name} ({part.id[0]})" for name, part in splits.items()),
            hint="map text_b in the sources of every split, or of none.",
        )
    return splits


def _read(source: Source, data_dir: str) -> tuple[str, dict[str, Column], int, Problems]:
    """Name of the data set, the columns by role (or by name, for filters), size and problems."""
    names: dict[str, Key] = source.roles
    for name in (*source.keep, *source.drop):
        if name not in names and name not in source.aligned:
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
            hint=f"name one of {', '.join(source.aligned)}, or align a file to the role.",
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
            hint="fetch the files again: one of them is cut off, or belongs to another split.",
            details=[f"{role}: {columns[role].file} has {n}" for role, n in counts.items()],
        )
    return where, columns, size, problems


def _filter(source: Source, columns: Mapping[str, Column], size: int) -> list[int]:
    """The records that `keep` and `drop` leave."""
    wanted = list(range(size))
    for name, values in source.keep.items():
        wanted = [i for i in wanted if written(columns[name].values[i]) in values]
    for name, values in source.drop.items():
        wanted = [i for i in wanted if written(columns[name].values[i]) not in values]
    return wanted


def _examples(
    source: Source,
    columns: Mapping[str, Column],
    labels: Labels,
    used: Sequence[int],
    task_type: TaskType,
) -> Examples:
    def texts(role: str, default: str) -> tuple[str, ...]:
        return columns[role].texts(used) if role in columns else (default,) * len(used)

    if source.hub:
        stem = f"{source.hub.rpartition('/')[2]}-{source.split}"
    else:
        stem = Path(columns[task_type.roles[0]].file.removesuffix(".gz")).stem
    text_a, text_b = task_type.read_texts(columns, source, used)
    return Examples(
        task_type=task_type,
        text_a=text_a,
        text_b=text_b,
        label=task_type.label_column([labels.values[i] for i in used]),
        id=texts("id", "") if "id" in columns else tuple(f"{stem}:{i + 1}" for i in used),
        language=texts("language", source.language),
        domain=texts("domain", source.domain),
    )


def _common_problems(columns: Mapping[str, Column], used: Sequence[int]) -> Problems:
    """Return the problems of ids, languages and domains of the records used."""
    problems: Problems = []
    for role in ("id", "language", "domain"):
        if role in columns:
            problems += columns[role].problems(used, lambda v: "" if written(v) else "is empty")
    return problems + (_repeated(columns["id"], used) if "id" in columns else [])


def _repeated(column: Column, records: Sequence[int]) -> Problems:
    first: dict[str, int] = {}
    problems = []
    for i in records:
        name = written(column.values[i])
        if first.setdefault(name, i) != i:
            problems.append((i, f"{column.place(i)}: {name!r} is also {column.place(first[name])}"))
    return problems


def _refused(where: str, problems: Problems, labels: Labels, task: Task) -> DataError:
    hint = "correct the file, or leave records out with `drop`."
    if labels.problems and task.labels:
        hint += f" The labels are {', '.join(map(repr, task.labels))}; map others with `labels`."
    if labels.problems:
        hint += " `drop_unlabeled` leaves out records without a label."
    return DataError(
        f"{len(problems)} finding(s) in the data",
        where=where,
        hint=hint,
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
            hint="use more records, change data.split, or name sources in data.dev and data.test.",
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    parts, start = {}, 0
    for name, count in counts.items():
        if count:
            parts[name] = examples.take(np.sort(order[start : start + count]))
        start += count
    return parts


def _fraction(train: Examples, fraction: float, seed: int) -> Examples:
    """A part of the train split; of two parts, the smaller is in the larger."""
    if fraction == 1:
        return train
    count = round(fraction * len(train))
    if not count:
        raise DataError(
            f"of {len(train)} examples to train on, {fraction:g} are none",
            where=train.id[0],
            hint="use a larger data.train_fraction.",
        )
    order = np.random.default_rng(seed).permutation(len(train))
    return train.take(np.sort(order[:count]))
