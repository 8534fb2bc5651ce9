"""Predictions of a fine-tuned model for the texts or pairs of a file, as JSON lines."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import pydantic

from flaxfer.config import Model, Source, Task, Train
from flaxfer.data import readers, tokenize
from flaxfer.data.examples import Examples
from flaxfer.data.files import decode, read_bytes, split_lines
from flaxfer.data.model_folder import read_config, read_labels
from flaxfer.data.values import text_fault, written
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models import pretrained
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.files import write_atomically
from flaxfer.tasks import TASK_TYPES, Predictions, task_type
from flaxfer.tasks.models import model_spec

Record = TypeVar("Record")

ROLES = ("text_a", "text_b", "id", "language", "domain")
"""Names of the columns that are read; only the first is required."""

MAX_LENGTH = 512
"""Most tokens of a text for a model whose config.json does not name the evaluation's length."""


def predict(
    folder: Path, file: Path, mesh: jax.sharding.Mesh | None = None
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

    Raises:
      ConfigError, DataError, CheckpointError: the model or the file cannot be used.
    """
    encoder, settings = pretrained.load_encoder_config(folder), read_config(folder)
    task = read_task(settings, str(folder))
    tokenizer = tokenize.load_tokenizer(Model(path=str(folder)))
    train = read_train(settings, tokenizer.model_max_length)
    data = tokenize.tokenize(read_texts(file, task), tokenizer, train.max_length, None)
    model = model_spec(encoder, task)
    mesh = mesh or sharding.make_mesh()
    params = pretrained.load_pretrained(folder, encoder, outputs=model.num_outputs)
    params = jax.device_put(params, sharding.tree_shardings(params, mesh))
    evaluator = Evaluator(
        model=model,
        task=task,
        train=train,
        dtype=platform.compute_dtype(train.compute_dtype),
        mesh=mesh,
    )
    outputs, _ = evaluator.predict(params, data)
    return _records(evaluator.predictions(data, outputs))


def read_task(settings: dict[str, Any], where: str) -> Task:
    """Return the task of a model, from its config.json.

    Raises:
      ConfigError: its head does not classify or score texts, or its labels are not numbered.
    """
    hint = "name a model that was exported from a stage of classification or regression."
    if isinstance(export := settings.get("flaxfer"), dict):
        task = _validate(Task, export.get("task"), where)
        if not task_type(task).single_label:
            what = f"a model for {task.type.replace('_', ' ')} cannot be used for texts or pairs"
            raise ConfigError(what, where=where, hint=hint)
        if (labels := read_labels(settings, where)) != task_type(task).exported_labels(task):
            what = f"id2label has other labels than the task of the export: {', '.join(labels)}"
            hint = "if the export was trained further, delete the key `flaxfer` of config.json."
            raise ConfigError(what, where=where, hint=hint)
        return task
    architecture = str((settings.get("architectures") or ["none"])[0])
    if not architecture.endswith(TASK_TYPES["classification"].architecture):
        what = f"the model has no head for sequences; its architecture is {architecture}"
        raise ConfigError(what, where=where, hint=hint)
    labels = read_labels(settings, where)
    problem = settings.get("problem_type") or ("regression" if len(labels) == 1 else "single")
    if problem == "regression" and len(labels) == 1:
        return Task("score", "regression", TASK_TYPES["regression"].metrics[0])
    if not problem.startswith("single"):
        what = f"its problem_type is {problem}, for {len(labels)} label(s)"
        raise ConfigError(what, where=where, hint=hint)
    return Task("class", "classification", TASK_TYPES["classification"].metrics[0], labels)


def read_train(settings: dict[str, Any], longest: int) -> Train:
    """Return the settings to evaluate a model with, from its config.json.

    They are those of the evaluation for an export. For other models, texts are cut to `longest`
    tokens, or to `MAX_LENGTH` if that is less.
    """
    if isinstance(export := settings.get("flaxfer"), dict):
        return _validate(Train, export.get("train"), "config.json")
    length = min(longest, MAX_LENGTH)
    return dataclasses.replace(Train(), max_length=length, row_length=length)


def read_texts(file: Path, task: Task) -> Examples:
    """Read the texts or pairs of a file, with placeholders as labels.

    Raises:
      DataError: the file has no records or wrong ones; all are listed with line and column.
      ConfigError: the file's ending is not a supported one.
    """
    names = _column_names(file)
    roles = [role for role in ROLES if role in names or role == "text_a"]
    table = readers.read_table(file, Source(path=str(file)), roles)
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


def run(args: argparse.Namespace) -> int:
    """Predict the examples of a file, and print or write the records."""
    records = predict(args.model, args.input)
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


def _column_names(file: Path) -> set[str]:
    """Return the names of a file's columns; malformed lines are left to the reader to report."""
    file_format = Source(path=str(file)).file_format
    if file_format not in ("csv", "tsv", "jsonl"):
        raise ConfigError(
            f"the ending of {file.name!r} is not a supported one",
            where=str(file),
            hint="write csv, tsv or JSON lines (.csv, .tsv, .jsonl; optionally with .gz).",
        )
    lines = split_lines(decode(read_bytes(file, "INPUT"), "utf-8", file))
    if file_format != "jsonl":
        delimiter = "," if file_format == "csv" else "\t"
        return set(next(csv.reader(lines[:1], delimiter=delimiter), ()))
    names: set[str] = set()
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        names |= record.keys() if isinstance(record, dict) else set()
    return names


def _validate(record_type: type[Record], value: Any, where: str) -> Record:
    try:
        return pydantic.TypeAdapter(record_type).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigError(
            "the key `flaxfer` of config.json is not as an export writes it",
            where=where,
            hint="export the model again, or delete the key to use the defaults.",
            details=[f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()],
        ) from error


def _records(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield records like those of an evaluation's predictions file, but without labels."""
    data = predictions.data
    for i, identity in enumerate(data.id):
        columns = {"id": identity, "language": data.language[i], "domain": data.domain[i]}
        record = {key: value for key, value in columns.items() if value} | predictions.record(i)
        yield {key: value for key, value in record.items() if key not in ("label", "score")}
