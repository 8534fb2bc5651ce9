"""Settings without effect: for each field of the schema, when it changes anything.

A setting that changes nothing is an error unless it has its default value, so that no setting is
ignored in silence. Every field is either in `ALWAYS` or in one of the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Generic, NamedTuple, TypeVar

from flaxfer.config.common import Common, Mesh, Wandb
from flaxfer.config.data import Data, Source
from flaxfer.config.findings import Finding, finding
from flaxfer.config.places import Place, SourcePlace
from flaxfer.config.schema import Config, Lora, Model, Optimizer, Stage, Task, Train

S = TypeVar("S")

CSV = ("csv", "tsv")
TASK_SETTINGS = (
    "labels",
    "score_range",
    "no_answer",
    "max_answer_tokens",
    "n_best",
    "answer_style",
    "tag_scheme",
    "strict_entities",
    "pooling",
    "similarity_scale",
    "symmetric_loss",
    "triplet_margin",
    "embedding_layer",
)
"""Fields of `Task` that have an effect if they are among `TaskType.settings`."""
TRAIN_SETTINGS = ("doc_stride", "output_bias", "label_smoothing")
"""Fields of `Train` that have an effect if they are among `TaskType.settings`."""

ALWAYS: Mapping[type, frozenset[str]] = {
    Common: frozenset(
        {
            "name",
            "conditions",
            "seeds",
            "mesh",
            "workdir",
            "store",
            "cache",
            "compiler_options",
            "trackers",
            "overlap",
        }
    ),
    Config: frozenset({"model", "target", "intermediate"}),
    Model: frozenset({"path", "hub", "dropout", "attention_dropout"}),
    Mesh: frozenset({"data", "fsdp", "tensor"}),
    Wandb: frozenset({"project", "entity", "group", "tags", "name", "mode"}),
    Stage: frozenset({"task", "data", "evaluate", "optimizer", "train", "lora", "max_restarts"}),
    Lora: frozenset({"rank", "alpha", "dropout", "layers", "modules"}),
    Task: frozenset({"name", "type", "metric"}),
    Data: frozenset({"train", "dev", "test", "train_fraction"}),
    Source: frozenset(
        {"path", "hub", "columns", "aligned", "keep", "keep_prefix", "fraction", "num_records"}
    ),
    Optimizer: frozenset(
        {
            "name",
            "learning_rate",
            "weight_decay",
            "schedule",
            "warmup",
            "clip_norm",
            "layer_decay",
            "freeze",
        }
    ),
    Train: frozenset(
        {
            "batch_size",
            "epochs",
            "max_steps",
            "max_skipped_steps",
            "save_every",
            "save_minutes",
            "gradient_accumulation_steps",
            "max_length",
            "row_length",
            "packing",
            "eval_rows",
            "eval_every",
            "log_every",
            "compute_dtype",
            "remat",
            "attention",
        }
    ),
}
"""Fields that change something whatever the others are. `sections.check` is about `intermediate`
and `epochs`, which files may also name in vain."""


class Effect(NamedTuple, Generic[S]):
    """Condition under which a setting has an effect.

    Attributes:
      key: Dotted key of the setting in its section.
      applies: Function of the section that returns whether the setting has an effect.
      why: End of the message "has no effect ..." if it has none.
      reads: Dotted keys of the other settings that `applies` reads.
    """

    key: str
    applies: Callable[[S], Any]
    why: str
    reads: tuple[str, ...] = ()


def _supports(section: str, name: str) -> Effect[Place]:
    """Return the row of a setting that only some task types have."""
    return Effect(
        f"{section}.{name}",
        lambda place: name in place.task_type.settings,
        "on a task of the type {type}",
        ("task.type",),
    )


OPTIMIZER: Sequence[Effect[Optimizer]] = (
    Effect("b1", lambda o: o.name != "adafactor", "on adafactor", ("name",)),
    Effect("b2", lambda o: o.name != "adafactor", "on adafactor", ("name",)),
    Effect("eps", lambda o: o.name == "adamw", "on an optimizer other than adamw", ("name",)),
    Effect("no_decay", lambda o: o.weight_decay, "if weight_decay is 0", ("weight_decay",)),
    Effect(
        "end_factor",
        lambda o: o.schedule not in ("constant", "inverse_sqrt"),
        "on the schedules constant and inverse_sqrt",
        ("schedule",),
    ),
    Effect("power", lambda o: o.schedule == "polynomial", "unless the schedule is polynomial",
           ("schedule",)),
    Effect("decay_fraction", lambda o: o.schedule == "wsd", "unless the schedule is wsd",
           ("schedule",)),
)  # fmt: skip

STAGE: Sequence[Effect[Place]] = (
    *(_supports("task", name) for name in TASK_SETTINGS),
    *(_supports("train", name) for name in TRAIN_SETTINGS),
    Effect("data.split", lambda p: not p.stage.data.dev, "as data.dev has sources", ("data.dev",)),
    Effect(
        "data.split_seed",
        Place.samples,
        "as nothing is divided or sampled: data.dev has sources, and all fractions are 1",
        ("data", "evaluate"),
    ),
    Effect(
        "train.max_bucket_sizes",
        lambda p: p.stage.train.packing or p.task_type.per_token,
        "without packing, as every example then has a row of its own",
        ("train.packing", "task.type"),
    ),
    Effect(
        "train.patience",
        lambda p: p.stage.train.patience < p.evaluations(),
        "as there are no more evaluations on dev than that",
        ("train.max_steps", "train.eval_every", "train.epochs"),
    ),
    Effect(
        "optimizer.l2_sp",
        lambda p: p.pretrained,
        "on stages that start from random weights, as in the condition scratch",
        ("conditions",),
    ),
    Effect(
        "wise_ft_alphas",
        lambda p: p.target and p.pretrained,
        "except on a target stage in the conditions direct and staged",
        ("conditions",),
    ),
    Effect("parallel", lambda p: p.target, "except on a target stage"),
    *(
        Effect[Place](
            name,
            lambda p: p.target and p.staged,
            "except on a target stage in the condition staged",
            ("conditions",),
        )
        for name in ("rehearsal_examples", "evaluate_retention")
    ),
)

_FORMAT = ("format", "path", "hub")

SOURCE: Sequence[Effect[SourcePlace]] = (
    *(
        Effect[SourcePlace](name, lambda p: p.source.hub, "on a local file", ("hub",))
        for name in ("subset", "split", "revision")
    ),
    Effect("format", lambda p: not p.source.hub, "on a data set of the hub", ("hub",)),
    *(
        Effect[SourcePlace](name, lambda p: p.is_file(*CSV), "except on csv and tsv files", _FORMAT)
        for name in ("header", "quotes", "max_columns")
    ),
    *(
        Effect[SourcePlace](
            name,
            lambda p: p.is_file(*CSV, "conll"),
            "except on csv, tsv and conll files",
            _FORMAT,
        )
        for name in ("delimiter", "comment")
    ),
    Effect("field", lambda p: p.is_file("json"), "except on json files", _FORMAT),
    Effect("word_prefix", lambda p: p.is_file("conll"), "except on conll files", _FORMAT),
    Effect(
        "encoding",
        lambda p: p.format not in ("hub", "parquet", "mewslix") or p.source.aligned,
        "on parquet and mewslix files, and on data sets of the hub",
        (*_FORMAT, "aligned"),
    ),
    Effect(
        "labels",
        lambda p: p.task_type.label_names(p.task, p.roles) != (),
        "on a task of the type {type}, which has no names of labels",
        ("task.type",),
    ),
    Effect(
        "questions",
        lambda p: "question" in p.roles,
        "as no column has the role question",
        ("columns", "aligned", *_FORMAT),
    ),
    Effect("drop", lambda p: all(p.source.drop.values()), "on a column without values"),
    Effect(
        "drop_unlabeled",
        lambda p: not p.task.no_answer,
        "with task.no_answer, as no answer is an answer",
        ("task.no_answer", "task.type"),
    ),
    Effect("benchmark", lambda p: p.evaluated, "except on the sets of evaluate"),
    Effect(
        "candidates",
        lambda p: p.evaluated and "passage" in p.task_type.roles,
        "except on the sets of evaluate of a retrieval task",
        ("task.type",),
    ),
    Effect(
        "answer_style",
        lambda p: p.evaluated and "answer_style" in p.task_type.settings,
        "except on the sets of evaluate of a question answering task",
        ("task.type",),
    ),
    *(
        Effect[SourcePlace](
            name,
            lambda p, role=name: role not in p.roles,  # type: ignore[misc]
            f"as a column has the role {name}",
            ("columns", "aligned", *_FORMAT),
        )
        for name in ("language", "domain")
    ),
)

MODEL: Sequence[Effect[Model]] = (
    Effect("revision", lambda m: m.hub, "on a local folder", ("hub",)),
    Effect(
        "tokenizer",
        lambda m: m.tokenizer.rstrip("/") != m.path.rstrip("/"),
        "as it is the folder of the model",
        ("path",),
    ),
)

COMMON: Sequence[Effect[Common]] = (
    Effect(
        "batched_seeds",
        lambda c: c.batched_seeds < 2 or len(c.run_seeds) > 1,
        "on one seed",
        ("seeds",),
    ),
    Effect(
        "margin",
        lambda c: {"direct", "staged"} <= {*c.conditions},
        "unless the conditions direct and staged are compared",
        ("conditions",),
    ),
    Effect(
        "paired",
        lambda c: {"direct", "staged"} <= {*c.conditions} and len(c.run_seeds) > 1,
        "unless the conditions direct and staged are compared over several seeds",
        ("conditions", "seeds"),
    ),
    Effect("wandb", lambda c: "wandb" in c.trackers, "as trackers lacks wandb", ("trackers",)),
)
"""Two functions below are about `data_dir` and `transferability`, which depend on the stages."""


def without_effect(
    at: str, section: Any, context: Any, table: Sequence[Effect[Any]], task_type: str = ""
) -> Iterator[Finding]:
    """Yield every setting of a section that changes nothing and does not have its default.

    Args:
      at: Dotted key of the section; empty for the config itself.
      section: The section.
      context: Argument of `Effect.applies`.
      table: Rows about fields of the section and of its sections.
      task_type: Name of the task type, for messages.
    """
    prefix = f"{at}." if at else ""
    for effect in table:
        if not effect.applies(context) and _is_set(section, effect.key):
            message = f"has no effect {effect.why.format(type=task_type)}; leave it out"
            yield finding(message, *(f"{prefix}{key}" for key in (effect.key, *effect.reads)))


def data_dir_without_effect(config: Common, places: Sequence[Place]) -> Iterator[Finding]:
    """Yield an error if `data_dir` is set, but no path of a source starts from it."""
    sources = [source for place in places for source in place.sources]
    relative = any(
        not PurePath(source.path).is_absolute() and not source.path.startswith("~")
        for source in sources
        if source.path or source.aligned
    )
    if config.data_dir and not relative:
        message = "has no effect, as no source has a relative path; leave it out"
        yield finding(message, "data_dir", "target", "targets", "intermediate", "intermediates")


def transferability_without_effect(config: Common, places: Sequence[Place]) -> Iterator[Finding]:
    """Yield an error if `transferability` is set, but no start of a target can be scored."""
    scored = any(p.target and p.pretrained and p.task_type.single_label for p in places)
    if config.transferability and _is_set(config, "transferability") and not scored:
        message = (
            "has no effect: only starts with pretrained weights, for targets of classification or "
            "regression, are scored; leave it out"
        )
        yield finding(message, "transferability", "conditions", "target", "targets")


def _is_set(section: Any, key: str) -> bool:
    """Return whether the value at a dotted key is not the default of its field."""
    *parents, name = key.split(".")
    for parent in parents:
        section = getattr(section, parent)
    field = next(field for field in dataclasses.fields(section) if field.name == name)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    # Some defaults follow from other settings of the section.
    unset = dataclasses.replace(section, **{name: default})
    return bool(getattr(section, name) != getattr(unset, name))
