"""Checks that compare fields of a config; `schema` and `fields` have the range of each field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from flaxfer.config import Common, Config, Model, Optimizer, Stage, Train
from flaxfer.config.findings import Finding, suggestion
from flaxfer.config.sources import check_source
from flaxfer.config.task_types import TaskType, TaskTypes


def check(config: Config, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in `config`."""
    yield from check_model("model", config.model)
    yield from check_common(config)
    staged = "staged" in config.conditions
    if staged and config.intermediate is None:
        yield (
            ("conditions", "intermediate"),
            "conditions: 'staged' needs the section intermediate; add it, or leave 'staged' out",
        )
    for name, stage in (("intermediate", config.intermediate), ("target", config.target)):
        if stage is not None:
            yield from check_stage(name, stage, task_types)
            yield from check_retention(name, stage, target=name == "target", staged=staged)


def check_model(at: str, model: Model) -> Iterator[Finding]:
    """Yield every contradiction in the model at a dotted key."""
    if bool(model.path) == bool(model.hub):
        yield (
            (f"{at}.path", f"{at}.hub"),
            f"{at}.path: set either a local folder ({at}.path) or a hub id ({at}.hub), "
            f"not {'both' if model.path else 'neither'}",
        )


def check_common(config: Common) -> Iterator[Finding]:
    """Yield every contradiction in the settings shared by studies and grids."""
    sizes = dataclasses.asdict(config.mesh)
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            yield (
                (f"mesh.{axis}",),
                f"mesh.{axis}: should be positive, or -1 for all remaining devices; is {size}",
            )
    if list(sizes.values()).count(-1) > 1:
        yield tuple(f"mesh.{axis}" for axis in sizes), "mesh.data: only one axis may be -1"


def check_stage(at: str, stage: Stage, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in the stage at a dotted key."""
    type_key = f"{at}.task.type"
    if stage.task.type in task_types:
        yield from _check_stage(at, stage, task_types[stage.task.type], task_types)
        return
    hint = suggestion(stage.task.type, task_types)
    yield (type_key,), f"{type_key}: {stage.task.type!r} is not a task type; {hint}"
    # With any type as a stand-in, errors that do not depend on the type are reported, too.
    for keys, text in _check_stage(at, stage, next(iter(task_types.values())), task_types):
        if type_key not in keys:
            yield keys, text


def _check_stage(
    at: str, stage: Stage, task_type: TaskType, task_types: TaskTypes
) -> Iterator[Finding]:
    task_at, task = f"{at}.task", stage.task
    yield from task_type.check_task(task_at, task)
    if task.metric not in task_type.metrics:
        yield (
            (f"{task_at}.metric", f"{task_at}.type"),
            f"{task_at}.metric: {task.metric!r} is no metric of {task_type.name}; "
            f"{suggestion(task.metric, task_type.metrics)}",
        )
    yield from _train(f"{at}.train", stage.train)
    yield from task_type.check_train(f"{at}.train", stage.train, task_at)
    yield from _optimizer(f"{at}.optimizer", stage.optimizer, stage.train)
    split, dev = stage.data.split, stage.data.dev
    usable = min(split) >= 0 and split[0] and (split[1] or dev)
    if not usable or abs(sum(split) - 1) > 1e-6:
        yield (
            (f"{at}.data.split", f"{at}.data.dev"),
            f"{at}.data.split: fractions should add up to 1, with some for train and for dev; "
            f"is {split}",
        )
    sources = {
        f"{split}.{i}": source
        for split in ("train", "dev", "test")
        for i, source in enumerate(getattr(stage.data, split))
    }
    for name, source in sources.items():
        source_at = f"{at}.data.{name}"
        yield from check_source(source_at, source, task_at, task, task_type, task_types)
    for name, source in stage.evaluate.items():
        if name in ("train", "dev", "test"):
            yield (f"{at}.evaluate",), f"{at}.evaluate.{name}: the name is reserved for a split"
        source_at = f"{at}.evaluate.{name}"
        yield from check_source(source_at, source, task_at, task, task_type, task_types)


def check_retention(at: str, stage: Stage, *, target: bool, staged: bool) -> Iterator[Finding]:
    """Yield settings against forgetting that cannot take effect in the stage at a dotted key.

    Args:
      at: Dotted key of the stage.
      stage: The stage.
      target: Whether it is the target stage.
      staged: Whether it is trained after an intermediate stage in some condition.
    """
    for key, needs_staged in (
        ("rehearsal_examples", True),
        ("wise_ft_alphas", False),
        ("evaluate_retention", True),
    ):
        if getattr(stage, key) and (not target or (needs_staged and not staged)):
            yield (
                (f"{at}.{key}", "conditions"),
                f"{at}.{key}: applies only to the target stage"
                f"{' in the condition staged' if needs_staged else ''}",
            )
    count, train = stage.rehearsal_examples, stage.train
    if count >= train.batch_size:
        yield (
            (f"{at}.rehearsal_examples", f"{at}.train.batch_size"),
            f"{at}.rehearsal_examples: should be less than the batch_size {train.batch_size}; "
            f"is {count}",
        )
    elif count % train.gradient_accumulation_steps:
        yield (
            (f"{at}.rehearsal_examples", f"{at}.train.gradient_accumulation_steps"),
            f"{at}.rehearsal_examples: gradient_accumulation_steps "
            f"{train.gradient_accumulation_steps} does not divide {count}",
        )


def _train(at: str, train: Train) -> Iterator[Finding]:
    if train.epochs <= 0 and not train.max_steps:
        yield (
            (f"{at}.epochs", f"{at}.max_steps"),
            f"{at}.epochs: should be positive; is {train.epochs}",
        )
    if train.batch_size % train.gradient_accumulation_steps:
        yield (
            (f"{at}.gradient_accumulation_steps", f"{at}.batch_size"),
            f"{at}.gradient_accumulation_steps: {train.gradient_accumulation_steps} does not "
            f"divide batch_size {train.batch_size}",
        )
    if train.row_length and train.row_length < train.max_length:
        yield (
            (f"{at}.row_length", f"{at}.max_length"),
            f"{at}.row_length: {train.row_length} tokens cannot hold an example of max_length "
            f"{train.max_length}",
        )


def _optimizer(at: str, optimizer: Optimizer, train: Train) -> Iterator[Finding]:
    if optimizer.schedule == "inverse_sqrt" and not optimizer.warmup:
        yield (
            (f"{at}.warmup", f"{at}.schedule"),
            f"{at}.warmup: the schedule inverse_sqrt needs warm-up steps",
        )
    if optimizer.warmup >= 1 and optimizer.warmup % 1:
        yield (
            (f"{at}.warmup",),
            f"{at}.warmup: should be a fraction of the steps below 1, or a whole number of steps; "
            f"is {optimizer.warmup}",
        )
    if train.max_steps and optimizer.warmup >= train.max_steps:
        yield (
            (f"{at}.warmup", f"{at.rpartition('.')[0]}.train.max_steps"),
            f"{at}.warmup: {optimizer.warmup:g} warm-up steps are all of max_steps "
            f"{train.max_steps}",
        )
