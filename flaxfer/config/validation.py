"""Checks that compare fields of a config; `schema` and `fields` have the range of each field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from flaxfer.config import Common, Config, Optimizer, Stage, Train
from flaxfer.config.findings import Finding, finding, suggestion
from flaxfer.config.sources import check_origin, check_source
from flaxfer.config.task_types import TaskType, TaskTypes

SPLITS = ("train", "dev", "test")


def check(config: Config, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in `config`."""
    yield from check_origin("model", config.model)
    yield from check_common(config)
    staged = "staged" in config.conditions
    if staged and config.intermediate is None:
        message = "'staged' needs the section intermediate; add it, or leave 'staged' out"
        yield finding(message, "conditions", "intermediate")
    for name, stage in (("intermediate", config.intermediate), ("target", config.target)):
        if stage is not None:
            yield from check_stage(name, stage, task_types)
            yield from check_retention(name, stage, target=name == "target", staged=staged)


def check_common(config: Common) -> Iterator[Finding]:
    """Yield every contradiction in the settings shared by studies and grids."""
    sizes = dataclasses.asdict(config.mesh)
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            message = f"should be positive, or -1 for all remaining devices; is {size}"
            yield finding(message, f"mesh.{axis}")
    if list(sizes.values()).count(-1) > 1:
        yield finding("only one axis may be -1", *(f"mesh.{axis}" for axis in sizes))


def check_stage(at: str, stage: Stage, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in the stage at a dotted key."""
    name = stage.task.type
    if not (known := name in task_types):
        message = f"{name!r} is not a task type; {suggestion(name, task_types)}"
        yield finding(message, f"{at}.task.type")
    # With any type as a stand-in, errors that do not depend on the type are reported, too.
    task_type = task_types[name] if known else next(iter(task_types.values()))
    for keys, text in _check_stage(stage, task_type, task_types):
        if known or "task.type" not in keys:
            yield tuple(f"{at}.{key}" for key in keys), f"{at}.{text}"


def _check_stage(stage: Stage, task_type: TaskType, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in a stage, with keys relative to it."""
    task, data = stage.task, stage.data
    yield from task_type.check_task("task", task)
    if task.metric not in task_type.metrics:
        hint = suggestion(task.metric, task_type.metrics)
        message = f"{task.metric!r} is no metric of {task_type.name}; {hint}"
        yield finding(message, "task.metric", "task.type")
    yield from _train(stage.train)
    yield from task_type.check_train("train", stage.train, "task")
    yield from _optimizer(stage.optimizer, stage.train)
    usable = min(data.split) >= 0 and data.split[0] and (data.split[1] or data.dev)
    if not usable or abs(sum(data.split) - 1) > 1e-6:
        message = "fractions should add up to 1, with some for train and for dev; "
        yield finding(f"{message}is {data.split}", "data.split", "data.dev")
    sources = {
        f"data.{split}.{i}": source
        for split in SPLITS
        for i, source in enumerate(getattr(data, split))
    }
    for name in SPLITS:
        if name in stage.evaluate:
            yield finding("the name is reserved for a split", f"evaluate.{name}")
    sources |= {f"evaluate.{name}": source for name, source in stage.evaluate.items()}
    for at, source in sources.items():
        yield from check_source(at, source, task, task_type, task_types)


def check_retention(at: str, stage: Stage, *, target: bool, staged: bool) -> Iterator[Finding]:
    """Yield settings against forgetting that cannot take effect in the stage at a dotted key.

    Args:
      at: Dotted key of the stage.
      stage: The stage.
      target: Whether it is the target stage.
      staged: Whether it is trained after an intermediate stage in some condition.
    """
    for key, condition in (
        ("rehearsal_examples", " in the condition staged"),
        ("wise_ft_alphas", ""),
        ("evaluate_retention", " in the condition staged"),
    ):
        if getattr(stage, key) and (not target or (condition and not staged)):
            message = f"applies only to the target stage{condition}"
            yield finding(message, f"{at}.{key}", "conditions")
    count, train = stage.rehearsal_examples, stage.train
    if count >= train.batch_size:
        yield finding(
            f"should be less than the batch_size {train.batch_size}; is {count}",
            *(f"{at}.rehearsal_examples", f"{at}.train.batch_size"),
        )
    elif count % train.gradient_accumulation_steps:
        yield finding(
            f"gradient_accumulation_steps {train.gradient_accumulation_steps} does not divide "
            f"{count}",
            *(f"{at}.rehearsal_examples", f"{at}.train.gradient_accumulation_steps"),
        )


def _train(train: Train) -> Iterator[Finding]:
    if train.epochs <= 0 and not train.max_steps:
        message = f"should be positive; is {train.epochs}"
        yield finding(message, "train.epochs", "train.max_steps")
    if train.batch_size % train.gradient_accumulation_steps:
        yield finding(
            f"{train.gradient_accumulation_steps} does not divide batch_size {train.batch_size}",
            *("train.gradient_accumulation_steps", "train.batch_size"),
        )
    if train.row_length and train.row_length < train.max_length:
        yield finding(
            f"{train.row_length} tokens cannot hold an example of max_length {train.max_length}",
            *("train.row_length", "train.max_length"),
        )


def _optimizer(optimizer: Optimizer, train: Train) -> Iterator[Finding]:
    warmup, key = optimizer.warmup, "optimizer.warmup"
    if optimizer.schedule == "inverse_sqrt" and not warmup:
        message = "the schedule inverse_sqrt needs warm-up steps"
        yield finding(message, key, "optimizer.schedule")
    if warmup >= 1 and warmup % 1:
        message = "should be a fraction of the steps below 1, or a whole number of steps; "
        yield finding(f"{message}is {warmup}", key)
    if train.max_steps:
        yield from check_steps(optimizer, train, train.max_steps, f"max_steps {train.max_steps}")


def check_steps(
    optimizer: Optimizer, train: Train, total_steps: int, of_steps: str
) -> Iterator[Finding]:
    """Yield settings that do not fit the number of steps, which may depend on the data.

    Args:
      optimizer: Optimizer of a stage.
      train: Training loop of the stage.
      total_steps: Optimizer updates of the stage.
      of_steps: These steps in words, for the message.
    """
    warmup, keys = optimizer.warmup, ("optimizer.warmup", "train.max_steps", "train.epochs")
    steps = warmup_steps(optimizer, total_steps)
    share = warmup if warmup < 1 else warmup / total_steps
    if steps >= total_steps:
        yield finding(f"{steps} warm-up steps are all of {of_steps}", *keys)
    elif optimizer.schedule == "wsd" and share + optimizer.decay_fraction > 1 + 1e-9:
        decay = round(optimizer.decay_fraction * total_steps)
        message = f"{steps} warm-up steps and {decay} of decay are more than {of_steps}"
        yield finding(message, *keys, "optimizer.decay_fraction")
    for name in ("eval_every", "save_every"):
        if getattr(train, name) > total_steps:
            message = f"{getattr(train, name)} is more than {of_steps}: it would have no effect"
            yield finding(message, f"train.{name}", *keys[1:])


def warmup_steps(optimizer: Optimizer, total_steps: int) -> int:
    """Return the warm-up steps; a fraction is rounded up, as in transformers' Trainer."""
    if optimizer.warmup < 1:
        return math.ceil(optimizer.warmup * total_steps)
    return int(optimizer.warmup)
