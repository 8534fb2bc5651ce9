"""Every check of a configuration, each with one case; a valid configuration has no error."""

from __future__ import annotations

from typing import Any

import pytest

from flaxfer.config import loading
from flaxfer.tasks import TASK_TYPES
from tests.config.helpers import COLUMNS, VALID, changed, errors, wrong_type

SOURCE = "target.data.train.0"
FILES = {"text_a": "texts.txt", "label": "labels.txt"}
OTHER = {"path": "other.tsv", "columns": COLUMNS}
TRAIN, OPTIMIZER = "target.train", "target.optimizer"
CASES: list[tuple[dict[str, Any], str]] = [
    ({"model.path": ""}, "model.path: set either"),
    ({"model.hub": "some/model"}, "model.path: set either"),
    ({"model.dropout": 1.0}, "model.dropout: should be less than 1; is 1.0"),
    ({"model.dropout": -0.1}, "model.dropout: should be greater than or equal to 0; is -0.1"),
    ({"name": "a study"}, "name: string should match pattern"),
    ({"name": ""}, "name: string should match pattern"),
    ({"conditions": ()}, "conditions: value should have at least 1 item"),
    ({"conditions": ("direct", "direct")}, "conditions: should not contain duplicates"),
    ({"seeds": ()}, "seeds: value should have at least 1 item"),
    ({"seeds": (1, 1)}, "seeds: should not contain duplicates"),
    ({"seeds": (1, -1)}, "seeds.1: should be greater than or equal to 0; is -1"),
    ({"seeds": {"looks": 5}}, "seeds.looks: value should have at least 2 items"),
    ({"seeds": {"looks": (5, 5)}}, "seeds.looks: should increase from one to the next; is [5, 5]"),
    ({"seeds": {"looks": (5, "x")}}, "seeds.looks.1: should be a valid integer; is 'x'"),
    ({"seeds": {"looks": (1, 5)}}, "seeds.looks: the first look needs 2 seeds for a verdict; is 1"),
    ({"seeds": {"looks": (2, 5), "lokks": 1}}, "seeds.lokks: unknown key; did you mean 'looks'?"),
    ({"seeds": {}}, "seeds.looks: is missing"),
    (
        {"seeds": {"looks": (2, 5)}, "conditions": ("direct", "scratch"), "intermediate": None},
        "seeds.looks: have no effect without the conditions 'direct' and 'staged'",
    ),
    ({"batched_seeds": -1}, "batched_seeds: should be greater than or equal to 0; is -1"),
    ({"intermediate": None}, "conditions: 'staged' needs the section intermediate"),
    ({"margin": {"accuracy": 0.1}}, "margin: 'accuracy' is the metric of no target; there are pe"),
    ({"margin": {"pearson": 0.0}}, "margin.pearson: should be greater than 0; is 0.0"),
    ({"margin": {"pearson": 2.0}}, "margin.pearson: should be less than the largest possible diff"),
    ({"mesh.data": 0}, "mesh.data: should be positive"),
    ({"mesh.fsdp": -2}, "mesh.fsdp: should be positive"),
    ({"mesh.tensor": 0}, "mesh.tensor: should be positive"),
    ({"mesh.tensor": -1}, "mesh.data: only one axis may be -1"),
    # The task.
    ({"intermediate.task.labels": ()}, "intermediate.task.labels: classification needs at least"),
    ({"intermediate.task.labels": ("no",)}, "intermediate.task.labels: classification needs"),
    ({"intermediate.task.labels": ("no", "no")}, "intermediate.task.labels: holds a label twice"),
    (
        {"target.task.labels": ("no", "yes")},
        "target.task.labels: has no effect on a task of the type regression",
    ),
    ({"target.task.score_range": (1.0, 1.0)}, "target.task.score_range: is empty"),
    ({"target.task.metric": "accuracy"}, "target.task.metric: 'accuracy' is no metric of regr"),
    ({"target.parallel": (("de", "fr"),)}, "target.parallel: 'fr' is no evaluated set"),
    ({"target.parallel": (("de",), ("test", "de"))}, "target.parallel: 'de' stands there twice"),
    ({"target.parallel": ("de",)}, "target.parallel.0: should be a valid tuple"),
    # The data.
    ({"target.data.train": ()}, "target.data.train: value should have at least 1 item"),
    ({"target.data.split": (0.7, 0.2, 0.2)}, "target.data.split: fractions should add"),
    ({"target.data.split": (0.7, 0.5, -0.2)}, "target.data.split: fractions should add"),
    ({"target.data.split": (0.0, 0.5, 0.5)}, "target.data.split: fractions should add"),
    ({"target.data.split": (0.7, 0.0, 0.3)}, "target.data.split: fractions should add"),
    (
        {"target.data.split_seed": "seed"},
        "target.data.split_seed: 'seed' would divide another test",
    ),
    ({"target.data.split_seed": "seeds"}, "target.data.split_seed: should be"),
    (
        {
            "target.data.split": (0.7, 0.3, 0.0),
            "target.data.split_seed": "seed",
            "seeds": (0, 1),
            "batched_seeds": 2,
        },
        "batched_seeds: seeds that draw their own data",
    ),
    ({"target.evaluate.dev": OTHER}, "target.evaluate.dev: the name is reserved"),
    ({"target.evaluate.a/b": OTHER}, "target.evaluate.a/b: string should match pattern"),
    (
        {"target.evaluate.de.num_records": -1},
        "target.evaluate.de.num_records: should be greater than or equal to 0; is -1",
    ),
    ({"target.data.dev": {"columns": COLUMNS}}, "target.data.dev.0.path: set either"),
    ({"target.data.test": {"columns": COLUMNS}}, "target.data.test.0.path: set either"),
    # A source.
    ({f"{SOURCE}.path": ""}, f"{SOURCE}.path: set either"),
    ({f"{SOURCE}.hub": "some/set"}, f"{SOURCE}.path: set either"),
    ({f"{SOURCE}.columns": {**COLUMNS, "txt_b": 2}}, f"{SOURCE}.columns.txt_b: unknown role; did"),
    ({f"{SOURCE}.aligned": {"zzz": "f"}}, f"{SOURCE}.aligned.zzz: unknown role; there are text_a"),
    ({f"{SOURCE}.aligned": {"label": "f"}}, f"{SOURCE}.aligned: label stands in columns too"),
    ({f"{SOURCE}.columns": {"text_a": 0}}, f"{SOURCE}.columns.label: is missing"),
    ({f"{SOURCE}.columns": {"label": 0}}, f"{SOURCE}.columns.text_a: is missing"),
    ({f"{SOURCE}.format": "lines"}, f"{SOURCE}.columns: a source of aligned lines has no columns"),
    ({f"{SOURCE}.delimiter": "::"}, f"{SOURCE}.delimiter: string should have at most 1 character"),
    (
        {f"{SOURCE}.max_columns": -1},
        f"{SOURCE}.max_columns: should be greater than or equal to 0; is -1",
    ),
    (
        {f"{SOURCE}.num_records": -1},
        f"{SOURCE}.num_records: should be greater than or equal to 0; is -1",
    ),
    ({f"{SOURCE}.fraction": 0.0}, f"{SOURCE}.fraction: should be greater than 0; is 0.0"),
    ({f"{SOURCE}.fraction": 1.1}, f"{SOURCE}.fraction: should be less than or equal to 1; is 1.1"),
    (
        {"intermediate.data.train.0.labels": {"y": "maybe"}},
        "intermediate.data.train.0.labels.y: 'maybe' is no label of topic; there are no, yes",
    ),
    # The loop.
    *[
        ({f"{TRAIN}.{key}": 0}, f"{TRAIN}.{key}: should be greater than or equal to 1; is 0")
        for key in (
            "batch_size",
            "gradient_accumulation_steps",
            "eval_rows",
            "log_every",
        )
    ],
    *[
        ({f"{TRAIN}.{key}": -1}, f"{TRAIN}.{key}: should be greater than or equal to 0; is -1")
        for key in ("max_steps", "max_bucket_sizes", "eval_every", "patience")
    ],
    ({f"{TRAIN}.epochs": 0.0}, f"{TRAIN}.epochs: should be positive; is 0.0"),
    (
        {f"{TRAIN}.gradient_accumulation_steps": 3},
        f"{TRAIN}.gradient_accumulation_steps: 3 does not divide batch_size 32",
    ),
    ({f"{TRAIN}.max_length": 3}, f"{TRAIN}.max_length: should be greater than or equal to 4; is 3"),
    ({f"{TRAIN}.row_length": 127}, f"{TRAIN}.row_length: 127 tokens cannot hold"),
    (
        {"intermediate.train.label_smoothing": 1.0},
        "intermediate.train.label_smoothing: should be less than 1; is 1.0",
    ),
    ({f"{TRAIN}.label_smoothing": 0.1}, f"{TRAIN}.label_smoothing: has no effect on a task of the"),
    # The optimizer.
    *[
        ({f"{OPTIMIZER}.{key}": 0.0}, f"{OPTIMIZER}.{key}: should be greater than 0; is 0.0")
        for key in ("learning_rate", "eps", "power", "layer_decay")
    ],
    *[
        (
            {f"{OPTIMIZER}.{key}": -1.0},
            f"{OPTIMIZER}.{key}: should be greater than or equal to 0; is -1.0",
        )
        for key in ("weight_decay", "warmup", "end_factor", "clip_norm", "l2_sp")
    ],
    *[
        ({f"{OPTIMIZER}.{key}": 1.0}, f"{OPTIMIZER}.{key}: should be less than 1; is 1.0")
        for key in ("b1", "b2")
    ],
    (
        {f"{OPTIMIZER}.decay_fraction": 0.0},
        f"{OPTIMIZER}.decay_fraction: should be greater than 0; is 0.0",
    ),
    (
        {f"{OPTIMIZER}.schedule": "inverse_sqrt", f"{OPTIMIZER}.warmup": 0.0},
        f"{OPTIMIZER}.warmup: the schedule inverse_sqrt needs warm-up steps",
    ),
    (
        {f"{OPTIMIZER}.warmup": 1.5},
        f"{OPTIMIZER}.warmup: should be a fraction of the steps below 1",
    ),
    (
        {f"{OPTIMIZER}.warmup": 10.0, f"{TRAIN}.max_steps": 10},
        f"{OPTIMIZER}.warmup: 10 warm-up steps are all of max_steps 10",
    ),
    (
        {"target.max_restarts": -1},
        "target.max_restarts: should be greater than or equal to 0; is -1",
    ),
    (
        {"intermediate.max_restarts": -2},
        "intermediate.max_restarts: should be greater than or equal to 0; is -2",
    ),
    # Against forgetting.
    ({"target.rehearsal_examples": 32}, "target.rehearsal_examples: should be less than the"),
    (
        {"target.rehearsal_examples": -1},
        "target.rehearsal_examples: should be greater than or equal to 0; is -1",
    ),
    (
        {"target.rehearsal_examples": 6, f"{TRAIN}.gradient_accumulation_steps": 4},
        "target.rehearsal_examples: gradient_accumulation_steps 4 does not divide 6",
    ),
    (
        {"target.wise_ft_alphas": (0.5, 1.1)},
        "target.wise_ft_alphas.1: should be less than or equal to 1; is 1.1",
    ),
    ({"target.wise_ft_alphas": (0.5, 0.5)}, "target.wise_ft_alphas: should not contain duplicates"),
    (
        {"intermediate.rehearsal_examples": 8},
        "intermediate.rehearsal_examples: has no effect except on a target stage",
    ),
    (
        {"intermediate.evaluate_retention": True},
        "intermediate.evaluate_retention: has no effect except on a target stage",
    ),
    (
        {"intermediate.wise_ft_alphas": (0.5,)},
        "intermediate.wise_ft_alphas: has no effect except on a target stage",
    ),
    (
        {"target.evaluate_retention": True, "conditions": ("direct",), "intermediate": None},
        "target.evaluate_retention: has no effect except on a target stage in the condition",
    ),
    (
        {"target.rehearsal_examples": 8, "conditions": ("direct",), "intermediate": None},
        "target.rehearsal_examples: has no effect except on a target stage in the condition",
    ),
    # Adapters.
    ({"target.lora": {"rank": 0}}, "target.lora.rank: should be greater than or equal to 1; is 0"),
    ({"target.lora": {"alpha": 0.0}}, "target.lora.alpha: should be greater than 0; is 0.0"),
    ({"target.lora": {"dropout": 1.0}}, "target.lora.dropout: should be less than 1; is 1.0"),
    ({"target.lora": {"modules": ()}}, "target.lora.modules: "),
    ({"target.lora": {"modules": ("q",)}}, "target.lora.modules.0: "),
    (
        {"target.lora": {"layers": (2, 2)}},
        "target.lora.layers: should be the first layer and the one after the last; is (2, 2)",
    ),
    (
        {"target.lora": {}, f"{OPTIMIZER}.l2_sp": 0.1},
        f"{OPTIMIZER}.l2_sp: pulls the encoder to its start, but with lora the encoder is frozen",
    ),
    (
        {"target.lora": {}, f"{TRAIN}.attention": "short_rows"},
        f"{TRAIN}.attention: short_rows computes no adapters",
    ),
    ({f"{OPTIMIZER}.freeze": ("(",)}, f"{OPTIMIZER}.freeze.0: should be a regular expression"),
    ({f"{OPTIMIZER}.no_decay": ("[",)}, f"{OPTIMIZER}.no_decay.0: should be a regular expression"),
]


@pytest.mark.parametrize(("changes", "error"), CASES, ids=[case[1] for case in CASES])
def test_a_contradiction_is_one_error(changes: dict[str, Any], error: str) -> None:
    (reported,) = errors(changed(VALID, changes))
    assert reported.startswith(error)


@pytest.mark.parametrize("changes", [case[0] for case in CASES], ids=str)
def test_a_check_is_skipped_if_it_reads_an_invalid_value(changes: dict[str, Any]) -> None:
    reported = errors(changed(VALID, wrong_type(changes)))
    assert len(reported) == len(changes)
    for key in changes:
        assert any(error.startswith(key) for error in reported)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": ("direct", "scratch"), "intermediate": None},
        {"mesh.data": 1, "mesh.fsdp": -1},
        {"target.data.dev": OTHER},
        {"target.data.split": (0.9, 0.1, 0.0)},
        {f"{TRAIN}.max_steps": 5},
        {f"{TRAIN}.row_length": 128, f"{TRAIN}.max_length": 128},
        {f"{TRAIN}.max_length": 4, "model.dropout": 0.0},
        {
            f"{OPTIMIZER}.decay_fraction": 1.0,
            f"{OPTIMIZER}.schedule": "wsd",
            f"{OPTIMIZER}.warmup": 0.0,
        },
        {f"{TRAIN}.batch_size": 12, f"{TRAIN}.gradient_accumulation_steps": 4},
        {"intermediate.train.label_smoothing": 0.1},
        {f"{OPTIMIZER}.warmup": 0.0, f"{OPTIMIZER}.clip_norm": 0.0, f"{OPTIMIZER}.b1": 0.0},
        {f"{OPTIMIZER}.warmup": 9.0, f"{TRAIN}.max_steps": 10},
        {f"{OPTIMIZER}.warmup": 0.5, f"{TRAIN}.max_steps": 10},
        {f"{SOURCE}.fraction": 1.0, f"{SOURCE}.delimiter": ";"},
        {"target.lora": {"layers": (0, 1), "modules": "query"}, "intermediate.lora": {}},
        {f"{SOURCE}.format": "lines", f"{SOURCE}.columns": {}, f"{SOURCE}.aligned": FILES},
    ],
)
def test_limits_of_ranges_are_valid(changes: dict[str, Any]) -> None:
    loading.build(changed(VALID, changes), TASK_TYPES)
