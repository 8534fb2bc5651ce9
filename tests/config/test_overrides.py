"""Overrides that would have no effect, and lists on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from flaxfer.config import loading
from flaxfer.config.overrides import split_overrides
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES
from tests.config.helpers import COLUMNS, VALID, changed, errors

GRID = {
    "name": "grid",
    "models": {"one": {"path": "one"}},
    "intermediates": {
        "topic": VALID["intermediate"],
        "other": changed(VALID["intermediate"], {"task.name": "other", "train.log_every": 5}),
    },
    "targets": {
        "same": {
            **{key: VALID["target"][key] for key in ("task", "data")},
            "intermediates": ("topic", "other"),
        }
    },
}


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ([("seeds", "1"), ("seeds", "2")], "seeds: is given twice"),
        ([("seeds", "1"), ("seeds", "1")], "seeds: is given twice"),
        (
            [("target.train.log_every", "1"), ("target.train", "{'log_every': 2}")],
            "target.train.log_every: has no effect before --config.target.train",
        ),
        (  # The target and the intermediate stage have their own.
            [
                ("target.train.log_every", "1"),
                ("train.log_every", "3"),
                ("intermediate.train.log_every", "2"),
            ],
            "train.log_every: has no effect, because every stage sets its own: "
            "intermediate.train.log_every, target.train.log_every",
        ),
        (
            [("train.epochs", "2"), ("target.train.max_steps", "5")],
            "target.train.epochs: has no effect, because max_steps is set",
        ),
        (
            [("conditions", "direct"), ("intermediate.train.epochs", "2")],
            "intermediate: has no effect without the condition 'staged'",
        ),
        ([("optimizer.power", "3")], "optimizer.power: has no effect unless the schedule"),
    ],
    ids=str,
)
def test_an_override_without_effect_is_an_error(
    overrides: list[tuple[str, str]], error: str
) -> None:
    (reported,) = errors(VALID, *overrides)
    assert reported.startswith(error)


def test_the_index_of_a_single_source_does_not_make_another_key() -> None:
    settings = changed(VALID, {"target.data.train": {"path": "a.tsv", "columns": COLUMNS}})
    key, same = "target.data.train.num_records", "target.data.train.0.num_records"
    (reported,) = errors(settings, (key, "1"), (same, "2"))
    assert reported.startswith(f"{key}: is given twice")


@pytest.mark.parametrize("key", ["log_every", "max_bucket_sizes"])
def test_a_shared_override_that_every_stage_of_the_file_replaces_is_an_error(key: str) -> None:
    own = {f"{stage}.train.{key}": 3 for stage in ("target", "intermediate")}
    (reported,) = errors(changed(VALID, own), (f"train.{key}", "2"))
    assert reported.startswith(f"train.{key}: has no effect, because every stage sets its own")


@pytest.mark.parametrize(
    ("changes", "overrides", "values"),
    [
        # The number of steps follows from the last one that was asked for.
        ({"train.epochs": 9.0}, [("train.max_steps", "5")], {"max_steps": 5}),
        ({"target.train.epochs": 9.0}, [("train.max_steps", "5")], {"max_steps": 5}),
        ({"train.max_steps": 5}, [("train.epochs", "2")], {"epochs": 2.0, "max_steps": 0}),
        ({"target.train.max_steps": 5}, [("train.epochs", "2")], {"epochs": 2.0, "max_steps": 0}),
        ({"train.patience": 3, "train.epochs": 9.0}, [("train.epochs", "1")], {"epochs": 1.0}),
        # A stage's own override takes precedence over the file's shared section.
        (
            {"train.log_every": 5},
            [("target.train.log_every", "1"), ("intermediate.train.log_every", "2")],
            {"log_every": 1},
        ),
        ({"seeds": (0, 1), "batched_seeds": 2}, [("seeds", "0")], {}),
        ({"seeds": (0, 1), "paired": True}, [("seeds", "0")], {}),
        ({}, [("conditions", "direct")], {}),
    ],
    ids=str,
)
def test_an_override_may_replace_what_the_file_says(
    changes: dict[str, Any], overrides: list[tuple[str, str]], values: dict[str, Any]
) -> None:
    config: Any = loading.build(changed(VALID, changes), TASK_TYPES, overrides)
    assert {name: getattr(config.target.train, name) for name in values} == values


def test_overrides_may_leave_parts_of_a_grid_out() -> None:
    for override in (("conditions", "direct"), ("targets.same.intermediates", "topic")):
        loading.build(GRID, TASK_TYPES, [override])


def test_a_field_replaces_a_tuple_of_values_but_no_tuple_of_sections() -> None:
    several = changed(VALID, {"seeds": (3, 4)})
    config: Any = loading.build(several, TASK_TYPES, [("seeds.looks", "2,4")])
    assert config.looks == (2, 4)
    for key in ("seeds.0", "target.data.train.looks"):
        with pytest.raises(ConfigError, match="set the whole tuple"):
            loading.build(several, TASK_TYPES, [(key, "2,4")])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("trackers", "tensorboard,wandb", ("tensorboard", "wandb")),
        ("trackers", "tensorboard, wandb", ("tensorboard", "wandb")),
        ("seeds", "3, 4", (3, 4)),
        ("conditions", "direct, staged", ("direct", "staged")),
    ],
)
def test_words_with_commas_are_a_list_where_one_word_is_no_value(
    key: str, text: str, value: tuple[Any, ...]
) -> None:
    assert getattr(loading.build(VALID, TASK_TYPES, [(key, text)]), key) == value


def test_names_with_commas_are_a_list_of_intermediate_stages() -> None:
    grid: Any = loading.build(GRID, TASK_TYPES, [("targets.same.intermediates", "other,topic")])
    assert grid.targets["same"].intermediates == ("other", "topic")


@pytest.mark.parametrize(
    ("key", "text", "one", "several"),
    [
        ("intermediate.task.labels", "no,yes", "['no,yes']", "['no', 'yes']"),
        ("optimizer.freeze", r"bias,scale", "['bias,scale']", "['bias', 'scale']"),
        ("target.data.train.0.keep.genre", "a,b", "['a,b']", "['a', 'b']"),
        ("target.optimizer.no_decay", "a{1,2}b", "['a{1,2}b']", "['a{1', '2}b']"),
    ],
)
def test_one_text_with_commas_is_refused_where_it_could_be_several(
    key: str, text: str, one: str, several: str
) -> None:
    reported, *_ = errors(VALID, (key, text))
    assert reported.startswith(f"{key}: is it one item with a comma, or several? Write")
    assert f"--config.{key}={one}" in reported and f"--config.{key}={several}" in reported
    if key != "intermediate.task.labels":  # As a single label it is too few.
        loading.build(VALID, TASK_TYPES, [(key, one)])
    loading.build(VALID, TASK_TYPES, [(key, several if "{" not in text else one)])


def test_words_after_two_hyphens_are_no_overrides() -> None:
    words = ["--config.a=1", "x", "--", "--config.b=2"]
    assert split_overrides(words) == ([("a", "1")], ["x", "--", "--config.b=2"])


def test_a_misspelt_name_in_an_override_is_shown_beside_the_known_one() -> None:
    reported = errors(GRID, ("targets.smae.train.log_every", "1"))
    assert "targets.smae.task: is missing; is targets.same meant?" in reported
    assert "targets.smae.data: is missing; is targets.same meant?" in reported


def test_an_unknown_key_is_shown_beside_the_missing_one() -> None:
    settings = changed(VALID, {"target.task": {"name": "t", "type": "regression", "metrik": "x"}})
    assert sorted(errors(settings)) == [
        "target.task.metric: is missing; there is 'metrik' instead",
        "target.task.metrik: unknown key; did you mean 'metric'?",
    ]


def test_more_than_ten_errors_of_a_kind_are_counted() -> None:
    sets = {
        f"target.evaluate.s{i}": {"path": f"{i}.tsv", "columns": COLUMNS, "languag": "de"}
        for i in range(30)
    }
    with pytest.raises(ConfigError) as caught:
        loading.build(changed(VALID, {**sets, "seeds": (-1,)}), TASK_TYPES)
    lines = str(caught.value).split("\n")
    assert lines[0] == "31 error(s) in the configuration"
    (line,) = [line for line in lines if "did you mean 'language'?" in line]
    assert line.startswith("  - target.evaluate.s0.") and "the first of 30 like this" in line
    assert any(line.startswith("  - seeds.0: ") for line in lines)
