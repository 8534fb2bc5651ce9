"""The defaults of every task type fit together, whatever the length of a sequence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from flaxfer.config import Train, loading
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES

ROLES = {
    "classification": {"text_a": "a", "label": "y"},
    "regression": {"text_a": "a", "text_b": "b", "label": "y"},
    "tagging": {"words": "a", "tags": "b"},
    "question_answering": {"text_a": "a", "text_b": "b", "answers": "c"},
    "multiple_choice": {"text_a": "a", "choice_1": "b", "choice_2": "c", "label": "y"},
    "retrieval": {"query": "a", "passage": "b"},
}
LENGTHS = (8, 16, 32, 64, 100, 127, 128, 129, 132, 255, 256, 384, 512, 1000)


def settings(name: str, **train: Any) -> dict[str, Any]:
    """A study of a task type, with no more than a study needs."""
    kind = TASK_TYPES[name]
    labels = {"labels": ("O", "B-X")} if "labels" in kind.settings else {}
    task = {"name": "t", "type": name, "metric": kind.metrics[0], **labels}
    data = {"train": {"path": "a.jsonl", "columns": ROLES[name]}}
    return {
        "name": "s",
        "conditions": "direct",
        "model": {"path": "m"},
        "target": {"task": task, "data": data, "train": train},
    }


@pytest.mark.parametrize("name", TASK_TYPES)
def test_defaults_fit_together_at_every_length(name: str) -> None:
    assert set(ROLES) == set(TASK_TYPES)
    loading.build(settings(name), TASK_TYPES)
    for length in LENGTHS:
        for packing in (True, False):
            loading.build(settings(name, max_length=length, packing=packing), TASK_TYPES)


@pytest.mark.parametrize("attention", ["cudnn", "splash"])
def test_default_rows_suit_every_kernel(attention: str) -> None:
    for length in LENGTHS:
        train = {"max_length": length, "attention": attention}
        study = settings("classification", **train)
        loading.build({**study, "model": {"path": "m", "attention_dropout": 0.0}}, TASK_TYPES)


def test_defaults_follow_the_length() -> None:
    found = {n: (Train(max_length=n).doc_stride, Train(max_length=n).row_length) for n in LENGTHS}
    assert found[128] == (41, 128)
    assert found[256] == (*found[384][:1], 256) == (128, 256)
    assert found[384] == (128, 384)
    assert found[129] == (41, 256)
    assert found[8] == (1, 128)
    assert Train() == Train(max_length=128)
    # A copy keeps what was set, and what followed.
    assert dataclasses.replace(Train(max_length=384), max_length=128).row_length == 384


def test_what_is_set_still_has_to_fit() -> None:
    for key, value, what in (
        ("doc_stride", 128, "windows that share 128 tokens need a larger max_length than 128"),
        ("row_length", 64, "64 tokens cannot hold an example of max_length 128"),
        ("doc_stride", -1, "should be greater than or equal to 0"),
        ("row_length", -1, "should be greater than or equal to 0"),
    ):
        with pytest.raises(ConfigError) as caught:
            loading.build(settings("question_answering", **{key: value}), TASK_TYPES)
        assert what in caught.value.details[0]


def test_a_default_that_follows_is_no_setting_without_effect() -> None:
    loading.build(settings("classification", max_length=64), TASK_TYPES)
    with pytest.raises(ConfigError, match="has no effect on a task of the type classification"):
        loading.build(settings("classification", max_length=64, doc_stride=7), TASK_TYPES)
    config = loading.build(settings("classification", max_length=64), TASK_TYPES)
    assert loading.validated(config, TASK_TYPES) == config
