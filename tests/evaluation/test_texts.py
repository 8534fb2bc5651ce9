"""Texts of evaluated sets: what is kept of an example, and the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from flaxfer.data.examples import EXCERPT, Examples, Texts, excerpts
from flaxfer.errors import DataError
from flaxfer.evaluation.texts import read_texts, write_texts
from flaxfer.tasks import TASK_TYPES
from tests.helpers import random_tokenized


def examples(kind: str, text_a: Texts, text_b: Texts | None = None) -> Examples:
    n = len(text_a)
    names = tuple(f"e{i}" for i in range(n))
    label = np.zeros(n, np.int32)
    return Examples(TASK_TYPES[kind], text_a, text_b, label, names, ("en",) * n, ("",) * n)


def test_excerpts_are_texts_choices_or_words() -> None:
    assert excerpts(examples("classification", ("a b", "c"))) == (("a b",), ("c",))
    assert excerpts(examples("classification", ("a",), ("b",))) == (("a", "b"),)
    choices = examples("multiple_choice", ("a",), (("b", "c"),))
    assert excerpts(choices) == (("a", "b", "c"),)
    assert excerpts(examples("tagging", (("a", "b"),))) == (("a", "b"),)


def test_long_texts_are_cut_and_half_characters_replaced() -> None:
    ((long,), (broken,)) = excerpts(examples("classification", ("x" * 1000, "\ud800!")))
    assert len(long) == EXCERPT and long.endswith("x…")
    assert broken == "?!"


def test_the_file_is_sealed_and_shared_by_the_stages_of_a_store(tmp_path: Path) -> None:
    text = (("naïve\n", "二"), ("b",), ("c",))
    data = dataclasses.replace(random_tokenized(3), text=text)
    confirmed: list[int] = []
    for stage in ("one", "two"):
        file = tmp_path / stage / "predictions" / "test-0123.jsonl"
        write_texts(file, data, lambda: confirmed.append(1))
        assert read_texts(file) == {
            name: list(parts) for name, parts in zip(data.id, text, strict=True)
        }
    assert confirmed == [1]
    (written,) = tmp_path.glob("texts/*")
    assert written.name == "test-0123.json" and "二" in written.read_text(encoding="utf-8")
    record = json.loads(written.read_text(encoding="utf-8"))
    written.write_text(json.dumps(record | {"id": ["a", "b", "c"]}))
    with pytest.raises(DataError, match="texts are damaged") as caught:
        read_texts(file)
    assert caught.value.where == str(written) and "delete the file" in str(caught.value.hint)


def test_sets_without_texts_have_no_file(tmp_path: Path) -> None:
    file = tmp_path / "one" / "predictions" / "test-0123.jsonl"
    write_texts(file, random_tokenized(3), lambda: None)
    assert read_texts(file) == {} and not (tmp_path / "texts").exists()
