"""Reading of the splits of a task from their sources, with checks of every record.

Labels are mapped by name, never by number, and values that do not fit the task are errors with
file, line and column. Records are excluded only by settings (`keep`, `drop`, `drop_unlabeled`,
`fraction`), and are counted.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxfer.config import Data, Source, Stage, Task
from flaxfer.config.clashes import sources_of
from flaxfer.data import readers
from flaxfer.data.candidates import named, read_candidates
from flaxfer.data.checks import require_header, require_texts, warn_of_stand_ins, warn_of_unused
from flaxfer.data.examples import Examples
from flaxfer.data.files import FETCH_AGAIN
from flaxfer.data.hub import read_hub
from flaxfer.data.labels import Labels
from flaxfer.data.tables import MAX_NAMES, Column, Key, Problems
from flaxfer.data.task_types import TaskType
from flaxfer.data.values import written
from flaxfer.errors import ConfigError, DataError, bounded

__all__ = ["Examples", "Pool", "read_source", "read_whole"]

logger = logging.getLogger("flaxfer.data")


def read_source(
    source: Source, task: Task, task_type: TaskType, data_dir: str = "", seed: int = 0
) -> Examples:
    """Read a data set, check every record that is used against the task, and sample them.

    Args:
      source: The data set, and the roles of its columns.
      task: The task, with its labels or range of scores.
      task_type: Type of the task.
      data_dir: Folder that a relative path of the source is resolved against.
      seed: Seed for sampling if `source.fraction` is below 1.

    Raises:
      DataError: With file, line and column of every problem.
    """
    return _sample(read_whole(source, task, task_type, data_dir), source.fraction, seed)


@dataclasses.dataclass(frozen=True)
class Pool:
    """The records that the splits of a stage are drawn from.

    Attributes:
      data: Sources of the splits, and how they are divided and sampled.
      records: All records of each source of train and dev.
      evaluated: The split `test`, if it has sources, and the further evaluated sets. They are the
        same for all seeds; where each seed draws its own data, their sources are sampled by 0.
    """

    data: Data
    records: Mapping[str, Sequence[Examples]]
    evaluated: Mapping[str, Examples]

    @classmethod
    def read(cls, stage: Stage, task_type: TaskType, data_dir: str = "") -> Pool:
        """Read the sources of a stage.

        Raises:
          DataError: If a source has problems.
        """
        sources = sources_of(stage).items()
        return cls.of(
            stage, {key: read_whole(one, stage.task, task_type, data_dir) for key, one in sources}
        )

    @classmethod
    def of(cls, stage: Stage, read: Mapping[str, Examples]) -> Pool:
        """Return the pool of a stage, given all examples of each source by its dotted key."""
        data = stage.data
        fixed = 0 if data.split_seed == "seed" else data.split_seed
        records = {
            name: [read[f"data.{name}.{i}"] for i in range(len(sources))]
            for name, sources in (("train", data.train), ("dev", data.dev))
            if sources
        }
        test = [
            _sample(read[f"data.test.{i}"], source.fraction, fixed)
            for i, source in enumerate(data.test)
        ]
        evaluated = {"test": Examples.join(test)} if test else {}
        for name, source in stage.evaluate.items():
            evaluated[name] = _sample(read[f"evaluate.{name}"], source.fraction, fixed)
        return cls(data, records, evaluated)

    def splits(self, seed: int) -> dict[str, Examples]:
        """Return `train`, `dev`, and the evaluated sets, for the run with a seed.

        A missing dev set is taken from train, see `Data`: a function of the seed and the number of
        examples, which keeps their order.

        Raises:
          DataError: If a split would be empty.
        """
        data = self.data
        drawn_by = seed if data.split_seed == "seed" else data.split_seed
        splits = {
            name: Examples.join(
                [
                    _sample(examples, source.fraction, drawn_by)
                    for examples, source in zip(records, getattr(data, name), strict=True)
                ]
            )
            for name, records in self.records.items()
        }
        if "dev" not in splits:
            shares = dict(zip(("train", "dev", "test"), data.split, strict=True))
            if "test" in self.evaluated:
                del shares["test"]
            splits |= _cut(splits["train"], shares, drawn_by)
        splits["train"] = _fraction(splits["train"], data.train_fraction, drawn_by)
        # No training depends on clusters, so its identity must not.
        splits |= {name: dataclasses.replace(splits[name], cluster=()) for name in ("train", "dev")}
        splits |= self.evaluated
        own = {name: splits[name] for name in ("train", "dev", "test") if name in splits}
        if len({examples.text_b is None for examples in own.values()}) > 1:
            raise DataError(
                "some splits hold pairs and others single texts",
                where=", ".join(f"{name} ({part.id[0]})" for name, part in own.items()),
                hint="map text_b in the sources of every split, or of none.",
            )
        return splits


def _sample(examples: Examples, fraction: float, seed: int) -> Examples:
    """Return a fraction of the records of a source, in their order."""
    if fraction == 1:
        return examples
    count = round(fraction * len(examples))
    drawn = np.random.default_rng(seed).choice(len(examples), count, replace=False)
    return examples.take(np.sort(drawn))


def read_whole(source: Source, task: Task, task_type: TaskType, data_dir: str) -> Examples:
    """Read and check all records of a data set that can be used, see `read_source`."""
    where, columns, size, problems, skipped = _read(source, data_dir)
    if source.num_records and size != source.num_records:
        raise DataError(
            f"holds {size} records, not {source.num_records}",
            where=where,
            hint="fetch the file again if it is cut off; else set `num_records` to what it holds.",
        )
    wanted = _wanted(source, columns, size)
    warn_of_unused(columns, source, skipped, where)
    # A column that is only used to filter may have the name of a role.
    columns = {r: c for r, c in columns.items() if r in source.roles or r in source.aligned}
    require_header(columns, source, task, task_type, where)
    broken = {record for record, _ in problems}
    labels = task_type.read_labels(columns, source, task, [i for i in wanted if i not in broken])
    left_out = broken | labels.missing
    used = [i for i in wanted if i not in left_out]
    problems += labels.problems + task_type.text_problems(columns, source, used)
    problems += _common_problems(columns, used)
    if problems:
        raise _refused(where, columns, problems, labels, source, task)
    examples = _examples(source, columns, labels, used, task_type)
    if source.candidates:
        found = read_candidates(source, data_dir)
        examples = named(examples, found, columns["passage"], used)
    if len(examples):
        require_texts(examples, columns, where)
        warn_of_stand_ins(examples, where)
    count = round(source.fraction * len(examples))
    languages = collections.Counter(examples.language).items()
    logger.info(
        "%s: %d records read, %d left out by keep and drop, %d without a label, %d used; %s%s%s%s",
        *(where, size, size - len(wanted), len(labels.missing), len(examples)),
        ", ".join(f"{k} {n}" for k, n in languages),
        f"; {count} of them in a sample" if source.fraction < 1 else "",
        "".join(f"; {n} {kind} skipped" for kind, n in skipped.items()),
        "" if source.num_records else f"; num_records={size} would check that none gets lost",
    )
    if not count:
        raise DataError(
            f"of {size} records none is left to use: {size - len(wanted)} left out by keep and "
            f"drop, {len(labels.missing)} without a label",
            where=where,
            hint="check keep, drop, drop_unlabeled and fraction of the source."
            if size
            else FETCH_AGAIN,
        )
    return examples


def _read(
    source: Source, data_dir: str
) -> tuple[str, dict[str, Column], int, Problems, Mapping[str, int]]:
    """Return name, columns, size, problems and numbers of skipped lines of a data set.

    Columns are by role; those that are only used to filter are by name.
    """
    keys: dict[str, Key] = source.roles
    for name in (*source.keep, *source.keep_prefix, *source.drop):
        if name not in source.aligned:
            keys.setdefault(name, name)
    path = folder = Path(data_dir).expanduser() / Path(source.path).expanduser()
    where, table = str(path), None
    if source.hub:
        where = f"{source.hub}[{source.split}]"
        table = read_hub(source, keys.values())
    elif source.format != "lines":
        table = readers.read_table(path, source, keys.values())
        folder = path.parent
    elif keys:
        raise ConfigError(
            f"keep, keep_prefix and drop name {', '.join(keys)}, which is no role in `aligned`",
            where=where,
            hint=f"name one of {', '.join(source.aligned)}, or align a file to the role.",
        )
    columns = {name: table.columns[key] for name, key in keys.items()} if table else {}
    for role, file in source.aligned.items():
        columns[role] = readers.read_lines(folder / file, source.encoding, f"aligned.{role}")
    counts = {role: len(column.values) for role, column in columns.items()}
    size = table.size if table else next(iter(counts.values()))
    if set(counts.values()) - {size}:
        raise DataError(
            "aligned files must have as many lines as there are records",
            where=where,
            hint="fetch the files again: one of them is cut off, or belongs to another split.",
            details=[f"{role}: {columns[role].file} has {n}" for role, n in counts.items()],
        )
    if not table:
        return where, columns, size, [], {}
    return where, columns, size, table.problems, table.skipped


def _wanted(source: Source, columns: Mapping[str, Column], size: int) -> list[int]:
    """Return the records selected by `keep`, `keep_prefix` and `drop`."""

    def matches(record: int, name: str, values: Sequence[str]) -> bool:
        return written(columns[name].values[record]) in values

    def begins(record: int, name: str, values: Sequence[str]) -> bool:
        return written(columns[name].values[record]).startswith(tuple(values))

    return [
        i
        for i in range(size)
        if all(matches(i, *condition) for condition in source.keep.items())
        and all(begins(i, *condition) for condition in source.keep_prefix.items())
        and not any(matches(i, *condition) for condition in source.drop.items())
    ]


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
        cluster=texts("cluster", ""),
    )


def _common_problems(columns: Mapping[str, Column], used: Sequence[int]) -> Problems:
    """Return the problems of ids, languages, domains and clusters of the records used."""
    problems: Problems = []
    for role in ("id", "language", "domain", "cluster"):
        if role in columns:
            problems += columns[role].problems(used, lambda v: "" if written(v) else "is empty")
    if "id" in columns:
        column, first = columns["id"], dict[str, int]()
        for i in used:
            name = written(column.values[i])
            if first.setdefault(name, i) != i:
                also = column.place(first[name])
                problems.append((i, f"{column.place(i)}: {name!r} is also {also}"))
    return problems


def _refused(
    where: str,
    columns: Mapping[str, Column],
    problems: Problems,
    labels: Labels,
    source: Source,
    task: Task,
) -> DataError:
    hint = "correct the file, or leave records out with `drop`."
    unknown = {record for record, _ in labels.problems} - labels.unlabeled
    if unknown and task.labels:
        names = ", ".join(map(bounded, task.labels[:MAX_NAMES]))
        mapped = ", ".join(map(bounded, [*source.labels][:MAX_NAMES]))
        so_far = f", which has {mapped} so far" if mapped else ""
        column = columns["tags" if "tags" in columns else "label"]
        found = _values_found(column, unknown, source, task)
        hint += f" The labels are {names}; map others with `labels`{so_far}. "
        hint += f"Values found: {found}."
    if unknown == {0} and source.file_format in ("csv", "tsv") and not source.header:
        hint += " If the first line names the columns, set header=True."
    if labels.unlabeled:
        hint += " Set drop_unlabeled=True to leave out records without a label."
    return DataError(
        f"{len(problems):,} finding(s) in the data",
        where=where,
        hint=hint,
        details=[text for _, text in sorted(problems)],
    )


def _values_found(column: Column, records: Collection[int], source: Source, task: Task) -> str:
    """Return the values that are no labels in some records, with how often each is there."""
    known = source.labels or task.labels
    values = (column.values[i] for i in records)
    items = itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in values)
    counts = collections.Counter(text for text in map(written, items) if text not in known)
    shown = [f"{bounded(text, 40)} ({n:,})" for text, n in counts.most_common(MAX_NAMES)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} other values" if more else "")


def _cut(examples: Examples, shares: Mapping[str, float], seed: int) -> dict[str, Examples]:
    """Divide `examples` in the proportions `shares`; `train` gets the remainder of rounding."""
    total = sum(shares.values())
    counts = {name: round(share / total * len(examples)) for name, share in shares.items()}
    counts["train"] = len(examples) - sum(n for name, n in counts.items() if name != "train")
    if any(counts[name] < 1 for name, share in shares.items() if share > 0):
        raise DataError(
            f"{len(examples)} examples are too few to be divided: "
            + ", ".join(f"{name} {n}" for name, n in counts.items()),
            where=examples.id[0],
            hint="use more records, change data.split, or name sources in data.dev and data.test.",
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    parts = np.split(order, np.cumsum(list(counts.values()))[:-1])
    return {
        name: examples.take(np.sort(part))
        for name, part in zip(counts, parts, strict=True)
        if len(part)
    }


def _fraction(train: Examples, fraction: float, seed: int) -> Examples:
    """Return a fraction of the training split; smaller fractions are subsets of larger ones."""
    count = round(fraction * len(train))
    if not count:
        raise DataError(
            f"of {len(train)} examples to train on, {fraction:g} are none",
            where=train.id[0],
            hint="use a larger data.train_fraction.",
        )
    order = np.random.default_rng(seed).permutation(len(train))
    return train.take(np.sort(order[:count]))
