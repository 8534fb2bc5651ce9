"""Extreme and misspelt values, names, paths, and things that are given twice."""

from __future__ import annotations

from typing import Any

import pytest

from flaxfer.config import loading
from flaxfer.config.findings import nearest, shown, suggestion
from flaxfer.config.grids import cell_keys
from flaxfer.tasks import TASK_TYPES
from tests.config.helpers import COLUMNS, VALID, Settings, changed, errors

SOURCE, TRAIN, OPTIMIZER = "target.data.train.0", "target.train", "target.optimizer"
NUMBER = "should be a valid number"
CASES: list[tuple[str, Any, str]] = [
    # Numbers.
    (f"{OPTIMIZER}.learning_rate", 30, "should be less than or equal to 1; is 30"),
    (f"{OPTIMIZER}.learning_rate", "3e-5", f"{NUMBER}; is '3e-5'"),
    (f"{OPTIMIZER}.learning_rate", True, f"{NUMBER}; is True"),
    (f"{OPTIMIZER}.learning_rate", float("nan"), "should be a finite number; is nan"),
    (f"{OPTIMIZER}.learning_rate", -0.0, "should be greater than 0; is -0.0"),
    (f"{OPTIMIZER}.eps", float("inf"), "should be a finite number; is inf"),
    (f"{OPTIMIZER}.end_factor", 1.5, "should be less than or equal to 1; is 1.5"),
    (f"{OPTIMIZER}.weight_decay", 1e6, "times learning_rate should be less than 1"),
    (f"{OPTIMIZER}.l2_sp", 1e300, "times learning_rate should be less than 1"),
    (f"{TRAIN}.max_steps", 10**30, "should be less than or equal to 2147483647"),
    (f"{TRAIN}.max_steps", 10**5000, "should be less than or equal to 2147483647; is a number"),
    (f"{TRAIN}.max_steps", 1.0, "should be a valid integer; is 1.0"),
    (f"{TRAIN}.batch_size", True, "should be a valid integer; is True"),
    (f"{TRAIN}.epochs", 1e9, "should be at most 1,000,000"),
    ("target.task.score_range", (0, float("inf")), "should be a finite number"),
    ("target.data.split_seed", -1, "should be greater than or equal to 0; is -1"),
    ("seeds", (2**40,), "should be less than or equal to 2147483647"),
    ("seeds", (True,), "should be a valid integer; is True"),
    ("mesh.data", 10**30, "should be less than or equal to 2147483647"),
    (f"{SOURCE}.columns", {**COLUMNS, "text_b": -1}, "should be greater than or equal to 0; is -1"),
    # Names and texts.
    *[("name", name, "string should match pattern") for name in ("..", ".", "-x", "a/b", "a\n")],
    ("name", "ab" * 51, "should have at most 100 bytes"),
    ("target.evaluate", {"..": {"path": "a.tsv", "columns": COLUMNS}}, "string should match"),
    ("target.task.name", "", "string should have at least 1 character"),
    ("target.task.name", "same\n", "should not begin or end with a space"),
    (f"{SOURCE}.encoding", "utf9", "should be an encoding that Python knows"),
    (f"{SOURCE}.encoding", "rot13", "should be an encoding that Python knows"),
    *[
        (f"{SOURCE}.language", code, "should be a language code such as de, pt-BR or zh-Hant")
        for code in ("german", "DE", "de_DE", "", "mixed", "d", "de-")
    ],
    # Paths.
    ("workdir", " runs/x", "should not begin or end with a space"),
    ("workdir", "runs/x ", "should not begin or end with a space"),
    ("workdir", " ", "should not begin or end with a space"),
    ("store", "$HOME/store", "environment variables are not expanded"),
    ("cache", "${CACHE}", "environment variables are not expanded"),
    ("model.path", "models/\0", "should not contain characters that cannot be printed"),
    (f"{SOURCE}.path", "a.tsv ", "should not begin or end with a space"),
    # Patterns.
    (f"{OPTIMIZER}.freeze", "", "'' matches every parameter, so that nothing is trained"),
    (f"{OPTIMIZER}.freeze", ("bias", ".*"), "'.*' matches every parameter"),
    (f"{OPTIMIZER}.no_decay", "", "'' matches every parameter, so that nothing decays"),
    # Given twice.
    ("trackers", ("wandb", "wandb"), "should not contain duplicates"),
    # Names of tracked runs.
    ("wandb.name", "{run}", "should have no other fields than {study}, {condition}, {stage} and"),
    ("wandb.name", "{0}", "should have no other fields than"),
    ("wandb.name", "{study.upper.x}", "should have no other fields than"),
    (f"{SOURCE}.columns", {"text_a": 0, "text_b": 0, "label": 1}, "text_a is in the column 0, too"),
    (f"{SOURCE}.keep", {"g": ()}, "keeps no record; name a value"),
    (f"{SOURCE}.keep_prefix", {"g": ()}, "keeps no record; name a value"),
    ("target.evaluate.de.benchmark", "xtreme-r/xnil", "should be 'xtreme-r/xnli', "),
]


@pytest.mark.parametrize(
    ("key", "value", "error"), CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)]
)
def test_a_value_that_cannot_be_meant_is_one_error_with_its_key(
    key: str, value: Any, error: str
) -> None:
    (reported,) = errors(changed(VALID, {key: value}))
    at, _, text = reported.partition(": ")
    assert at.startswith(key)
    assert text.startswith(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"workdir": "~/runs/my study", "store": "/data/stages", "model.path": "~/models/a b"},
        {f"{SOURCE}.language": "zh-Hant", "target.evaluate.de.language": "haw"},
        {f"{OPTIMIZER}.learning_rate": 1, f"{OPTIMIZER}.weight_decay": 0.0},
        {"seeds": (2**31 - 1, 0)},
        {"trackers": "wandb", "wandb.name": "{study} {seed:03d}", "wandb.tags": "a"},
        {"name": "étude_1.2-b", "target.task.name": "film reviews"},
        {f"{SOURCE}.columns": {**COLUMNS, "language": 2, "domain": 2}},
    ],
    ids=str,
)
def test_unusual_values_that_can_be_meant_are_valid(changes: Settings) -> None:
    loading.build(changed(VALID, changes), TASK_TYPES)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"target.data.dev": [{"path": "./same.tsv", "columns": COLUMNS}]},
            "target.data.dev.0: reads the same records as data.train.0",
        ),
        (
            {"target.data.train": [{"path": "a.tsv", "columns": COLUMNS, "fraction": 0.5}] * 2},
            "target.data.train.1: reads the same records as data.train.0",
        ),
        (
            {
                "target.data.dev": [{"path": "d.tsv", "columns": COLUMNS}],
                "target.evaluate.fr": {"path": "d.tsv", "columns": COLUMNS, "language": "fr"},
            },
            "target.evaluate.fr: reads the same records as data.dev.0",
        ),
        (
            {"target.evaluate.fr": {"hub": "some/set", "columns": COLUMNS, "language": "fr"}},
            "target.evaluate.fr: reads the same records as evaluate.de",
        ),
        (
            {"intermediate": {key: VALID["target"][key] for key in ("task", "data")}},
            "intermediate: has the task and the training data of target",
        ),
        (
            {f"{OPTIMIZER}.warmup": 0.95, f"{TRAIN}.max_steps": 10},
            f"{OPTIMIZER}.warmup: 10 warm-up steps are all of max_steps 10",
        ),
        (
            {f"{OPTIMIZER}.schedule": "wsd", f"{OPTIMIZER}.decay_fraction": 0.95},
            f"{OPTIMIZER}.decay_fraction: 0.95 and the warm-up, 0.1, exceed all steps",
        ),
        (
            {
                f"{OPTIMIZER}.schedule": "wsd",
                f"{OPTIMIZER}.warmup": 900.0,
                f"{TRAIN}.max_steps": 1000,
            },
            f"{OPTIMIZER}.warmup: 900 warm-up steps and 200 of decay are more than max_steps 1000",
        ),
        (
            {f"{SOURCE}.header": False, f"{SOURCE}.columns": {"text_a": "text", "label": "1"}},
            f"{SOURCE}.columns.text_a: a file without a header has no column 'text'",
        ),
        ({f"{SOURCE}.path": "a.txt"}, f"{SOURCE}.format: the ending of path does not tell the"),
        (
            {f"{SOURCE}.keep": {"g": ("a",)}, f"{SOURCE}.drop": {"g": ("b",)}},
            f"{SOURCE}.drop.g: records are already selected by keep.g",
        ),
        (
            {"model.dropout": 0.1, f"{TRAIN}.attention": "cudnn"},
            "model.attention_dropout: cudnn does not drop out attention probabilities",
        ),
        (
            {f"{TRAIN}.compute_dtype": "float32", f"{TRAIN}.attention": "cudnn"},
            f"{TRAIN}.compute_dtype: cudnn needs bfloat16",
        ),
        (
            {f"{TRAIN}.row_length": 192, f"{TRAIN}.attention": "splash"},
            f"{TRAIN}.row_length: splash needs a multiple of 128 tokens; is 192",
        ),
        (
            {"seeds": (0, 1), "batched_seeds": 2, f"{TRAIN}.attention": "splash"},
            "batched_seeds: splash runs one seed at a time",
        ),
        (
            {f"{TRAIN}.row_length": 200, f"{TRAIN}.attention": "short_rows"},
            f"{TRAIN}.row_length: short_rows needs a multiple of 32 tokens; is 200",
        ),
        (
            {f"{TRAIN}.row_length": 384, f"{TRAIN}.attention": "short_rows"},
            f"{TRAIN}.row_length: short_rows needs at most 256 tokens; is 384",
        ),
        (
            {"seeds": (0, 1), "batched_seeds": 2, f"{TRAIN}.attention": "short_rows"},
            "batched_seeds: short_rows runs one seed at a time",
        ),
    ],
    ids=str,
)
def test_a_clash_is_one_error(changes: Settings, error: str) -> None:
    (reported,) = errors(changed(VALID, changes))
    assert reported.startswith(error)


@pytest.mark.parametrize(
    "more",
    [
        {"columns": {"text_a": 2, "label": 1}},
        {"keep": {"split": ("dev",)}},
        {"keep_prefix": {"id": ("de-",)}},
        {"drop": {"split": ("train",)}},
        {"aligned": {"text_b": "b.txt"}},
    ],
    ids=str,
)
def test_parts_of_one_file_may_be_different_splits(more: Settings) -> None:
    dev = {"path": "same.tsv", "columns": COLUMNS} | more
    settings = changed(VALID, {"target.evaluate.part": dev})
    loading.build(settings, TASK_TYPES)


def test_fractions_that_are_written_alike_are_refused() -> None:
    stage = {key: VALID["target"][key] for key in ("task", "data")}
    grid: Settings = {
        "name": "grid",
        "models": {"one": {"path": "one"}},
        "targets": {"same": stage},
        "fractions": (0.12345678, 0.12345679),
    }
    assert errors(grid) == (
        "targets: two studies of the grid have the same name; use other names or fractions",
    )
    several: Any = loading.build(grid | {"fractions": (0.1, 1)}, TASK_TYPES)
    assert list(cell_keys(several)) == ["one.same.0.1", "one.same"]
    assert {error.partition(":")[0] for error in errors(grid | {"fractions": (0, 0.1)})} == {
        "fractions.0"
    }


def test_a_look_alike_character_is_named() -> None:
    (reported,) = errors(changed(VALID, {f"{OPTIMIZER}.l\u0435arning_rate": 1e-5}))
    assert reported == (
        f"{OPTIMIZER}.l\u0435arning_rate: unknown key; did you mean 'learning_rate'? "
        "'l\u0435arning_rate' has the character CYRILLIC SMALL LETTER IE"
    )
    assert suggestion("seeds ", ["seeds"]) == (
        "did you mean 'seeds'? 'seeds ' has the character SPACE"
    )
    assert nearest("\uff53\uff45\uff45\uff44\uff53", ["seeds", "store"]) == "seeds"
    assert nearest("Text_B", ["text_a", "text_b"]) == "text_b"


def test_many_choices_are_counted() -> None:
    hint = suggestion("zzz", [f"column{i}" for i in range(10_000)])
    assert hint.startswith("there are column0, column1, ")
    assert hint.endswith(" and 9,980 more") and len(hint) < 300
    assert len(shown("x" * 1000)) < 300
