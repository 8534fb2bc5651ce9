"""Checks that compare fields of a config; `schema` and `fields` have the range of each field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from flaxfer.config import METRICS, Common, Config, Model, Optimizer, Stage, Task, Train
from flaxfer.config.findings import Finding, suggestion
from flaxfer.config.sources import check_source

SPECIAL_TOKENS = 4
"""Largest number of special tokens that a model family adds to a question and its context."""


def check(config: Config) -> Iterator[Finding]:
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
            yield from check_stage(name, stage)
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


def check_stage(at: str, stage: Stage) -> Iterator[Finding]:
    """Yield every contradiction in the stage at a dotted key."""
    yield from (
        *_task(f"{at}.task", stage.task),
        *_train(f"{at}.train", stage.train, stage.task),
        *_optimizer(f"{at}.optimizer", stage.optimizer, stage.train),
    )
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
        yield from check_source(f"{at}.data.{name}", source, f"{at}.task", stage.task)
    for name, source in stage.evaluate.items():
        if name in ("train", "dev", "test"):
            yield (f"{at}.evaluate",), f"{at}.evaluate.{name}: the name is reserved for a split"
        yield from check_source(f"{at}.evaluate.{name}", source, f"{at}.task", stage.task)


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


def _task(at: str, task: Task) -> Iterator[Finding]:
    if task.kind in ("classification", "tagging"):
        if len(task.labels) < 2:
            yield (
                (f"{at}.labels", f"{at}.kind"),
                f"{at}.labels: {task.kind} needs at least two",
            )
        if len(set(task.labels)) < len(task.labels):
            yield (f"{at}.labels",), f"{at}.labels: holds a label twice: {task.labels}"
    else:
        if task.labels:
            yield (
                (f"{at}.labels", f"{at}.kind"),
                f"{at}.labels: {task.kind} has none, are {task.labels}",
            )
        if task.kind == "regression" and not task.score_range[0] < task.score_range[1]:
            yield (
                (f"{at}.score_range", f"{at}.kind"),
                f"{at}.score_range: is empty: {task.score_range}",
            )
    metrics = METRICS[task.kind]
    if task.metric not in metrics:
        yield (
            (f"{at}.metric", f"{at}.kind"),
            f"{at}.metric: {task.metric!r} is no metric of {task.kind}; "
            f"{suggestion(task.metric, metrics)}",
        )
    elif task.kind == "tagging" and task.metric != "accuracy":
        other = [label for label in task.labels if not re.fullmatch("O|[BI]-.+", label)]
        if other or not any(label.startswith("B-") for label in task.labels):
            yield (
                (f"{at}.metric", f"{at}.kind", f"{at}.labels"),
                f"{at}.metric: {task.metric!r} counts entities, which needs labels such as B-PER, "
                f"I-PER and O, are {task.labels}; use 'accuracy'",
            )
    if task.no_answer and task.kind != "question_answering":
        yield (
            (f"{at}.no_answer", f"{at}.kind"),
            f"{at}.no_answer: {task.kind} has no answers; leave it at False",
        )


def _train(at: str, train: Train, task: Task) -> Iterator[Finding]:
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
    kind = f"{at.rpartition('.')[0]}.task.kind"
    room = train.max_length - SPECIAL_TOKENS - 1  # For a context, after a question of one token.
    if task.kind == "question_answering" and train.max_length >= 4 and train.doc_stride >= room:
        yield (
            (f"{at}.doc_stride", f"{at}.max_length", kind),
            (
                f"{at}.doc_stride: windows that share {train.doc_stride} tokens need a larger "
                f"max_length than {train.max_length}; 384 tokens that share 128 are usual"
            ),
        )
    if train.output_bias == "mean" and task.kind != "regression":
        yield (
            (f"{at}.output_bias", kind),
            f"{at}.output_bias: {task.kind} has no mean score; leave it at 'zero'",
        )
    if train.label_smoothing and task.kind not in ("classification", "tagging"):
        yield (
            (f"{at}.label_smoothing", kind),
            f"{at}.label_smoothing: is for classification and tagging, not {task.kind}",
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
