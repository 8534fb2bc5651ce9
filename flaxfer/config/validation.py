"""What the fields of a config must satisfy, one by one and together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from flaxfer.config import (
    Common,
    Config,
    Mesh,
    Model,
    Optimizer,
    Stage,
    Task,
    Train,
)
from flaxfer.config.sources import Finding, check_source
from flaxfer.config.task_types import TaskType, TaskTypes


def check(config: Config, task_types: TaskTypes) -> Iterator[Finding]:
    """Yields everything wrong in `config`."""
    yield from check_model("model", config.model)
    yield from check_common(config)
    if "staged" in config.conditions and config.intermediate is None:
        yield (
            ("conditions", "intermediate"),
            "conditions: 'staged' needs the section intermediate, or leave it out of conditions",
        )
    for name, stage in (("intermediate", config.intermediate), ("target", config.target)):
        if stage is not None:
            yield from check_stage(name, stage, task_types)
            yield from check_retention(name, stage, name == "target", "staged" in config.conditions)


def check_model(at: str, model: Model) -> Iterator[Finding]:
    """Yields everything wrong in a model, which stands at a dotted key."""
    if bool(model.path) == bool(model.hub):
        yield (
            (f"{at}.path", f"{at}.hub"),
            (
                f"{at}.path: name either a local folder ({at}.path) or a hub id ({at}.hub), "
                f"not {'both' if model.path else 'neither'}"
            ),
        )
    for name in ("dropout", "attention_dropout"):
        rate = getattr(model, name)
        if rate is not None and not 0 <= rate < 1:
            yield (f"{at}.{name}",), f"{at}.{name}: must be in [0, 1), is {rate}"


def check_common(config: Common) -> Iterator[Finding]:
    """Yields everything wrong in what studies and grids have in common."""
    if not re.fullmatch(r"[\w.-]+", config.name):
        yield ("name",), f"name: letters, digits, '.', '_' and '-' only, is {config.name!r}"
    for key, values in (("conditions", config.conditions), ("seeds", config.seeds)):
        if not values:
            yield (key,), f"{key}: is empty"
        if len(set(values)) < len(values):
            yield (key,), f"{key}: holds a value twice: {values}"
    if any(seed < 0 for seed in config.seeds):
        yield ("seeds",), f"seeds: must not be negative, are {config.seeds}"
    for key in ("seeds_at_once", "transferability"):
        if getattr(config, key) < 0:
            yield (key,), f"{key}: must not be negative, is {getattr(config, key)}"
    yield from _mesh(config.mesh)


def _mesh(mesh: Mesh) -> Iterator[Finding]:
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            yield (f"mesh.{axis}",), f"mesh.{axis}: must be positive, or -1 for the rest, is {size}"
    if list(sizes.values()).count(-1) > 1:
        yield ("mesh.data", "mesh.fsdp", "mesh.tensor"), "mesh.data: only one axis may be -1"


def check_stage(at: str, stage: Stage, task_types: TaskTypes) -> Iterator[Finding]:
    """Yields everything wrong in a stage, which stands at a dotted key."""
    type_key = f"{at}.task.type"
    if stage.task.type in task_types:
        yield from _check_stage(at, stage, task_types[stage.task.type], task_types)
        return
    names = ", ".join(map(repr, task_types))
    yield (type_key,), f"{type_key}: should be one of {names}; is {stage.task.type!r}"
    # With any type for a stand-in, the findings that do not depend on the type can be reported.
    for keys, text in _check_stage(at, stage, next(iter(task_types.values())), task_types):
        if type_key not in keys:
            yield keys, text


def _check_stage(
    at: str, stage: Stage, task_type: TaskType, task_types: TaskTypes
) -> Iterator[Finding]:
    task_at, task = f"{at}.task", stage.task
    yield from _task(task_at, task, task_type)
    yield from task_type.check_train(f"{at}.train", stage.train, task_at)
    yield from _train(f"{at}.train", stage.train)
    yield from _optimizer(f"{at}.optimizer", stage.optimizer, stage.train)
    if stage.restarts < 0:
        yield (f"{at}.restarts",), f"{at}.restarts: must be 0 or more, is {stage.restarts}"
    if not stage.data.train:
        yield (f"{at}.data.train",), f"{at}.data.train: names no source"
    if not 0 < stage.data.train_fraction <= 1:
        yield (
            (f"{at}.data.train_fraction",),
            f"{at}.data.train_fraction: must be in (0, 1], is {stage.data.train_fraction}",
        )
    shares = stage.data.split
    if (
        abs(sum(shares) - 1) > 1e-6
        or min(shares) < 0
        or not shares[0]
        or not (shares[1] or stage.data.dev)
    ):
        yield (
            (f"{at}.data.split", f"{at}.data.dev"),
            (
                f"{at}.data.split: shares must add up to 1 and leave something to train on, and to "
                f"choose the best by, are {shares}"
            ),
        )
    splits = {"train": stage.data.train, "dev": stage.data.dev, "test": stage.data.test}
    for split, sources in splits.items():
        for i, source in enumerate(sources):
            source_at = f"{at}.data.{split}.{i}"
            yield from check_source(source_at, source, task_at, task, task_type, task_types)
    for name, source in stage.evaluate.items():
        if name in ("train", "dev", "test") or not re.fullmatch(r"[\w.-]+", name):
            yield (
                (f"{at}.evaluate",),
                (
                    f"{at}.evaluate.{name}: a name is letters, digits, '.', '_' and '-', "
                    "and not train, dev or test"
                ),
            )
        source_at = f"{at}.evaluate.{name}"
        yield from check_source(source_at, source, task_at, task, task_type, task_types)


def check_retention(at: str, stage: Stage, last: bool, staged: bool) -> Iterator[Finding]:
    """Whether what is against forgetting, in a stage at a dotted key, can act.

    Args:
      at: the key.
      stage: what stands there.
      last: whether it is the target.
      staged: whether it has a path with a stage before it.
    """
    train, count = stage.train, stage.rehearse
    for key, needs_staged in (("rehearse", True), ("wise", False), ("retained", True)):
        if getattr(stage, key) and (not last or (needs_staged and not staged)):
            yield (
                (f"{at}.{key}", "conditions"),
                f"{at}.{key}: is for the target stage"
                f"{' of the path staged' if needs_staged else ''}; leave it out here",
            )
    if count and not 0 < count < train.batch_size:
        yield (
            (f"{at}.rehearse", f"{at}.train.batch_size"),
            f"{at}.rehearse: must leave some of the batch_size {train.batch_size} to the target, "
            f"is {count}",
        )
    elif (
        count
        and train.gradient_accumulation_steps > 0
        and count % train.gradient_accumulation_steps
    ):
        yield (
            (f"{at}.rehearse", f"{at}.train.gradient_accumulation_steps"),
            f"{at}.rehearse: gradient_accumulation_steps {train.gradient_accumulation_steps} "
            f"does not divide {count}",
        )
    if any(not 0 <= share <= 1 for share in stage.wise):
        yield (f"{at}.wise",), f"{at}.wise: must be in [0, 1], are {stage.wise}"
    if len(set(stage.wise)) < len(stage.wise):
        yield (f"{at}.wise",), f"{at}.wise: holds a value twice: {stage.wise}"


def _task(at: str, task: Task, task_type: TaskType) -> Iterator[Finding]:
    yield from task_type.check_task(at, task)
    if task.metric not in task_type.metrics:
        near = difflib.get_close_matches(task.metric, task_type.metrics, n=1)
        there = ", ".join(task_type.metrics)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {there}"
        yield (
            (f"{at}.metric", f"{at}.type"),
            (f"{at}.metric: {task.metric!r} is no metric of {task.type}; {hint}"),
        )
    for key in ("max_answer_tokens", "n_best"):
        if getattr(task, key) < 1:
            yield (f"{at}.{key}",), f"{at}.{key}: must be at least 1, is {getattr(task, key)}"


def _train(at: str, train: Train) -> Iterator[Finding]:
    for key in (
        "batch_size",
        "gradient_accumulation_steps",
        "eval_rows",
        "log_every",
        "max_bucket_sizes",
    ):
        if getattr(train, key) < 1:
            yield (f"{at}.{key}",), f"{at}.{key}: must be at least 1, is {getattr(train, key)}"
    for key in ("max_steps", "eval_every", "patience", "doc_stride"):
        if getattr(train, key) < 0:
            yield (f"{at}.{key}",), f"{at}.{key}: must not be negative, is {getattr(train, key)}"
    if train.epochs <= 0 and not train.max_steps:
        yield (f"{at}.epochs",), f"{at}.epochs: must be positive, is {train.epochs}"
    if (
        train.gradient_accumulation_steps > 0
        and train.batch_size % train.gradient_accumulation_steps
    ):
        yield (
            (f"{at}.gradient_accumulation_steps", f"{at}.batch_size"),
            (
                f"{at}.gradient_accumulation_steps: {train.gradient_accumulation_steps} does not "
                f"divide batch_size {train.batch_size}"
            ),
        )
    if train.max_length < 4:
        yield (f"{at}.max_length",), f"{at}.max_length: must be at least 4, is {train.max_length}"
    if train.row_length and train.row_length < train.max_length:
        yield (
            (f"{at}.row_length", f"{at}.max_length"),
            (
                f"{at}.row_length: {train.row_length} tokens cannot hold an example of max_length "
                f"{train.max_length}"
            ),
        )
    if not 0 <= train.label_smoothing < 1:
        yield (
            (f"{at}.label_smoothing",),
            (f"{at}.label_smoothing: must be in [0, 1), is {train.label_smoothing}"),
        )


def _optimizer(at: str, optimizer: Optimizer, train: Train) -> Iterator[Finding]:
    positive = ("learning_rate", "eps", "power", "layer_decay")
    for key in positive:
        if not getattr(optimizer, key) > 0:
            yield (f"{at}.{key}",), f"{at}.{key}: must be positive, is {getattr(optimizer, key)}"
    for key in ("weight_decay", "warmup", "end_factor", "clip_norm", "l2_sp"):
        if not getattr(optimizer, key) >= 0:
            yield (
                (f"{at}.{key}",),
                (f"{at}.{key}: must not be negative, is {getattr(optimizer, key)}"),
            )
    for key in ("b1", "b2"):
        if not 0 <= getattr(optimizer, key) < 1:
            yield (f"{at}.{key}",), f"{at}.{key}: must be in [0, 1), is {getattr(optimizer, key)}"
    if not 0 < optimizer.decay_share <= 1:
        yield (
            (f"{at}.decay_share",),
            (f"{at}.decay_share: must be in (0, 1], is {optimizer.decay_share}"),
        )
    if optimizer.schedule == "inverse_sqrt" and not optimizer.warmup:
        yield (
            (f"{at}.warmup", f"{at}.schedule"),
            (f"{at}.warmup: inverse_sqrt is measured in warm-up steps, so it needs some"),
        )
    if optimizer.warmup >= 1 and optimizer.warmup % 1:
        yield (
            (f"{at}.warmup",),
            (
                f"{at}.warmup: below 1 a share of the steps, from 1 on a whole number of them, "
                f"is {optimizer.warmup}"
            ),
        )
    if train.max_steps and optimizer.warmup >= train.max_steps >= 1:
        yield (
            (f"{at}.warmup", f"{at.rpartition('.')[0]}.train.max_steps"),
            (
                f"{at}.warmup: {optimizer.warmup:g} steps of warm-up leave none of max_steps "
                f"{train.max_steps}"
            ),
        )
    for key in ("freeze", "no_decay"):
        for pattern in getattr(optimizer, key):
            try:
                re.compile(pattern)
            except re.error as error:
                yield (f"{at}.{key}",), f"{at}.{key}: {pattern!r} is no regular expression: {error}"
