"""Predictions of a fine-tuned model for the texts or pairs of a file, as JSON lines."""

from __future__ import annotations

import argparse
import csv
import difflib
import gzip
import json
import shlex
import sys
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data import readers
from flaxfer.data.examples import Examples
from flaxfer.data.model_folder import read_config
from flaxfer.data.values import text_fault, written
from flaxfer.errors import ConfigError, DataError
from flaxfer.interop.predictor import Predictor, check_number_of_texts, read_task
from flaxfer.runtime.files import write_atomically
from flaxfer.tasks import task_type

ROLES = ("text_a", "text_b", "id", "language", "domain")
"""Names of the columns that are read; only the first is required."""

MAX_LISTED = 10
"""Most columns that a message names."""

LONGEST_LINE = 2**24
"""Most bytes of a line that are searched for names of columns."""


def predict(
    folder: str | Path,
    file: str | Path,
    mesh: jax.sharding.Mesh | None = None,
    *,
    ignored: Collection[str] | None = (),
    single_texts: bool = False,
) -> Iterator[dict[str, Any]]:
    """Predict the examples of a file and yield a record for each.

    A record has `id`, `prediction`, and for classes their `probabilities`. An exported model
    repeats the predictions of its evaluation, bit for bit on a machine of the same kind and with
    as many devices, if the file holds the examples of an evaluated set in their order and
    `train.attention` was `auto`.

    Args:
      folder: a Hugging Face model with a head for classification or regression of texts.
      file: csv, tsv or JSON lines with a column `text_a` and optionally others of `ROLES`.
      mesh: devices over which rows are split; None for all devices.
      ignored: other columns that the file may have; None for any.
      single_texts: whether a model that was trained on pairs may predict single texts.

    Raises:
      ConfigError, DataError, CheckpointError: the model or the file cannot be used, or its
        outputs are not finite.
    """
    folder, file = Path(folder), Path(file)
    settings = read_config(folder)
    # The file is checked before the weights are loaded.
    examples = read_texts(file, read_task(settings, str(folder)), ignored)
    if not single_texts:
        check_number_of_texts(settings, examples, str(file))
    return Predictor(folder, single_texts=single_texts, mesh=mesh).predict(examples, file.name)


def read_texts(file: Path, task: Task, ignored: Collection[str] | None = ()) -> Examples:
    """Read the texts or pairs of a file, with placeholders as labels.

    Args:
      file: as in `predict`.
      task: task of the model.
      ignored: as in `predict`.

    Raises:
      DataError: the file has no records or wrong ones, all of which are listed with line and
        column, or columns that are neither read nor ignored.
      ConfigError: the file's ending is not a supported one, or a column to ignore is not there.
    """
    names = _column_names(file)
    roles = [role for role in ROLES if role == "text_a" or role in names]
    roles = [role for role in roles if role not in (ignored or ()) or role == "text_a"]
    table = readers.read_table(file, Source(path=str(file)), roles)
    _check_columns(file, names, roles, ignored)
    problems, everything = list(table.problems), range(table.size)
    well_formed = sorted(set(everything) - {record for record, _ in problems})
    for role in roles:
        fault = text_fault if role.startswith("text") else _emptiness
        problems += table.columns[role].problems(well_formed, fault)
    if problems or not table.size:
        raise DataError(
            f"{len(problems)} finding(s) in the data" if problems else "the file has no record",
            where=str(file),
            hint="correct the file.",
            details=[text for _, text in sorted(problems)],
        )

    stem = Path(file.name.removesuffix(".gz")).stem
    columns: dict[str, Any] = {
        "text_b": None,
        "id": tuple(f"{stem}:{i + 1}" for i in everything),
        "language": ("",) * table.size,
        "domain": ("",) * table.size,
    } | {role: table.columns[role].texts(everything) for role in roles}
    label = np.zeros(table.size, task_type(task).label_dtype)
    return Examples(task_type=task_type(task), label=label, **columns)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer predict`."""
    parser.add_argument("model", type=Path, help="an exported folder, or another of transformers")
    parser.add_argument("input", type=Path, help=f"csv, tsv or jsonl; columns {', '.join(ROLES)}")
    parser.add_argument("--output", type=Path, help="file to write instead of printing")
    parser.add_argument(
        "--ignore-columns",
        nargs="*",
        default=(),
        metavar="NAME",
        help="other columns that the input may have; without names, any",
    )
    parser.add_argument(
        "--single-texts",
        action="store_true",
        help="predict single texts with a model that was trained on pairs",
    )


def run(args: argparse.Namespace) -> int:
    """Predict the examples of a file, and print or write the records."""
    ignored = None if args.ignore_columns == [] else args.ignore_columns
    records = predict(args.model, args.input, ignored=ignored, single_texts=args.single_texts)
    text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    if not args.output:
        sys.stdout.write(text)
        return 0
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.output, text)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error}", where=str(args.output), hint="name another file."
        ) from error
    return 0


def _emptiness(value: Any) -> str:
    return "" if written(value) else "is empty"


def _column_names(file: Path) -> list[str]:
    """Return the names of a file's columns; what is malformed is left to the reader to report."""
    file_format = Source(path=str(file)).file_format
    if file_format not in ("csv", "tsv", "jsonl"):
        raise ConfigError(
            f"the ending of {file.name!r} is not a supported one",
            where=str(file),
            hint="write csv, tsv or JSON lines (.csv, .tsv, .jsonl; optionally with .gz).",
        )
    names: list[str] = []
    for line in _lines(file):
        if file_format == "tsv":
            return line.rstrip("\r\n").split("\t")
        if file_format == "csv":
            return next(csv.reader([line]), [])
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        names += record.keys() if isinstance(record, dict) else ()
    return list(dict.fromkeys(names))


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file, one at a time, up to one that cannot be read."""
    if not file.is_file():
        return
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opened(file, "rb") as stream:
            first = True
            while line := stream.readline(LONGEST_LINE):
                yield line.decode("utf-8-sig" if first else "utf-8")
                first = False
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return  # The reader says what is wrong.


def _check_columns(
    file: Path, names: Sequence[str], roles: Sequence[str], ignored: Collection[str] | None
) -> None:
    """Check that every column is read or ignored, and that those to ignore exist."""
    if ignored is None:
        return
    absent = [name for name in ignored if name not in names or name == "text_a"]
    if absent:
        raise ConfigError(
            "columns to ignore are not in the file, or needed",
            where=str(file),
            hint=f"the columns are {_listed(names)}.",
            details=[f"--ignore-columns {name!r}" for name in absent],
        )
    unread = [name for name in names if name not in roles and name not in ignored]
    if not unread:
        return
    free = [role for role in ROLES if role not in roles]
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
        where=str(file),
        hint=f"the columns {', '.join(ROLES)} are read; rename the others, or add {option}.",
        details=details,
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(map(repr, names[:MAX_LISTED])) + more
