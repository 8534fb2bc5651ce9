"""Checks that compare fields of a config; `schema` and `fields` have the range of each field."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

from flaxfer.config import Common, Config, Data, Model, Optimizer, Source, Stage, Train, effects
from flaxfer.config.clashes import SPLITS, check_same_records, check_same_stages, sources_of
from flaxfer.config.common import TRACKERS
from flaxfer.config.effects import without_effect
from flaxfer.config.findings import Finding, finding, suggestion
from flaxfer.config.places import Place
from flaxfer.config.sources import check_origin, check_source
from flaxfer.config.task_types import TaskType, TaskTypes
from flaxfer.runtime import plugins

MAX_EPOCHS = 1e6


def check(config: Config, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in `config`, and every setting without effect."""
    staged = "staged" in config.conditions
    if staged and config.intermediate is None:
        message = "'staged' needs the section intermediate; add it, or leave 'staged' out"
        yield finding(message, "conditions", "intermediate")
    places = {"target": place(config.target, task_types, config, staged=staged)}
    if config.intermediate is not None:
        places["intermediate"] = place(config.intermediate, task_types, config, target=False)
        if staged:
            first = ("intermediate", config.intermediate)
            yield from check_same_stages(*first, "target", config.target)
    yield from check_model("model", config.model)
    yield from check_common(config, list(places.values()))
    for at, each in places.items():
        yield from check_stage(at, each, task_types)
        yield from check_kernel(at, each.stage.train, "model", config.model, config)


def check_common(config: Common, places: Sequence[Place]) -> Iterator[Finding]:
    """Yield every contradiction in the settings shared by studies and grids."""
    sizes = dataclasses.asdict(config.mesh)
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            message = f"should be positive, or -1 for all remaining devices; is {size}"
            yield finding(message, f"mesh.{axis}")
    if list(sizes.values()).count(-1) > 1:
        yield finding("only one axis may be -1", *(f"mesh.{axis}" for axis in sizes))
    yield from _check_looks(config)
    yield from _check_trackers(config)
    yield from _check_margin(config, [each for each in places if each.target])
    drawn = any(place.stage.data.split_seed == "seed" for place in places)
    if drawn and config.batched_seeds > 1:
        message = (
            "seeds that draw their own data (split_seed='seed') differ in their numbers of steps "
            "and tokens, and cannot be batched; leave it out, or set split_seed to a number"
        )
        yield finding(
            message, "batched_seeds", "target", "targets", "intermediate", "intermediates"
        )
    yield from without_effect("", config, config, effects.COMMON)
    yield from effects.data_dir_without_effect(config, places)
    yield from effects.transferability_without_effect(config, places)


def _check_trackers(config: Common) -> Iterator[Finding]:
    """Yield the trackers that neither flaxfer nor an installed package has."""
    if not {*config.trackers} <= {*TRACKERS}:
        known = (*TRACKERS, *plugins.names(plugins.TRACKERS))
        for name in config.trackers:
            if name not in known:
                yield finding(f"{name!r} is no tracker; {suggestion(name, known)}", "trackers")


def _check_looks(config: Common) -> Iterator[Finding]:
    if config.looks and config.looks[0] < 2:
        message = f"the first look needs 2 seeds for a verdict; is {config.looks[0]}"
        yield finding(message, "seeds.looks")
    if config.looks and not {"direct", "staged"} <= {*config.conditions}:
        message = "have no effect without the conditions 'direct' and 'staged', which they compare"
        yield finding(message, "seeds.looks", "conditions")


def _check_margin(config: Common, targets: Sequence[Place]) -> Iterator[Finding]:
    """Yield margins of metrics that are not compared, and those that no difference exceeds."""
    keys = ("target", "targets")
    metrics = {each.stage.task.metric: each.task_type for each in targets}
    for metric, margin in config.margin.items():
        if metric not in metrics:
            message = f"{metric!r} is the metric of no target; {suggestion(metric, metrics)}"
            yield finding(message, "margin", *keys)
            continue
        lowest, highest = metrics[metric].metric_range(metric)
        if margin >= highest - lowest:
            message = (
                f"should be less than the largest possible difference of {metric}, "
                f"{highest - lowest:g}; is {margin:g}"
            )
            yield finding(message, f"margin.{metric}", *keys)


def check_model(at: str, model: Model) -> Iterator[Finding]:
    """Yield every contradiction in the model at a dotted key."""
    yield from check_origin(at, model)
    yield from without_effect(at, model, model, effects.MODEL)


def place(
    stage: Stage,
    task_types: TaskTypes,
    config: Common,
    *,
    target: bool = True,
    staged: bool = False,
    fractions: tuple[float, ...] = (1.0,),
) -> Place:
    """Return a stage with what the effects of its settings depend on, see `Place`."""
    # With any type as a stand-in, errors that do not depend on the type are reported, too.
    task_type = task_types.get(stage.task.type, next(iter(task_types.values())))
    pretrained = not target or {*config.conditions} != {"scratch"}
    return Place(stage, task_type, target, staged, pretrained, fractions)


def check_stage(at: str, stage_place: Place, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in the stage at a dotted key, and every setting without effect."""
    name = stage_place.stage.task.type
    if not (known := name in task_types):
        message = f"{name!r} is not a task type; {suggestion(name, task_types)}"
        yield finding(message, f"{at}.task.type")
    for keys, text in _check_stage(stage_place, task_types):
        if known or "task.type" not in keys:
            # Conditions are a setting of the study, not of the stage.
            places = (key if key == "conditions" else f"{at}.{key}" for key in keys)
            yield tuple(places), f"{at}.{text}"


def _check_stage(stage_place: Place, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in a stage, with keys relative to it."""
    stage, task_type = stage_place.stage, stage_place.task_type
    yield from _check_task(stage, task_type)
    yield from _train(stage.train)
    yield from task_type.check_train("train", stage.train, "task")
    yield from _optimizer(stage.optimizer, stage.train)
    yield from _lora(stage)
    yield from _rehearsal(stage)
    yield from without_effect("", stage, stage_place, effects.STAGE, task_type.name)
    optimizer = stage.optimizer
    yield from without_effect("optimizer", optimizer, optimizer, effects.OPTIMIZER)
    yield from _split(stage)
    for name in SPLITS:
        if name in stage.evaluate:
            yield finding("the name is reserved for a split", f"evaluate.{name}")
    yield from check_same_records(stage)
    yield from _parallel(stage)
    for at, source in sources_of(stage).items():
        yield from _clusters(at, source, stage.data)
        yield from check_source(at, source, stage.task, task_type, task_types)


def _check_task(stage: Stage, task_type: TaskType) -> Iterator[Finding]:
    task = stage.task
    yield from task_type.check_task("task", task)
    if not task_type.has_metric(task.metric):
        hint = suggestion(task.metric, task_type.metrics)
        message = f"{task.metric!r} is no metric of {task_type.name}; {hint}"
        yield finding(message, "task.metric", "task.type")


def _split(stage: Stage) -> Iterator[Finding]:
    split, dev = stage.data.split, stage.data.dev
    usable = min(split) >= 0 and split[0] and split[1]
    if not dev and (not usable or abs(sum(split) - 1) > 1e-6):
        message = "fractions should add up to 1, with some for train and for dev; "
        yield finding(f"{message}is {split}", "data.split", "data.dev")
    if stage.data.split_seed == "seed" and not dev and not stage.data.test and split[2] > 0:
        message = (
            "'seed' would divide another test set from train for each seed, but all seeds are "
            "evaluated on the same examples; name sources in data.test, or set the last fraction "
            "of data.split to 0"
        )
        yield finding(message, "data.split_seed", "data.test", "data.split", "data.dev")


def _clusters(at: str, source: Source, data: Data) -> Iterator[Finding]:
    """Yield an error for a role `cluster` of examples that are only trained on."""
    cut = not data.dev and not data.test and data.split[2] > 0
    if at.startswith("data.dev") or (at.startswith("data.train") and not cut):
        for key in ("columns", "aligned"):
            if "cluster" in getattr(source, key):
                message = "has no effect on what is trained on; name it for evaluated sets alone"
                yield finding(message, f"{at}.{key}.cluster", "data.test", "data.split")


def _parallel(stage: Stage) -> Iterator[Finding]:
    """Yield an error for names in `parallel` of no evaluated set, or that stand there twice."""
    data, names = stage.data, [name for group in stage.parallel or () for name in group]
    cut = not data.dev and not data.test and data.split[2] > 0
    known = [*stage.evaluate, *(["test"] if data.test or cut else [])]
    for name in dict.fromkeys(names):
        if name not in known:
            message = f"{name!r} is no evaluated set; {suggestion(name, known)}"
            yield finding(message, "parallel", "evaluate", "data")
        elif names.count(name) > 1:
            yield finding(f"{name!r} stands there twice; name it once", "parallel")


def _lora(stage: Stage) -> Iterator[Finding]:
    """Yield contradictions between the adapters of a stage and its other settings."""
    if stage.lora is None:
        return
    first, end = stage.lora.layers or (0, 1)
    if first >= end:
        message = f"should be the first layer and the one after the last; is {(first, end)}"
        yield finding(message, "lora.layers")
    above = stage.task.embedding_layer
    if above is not None and stage.lora.layers is not None and end > above:
        message = f"adapters above the embedding_layer {above} would not be trained; end there"
        yield finding(message, "lora.layers", "task.embedding_layer")
    if stage.optimizer.l2_sp:
        message = (
            "pulls the encoder to its start, but with lora the encoder is frozen, and adapters "
            "have no start; leave one of them out"
        )
        yield finding(message, "optimizer.l2_sp", "lora")
    if stage.train.attention == "short_rows":
        message = "short_rows computes no adapters; choose another kernel, or leave lora out"
        yield finding(message, "train.attention", "lora")


def _rehearsal(stage: Stage) -> Iterator[Finding]:
    count, train = stage.rehearsal_examples, stage.train
    if count >= train.batch_size:
        yield finding(
            f"should be less than the batch_size {train.batch_size}; is {count}",
            *("rehearsal_examples", "train.batch_size"),
        )
    elif count % train.gradient_accumulation_steps:
        yield finding(
            f"gradient_accumulation_steps {train.gradient_accumulation_steps} does not divide "
            f"{count}",
            *("rehearsal_examples", "train.gradient_accumulation_steps"),
        )


def _train(train: Train) -> Iterator[Finding]:
    if train.epochs <= 0 and not train.max_steps:
        message = f"should be positive; is {train.epochs}"
        yield finding(message, "train.epochs", "train.max_steps")
    if train.epochs > MAX_EPOCHS:
        yield finding(f"should be at most {MAX_EPOCHS:,.0f}; is {train.epochs}", "train.epochs")
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


def check_kernel(
    at: str, train: Train, model_at: str, model: Model, config: Common
) -> Iterator[Finding]:
    """Yield settings that the attention kernel named in the stage at a dotted key cannot take."""
    kernel, key = train.attention, f"{at}.train.attention"
    if kernel not in ("cudnn", "splash", "short_rows"):
        return
    rate = model.dropout if model.attention_dropout is None else model.attention_dropout
    if rate and kernel != "short_rows":
        message = f"{kernel} does not drop out attention probabilities; set it to 0, is {rate}"
        keys = (f"{model_at}.attention_dropout", f"{model_at}.dropout", key)
        yield finding(message, *keys)
    if kernel == "cudnn" and train.compute_dtype == "float32":
        yield finding("cudnn needs bfloat16", f"{at}.train.compute_dtype", key)
    multiple = {"cudnn": 2, "splash": 128, "short_rows": 32}[kernel]
    if train.row_length % multiple:
        message = f"{kernel} needs a multiple of {multiple} tokens; is {train.row_length}"
        yield finding(message, f"{at}.train.row_length", key)
    if kernel == "short_rows" and train.row_length > 256:
        message = f"short_rows needs at most 256 tokens; is {train.row_length}"
        yield finding(message, f"{at}.train.row_length", key)
    if kernel != "cudnn" and config.batched_seeds > 1:
        yield finding(f"{kernel} runs one seed at a time; set it to 1", "batched_seeds", key)


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
    elif (
        optimizer.schedule == "wsd" and warmup < 1 and warmup + optimizer.decay_fraction > 1 + 1e-9
    ):
        message = f"{optimizer.decay_fraction} and the warm-up, {warmup:g}, exceed all steps"
        keys = (f"optimizer.{name}" for name in ("decay_fraction", "warmup", "schedule"))
        yield finding(message, *keys)
    for name in ("weight_decay", "l2_sp"):
        factor = getattr(optimizer, name) * optimizer.learning_rate
        if factor >= 1:
            message = (
                f"times learning_rate should be less than 1, or weights change sign; is {factor:g}"
            )
            yield finding(message, f"optimizer.{name}", "optimizer.learning_rate")
    for name, so in (("freeze", "nothing is trained"), ("no_decay", "nothing decays")):
        for pattern in getattr(optimizer, name):
            if re.search(pattern, ""):
                message = f"{pattern!r} matches every parameter, so that {so}; narrow it"
                yield finding(message, f"optimizer.{name}")


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
