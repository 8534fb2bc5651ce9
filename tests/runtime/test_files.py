"""Files are written whole or not at all, and records notice what was done to them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from flaxfer.runtime import files, sealed
from flaxfer.runtime.files import StorageError

CONTENT = {"scores": {"f1": 0.5, "mcc": None}, "labels": ("no", "yes"), "name": "Malmö"}


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    files.write_atomically(file, "one\nMalmö\n")
    assert file.read_bytes() == "one\nMalmö\n".encode()
    files.write_atomically(file, b"\0\xff")
    assert file.read_bytes() == b"\0\xff"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_changes_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(file, "after")
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(file, "after", lambda: 1 / 0)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR])
def test_only_errors_of_the_disk_are_called_so(number: int, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(number)), files.storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(StorageError) as caught, files.storage_errors(tmp_path / "a" / "b", 1234):
        raise OSError(errno.EDQUOT, "quota")
    assert caught.value.what.startswith("the disk quota is used up")
    assert caught.value.details[0] == "bytes needed: 1,234"
    assert caught.value.details[1].startswith("bytes free: ")


def test_a_record_comes_back_and_is_read_by_others_as_json(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    sealed.write(file, CONTENT, "stage/record.json")
    expected = {**CONTENT, "labels": ["no", "yes"]}
    assert sealed.read(file, "stage/record.json") == expected
    assert json.loads(file.read_text()).items() > expected.items()
    file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    assert sealed.read(file, "stage/record.json") == expected, "order and spaces do not matter"
    with pytest.raises(ValueError, match="belongs elsewhere"):
        sealed.read(file, "other/record.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 40,
        "[]",
        "7",
        '{"scores": ',
        "[" * 100_000,
        "1" * 5000,
        json.dumps(sealed.sealed(CONTENT) | {"name": "Malmo"}),
        json.dumps(sealed.sealed(CONTENT) | {"more": 1}),
        json.dumps(sealed.sealed(CONTENT) | {"checksum": ""}),
        json.dumps({k: v for k, v in sealed.sealed(CONTENT).items() if k != "labels"}),
    ],
)
def test_a_record_that_is_damaged_or_edited_is_not_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(sealed.UNREADABLE):
        sealed.read(file)


def test_a_json_file_of_enormous_size_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "MAX_BYTES", 100)
    file = tmp_path / "record.json"
    file.write_text(json.dumps("x" * 98))
    assert sealed.read_json(file) == "x" * 98
    file.write_text(json.dumps("x" * 99))
    with pytest.raises(ValueError, match="more than 100 bytes"):
        sealed.read_json(file)
