"""Settings of a study, and ways to change them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from flaxfer.config import loading
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES

Settings = dict[str, Any]

COLUMNS = {"text_a": 0, "label": 1}
VALID: Settings = {
    "name": "study",
    "model": {"path": "model"},
    "intermediate": {
        "task": {
            "name": "topic",
            "type": "classification",
            "metric": "accuracy",
            "labels": ("no", "yes"),
        },
        "data": {"train": [{"path": "topic.tsv", "columns": COLUMNS, "labels": {"n": "no"}}]},
    },
    "target": {
        "task": {"name": "same", "type": "regression", "metric": "pearson"},
        "data": {"train": [{"path": "same.tsv", "columns": COLUMNS}]},
        "evaluate": {"de": {"hub": "some/set", "columns": COLUMNS}},
    },
}


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Copy settings with other values at dotted keys; missing sections are created."""
    settings = copy.deepcopy(settings)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section: Any = settings
        for part in sections:
            section = section[int(part)] if part.isdigit() else section.setdefault(part, {})
        section[name] = value
    return settings


def errors(settings: Settings, *overrides: tuple[str, str]) -> tuple[str, ...]:
    """Return the errors of settings that are not valid."""
    with pytest.raises(ConfigError) as caught:
        loading.build(settings, TASK_TYPES, overrides)
    details = caught.value.details
    assert caught.value.what == f"{len(details)} error(s) in the configuration"
    return tuple(details)


def wrong_type(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each value by one that no field accepts."""
    return dict.fromkeys(changes, object())
