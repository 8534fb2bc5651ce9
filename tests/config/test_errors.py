"""Errors of a configuration: each is reported once, in one message with all others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.helpers import COLUMNS, VALID, changed, errors

SOURCE = "target.data.train.0"
OTHER = {"path": "other.tsv", "columns": COLUMNS}


def test_ten_errors_are_reported_together() -> None:
    reported = errors(
        VALID,
        ("modle.path", "x"),  # an unknown section
        ("optimizer.lerning_rate", "1e-5"),  # an unknown key of a shared section
        ("train.batch_size", "many"),  # a wrong type in a shared section
        ("intermediate.train.packing", "1"),  # a wrong type in one stage
        ("target.optimizer.name", "adam"),  # none of the choices
        ("target.task.type", "none"),  # a wrong required key
        (f"{SOURCE}.columns.text_c", "2"),  # an unknown role
        ("target.evaluate.de.fraction", "2"),  # out of range
        ("intermediate.task.metric", "accurracy"),  # of another task type
        ("train.row_length", "32"),  # against train.max_length
    )
    assert sorted(reported) == sorted(
        [
            "modle: unknown key; did you mean 'model'?",
            "optimizer.lerning_rate: unknown key; did you mean 'learning_rate'?",
            "train.batch_size: should be a valid integer; is 'many'",
            "intermediate.train.packing: should be a valid boolean; is 1",
            "target.optimizer.name: should be 'adamw', 'adafactor' or 'lion'; is 'adam'",
            "target.task.type: 'none' is not a task type; there are classification, regression, "
            "tagging, question_answering, multiple_choice, retrieval",
            f"{SOURCE}.columns.text_c: unknown role; did you mean 'text_b'?",
            "target.evaluate.de.fraction: should be less than or equal to 1; is 2",
            "intermediate.task.metric: 'accurracy' is no metric of classification; "
            "did you mean 'accuracy'?",
            "train.row_length: 32 tokens cannot hold an example of max_length 128",
        ]
    )


@pytest.mark.parametrize(
    ("key", "text", "error"),
    [
        ("seeds", "one", "seeds.0: should be a valid integer; is 'one'"),
        ("seeds", "1.5", "seeds.0: should be a valid integer; is 1.5"),
        ("train.batch_size", "32.0", "train.batch_size: should be a valid integer; is 32.0"),
        ("train.batch_size", "true", "train.batch_size: should be a valid integer; is True"),
        ("train.row_length", "all", "train.row_length: should be a valid integer; is 'all'"),
        ("optimizer.warmup", "1e999", "optimizer.warmup: should be a finite number"),
        ("optimizer.eps", "small", "optimizer.eps: should be a valid number; is 'small'"),
        ("target.task.score_range", "1", "target.task.score_range: should be a valid tuple"),
        ("target.data.split", "(0.5, 0.5)", "target.data.split.2: is missing"),
        ("model.dropout", "no", "model.dropout: should be a valid number; is 'no'"),
        ("optimizer", "5", "optimizer: should be a section with keys; is 5"),
        ("optimizer", "{'eps': 'x'}", "optimizer.eps: should be a valid number; is 'x'"),
        ("target.optimizer", "5", "target.optimizer: should be a section with keys; is 5"),
        ("target.evaluate", "5", "target.evaluate: should be a section with keys; is 5"),
        ("target.evaluate.de", "x", "target.evaluate.de: should be a section with keys; is 'x'"),
        ("target", "none", "target: should be a section with keys; is None"),
        ("target.data.dev", "x.tsv", "target.data.dev.0: should be a section with keys"),
        (f"{SOURCE}.labels", "x", f"{SOURCE}.labels: should be a section with keys; is 'x'"),
        (
            f"{SOURCE}.labels",
            "{0.5: 'no'}",
            f"{SOURCE}.labels.0.5: should be a valid string; is 0.5",
        ),
        ("target.data.train.1.path", "x", "target.data.train.1.path: there is no item '1' here"),
        ("target.data.train.0", "x", "target.data.train.0: set the whole tuple"),
        ("name.first", "x", "name.first: 'name' is a value, not a section"),
        ("target.task.labelz", "x", "target.task.labelz: unknown key; did you mean 'labels'?"),
        ("trian.epochs", "1", "trian: unknown key; did you mean 'train'?"),
        ("zzzz", "1", "zzzz: unknown key; there are name, conditions, seeds, "),
        (
            "target.train.batch_size",
            "0",
            "target.train.batch_size: should be greater than or equal to 1; is 0",
        ),
    ],
)
def test_one_wrong_value_is_one_error(key: str, text: str, error: str) -> None:
    (reported,) = errors(VALID, (key, text))
    assert reported.startswith(error)


def test_missing_fields_do_not_hide_other_errors() -> None:
    task = {"name": "t", "type": "regression"}
    settings = {
        "seeds": (),
        "model": {"path": "m", "hub": "m"},
        "target": {"task": task, "data": {}, "train": {"epochs": 0}},
    }
    assert sorted(errors(settings)) == [
        "conditions: 'staged' needs the section intermediate; add it, or leave 'staged' out",
        "model.path: set either a local path (path) or a hub id (hub), not both",
        "name: is missing",
        "seeds: value should have at least 1 item after validation, not 0; is []",
        "target.data.train: is missing",
        "target.task.metric: is missing",
        "target.train.epochs: should be positive; is 0.0",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer.b1": 2}, ["optimizer.b1: should be less than 1; is 2"]),
        (  # The target sets its own, valid rate.
            {"optimizer.learning_rate": 0, "target.optimizer.learning_rate": 1e-4},
            ["optimizer.learning_rate: should be greater than 0; is 0"],
        ),
        (
            {"optimizer.warmup": 5, "intermediate.train.max_steps": 5},
            ["intermediate.optimizer.warmup: 5 warm-up steps are all of max_steps 5"],
        ),
        (
            {"train.label_smoothing": 0.1},
            [
                "target.train.label_smoothing: has no effect on a task of the type regression; "
                "leave it out"
            ],
        ),
        *(
            ({name: value}, [f"{name}: should be a section with keys; is {value!r}"])
            for name in ("optimizer", "train")
            for value in (3, 0, False, "")
        ),
    ],
    ids=str,
)
def test_an_error_in_a_shared_section_is_reported_once(
    changes: dict[str, Any], expected: list[str]
) -> None:
    assert [*errors(changed(VALID, changes))] == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (  # The check reads the section around an invalid value, but not the value.
            {"target.evaluate.de.fraction": 2, "target.evaluate.dev": OTHER},
            ["target.evaluate.de.fraction: should be", "target.evaluate.dev: the name is reserved"],
        ),
        (
            {
                "target.data.dev": [{**OTHER, "fraction": 2}],
                "target.data.split": (0.7, 0.2, 0.1),
            },
            ["target.data.dev.0.fraction: should be", "target.data.split: has no effect as"],
        ),
        # The check reads a mapping or tuple that loses an invalid item.
        (
            {
                f"{SOURCE}.columns": {**COLUMNS, "question": []},
                f"{SOURCE}.questions": {"a": "b"},
            },
            [f"{SOURCE}.columns.question: should be a valid string; is []"],
        ),
        (
            {"intermediate.task.labels": ("no", 0.5)},
            ["intermediate.task.labels.1: should be a valid string; is 0.5"],
        ),
        (
            {f"{SOURCE}.keep": {"one": ["a", 0.5]}},
            [f"{SOURCE}.keep.one.1: should be a valid string; is 0.5"],
        ),
    ],
    ids=str,
)
def test_a_check_is_skipped_only_if_it_reads_what_is_invalid(
    changes: dict[str, Any], expected: list[str]
) -> None:
    reported = errors(changed(VALID, changes))
    assert len(reported) == len(expected)
    assert all(map(str.startswith, reported, expected))


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("target.train.int", 4, "unknown key; there are batch_size, "),
        ("target.evaluate.str", 5, "should be a section with keys; is 5"),
        (f"{SOURCE}.labels", {"bool": 0.5}, "should be a valid string; is 0.5"),
        ("compiler_options.bool", [], "should be a valid boolean; is []"),
    ],
)
def test_a_key_may_have_the_name_of_a_type(key: str, value: Any, error: str) -> None:
    (reported,) = errors(changed(VALID, {key: value}))
    if isinstance(value, dict):
        key = f"{key}.{next(iter(value))}"
    assert reported.startswith(f"{key}: {error}")


@pytest.mark.parametrize(
    ("section", "name", "new"),
    [
        ("", "paths", "conditions"),
        ("", "seeds_at_once", "batched_seeds"),
        ("target.train.", "accumulation", "gradient_accumulation_steps"),
        ("train.", "accumulation", "gradient_accumulation_steps"),
        ("train.", "max_programs", "max_bucket_sizes"),
        ("train.", "keep", "remat"),
        ("optimizer.", "l2_start", "l2_sp"),
        ("optimizer.", "decay_share", "decay_fraction"),
        ("target.", "rehearse", "rehearsal_examples"),
        ("target.", "wise", "wise_ft_alphas"),
        ("target.", "retained", "evaluate_retention"),
        ("target.", "restarts", "max_restarts"),
        (f"{SOURCE}.", "rows", "num_records"),
    ],
)
def test_an_earlier_name_is_refused_with_the_new_one(section: str, name: str, new: str) -> None:
    error = f"{section}{name}: renamed to {section}{new}"
    assert errors(changed(VALID, {f"{section}{name}": 1})) == (error,)


@pytest.mark.parametrize(
    ("value", "new"), [("all", "none"), ("products", "matmuls"), ("inputs", "full")]
)
def test_an_earlier_value_is_refused_with_the_new_one(value: str, new: str) -> None:
    error = f"train.remat: {value!r} is renamed to {new!r}"
    assert errors(changed(VALID, {"train.remat": value})) == (error,)


@pytest.mark.parametrize(
    ("settings", "at", "more"),
    [
        ({"target": {"task": {}, "data": {}}}, "target", ["model: is missing"]),
        (
            {"targets": {"a": {"task": {}, "data": {}}}, "models": {"m": {"path": "m"}}},
            "targets.a",
            [],
        ),
    ],
    ids=["study", "grid"],
)
def test_every_missing_field_is_reported(
    settings: dict[str, Any], at: str, more: list[str]
) -> None:
    expected = [f"{at}.task.{key}: is missing" for key in ("name", "type", "metric")]
    expected += [f"{at}.data.train: is missing", "name: is missing", *more]
    assert sorted(errors({"conditions": "direct", **settings})) == sorted(expected)


def test_keys_that_are_not_text_are_reported() -> None:
    settings = {**VALID, None: 1, 0: 2, "train": {0: 3}}
    assert sorted(errors(settings)) == [
        "0: keys should be strings; is 0",
        "None: keys should be strings; is None",
        "train.0: keys should be strings; is 0",
    ]


def test_an_invalid_section_of_a_grid_does_not_make_it_a_study() -> None:
    assert errors({"name": "grid", "targets": 5}) == (
        "targets: should be a section with keys; is 5",
        "models: is empty",
    )
