"""Predictions of a fine-tuned model for the examples of a file, as JSON lines."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from flaxfer.config.overrides import CONSTANTS
from flaxfer.data.model_folder import read_config
from flaxfer.data.tables import Key
from flaxfer.errors import ConfigError
from flaxfer.interop.inputs import SETTINGS, read_inputs
from flaxfer.interop.predictor import Predictor, check_number_of_texts, read_task
from flaxfer.runtime.files import write_atomically


def predict(
    folder: str | Path,
    file: str | Path,
    mesh: jax.sharding.Mesh | None = None,
    *,
    columns: Mapping[str, Key] | None = None,
    settings: Mapping[str, Any] | None = None,
    ignored: Collection[str] | None = (),
    single_texts: bool = False,
    texts: bool = False,
) -> Iterator[dict[str, Any]]:
    """Predict the examples of a file and yield a record for each.

    A record has `id` and `prediction`; classes and choices have their `probabilities`, answers
    their `start` and `end` in the context and the `n_best` others. An exported model repeats the
    predictions of its evaluation, bit for bit on a machine of the same kind and with as many
    devices, if the file holds the examples of an evaluated set in their order and
    `train.attention` was `auto`.

    Args:
      folder: A Hugging Face model with a head for texts, tokens, answers or choices.
      file: File with a column for each part of an example, `-` for standard input; see
        `flaxfer.interop.inputs.read_inputs`, also for `columns`, `settings` and `ignored`.
      mesh: Devices over which rows are split; None for all devices.
      columns: Name or number of the column by role, such as `{"text_a": "review"}`.
      settings: How the file is written, such as `{"delimiter": ";"}`.
      ignored: Other columns that the file may have; None for any.
      single_texts: Whether a model that was trained on pairs may predict single texts.
      texts: Whether records repeat the input.

    Raises:
      ConfigError, DataError, CheckpointError: The model or the file cannot be used, or its
        outputs are not finite.
    """
    folder, file = Path(folder), Path(file)
    config = read_config(folder)
    # The file is checked before the weights are loaded.
    examples, fields = read_inputs(
        file, read_task(config, str(folder)), columns=columns, settings=settings, ignored=ignored
    )
    if not single_texts:
        check_number_of_texts(config, examples, str(file))
    records = Predictor(folder, single_texts=single_texts, mesh=mesh).predict(examples, file.name)
    if not texts:
        return records
    return (record | dict(values) for record, values in zip(records, fields, strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer predict`."""
    parser.add_argument("model", type=Path, help="an exported folder, or another of transformers")
    parser.add_argument(
        "input",
        type=Path,
        help="csv, tsv, jsonl, json, parquet, conll, squad, or a text on each line; - for "
        "standard input",
    )
    parser.add_argument("--output", type=Path, help="file to write instead of printing")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=(),
        metavar="ROLE=COLUMN",
        help="name or number of the column of text_a, text_b, words, choice_1, id, language or "
        "another role, where it is not named so",
    )
    parser.add_argument(
        "--ignore-columns",
        nargs="*",
        default=(),
        metavar="NAME",
        help="other columns that the input may have; without names, any",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        default=(),
        metavar="KEY=VALUE",
        help=f"how the input is written, as in the sources of a config: {', '.join(SETTINGS)}",
    )
    parser.add_argument("--text", action="store_true", help="repeat the input in the output")
    parser.add_argument(
        "--single-texts",
        action="store_true",
        help="predict single texts with a model that was trained on pairs",
    )


def run(args: argparse.Namespace) -> int:
    """Predict the examples of a file, and print or write the records."""
    columns = _pairs("--columns", args.columns)
    records = predict(
        args.model,
        args.input,
        columns={role: int(key) if key.isdecimal() else key for role, key in columns.items()},
        settings={key: _value(text) for key, text in _pairs("--source", args.source).items()},
        ignored=None if args.ignore_columns == [] else args.ignore_columns,
        single_texts=args.single_texts,
        texts=args.text,
    )
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


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """Return the pairs that an option has as KEY=VALUE."""
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value) or key in pairs:
            what = f"{key!r} is given twice" if key in pairs else f"{word!r} is no KEY=VALUE"
            hint = f"write {option} KEY=VALUE KEY=VALUE, behind the file or before another option."
            raise ConfigError(what, where=option, hint=hint)
        pairs[key] = value
    return pairs


def _value(text: str) -> Any:
    """Return the value of a setting: a Python literal, or the text."""
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
