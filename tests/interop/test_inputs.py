"""Columns of files whose examples are predicted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Task
from flaxfer.data.examples import Examples
from flaxfer.errors import ConfigError, DataError
from flaxfer.interop.inputs import read_inputs
from tests.interop.test_predict import write

SCORE = Task("t", "regression", "mse")


def read(file: Path, ignored: Any) -> Examples:
    return read_inputs(file, SCORE, ignored=ignored).examples


@pytest.mark.parametrize(
    ("name", "lines", "findings"),
    [
        ("x.csv", ["text_a, text_b", "dog,cat"], ["column ' text_b'; did you mean 'text_b'?"]),
        ("x.tsv", ["text_a\tText_B", "dog\tcat"], ["column 'Text_B'; did you mean 'text_b'?"]),
        ("x.csv", ["text_a,text-b", "dog,cat"], ["column 'text-b'; did you mean 'text_b'?"]),
        ("x.csv", ["text_a,Text B ", "dog,cat"], ["column 'Text B '; did you mean 'text_b'?"]),
        ("x.csv", ["text_a,languge", "dog,en"], ["column 'languge'; did you mean 'language'?"]),
        ("x.csv", ["text_a,label", "dog,1"], ["column 'label'"]),
        ("x.csv", [",text_a", "0,dog"], ["column ''"]),
        ("x.csv", ["text_a,note,note", "dog,1,2"], ["column 'note'", "column 'note'"]),
        ("x.csv", ['\ufefftext_a,"a, b"', "dog,1"], ["column 'a, b'"]),
        (
            "x.tsv",
            ['text_a\t"text_b"', "dog\tcat"],
            ["""column '"text_b"'; did you mean 'text_b'?"""],
        ),
        (
            "x.jsonl",
            ['{"text_a": "dog"}', '{"text_a": "cat", "score": 3, "Text_b": "a"}'],
            ["column 'score'", "column 'Text_b'; did you mean 'text_b'?"],
        ),
        ("x.jsonl.gz", ['{"text_a": "dog", "label": 1}'], ["column 'label'"]),
    ],
)
def test_no_column_is_left_unread_in_silence(
    tmp_path: Path, name: str, lines: list[str], findings: list[str]
) -> None:
    file = write(tmp_path / name, lines)
    with pytest.raises(DataError) as caught:
        read_inputs(file, SCORE)
    assert list(caught.value.details) == findings
    assert "would not be read" in caught.value.what and str(file) == caught.value.where
    # The hint works.
    words = shlex.split((caught.value.hint or "").rpartition("add --ignore-columns")[2][:-1])
    assert read(file, words).text_b is None
    assert len(read(file, None)) == len(lines) - (".csv" in name or ".tsv" in name)


def test_many_unread_columns_are_summarised(tmp_path: Path) -> None:
    names = [f"x{i}" for i in range(1000)]
    file = write(tmp_path / "x.csv", [",".join(["text_a", *names]), ",".join(["dog"] * 1001)])
    with pytest.raises(DataError) as caught:
        read_inputs(file, SCORE)
    assert caught.value.details[-1] == "and 990 more" and len(str(caught.value)) < 700
    assert read(file, None).text_a == ("dog",)


@pytest.mark.parametrize("ignored", [["lable"], ["text_a"], [""]])
def test_a_column_to_ignore_that_is_not_there_is_refused(
    tmp_path: Path, ignored: list[str]
) -> None:
    file = write(tmp_path / "x.csv", ["text_a,label", "dog,1"])
    with pytest.raises(ConfigError, match=r"the columns are 'text_a', 'label'") as caught:
        read_inputs(file, SCORE, ignored=ignored)
    assert caught.value.details == (f"--ignore-columns {ignored[0]!r}",)


def test_a_read_column_can_be_ignored(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", ["text_a,text_b,id", "dog,cat,7", "dog,cat,7"])
    examples = read(file, ["text_b", "id"])
    assert examples.text_b is None and examples.id == ("x:1", "x:2")
