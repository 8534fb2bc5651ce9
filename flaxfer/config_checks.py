"""What the fields of a config must satisfy, one by one and together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from flaxfer.config import METRICS, Config, Mesh, Optimizer, Source, Stage, Task, Train

Finding = tuple[tuple[str, ...], str]
"""The keys that a finding read, and the finding, which begins with the key to change."""

ROLES = ("text_a", "text_b", "label", "id", "language", "domain")


def check(config: Config) -> Iterator[Finding]:
    """Yields everything wrong in `config`."""
    if bool(config.model.path) == bool(config.model.hub):
        yield (
            ("model.path", "model.hub"),
            (
                "model.path: name either a local folder (model.path) or a hub id (model.hub), "
                f"not {'both' if config.model.path else 'neither'}"
            ),
        )
    if config.model.dropout is not None and not 0 <= config.model.dropout < 1:
        yield ("model.dropout",), f"model.dropout: must be in [0, 1), is {config.model.dropout}"
    if not re.fullmatch(r"[\w.-]+", config.name):
        yield ("name",), f"name: letters, digits, '.', '_' and '-' only, is {config.name!r}"
    for key, values in (("paths", config.paths), ("seeds", config.seeds)):
        if not values:
            yield (key,), f"{key}: is empty"
        if len(set(values)) < len(values):
            yield (key,), f"{key}: holds a value twice: {values}"
    if any(seed < 0 for seed in config.seeds):
        yield ("seeds",), f"seeds: must not be negative, are {config.seeds}"
    if "staged" in config.paths and config.intermediate is None:
        yield (
            ("paths", "intermediate"),
            ("paths: 'staged' needs the section intermediate, or leave it out of paths"),
        )
    yield from _mesh(config.mesh)
    for name, stage in (("intermediate", config.intermediate), ("target", config.target)):
        if stage is not None:
            yield from _stage(name, stage)


def _mesh(mesh: Mesh) -> Iterator[Finding]:
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            yield (f"mesh.{axis}",), f"mesh.{axis}: must be positive, or -1 for the rest, is {size}"
    if list(sizes.values()).count(-1) > 1:
        yield ("mesh.data", "mesh.fsdp", "mesh.tensor"), "mesh.data: only one axis may be -1"


def _stage(at: str, stage: Stage) -> Iterator[Finding]:
    yield from (
        *_task(f"{at}.task", stage.task),
        *_train(f"{at}.train", stage.train, stage.task),
        *_optimizer(f"{at}.optimizer", stage.optimizer, stage.train),
    )
    if not stage.data.train:
        yield (f"{at}.data.train",), f"{at}.data.train: names no source"
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
            yield from _source(f"{at}.data.{split}.{i}", source, stage.task)
    for name, source in stage.evaluate.items():
        if name in ("train", "dev", "test") or not re.fullmatch(r"[\w.-]+", name):
            yield (
                (f"{at}.evaluate",),
                (
                    f"{at}.evaluate.{name}: a name is letters, digits, '.', '_' and '-', "
                    "and not train, dev or test"
                ),
            )
        yield from _source(f"{at}.evaluate.{name}", source, stage.task)


def _task(at: str, task: Task) -> Iterator[Finding]:
    if task.kind == "classification":
        if len(task.labels) < 2:
            yield (
                (f"{at}.labels", f"{at}.kind"),
                f"{at}.labels: classification needs at least two",
            )
        if len(set(task.labels)) < len(task.labels):
            yield (f"{at}.labels",), f"{at}.labels: holds a label twice: {task.labels}"
    else:
        if task.labels:
            yield (
                (f"{at}.labels", f"{at}.kind"),
                f"{at}.labels: regression has none, are {task.labels}",
            )
        if not task.score_range[0] < task.score_range[1]:
            yield (
                (f"{at}.score_range", f"{at}.kind"),
                f"{at}.score_range: is empty: {task.score_range}",
            )
    metrics = METRICS[task.kind]
    if task.metric not in metrics:
        near = difflib.get_close_matches(task.metric, metrics, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(metrics)}"
        yield (
            (f"{at}.metric", f"{at}.kind"),
            (f"{at}.metric: {task.metric!r} is no metric of {task.kind}; {hint}"),
        )


def _train(at: str, train: Train, task: Task) -> Iterator[Finding]:
    for key in ("batch_size", "accumulation", "eval_rows", "log_every", "max_programs"):
        if getattr(train, key) < 1:
            yield (f"{at}.{key}",), f"{at}.{key}: must be at least 1, is {getattr(train, key)}"
    for key in ("max_steps", "eval_every", "patience"):
        if getattr(train, key) < 0:
            yield (f"{at}.{key}",), f"{at}.{key}: must not be negative, is {getattr(train, key)}"
    if train.epochs <= 0 and not train.max_steps:
        yield (f"{at}.epochs",), f"{at}.epochs: must be positive, is {train.epochs}"
    if train.accumulation > 0 and train.batch_size % train.accumulation:
        yield (
            (f"{at}.accumulation", f"{at}.batch_size"),
            (
                f"{at}.accumulation: {train.accumulation} does not divide batch_size "
                f"{train.batch_size}"
            ),
        )
    if train.max_length < 4:
        yield (f"{at}.max_length",), f"{at}.max_length: must be at least 4, is {train.max_length}"
    if train.row_length < train.max_length:
        yield (
            (f"{at}.row_length", f"{at}.max_length"),
            (
                f"{at}.row_length: {train.row_length} tokens cannot hold an example of max_length "
                f"{train.max_length}"
            ),
        )
    if train.output_bias == "mean" and task.kind == "classification":
        yield (
            (f"{at}.output_bias", f"{at.rpartition('.')[0]}.task.kind"),
            f"{at}.output_bias: classes have no mean score; leave it at 'zero'",
        )
    if not 0 <= train.label_smoothing < 1:
        yield (
            (f"{at}.label_smoothing",),
            (f"{at}.label_smoothing: must be in [0, 1), is {train.label_smoothing}"),
        )
    elif train.label_smoothing and task.kind == "regression":
        yield (
            (f"{at}.label_smoothing", f"{at.rpartition('.')[0]}.task.kind"),
            f"{at}.label_smoothing: a regression has no classes",
        )


def _optimizer(at: str, optimizer: Optimizer, train: Train) -> Iterator[Finding]:
    positive = ("learning_rate", "eps", "power", "layer_decay")
    for key in positive:
        if not getattr(optimizer, key) > 0:
            yield (f"{at}.{key}",), f"{at}.{key}: must be positive, is {getattr(optimizer, key)}"
    for key in ("weight_decay", "warmup", "end_factor", "clip_norm"):
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


def _source(at: str, source: Source, task: Task) -> Iterator[Finding]:
    if bool(source.path) == bool(source.hub):
        yield (
            (f"{at}.path", f"{at}.hub"),
            (
                f"{at}.path: name either a local file (path) or a hub id (hub), "
                f"not {'both' if source.path else 'neither'}"
            ),
        )
    for mapping, key in ((source.columns, "columns"), (source.aligned, "aligned")):
        for role in mapping:
            if role not in ROLES:
                near = difflib.get_close_matches(role, ROLES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(ROLES)}"
                yield (f"{at}.{key}",), f"{at}.{key}.{role}: unknown role; {hint}"
    twice = sorted(source.columns.keys() & source.aligned.keys())
    if twice:
        yield (
            (f"{at}.columns", f"{at}.aligned"),
            (f"{at}.aligned: {', '.join(twice)} stands in columns too"),
        )
    for role in ("text_a", "label"):
        if role not in source.columns and role not in source.aligned:
            yield (f"{at}.columns", f"{at}.aligned"), f"{at}.columns.{role}: is missing"
    if source.format == "lines" and source.columns:
        yield (
            (f"{at}.columns", f"{at}.format"),
            (f"{at}.columns: a source of aligned lines has no columns; name its files in aligned"),
        )
    if len(source.delimiter) > 1:
        yield (f"{at}.delimiter",), f"{at}.delimiter: one character, is {source.delimiter!r}"
    for key in ("max_columns", "rows"):
        if getattr(source, key) < 0:
            yield (f"{at}.{key}",), f"{at}.{key}: must not be negative, is {getattr(source, key)}"
    if not 0 < source.fraction <= 1:
        yield (f"{at}.fraction",), f"{at}.fraction: must be in (0, 1], is {source.fraction}"
    if task.kind == "classification":
        stage = at.partition(".")[0]
        for written, label in source.labels.items():
            if label not in task.labels:
                yield (
                    (f"{at}.labels", f"{stage}.task.labels", f"{stage}.task.kind"),
                    (
                        f"{at}.labels.{written}: {label!r} is no label of {task.name}; "
                        f"there are {', '.join(task.labels)}"
                    ),
                )
