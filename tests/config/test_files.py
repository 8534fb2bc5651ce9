"""Names in config files and environment variables that nothing reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxfer.config import environment
from flaxfer.config.files import read_config_file
from flaxfer.errors import ConfigError


def refused(tmp_path: Path, text: str, preset: str = "") -> ConfigError:
    path = tmp_path / "study.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_config_file(f"{path}{preset}")
    assert str(caught.value.where).startswith(str(path))
    return caught.value


def test_a_misspelt_get_config_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, "def get_confg():\n    return {}\n")
    assert error.what == "the file does not define get_config(preset)"
    assert error.hint == "rename get_confg to get_config."


@pytest.mark.parametrize(
    ("text", "preset", "expected"),
    [
        ("SEEDS = (1, 2)\ndef get_config():\n    return {}\n", "", ":1: nothing reads SEEDS"),
        ("def get_confg():\n    pass\ndef get_config():\n    return {}\n", "",
         ":1: nothing reads get_confg"),
        ("class Model: ...\nrate: float = 1.0\nprint(rate)\ndef get_config(): return {}\n", "",
         ":1: nothing reads Model"),
        ("def get_config(preset='a'):\n    return {}\n", ":b",
         ":1: the config has no presets, so 'b' has no effect"),
        ("def get_config():\n    return {'de': 1,\n            'fr': 2, 'de': 3}\n", "",
         ":2: the key 'de' is given twice: only the last has an effect"),
    ],
)  # fmt: skip
def test_what_has_no_effect_in_a_config_file_is_an_error(
    tmp_path: Path, text: str, preset: str, expected: str
) -> None:
    error = refused(tmp_path, text, preset)
    assert error.details == (f"{tmp_path / 'study.py'}{expected}",)


def test_an_empty_preset_is_an_error(tmp_path: Path) -> None:
    assert (
        refused(tmp_path, "def get_config():\n    return {}\n", ":").what == "the preset is empty"
    )


def test_names_that_are_read_private_or_imported_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    path.write_text(
        "import json\nfrom pathlib import Path\n_UNUSED = 1\n__author__ = 'me'\nSEEDS = (1, 2)\n"
        "PAIR: dict = {'a': 1, **{'a': 2}}\n"
        "def stage():\n    return f'{SEEDS}' + str(PAIR)\n"
        "def get_config(preset='a'):\n    return {'name': preset, 'stage': stage()}\n"
    )
    assert read_config_file(f"{path}:b")["name"] == "b"


def test_an_unknown_or_unread_environment_variable_is_an_error() -> None:
    environment.check({"FLAXFER_CACHE": "x", "FLAXFER_MALLOC": "system", "HOME": "/", "CACHE": "y"})
    wrong = {"FLAXFER_CAHCE": "x", "flaxfer_malloc": "system", "FLAXFER_MALLOC": "sytem"}
    with pytest.raises(ConfigError) as caught:
        environment.check(wrong)
    assert caught.value.exit_code == 2
    assert caught.value.details == (
        "FLAXFER_CAHCE: unknown variable; did you mean 'FLAXFER_CACHE'?",
        "FLAXFER_MALLOC: should be 'system'; is 'sytem'",
        "flaxfer_malloc: unknown variable; did you mean 'FLAXFER_MALLOC'?",
    )
