"""Predictions of a fine-tuned model for texts in a file, by json lines.

python -m flaxfer.interop.predict MODEL INPUT [--output FILE]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pydantic

from flaxfer import config
from flaxfer.config import Source, Task, Train
from flaxfer.data import readers, tokenize
from flaxfer.data.examples import Examples
from flaxfer.data.files import decode, read_bytes, split_lines
from flaxfer.data.values import text_fault, written
from flaxfer.errors import ConfigError, DataError, FlaxferError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models import pretrained
from flaxfer.models.weights import read_json
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.files import write_atomically
from flaxfer.tasks import Predictions, task_type
from flaxfer.tasks.models import model_spec

ROLES = ("text_a", "text_b", "id", "language", "domain")
"""Columns that are read, by their names; all but the first may be absent."""

LENGTH = 512
"""Tokens of a text for a model that does not say how many it was evaluated with."""


def predict(folder: Path, file: Path) -> Iterator[dict[str, Any]]:
    """One record an example: id, prediction, and for classes their probabilities.

    An exported model predicts what it did when it was evaluated, bit for bit on the same kind of
    machine with the same number of devices, if the file holds the examples of a set in its order.

    Args:
      folder: a Hugging Face model with a head that classifies or scores texts.
      file: csv, tsv or json lines with the column `text_a` and perhaps others of `ROLES`.

    Raises:
      FlaxferError: of the kind of what is wrong.
    """
    settings = read_json(folder / "config.json", DataError)
    task = task_of(settings, str(folder))
    tokenizer = tokenize.load_tokenizer(config.Model(path=str(folder)))
    train = train_of(settings, tokenizer.model_max_length)
    examples = read_texts(file, task)
    data = tokenize.tokenize(examples, tokenizer, train.max_length, None)
    encoder = pretrained.load_encoder_config(folder)
    model = model_spec(encoder, task)
    mesh = sharding.make_mesh()
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


def task_of(settings: dict[str, Any], where: str) -> Task:
    """The task of a model, from its config.json.

    Raises:
      ConfigError: its head is not for texts or pairs, or its labels are not named by number.
    """
    hint = "name a model that was exported from a stage of classification or regression."
    own = settings.get("flaxfer")
    if isinstance(own, dict):
        task: Task = _checked(Task, own.get("task"), where)
        if not task_type(task).single_label:
            what = f"a model for {task.type.replace('_', ' ')} cannot be used for texts or pairs"
            raise ConfigError(what, where=where, hint=hint)
        return task
    architectures = settings.get("architectures") or ["none"]
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        raise ConfigError(
            f"the model has no head for sequences; its architecture is {architectures[0]}",
            where=where,
            hint=hint,
        )
    labels = _labels(settings, where)
    problem = settings.get("problem_type") or ("regression" if len(labels) == 1 else "single")
    if problem == "regression" and len(labels) == 1:
        return Task("score", "regression", "pearson")
    if not problem.startswith("single"):
        what = f"its problem_type is {problem}, for {len(labels)} label(s)"
        raise ConfigError(what, where=where, hint=hint)
    return Task("class", "classification", "accuracy", labels)


def train_of(settings: dict[str, Any], longest: int) -> Train:
    """How a model is to be evaluated: as it was if it is an export, else in rows of its length."""
    own = settings.get("flaxfer")
    if isinstance(own, dict):
        train: Train = _checked(Train, own.get("train"), "config.json")
        return train
    length = min(longest, LENGTH)
    return dataclasses.replace(Train(), max_length=length, row_length=length)


def read_texts(file: Path, task: Task) -> Examples:
    """The texts or pairs of a file; their labels mean nothing.

    Raises:
      DataError: with file, line and column of everything that is wrong.
      ConfigError: the ending of the file is none of those that are read.
    """
    roles = [role for role in ROLES if role in _names(file) or role == "text_a"]
    table = readers.read_table(file, Source(path=str(file)), roles)
    problems = list(table.problems)
    broken = {record for record, _ in problems}
    for role in roles:
        column = table.columns[role]
        for i, value in enumerate(column.values):
            fault = text_fault(value) if role.startswith("text") else not written(value)
            if fault and i not in broken:
                text = fault if isinstance(fault, str) else "is empty"
                problems.append((i, f"{column.place(i)}: {text}"))
    if problems or not table.size:
        raise DataError(
            f"{len(problems)} finding(s) in the data" if problems else "the file has no record",
            where=str(file),
            hint="correct the file.",
            details=[text for _, text in sorted(problems)],
        )

    def values(role: str, default: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(written, table.columns[role].values if role in roles else default))

    n, stem = table.size, Path(file.name.removesuffix(".gz")).stem
    return Examples(
        task_type=task_type(task),
        text_a=values("text_a", ()),
        text_b=values("text_b", ()) if "text_b" in roles else None,
        label=np.zeros(n, task_type(task).label_dtype),
        id=values("id", [f"{stem}:{i + 1}" for i in range(n)]),
        language=values("language", [""] * n),
        domain=values("domain", [""] * n),
    )


def _names(file: Path) -> set[str]:
    """The names of the file's columns; what cannot be read is left for the reader to report."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    if suffix not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise ConfigError(
            f"the ending of {file.name!r} is not one of those that are read",
            where=str(file),
            hint="write csv, tsv or json lines (.csv, .tsv, .jsonl; .gz after them).",
        )
    lines = split_lines(decode(read_bytes(file, "INPUT"), "utf-8", file))
    if suffix in (".csv", ".tsv"):
        return set(next(csv.reader(lines[:1], delimiter="," if suffix == ".csv" else "\t"), ()))
    names: set[str] = set()
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        names |= record.keys() if isinstance(record, dict) else set()
    return names


def _labels(settings: dict[str, Any], where: str) -> tuple[str, ...]:
    """Names of the classes in the order of the logits; two of them are what transformers assumes
    where config.json says nothing.
    """
    count = settings.get("num_labels", 2)
    named = settings.get("id2label") or {i: f"LABEL_{i}" for i in range(count)}
    labels = {str(number): str(label) for number, label in named.items()}
    if set(labels) != set(map(str, range(len(labels)))):
        raise ConfigError(
            f"id2label does not name the classes by number: {named}",
            where=where,
            hint="number them from 0, in the order of the logits.",
        )
    return tuple(labels[str(i)] for i in range(len(labels)))


def _checked(kind: Any, value: Any, where: str) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigError(
            "`flaxfer` in config.json is not what an export writes",
            where=where,
            hint="export the model again, or delete the key to have the defaults.",
            details=[f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()],
        ) from error


def _records(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """As `evaluate.write_predictions` has them, without the labels."""
    data = predictions.data
    for i, identity in enumerate(data.id):
        known = {"id": identity, "language": data.language[i], "domain": data.domain[i]}
        record = {key: value for key, value in known.items() if value} | predictions.record(i)
        yield {key: value for key, value in record.items() if key not in ("label", "score")}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("flaxfer").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(
        prog="python -m flaxfer.interop.predict",
        description="Predict for texts or pairs in a file.",
    )
    parser.add_argument("model", type=Path, help="an exported folder, or another of transformers")
    parser.add_argument("input", type=Path, help=f"csv, tsv or jsonl; columns {', '.join(ROLES)}")
    parser.add_argument("--output", type=Path, help="where to write; else it is printed")
    words = parser.parse_args(arguments)
    try:
        lines = [json.dumps(r, ensure_ascii=False) for r in predict(words.model, words.input)]
        text = "".join(f"{line}\n" for line in lines)
        if words.output:
            _write(words.output, text)
        else:
            sys.stdout.write(text)
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error}", where=str(path), hint="name another file."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
