"""The subcommand `check`: what a run would trip over in its first minute, all of it at once.

Neither JAX nor a network is used: data sets and models of the hub are named, and not looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flaxfer.config import Config, Model, Stage, Task, loading, seeds
from flaxfer.config.arguments import add_config
from flaxfer.config.clashes import sources_of
from flaxfer.config.common import TRACKERS
from flaxfer.config.findings import placeholders
from flaxfer.config.grids import Grid
from flaxfer.config.validation import check_steps
from flaxfer.data import model_folder, overlap, sources
from flaxfer.data.examples import Examples
from flaxfer.data.sources import Pool
from flaxfer.data.tokenize import check_length
from flaxfer.data.tokenizer import load_backend
from flaxfer.errors import ConfigError, FlaxferError
from flaxfer.models.weights import read_headers
from flaxfer.runtime import files, plugins
from flaxfer.runtime.host import install_hint
from flaxfer.runtime.progress import logging_from
from flaxfer.tasks import TASK_TYPES, task_type

T = TypeVar("T")

MAX_LABELS = 12
"""Labels that are listed with their numbers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    add_config(parser)
    parser.add_argument(
        "--check",
        nargs="?",
        const="data",
        choices=("data", "config"),
        help="'config' checks the settings alone, without data, models and folders",
    )


def run(args: argparse.Namespace) -> int:
    """Check a config and all that it names; return the exit code of the first error."""
    if args.check == "config":
        config = loading.load_any(args.config, TASK_TYPES, args.overrides)
        print("the configuration is valid")
        if config.looks:
            print(f"seeds: {seeds.describe(config.seeds)}")
        return 0
    config = loading.load_any(args.config, TASK_TYPES, args.overrides, unfinished=True)
    findings = Findings()
    findings.check(config, args.config)
    for error in findings.errors:
        print(f"error: {error}", file=sys.stderr)
    number = len(findings.errors)
    print(f"{number} error(s)" if number else "nothing would stop a run")
    return findings.errors[0].exit_code if findings.errors else 0


class Findings:
    """Errors of a config, and of the files and folders that it names.

    Attributes:
      errors: The errors that a run would raise one by one.
    """

    def __init__(self) -> None:
        self.errors: list[FlaxferError] = []
        self._weights = 0

    def check(self, config: Config | Grid, where: str) -> None:
        """Check everything, and print what there is; `where` is the file of the config."""
        if unfinished := list(placeholders(loading.to_dict(config))):
            details = [text for _, text in unfinished]
            what = f"{len(details)} setting(s) are still to be filled in"
            self.errors.append(ConfigError(what, where=where, details=details))
        grid = isinstance(config, Grid)
        models = config.models if isinstance(config, Grid) else {"": config.model}
        for name, model in models.items():
            self._model(f"models.{name}" if grid else "model", model, stages_of(config))
        with logging_from(logging.WARNING):  # Not each file.
            read = {at: self._stage(at, stage, config) for at, stage in stages_of(config).items()}
        if config.overlap == "forbid" and not grid and all(read.values()):
            tasks = {at: stage.task for at, stage in stages_of(config).items()}
            splits = {at: one or {} for at, one in read.items()}
            self._try(overlap.examine, splits, tasks, "forbid")
        for name in config.trackers:
            if name not in TRACKERS:
                self._try(plugins.load, plugins.TRACKERS, name)
                continue
            package = TRACKERS[name]
            there = importlib.util.find_spec(package) is not None
            print(f"tracker {name}: {package} is {'' if there else 'not '}installed")
            if not there:
                hint = f"run `{install_hint(name)}`, or leave it out of trackers."
                what = f"the tracker {name!r} is not installed"
                self.errors.append(ConfigError(what, where="trackers", hint=hint))
        for key, folder in (("workdir", config.workdir), ("store", config.stages)):
            self._folder(key, Path(folder))

    def _try(self, function: Callable[..., T], *args: Any, where: str = "") -> T | None:
        """Return the result of a function, or note its error, at `where` if it has no place."""
        try:
            return function(*args)
        except FlaxferError as error:
            error.where = error.where or where or None
            self.errors.append(error)
            return None

    def _model(self, at: str, model: Model, stages: Mapping[str, Stage]) -> None:
        if _is_unfinished(model):
            return
        if model.hub:
            print(f"{at}: {model.hub} of the hub, which is not looked at here")
            return
        folder = Path(model.path).expanduser()
        settings = self._try(model_folder.read_config, folder)
        if settings is None:
            return
        headers = self._try(read_headers, folder)
        backend = self._try(load_backend, model)
        if headers is not None and backend is not None:
            numbers = sum(math.prod(header.shape) for header in headers.values())
            self._weights = max(self._weights, numbers)
            print(
                f"{at}: {folder}, {settings['model_type']}, {numbers:,} weights, "
                f"{backend.tokenizer.get_vocab_size():,} tokens"
            )
        if backend is None:
            return
        for name, stage in stages.items():
            pair = any("text_b" in {*s.roles, *s.aligned} for s in sources_of(stage).values())
            special = backend.tokenizer.num_special_tokens_to_add(pair)
            length, where = stage.train.max_length, f"{name}.train.max_length"
            self._try(check_length, length, backend.max_length, special, where=where)

    def _stage(self, at: str, stage: Stage, config: Config | Grid) -> dict[str, Examples] | None:
        """Read the data of a stage; return its splits for the first seed if all can be read."""
        kind, read = task_type(stage.task), dict[str, Examples]()
        print(f"{at}: {stage.task.name} ({kind.name})")
        complete = True
        for key, source in sources_of(stage).items():
            if _is_unfinished(source) or _is_unfinished(stage.task):
                print(f"  {key}: not read, as settings are still to be filled in")
            elif source.hub:
                print(f"  {key}: {source.hub} of the hub, which is not looked at here")
            else:
                whole = self._try(sources.read_whole, source, stage.task, kind, config.data_dir)
                if whole is not None:
                    read[key] = whole
                    continue
            complete = False
        if not complete:
            return None
        pool = self._try(Pool.of, stage, read)
        splits = self._try(pool.splits, config.run_seeds[0]) if pool is not None else None
        if splits is None:
            return None
        width = max(map(len, splits))
        for name, examples in splits.items():
            print(f"  {name:<{width}}  {described(examples, stage.task)}")
        self._steps(at, stage, splits["train"])
        return splits

    def _steps(self, at: str, stage: Stage, train: Examples) -> None:
        """Note settings that do not fit the number of steps, where examples are sequences."""
        if train.task_type.per_token:
            return
        steps = stage.train.max_steps or math.ceil(
            stage.train.epochs * len(train) / stage.train.batch_size
        )
        words = f"the {steps} steps of {stage.train.epochs:g} epochs of {len(train)} examples"
        details = [
            f"{at}.{text}" for _, text in check_steps(stage.optimizer, stage.train, steps, words)
        ]
        if details and not stage.train.max_steps:
            what = "settings do not fit the number of steps"
            self.errors.append(ConfigError(what, where=at, details=details))

    def _folder(self, key: str, folder: Path) -> None:
        """Note a folder that cannot be made or written; nothing is created."""
        there = files.existing(folder)
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            free = shutil.disk_usage(there).free
            # Parameters and two moments in float32, if no row of the embedding is cut.
            size = 12 * self._weights / 2**30
            note = f", a checkpoint takes up to {size:,.1f} GiB" if size > 0.05 else ""
            print(f"{key}: {folder}, {free / 2**30:,.1f} GiB free{note}")
            if free < 2**26:
                what = f"the disk is full: {free:,} bytes are free"
                hint = f"free some space, or pass another folder with --config.{key}=FOLDER."
                self.errors.append(ConfigError(what, where=str(there), hint=hint))
            return
        what = "is no folder" if there.exists() and not there.is_dir() else "cannot be written"
        self.errors.append(
            ConfigError(
                f"{folder} {what}",
                where=str(there),
                hint=f"pass another one with --config.{key}=FOLDER.",
            )
        )


def stages_of(config: Config | Grid) -> dict[str, Stage]:
    """Return the stages of a study or grid that are trained, by dotted key."""
    stages: dict[str, Stage] = {}
    if isinstance(config, Grid):
        if "staged" in config.conditions:
            stages |= {f"intermediates.{name}": s for name, s in config.intermediates.items()}
        return stages | {f"targets.{name}": stage for name, stage in config.targets.items()}
    if config.intermediate is not None and "staged" in config.conditions:
        stages["intermediate"] = config.intermediate
    return stages | {"target": config.target}


def described(examples: Examples, task: Task) -> str:
    """Return how many examples there are, by language and by label."""
    languages = Counter(examples.language)
    parts = [f"{len(examples):,} examples", _listed(languages)]
    label: Any = examples.label
    if isinstance(label, np.ndarray) and label.dtype == np.float32:
        parts.append(f"scores {label.min():g} to {label.max():g}")
    elif task.labels:
        items = (
            label.tolist() if isinstance(label, np.ndarray) else [t for tags in label for t in tags]
        )
        counts = Counter(task.labels[i] for i in items if i >= 0)
        parts.append(_listed(counts))
        if absent := [name for name in task.labels if name not in counts]:
            parts.append(f"without {', '.join(absent[:MAX_LABELS])}")
    elif isinstance(label, np.ndarray):
        parts.append(f"choices {_listed(Counter(label.tolist()))}")
    return "; ".join(parts)


def _listed(counts: Counter[Any]) -> str:
    shown = [f"{name} {number:,}" for name, number in counts.most_common(MAX_LABELS)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _is_unfinished(section: Any) -> bool:
    return any(True for _ in placeholders(dataclasses.asdict(section)))
