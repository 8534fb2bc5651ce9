"""Vocabularies without tokenizer.json, or beside another one, are read as they say or refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.tokenizer_folders import (
    assert_as_in_the_file,
    edit,
    load,
    refusal,
)
from tests.helpers import tiny_tokenizer


def vocabulary_folder(folder: Path, **config: Any) -> tuple[Path, list[str]]:
    """A BERT with vocab.txt alone, and its tokens."""
    tiny_tokenizer(folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, lines


def test_a_blank_line_of_a_vocabulary_is_named(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    text = "\n".join(lines) + "\n"
    expected = load(folder)("the man")["input_ids"]
    for good in (text, text.replace("\n", "\r\n"), text.removesuffix("\n")):
        (folder / "vocab.txt").write_bytes(good.encode())
        assert load(folder)("the man")["input_ids"] == expected
    for number in (1, 7, len(lines) + 1):
        for blank in ("", "\r", "  "):
            damaged = [*lines[: number - 1], blank, *lines[number - 1 :]]
            (folder / "vocab.txt").write_bytes(("\n".join(damaged) + "\n").encode())
            text = refusal(folder)
            assert f"blank line in vocab.txt: line {number} of {len(lines) + 1}" in text
            assert str(folder / "vocab.txt") in text


def test_a_vocabulary_that_is_no_plain_text_is_named(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    text = "\n".join(lines)
    (folder / "vocab.txt").write_text(text, encoding="utf-8-sig")
    assert "vocab.txt begins with a byte order mark" in refusal(folder)
    (folder / "vocab.txt").write_text(text.replace("guitar", "güitar"), encoding="latin-1")
    assert f"{folder / 'vocab.txt'}: the file cannot be read" in refusal(folder)


def test_the_last_of_two_equal_tokens_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    lines[lines.index("piano")] = "the"
    (folder / "vocab.txt").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING, "flaxfer.data"):
        last = len(lines) - 1 - lines[::-1].index("the")
        assert load(folder)("the")["input_ids"][1] == last
    assert "1 lines repeat an earlier token" in caplog.text


def test_a_special_token_that_the_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    (folder / "vocab.txt").write_text("\n".join(lines).replace("[PAD]", "<pad>"))
    text = refusal(folder)
    assert "pad_token is '[PAD]', which is not in vocab.txt" in text
    edit(folder, "tokenizer_config.json", pad_token="<pad>")
    assert load(folder).pad_token_id == 0
    edit(folder, "tokenizer_config.json", pad_token="<none>")
    assert "pad_token is '<none>'" in refusal(folder) and "tokenizer_config.json" in refusal(folder)


def test_added_tokens_of_a_vocabulary_keep_their_ids(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    edit(folder, "config.json", vocab_size=len(lines) + 9)
    edit(folder, "added_tokens.json", **{"<e1>": len(lines), "<e2>": len(lines) + 1})
    assert load(folder)("a <e2> cat")["input_ids"][2] == len(lines) + 1
    edit(folder, "added_tokens.json", **{"<e2>": len(lines) + 5})
    assert f"'<e2>' has id {len(lines) + 5}, but {len(lines) + 1} in" in refusal(folder)


def test_a_vocabulary_that_does_not_say_whether_it_lowercases(tmp_path: Path) -> None:
    folder, _ = vocabulary_folder(tmp_path)
    edit(folder, "tokenizer_config.json", do_lower_case=None)
    assert "tokenizer_config.json does not say whether to lowercase" in refusal(folder)


@pytest.mark.parametrize(
    ("settings", "program"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "CpmTokenizer"}, "Jieba"),
        ({"tokenizer_class": "BertTokenizer", "word_tokenizer_type": "mecab"}, "mecab"),
    ],
)
def test_words_of_another_program_are_refused_by_name(
    settings: dict[str, Any], program: str, tmp_path: Path
) -> None:
    folder, _ = vocabulary_folder(tmp_path / "vocabulary", **settings)
    assert program in refusal(folder) and "splits words" in refusal(folder)
    folder = tiny_tokenizer(tmp_path / "file")
    edit(folder, "tokenizer_config.json", **settings)
    assert program in refusal(folder)
    edit(
        folder,
        "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        word_tokenizer_type=None,
    )
    assert_as_in_the_file(folder)  # As the hint says.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizer_class": "PhantomTokenizer"}, "tokenizer_class 'PhantomTokenizer' cannot be"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "tokenizer.json is missing"),
        ({"tokenizer_class": "RobertaTokenizer"}, "vocab.json and merges.txt is missing"),
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "in code of its own cannot be"),
    ],
)
def test_a_class_that_cannot_read_the_vocabulary_is_refused(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder, _ = vocabulary_folder(tmp_path)
    edit(folder, "tokenizer_config.json", **changes)
    assert expected in refusal(folder)


def byte_level_folder(folder: Path) -> tuple[Path, dict[str, int]]:
    """A RoBERTa with vocab.json and merges.txt alone."""
    tiny_tokenizer(folder, "roberta")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    )
    return folder, model["vocab"]


def test_ids_of_a_vocabulary_may_have_gaps(tmp_path: Path) -> None:
    folder, vocabulary = byte_level_folder(tmp_path)
    expected = load(folder)("the man, the réd")["input_ids"]
    size = len(vocabulary)
    moved = {token: i if i < 5 else i + 100 for token, i in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(moved))
    assert f"largest id is {size + 99}" in refusal(folder)
    edit(folder, "config.json", vocab_size=size + 100)
    found = load(folder)("the man, the réd")["input_ids"]
    assert found == [i if i < 5 else i + 100 for i in expected]


def test_byte_level_vocabularies_need_their_merges(tmp_path: Path) -> None:
    folder, vocabulary = byte_level_folder(tmp_path)
    (folder / "merges.txt").rename(folder / "merges")
    assert "merges.txt is missing, which RobertaTokenizer reads" in refusal(folder)
    (folder / "merges").rename(folder / "merges.txt")
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"a": "b"}))
    assert "'a' has no id, but 'b'" in refusal(folder)


def test_a_vocabulary_of_another_model_beside_tokenizer_json_is_named(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path / "bert")
    _, lines = vocabulary_folder(tmp_path / "other")
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n\n")
    assert_as_in_the_file(folder)  # It is not read, so a blank line does no harm.
    lines[9], lines[10] = lines[10], lines[9]
    (folder / "vocab.txt").write_text("\n".join(lines))
    text = refusal(folder)
    assert "vocab.txt is the vocabulary of another tokenizer than tokenizer.json" in text
    assert f"2 tokens differ, such as {lines[9]!r}, with id 9 in vocab.txt and 10 in" in text
    folder = tiny_tokenizer(tmp_path / "roberta", "roberta")
    byte_level_folder(tmp_path / "bytes")
    shutil.copy(tmp_path / "bytes/vocab.json", folder)
    assert_as_in_the_file(folder)
    edit(folder, "vocab.json", **{"the": 999})
    assert "vocab.json is the vocabulary of another tokenizer" in refusal(folder)
