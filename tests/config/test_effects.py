"""Settings that change nothing are errors, and defaults are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import (
    Common,
    Config,
    Data,
    Lora,
    Mesh,
    Model,
    Optimizer,
    Source,
    Stage,
    Task,
    Train,
    Wandb,
    effects,
    loading,
)
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES
from tests.config.helpers import COLUMNS, VALID, Settings, changed, errors
from tests.config.test_task_types import KINDS

SOURCE, TRAIN, OPTIMIZER = "target.data.train.0", "target.train", "target.optimizer"
DEV = {"path": "dev.tsv", "columns": COLUMNS}
FILE = "intermediate.data.train.0"
SCRATCH = {"conditions": ("scratch",), "intermediate": None}

ROWS: dict[type, list[tuple[str, Any]]] = {
    Common: [("", effects.COMMON)],
    Model: [("", effects.MODEL)],
    Stage: [("", effects.STAGE)],
    Task: [("task", effects.STAGE)],
    Data: [("data", effects.STAGE)],
    Train: [("train", effects.STAGE)],
    Optimizer: [("", effects.OPTIMIZER), ("optimizer", effects.STAGE)],
    Source: [("", effects.SOURCE)],
    Lora: [],
    Mesh: [],
    Wandb: [],
    Config: [],
}
ELSEWHERE = {Common: {"data_dir", "transferability"}}


@pytest.mark.parametrize("section", ROWS, ids=lambda section: section.__name__)
def test_every_field_is_said_to_have_an_effect_always_or_on_a_condition(section: type) -> None:
    conditional = set(ELSEWHERE.get(section, ()))
    for prefix, table in ROWS[section]:
        names = [row.key for row in table]
        if prefix:
            names = [name.removeprefix(f"{prefix}.") for name in names if name.startswith(prefix)]
        conditional |= {name for name in names if "." not in name}
    always = effects.ALWAYS[section]
    fields = {field.name for field in dataclasses.fields(section)}
    if section is Config:
        fields -= {field.name for field in dataclasses.fields(Common)}
    assert always | conditional == fields, "add the field to a table or to ALWAYS"
    assert not always & conditional


CASES: list[tuple[dict[str, Any], str]] = [
    # The task type. VALID has a classification, then a regression.
    ({"intermediate.task.score_range": (0, 1)}, "intermediate.task.score_range"),
    ({"intermediate.task.n_best": 5}, "intermediate.task.n_best"),
    ({"intermediate.task.max_answer_tokens": 5}, "intermediate.task.max_answer_tokens"),
    ({"intermediate.task.answer_style": "mlqa"}, "intermediate.task.answer_style"),
    ({"intermediate.task.no_answer": True}, "intermediate.task.no_answer"),
    ({"intermediate.train.doc_stride": 64}, "intermediate.train.doc_stride"),
    ({"intermediate.train.output_bias": "mean"}, "intermediate.train.output_bias"),
    ({"target.task.labels": ("a", "b")}, "target.task.labels"),
    ({f"{TRAIN}.label_smoothing": 0.1}, f"{TRAIN}.label_smoothing"),
    ({f"{TRAIN}.doc_stride": 64}, f"{TRAIN}.doc_stride"),
    ({f"{SOURCE}.labels": {"1": "2"}}, f"{SOURCE}.labels"),
    # The data.
    ({"target.data.dev": [DEV], "target.data.split": (0.8, 0.1, 0.1)}, "target.data.split"),
    ({"target.data.dev": [DEV], "target.data.split_seed": 1}, "target.data.split_seed"),
    (
        {
            "target.data.dev": [DEV],
            "target.data.split_seed": "seed",
            "target.evaluate.de.fraction": 0.5,
        },
        "target.data.split_seed",
    ),
    ({f"{FILE}.subset": "mnli"}, f"{FILE}.subset"),
    ({f"{FILE}.split": "validation"}, f"{FILE}.split"),
    ({f"{FILE}.revision": "v2"}, f"{FILE}.revision"),
    ({"target.evaluate.de.format": "csv"}, "target.evaluate.de.format"),
    ({"target.evaluate.de.header": False}, "target.evaluate.de.header"),
    ({"target.evaluate.de.encoding": "latin-1"}, "target.evaluate.de.encoding"),
    ({"target.evaluate.de.delimiter": ";"}, "target.evaluate.de.delimiter"),
    ({f"{SOURCE}.path": "a.jsonl", f"{SOURCE}.delimiter": ";"}, f"{SOURCE}.delimiter"),
    ({f"{SOURCE}.path": "a.parquet", f"{SOURCE}.delimiter": ";"}, f"{SOURCE}.delimiter"),
    ({f"{SOURCE}.path": "a.jsonl.gz", f"{SOURCE}.quotes": "csv"}, f"{SOURCE}.quotes"),
    ({f"{SOURCE}.path": "a.json", f"{SOURCE}.header": False}, f"{SOURCE}.header"),
    ({f"{SOURCE}.path": "a.jsonl", f"{SOURCE}.max_columns": 2}, f"{SOURCE}.max_columns"),
    ({f"{SOURCE}.path": "a.parquet", f"{SOURCE}.encoding": "latin-1"}, f"{SOURCE}.encoding"),
    ({f"{SOURCE}.word_prefix": "en:"}, f"{SOURCE}.word_prefix"),
    ({f"{SOURCE}.questions": {"a": "b"}}, f"{SOURCE}.questions"),
    ({f"{SOURCE}.benchmark": "xtreme-r/xnli"}, f"{SOURCE}.benchmark"),
    ({"target.evaluate.de.answer_style": "mlqa"}, "target.evaluate.de.answer_style"),
    ({f"{SOURCE}.drop": {"genre": ()}}, f"{SOURCE}.drop"),
    ({f"{SOURCE}.columns": {**COLUMNS, "language": 2}, f"{SOURCE}.language": "de"},
     f"{SOURCE}.language"),
    ({f"{SOURCE}.aligned": {"domain": "d.txt"}, f"{SOURCE}.domain": "news"}, f"{SOURCE}.domain"),
    ({"target.data.dev": [DEV], f"{SOURCE}.columns": {**COLUMNS, "cluster": 2}},
     f"{SOURCE}.columns.cluster"),
    ({"target.data.dev": [{**DEV, "aligned": {"cluster": "c.txt"}}]},
     "target.data.dev.0.aligned.cluster"),
    ({"intermediate.parallel": (("test",),)}, "intermediate.parallel"),
    # The model and the optimizer.
    ({"model.revision": "v2"}, "model.revision"),
    ({"model.tokenizer": "model/"}, "model.tokenizer"),
    *[
        ({f"{OPTIMIZER}.name": "adafactor", f"{OPTIMIZER}.{key}": 0.5}, f"{OPTIMIZER}.{key}")
        for key in ("b1", "b2", "eps")
    ],
    ({f"{OPTIMIZER}.name": "lion", f"{OPTIMIZER}.eps": 1e-6}, f"{OPTIMIZER}.eps"),
    ({f"{OPTIMIZER}.weight_decay": 0.0, f"{OPTIMIZER}.no_decay": ("bias",)},
     f"{OPTIMIZER}.no_decay"),
    *[
        ({f"{OPTIMIZER}.schedule": name, f"{OPTIMIZER}.end_factor": 0.1}, f"{OPTIMIZER}.end_factor")
        for name in ("constant", "inverse_sqrt")
    ],
    *[
        ({f"{OPTIMIZER}.schedule": name, f"{OPTIMIZER}.power": 3.0}, f"{OPTIMIZER}.power")
        for name in ("linear", "cosine", "inverse_sqrt", "constant", "wsd")
    ],
    *[
        ({f"{OPTIMIZER}.schedule": name, f"{OPTIMIZER}.decay_fraction": 0.1},
         f"{OPTIMIZER}.decay_fraction")
        for name in ("linear", "cosine", "inverse_sqrt", "constant", "polynomial")
    ],
    # The loop and the study.
    ({f"{TRAIN}.packing": False, f"{TRAIN}.max_bucket_sizes": 2}, f"{TRAIN}.max_bucket_sizes"),
    ({f"{TRAIN}.epochs": 2.0, f"{TRAIN}.patience": 2}, f"{TRAIN}.patience"),
    ({f"{TRAIN}.max_steps": 10, f"{TRAIN}.eval_every": 5, f"{TRAIN}.patience": 2},
     f"{TRAIN}.patience"),
    ({f"{TRAIN}.max_steps": 10, f"{TRAIN}.epochs": 2.0}, f"{TRAIN}.epochs"),
    ({"train.epochs": 2.0, f"{TRAIN}.max_steps": 10}, f"{TRAIN}.epochs"),
    ({"batched_seeds": 4}, "batched_seeds"),
    ({"wandb": {"project": "mine"}, "trackers": "tensorboard"}, "wandb"),
    ({**SCRATCH, "margin": {"pearson": 0.01}}, "margin"),
    ({"paired": True}, "paired"),
    ({**SCRATCH, "seeds": (0, 1), "paired": True}, "paired"),
    ({**SCRATCH, f"{OPTIMIZER}.l2_sp": 0.1}, f"{OPTIMIZER}.l2_sp"),
    ({**SCRATCH, "target.wise_ft_alphas": (0.5,)}, "target.wise_ft_alphas"),
    ({**SCRATCH, "transferability": 100}, "transferability"),
    ({"target": KINDS["qa"], "transferability": 100}, "transferability"),
    ({"conditions": ("direct",)}, "intermediate"),
    ({"data_dir": "data", f"{FILE}.path": "/a.tsv", f"{SOURCE}.path": "~/b.tsv"}, "data_dir"),
    # A shared section whose settings every stage replaces.
    ({"train.log_every": 5, f"{TRAIN}.log_every": 1, "intermediate.train.log_every": 1},
     "train.log_every"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key"), CASES, ids=[f"{k}-{i}" for i, (_, k) in
                                                         enumerate(CASES)])  # fmt: skip
def test_a_setting_without_effect_is_an_error(changes: Settings, key: str) -> None:
    (reported,) = errors(changed(VALID, changes))
    assert reported.startswith(f"{key}: has no effect")


KIND_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("ner", {"train.doc_stride": 4}, "train.doc_stride"),
    ("ner", {"task.score_range": (0, 1)}, "task.score_range"),
    ("ner", {"data.train.0.quotes": "csv"}, "data.train.0.quotes"),
    ("ner", {"data.train.0.header": False}, "data.train.0.header"),
    ("ner", {"evaluate.de.delimiter": " "}, "evaluate.de.delimiter"),
    ("qa", {"data.train.0.header": False}, "data.train.0.header"),
    ("qa", {"task.no_answer": True, "data.train.0.drop_unlabeled": True},
     "data.train.0.drop_unlabeled"),
    ("qa", {"task.score_range": (0, 1)}, "task.score_range"),
    ("qa", {"task.tag_scheme": "iob2"}, "task.tag_scheme"),
    ("copa", {"task.strict_entities": True}, "task.strict_entities"),
    ("copa", {"train.doc_stride": 4}, "train.doc_stride"),
    ("copa", {"task.n_best": 5}, "task.n_best"),
    ("copa", {"train.packing": False, "train.max_bucket_sizes": 2}, "train.max_bucket_sizes"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "key"), KIND_CASES)
def test_a_setting_of_another_task_type_is_an_error(kind: str, changes: Settings, key: str) -> None:
    settings = changed(VALID, {"target": KINDS[kind]})
    settings = changed(settings, {f"target.{name}": value for name, value in changes.items()})
    (reported,) = errors(settings)
    assert reported.startswith(f"target.{key}: has no effect")


@pytest.mark.parametrize(
    "changes",
    [
        {f"{OPTIMIZER}.schedule": "constant", f"{OPTIMIZER}.warmup": 20.0},
        {f"{OPTIMIZER}.schedule": "polynomial", f"{OPTIMIZER}.power": 3.0},
        {f"{OPTIMIZER}.schedule": "wsd", f"{OPTIMIZER}.decay_fraction": 0.1},
        {f"{OPTIMIZER}.name": "lion", f"{OPTIMIZER}.b1": 0.95},
        {f"{OPTIMIZER}.l2_sp": 0.1, "target.wise_ft_alphas": (0.5,)},
        {"target.data.dev": [DEV], "target.data.split_seed": 1, f"{SOURCE}.fraction": 0.5},
        {"target.data.dev": [DEV], "target.data.split_seed": 1, "target.data.train_fraction": 0.5},
        {"target.data.test": [DEV], "target.data.split_seed": "seed"},
        {"intermediate.data.split": (0.5, 0.5, 0), "intermediate.data.split_seed": "seed"},
        {"target.data.dev": [DEV], "target.data.split_seed": "seed", f"{SOURCE}.fraction": 0.5},
        {"seeds": (0, 1), "batched_seeds": 2},
        {"seeds": {"looks": (2, 4)}, "batched_seeds": 2},
        {"margin": {"pearson": 1.99}},
        {"seeds": (0, 1), "paired": True},
        {"seeds": {"looks": (2, 4)}, "paired": True},
        {f"{TRAIN}.patience": 2},
        {f"{TRAIN}.max_steps": 100, f"{TRAIN}.patience": 50},
        {f"{TRAIN}.max_steps": 100, f"{TRAIN}.eval_every": 10, f"{TRAIN}.patience": 9},
        {f"{SOURCE}.aligned": {"domain": "d.txt"}, f"{SOURCE}.encoding": "latin-1"},
        {"target.evaluate.de.subset": "de", "target.evaluate.de.revision": "v2"},
        {f"{SOURCE}.path": "a.csv.gz", f"{SOURCE}.quotes": "literal", f"{SOURCE}.max_columns": 2},
        {"data_dir": "data"},
        # Explicit defaults change nothing either way.
        {f"{OPTIMIZER}.power": 2.0, f"{TRAIN}.doc_stride": 41, "batched_seeds": 1},
        {"target.task.score_range": (0, 1), "target.train.output_bias": "mean"},
        {"train.log_every": 5, f"{TRAIN}.log_every": 1},
        {"transferability": 100},
        {"model": {"hub": "some/model", "revision": "v2", "tokenizer": "elsewhere"}},
        {"target.evaluate.de.split": "test", f"{SOURCE}.language": "de", f"{SOURCE}.domain": "a"},
        {
            f"{SOURCE}.header": False,
            f"{SOURCE}.drop": {"label": ("x",)},
            f"{SOURCE}.drop_unlabeled": True,
        },
        {f"{OPTIMIZER}.b2": 0.9, f"{OPTIMIZER}.eps": 1e-6, f"{OPTIMIZER}.no_decay": ("bias",)},
        {f"{OPTIMIZER}.end_factor": 0.1, f"{TRAIN}.max_bucket_sizes": 2},
        {"target.rehearsal_examples": 8, "target.evaluate_retention": True},
    ],
    ids=str,
)
def test_settings_with_effect_and_defaults_are_valid(changes: Settings) -> None:
    loading.build(changed(VALID, changes), TASK_TYPES)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ner", {"data.train.0.word_prefix": "en:", "data.train.0.delimiter": " "}),
        ("ner", {"train.packing": False, "train.max_bucket_sizes": 2}),
        (
            "qa",
            {
                "task.no_answer": True,
                "task.max_answer_tokens": 5,
                "task.n_best": 5,
                "task.answer_style": "squad2",
                "train.doc_stride": 64,
            },
        ),
    ],
)
def test_settings_of_the_task_type_are_valid(kind: str, changes: Settings) -> None:
    changes = {f"target.{name}": value for name, value in changes.items()}
    loading.build(changed(changed(VALID, {"target": KINDS[kind]}), changes), TASK_TYPES)


def test_settings_without_effect_are_errors_of_a_grid_too() -> None:
    stage = {key: VALID["target"][key] for key in ("task", "data")}
    grid: Settings = {
        "name": "grid",
        "models": {"one": {"path": "one"}, "two": {"path": "two"}},
        "intermediates": {"topic": VALID["intermediate"]},
        "targets": {"same": {**stage, "intermediates": "topic"}},
    }
    loading.build(grid, TASK_TYPES)
    fractions = {
        "targets.same.data.dev": [DEV],
        "targets.same.data.split_seed": 1,
        "fractions": (1, 0.5),
    }
    loading.build(changed(grid, fractions), TASK_TYPES)
    changes = {
        "models.two.revision": "v2",
        "models.three": {"path": "one"},
        "intermediates.other": changed(VALID["intermediate"], {"task.name": "other"}),
        "targets.same.optimizer.power": 3.0,
        "targets.again": {**stage, "intermediates": "topic", "optimizer": {"power": 3.0}},
    }
    reported = errors(changed(changed(grid, fractions | {"fractions": 1}), changes))
    assert sorted(text.partition("; ")[0] for text in reported) == [
        "intermediates.other: has no effect, as no target names it in its intermediates",
        "models.three: is the same as models.one",
        "models.two.revision: has no effect on a local folder",
        "targets.again.optimizer.power: has no effect unless the schedule is polynomial",
        "targets.same.data.split_seed: has no effect as nothing is divided or sampled: data.dev "
        "has sources, and all fractions are 1",
        "targets.same.optimizer.power: has no effect unless the schedule is polynomial",
    ]


def test_a_config_made_in_python_is_checked_like_one_from_a_file(tmp_path: Path) -> None:
    source = Source(path="a.tsv", columns={"text_a": 0, "label": 1})
    stage = Stage(Task("same", "regression", "pearson"), Data((source,)))
    config = Config(name="c", model=Model(path="m"), target=stage, conditions=("direct",))
    valid = loading.validated(config, TASK_TYPES)
    assert (valid.workdir, valid.stages) == ("runs/c", "runs/c/stages")
    assert dataclasses.replace(valid, workdir="") == config
    home = loading.validated(dataclasses.replace(config, workdir="~/w", store="~/s"), TASK_TYPES)
    assert (home.workdir, home.store) == (str(Path.home() / "w"), str(Path.home() / "s"))
    wrong = dataclasses.replace(
        config,
        name="",
        workdir=" ",
        seeds=(0, 0),
        target=dataclasses.replace(
            stage, optimizer=Optimizer(power=3.0, learning_rate=float("nan"))
        ),
    )
    with pytest.raises(ConfigError) as caught:
        loading.validated(wrong, TASK_TYPES)
    assert [text.partition(":")[0] for text in caught.value.details] == [
        "name",
        "seeds",
        "workdir",
        "target.optimizer.learning_rate",
        "target.optimizer.power",
    ]
