"""Columns to checked examples, and sources to the splits of a task.

Labels are mapped by name, never by number, and whatever does not fit the task is an error that
lists the file, line and column of every finding. Records are left out only where the config says so
(`keep`, `drop`, `drop_unlabeled`, `fraction`), and are counted.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Data, Source, Task
from flaxfer.data import readers
from flaxfer.data.examples import Examples, Texts
from flaxfer.data.hub import read_hub
from flaxfer.data.labels import Labels, read_labels
from flaxfer.data.tables import Column, Key, Problems
from flaxfer.data.values import list_fault, text_fault, written
from flaxfer.errors import ConfigError, DataError

__all__ = ["Examples", "load_splits", "read_source"]

logger = logging.getLogger("flaxfer.data")


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
    labels = read_labels(columns, source, task, [i for i in wanted if i not in broken])
    left_out = broken | labels.missing
    used = [i for i in wanted if i not in left_out]
    problems += labels.problems + _value_problems(source, columns, used)
    if problems:
        raise _refused(where, problems, labels, task)
    examples = _examples(source, columns, labels, used, task)
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
    source: Source, columns: Mapping[str, Column], labels: Labels, used: Sequence[int], task: Task
) -> Examples:
    def texts(role: str, default: str) -> tuple[str, ...]:
        if role not in columns:
            return (default,) * len(used)
        return tuple(written(columns[role].values[i]) for i in used)

    text_a: Texts
    text_b: Texts | None = texts("text_b", "") if "text_b" in columns else None
    if task.kind == "tagging":
        text_a = tuple(tuple(columns["words"].values[i]) for i in used)
    else:
        text_a = texts("text_a", "")
    if task.kind == "multiple_choice":
        text_b = tuple(zip(*(texts(role, "") for role in _choices(columns)), strict=True))
    if "question" in columns:
        asked = (source.questions.get(text, text) for text in texts("question", ""))
        text_a = tuple(f"{a} {question}" for a, question in zip(text_a, asked, strict=True))
    if source.hub:
        stem = f"{source.hub.rpartition('/')[2]}-{source.split}"
    else:
        file = columns["words" if task.kind == "tagging" else "text_a"].file
        stem = Path(file.removesuffix(".gz")).stem
    return Examples(
        text_a=text_a,
        text_b=text_b,
        label=labels.of(used, task),
        id=texts("id", "") if "id" in columns else tuple(f"{stem}:{i + 1}" for i in used),
        language=texts("language", source.language),
        domain=texts("domain", source.domain),
    )


def _choices(columns: Mapping[str, Column]) -> list[str]:
    """The roles of choices in their order."""
    return [role for n in range(1, 1 + len(columns)) if (role := f"choice_{n}") in columns]


def _value_problems(source: Source, columns: Mapping[str, Column], used: Sequence[int]) -> Problems:
    """What is wrong with texts, words, ids, languages and domains of the records used."""
    problems: Problems = []
    for role in ("text_a", "text_b", *_choices(columns)):
        if role in columns:
            problems += _findings(columns[role], used, text_fault)
    if "words" in columns:
        problems += _findings(columns["words"], used, list_fault)
        problems += _word_problems(columns["words"], used)
    if "question" in columns:
        asked = source.questions
        hint = f"has no entry in questions; there are {', '.join(asked)}"
        fault = text_fault if not asked else lambda v: "" if written(v) in asked else hint
        problems += _findings(columns["question"], used, fault)
    for role in ("id", "language", "domain"):
        if role in columns:
            problems += _findings(columns[role], used, lambda v: "" if written(v) else "is empty")
    if "id" in columns:
        problems += _repeated(columns["id"], used)
    return problems


def _word_problems(column: Column, records: Sequence[int]) -> Problems:
    return [
        (i, f"{column.place(i, item)}: {what}")
        for i in records
        if isinstance(column.values[i], list)
        for item, word in enumerate(column.values[i])
        if (what := text_fault(word))
    ]


def _findings(column: Column, records: Sequence[int], fault: Callable[[Any], str]) -> Problems:
    found = ((i, fault(column.values[i])) for i in records)
    return [(i, f"{column.place(i)}: {what}") for i, what in found if what]


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
