"""The subcommand `init`: from files to a config."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from flaxfer.data.families import FAMILIES
from flaxfer.data.model_folder import read_config
from flaxfer.errors import ConfigError
from flaxfer.runtime.files import write_atomically
from flaxfer.study.drafts import config_text, draft
from flaxfer.tasks import TASK_TYPES

HUB_ID = re.compile(r"[\w-]+/[\w.-]+", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `init`."""
    parser.usage = f"{parser.prog} FILE.py --target FILE [options]"
    parser.add_argument("file", type=Path, metavar="FILE.py", help="the config file to write")
    parser.add_argument(
        "--target",
        type=Path,
        required=True,
        metavar="FILE",
        help="examples of the target task: csv, tsv, JSON, JSON lines, parquet, CoNLL or SQuAD",
    )
    parser.add_argument(
        "--intermediate", type=Path, metavar="FILE", help="examples of the intermediate task"
    )
    parser.add_argument(
        "--model", metavar="FOLDER_OR_ID", help="a Hugging Face folder, or a model id of the hub"
    )
    types = ", ".join(TASK_TYPES)
    parser.add_argument(
        "--task",
        choices=tuple(TASK_TYPES),
        metavar="TYPE",
        help=f"type of the target task: {types}",
    )
    parser.add_argument("--replace", action="store_true", help="overwrite the config file")


def run(args: argparse.Namespace) -> int:
    """Write a config, and print what was guessed."""
    file = args.file
    if file.suffix != ".py":
        what = f"a Python file is written, whose name ends in .py, not in {file.suffix!r}"
        raise ConfigError(what, where=str(file), hint=f"write {file.stem}.py instead.")
    if file.exists() and not args.replace:
        hint = "name another file, or add --replace to overwrite it."
        raise ConfigError("the file exists already", where=str(file), hint=hint)
    if not file.parent.is_dir():
        what, hint = "there is no such folder", "create it, or name another one."
        raise ConfigError(what, where=str(file.parent), hint=hint)
    name = re.sub(r"\W", "_", file.stem)
    model, limit = _model(args.model)
    target = draft(args.target, args.task or "")
    stages = [target]
    intermediate = None
    if args.intermediate is not None:
        intermediate = draft(args.intermediate, evaluate=False)
        stages.insert(0, intermediate)
    if "hub" in model:
        print(f"model: {args.model} of the hub, as there is no such folder")
    text = config_text(name, file, target, intermediate, model, limit)
    write_atomically(file, text)
    for title, each in zip(("intermediate", "target")[-len(stages) :], stages, strict=True):
        print(f"{title} ({each.meaning.task['type']})")
        print("".join(f"  {note}\n" for note in each.notes), end="")
    print(f"written: {file}. Look it through, then: flaxfer check {file}")
    if "TODO" in text:
        print("Replace what begins with TODO; flaxfer check lists it.")
    return 0


def _model(name: str | None) -> tuple[dict[str, Any], int]:
    """Return the fields of `Model`, and the tokens that it takes; 0 if unknown."""
    if name is None:
        what = "TODO: folder of a Hugging Face model, or set hub to a model id instead of path"
        return {"path": what}, 0
    folder = Path(name).expanduser()
    if not folder.exists() and HUB_ID.fullmatch(name):
        return {"hub": name}, 0
    settings = read_config(folder)
    family = FAMILIES[settings["model_type"]]
    limit = settings.get("max_position_embeddings")
    if family.positions == "relative" or type(limit) is not int:
        return {"path": name}, 0
    if family.positions == "after_padding":
        limit -= settings.get("pad_token_id", family.pad_token_id) + 1
    return {"path": name}, limit
