"""Errors of the hub's library: each is a line that names the setting to change.

The texts are those of the library itself, which reads folders as it reads the hub.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source
from flaxfer.errors import DataError
from tests.data.helpers import NLI, read, refusal

COLUMNS: dict[str, str | int] = {"text_a": "a", "label": "y"}
SUBSETS = """\
---
configs:
- config_name: english
  data_files: en.csv
- config_name: german
  data_files: de.csv
---
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the hub."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def line(source: Source) -> tuple[str, str]:
    """The message and the hint, a line each."""
    error = refusal(source)
    assert error.details == () and str(error).count("\n") == 1
    assert error.where == f"{source.hub}[{source.split}]"
    return error.what, str(error.hint)


def test_a_loading_script_names_the_parquet_revision(folder: Path) -> None:
    (folder / "set.py").write_text("raise AssertionError('it is not run')")
    source = Source(hub=str(folder), columns=COLUMNS)
    what, hint = line(source)
    assert what == "the data set is a loading script, which is not run"
    assert hint.startswith("set revision='refs/convert/parquet'") and "'default'" in hint
    tried = dataclasses.replace(source, revision="refs/convert/parquet")
    assert "refs/convert/parquet" not in line(tried)[1] and "`path`" in line(tried)[1]


def test_subsets_are_listed(folder: Path) -> None:
    (folder / "README.md").write_text(SUBSETS)
    for name in ("en", "de"):
        (folder / f"{name}.csv").write_text("a,y\nx,neutral\n")
    source = Source(hub=str(folder), columns=COLUMNS)
    choices = "set subset to one of 'english', 'german'."
    assert line(source) == ("the data set has several subsets", choices)
    wrong = dataclasses.replace(source, subset="englsh")
    assert line(wrong) == ("there is no subset 'englsh'", choices)
    assert read(dataclasses.replace(source, subset="english"), NLI).text_a == ("x",)


def test_splits_are_listed(folder: Path) -> None:
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("a,y\nx,neutral\n")
    source = Source(hub=str(folder), split="tset", columns=COLUMNS)
    what, hint = line(source)
    assert what == "there is no split 'tset'"
    assert hint == "set split to one of 'train', 'test'."


def raised(hub: dict[str, Any], error: Exception, monkeypatch: pytest.MonkeyPatch) -> DataError:
    import datasets

    def load_dataset(path: str, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return refusal(Source(hub="owner/set", revision="v1", columns=COLUMNS))


ERRORS = [
    (
        RuntimeError("Dataset scripts are no longer supported, but found set.py"),
        "loading script",
        "revision='refs/convert/parquet'",
    ),
    (
        ValueError(
            "The repository for owner/set contains custom code which must be executed to correctly "
            "load the dataset. You can inspect the repository content at https://hf.co/datasets/"
            "owner/set.\nPlease pass the argument `trust_remote_code=True` to allow custom code to "
            "be run."
        ),
        "loading script",
        "revision='refs/convert/parquet'",
    ),
    (
        FileNotFoundError(
            "Dataset 'owner/set' is a gated dataset on the Hub. You must be authenticated to "
            "access it."
        ),
        "the data set is gated",
        "https://huggingface.co/datasets/owner/set, and log in",
    ),
    (
        FileNotFoundError("Revision 'v1' doesn't exist for dataset 'owner/set' on the Hub."),
        "there is no revision 'v1'",
        "set revision to a branch",
    ),
    (
        FileNotFoundError("Dataset 'owner/set' doesn't exist on the Hub or cannot be accessed."),
        "there is no such data set, or it is private",
        "check `hub`",
    ),
    (
        ConnectionError("Couldn't reach 'owner/set' on the Hub (OfflineModeIsEnabled)"),
        "the hub cannot be reached",
        "unset HF_HUB_OFFLINE",
    ),
    (OSError("disk\nfull"), "cannot be loaded: OSError: disk full", "`path`"),
]


@pytest.mark.parametrize(("error", "what", "hint"), ERRORS, ids=[each[1][:30] for each in ERRORS])
def test_errors_of_the_library_are_a_line_with_a_setting(
    error: Exception, what: str, hint: str, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = raised(hub, error, monkeypatch)
    assert what in caught.what and hint in str(caught.hint)
    assert str(caught).count("\n") == 1 and caught.__cause__ is error


def test_many_subsets_are_cut_with_the_nearest_first(
    hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    names = [f"set{i}-{'x' * 20}" for i in range(500)]

    def load_dataset(path: str, **kwargs: Any) -> Any:
        raise ValueError(f"BuilderConfig 'set499' not found. Available: {names}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error = refusal(Source(hub="owner/set", subset="set499-xxxxxxxxxxxxxxxxxxx", columns=COLUMNS))
    assert f"one of '{names[499]}'" in str(error.hint) and "and 480 more" in str(error.hint)
    assert len(str(error)) < 1000
