"""Tagging, question answering and multiple choice as tokens, against transformers' own examples."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import tokenize
from flaxfer.errors import DataError
from flaxfer.tasks import TASK_TYPES
from tests.data.helpers import examples_of
from tests.data.reference import check_tags, check_windows, sequences
from tests.data.test_tokenize import FAMILIES, assert_same, load
from tests.data.test_tokenize import examples as pairs
from tests.helpers import Family

SENTENCES = (
    ("The", "man", "plays", "guitar", "."),
    ("réd-big", "犬", "cat"),
    ("not",),
    ("the", "red", "dog", "is", "eating", "a", "cat", "and") * 6,
    ("a", "b" * 30, "man"),
)
QUESTIONS = ("Who plays?", "a cat", "is  the dog red?", "what", "who?")
CONTEXTS = (
    "The man plays the guitar. A woman is réd.",
    "cat " * 20 + "«dog» — " + "big " * 20,
    "not",
    "  a dog,\u00a0 a cat \n\n and a child ",
    "a man " * 40,
)
TEXTS = (("réd", "guitar"), ("dog",), (), ("a cat \n\n and",), ("man a " * 20 + "man",))
ANSWERS = tuple(
    tuple((text, context.index(text)) for text in texts)
    for texts, context in zip(TEXTS, CONTEXTS, strict=True)
)


def tagged(sentences: Any = SENTENCES) -> Examples:
    tags = tuple(tuple(i % 5 - 1 for i in range(len(words))) for words in sentences)
    return examples_of("tagging", sentences, None, tags)


def asked() -> Examples:
    return examples_of("question_answering", QUESTIONS, CONTEXTS, ANSWERS)


def chosen() -> Examples:
    choices = (("It is a dog.", "not", "red " * 9), ("A cat", "the dog " * 9, "x"))
    return examples_of(
        "multiple_choice", ("What is eating?", "big " * 9), choices, np.array([2, 0], np.int32)
    )


def words_tokenizer(tokenizer: Any, family: Family) -> Any:
    """A tokenizer that transformers lets have words."""
    if family == "roberta":
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


@pytest.mark.parametrize("max_length", [8, 20, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_tags_stand_where_transformers_has_words(
    family: Family, max_length: int, tmp_path: Path
) -> None:
    tokenizer = load(tmp_path, family)
    data = tagged()
    tokenized = tokenize(data, tokenizer, max_length, None)
    check_tags(tokenized, data, words_tokenizer(load(tmp_path, family), family), max_length)
    assert tokenized.task_type.name == "tagging" and len(tokenized) > len(data) - (max_length == 64)
    assert tokenized.label.dtype == tokenized.span.dtype == tokenized.example.dtype == np.int32
    heads = tokenized.span[:, 0] >= 0
    np.testing.assert_array_equal(tokenized.span[heads, 1], tokenized.span[heads, 0] + 1)
    assert (tokenized.span[~heads] == -1).all() and (tokenized.label[~heads] == -1).all()
    expected = tokenized.lengths - 1 if family == "xlnet" else np.zeros(len(tokenized))
    np.testing.assert_array_equal(tokenized.cls, expected)
    last = tokenized.offset[:-1] + tokenized.cls
    assert (tokenized.token[last] == tokenizer.cls_token_id).all()
    assert (tokenized.type[last] == (2 if family == "xlnet" else 0)).all()


def test_a_word_without_pieces_is_the_unknown_token(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    data = tagged((("a", "\u200b", "\u200d\u200b", "cat"),))
    tokenized = tokenize(data, tokenizer, 16, None)
    assert tokenizer.decode(tokenized.token) == "[CLS] a [UNK] [UNK] cat [SEP]"
    assert tokenized.label.tolist() == [-1, -1, 0, 1, 2, -1]
    tokenizer.unk_token = None
    with pytest.raises(DataError, match="x:0: a word has no token"):
        tokenize(data, tokenizer, 16, None)


def test_a_word_longer_than_a_sequence_keeps_its_first_pieces(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    tokenized = tokenize(tagged((("a", "zyxwvuts", "cat"),)), tokenizer, 6, None)
    texts = [tokenizer.decode(tokenized.token[where]) for where in sequences(tokenized)]
    assert texts == ["[CLS] a [SEP]", "[CLS] zyxw [SEP]", "[CLS] cat [SEP]"]
    assert tokenized.truncated == 1 and tokenized.example.tolist() == [0, 0, 0]
    assert tokenized.label[tokenized.label >= 0].tolist() == [0, 1]  # The first has none.


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_are_those_of_run_qa(family: Family, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    for max_length, stride in ((64, 16), (40, 0), (40, 16)):
        tokenized = tokenize(asked(), tokenizer, max_length, None, stride)
        held, _ = check_windows(tokenized, asked(), load(tmp_path, family), max_length, stride)
        assert held > 1
        assert len(tokenized) > 5 and tokenized.lengths.max() == max_length
        assert tokenized.task_type.name == "question_answering" and tokenized.truncated == 0
    assert tokenized.label.dtype == tokenized.span.dtype == np.int32
    at_summary = (tokenized.label == tokenized.cls[:, None]).all(axis=1)
    by_example = [at_summary[tokenized.example == i] for i in range(5)]
    assert all(by_example[2])  # Without an answer.
    assert all(by_example[4])  # An answer longer than the window.


def test_answers_of_words_are_exact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load(tmp_path)
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        tokenized = tokenize(asked(), tokenizer, 40, None, 10)
    assert check_windows(tokenized, asked(), load(tmp_path), 40, 10) == (3, 3)
    assert f"5 examples, {len(tokenized)} sequences" in caplog.text
    assert "no window contains the answer of 1 of 5 questions" in caplog.text


def test_answers_at_every_place_of_a_context(tmp_path: Path) -> None:
    """Those that end with a window, and those that begin or end one token beyond it."""
    tokenizer = load(tmp_path)
    context = "the red dog is big " * 8
    places = range(0, 36)
    words = context.split()
    answers = tuple(
        ((" ".join(words[i : i + 4]), len(" ".join([*words[:i], ""]))),) for i in places
    )
    questions = ("who",) * len(places)
    data = examples_of("question_answering", questions, (context,) * len(places), answers)
    for stride in (0, 2, 3):
        tokenized = tokenize(data, tokenizer, 20, None, stride)
        held, exact = check_windows(tokenized, data, tokenizer, 20, stride)
        # Of four tokens at least one window has all if windows share three.
        assert exact == held and (held == 36) == (stride == 3)


def test_a_question_that_leaves_no_room_is_named(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    questions = ("a " * 20, "what", "cat " * 30)
    data = examples_of("question_answering", questions, ("dog " * 30,) * 3, ((), (), ()))
    assert tokenize(data, tokenizer, 40, None, 3).lengths.max() == 40
    with pytest.raises(DataError) as caught:
        tokenize(data, tokenizer, 30, None, 8)
    assert caught.value.details == ("x:0: 20 tokens leave 7", "x:2: 30 tokens leave 0")
    assert "train.doc_stride" in str(caught.value)
    # A context that fits whole needs no window beside it.
    short = examples_of("question_answering", ("a " * 20,), ("dog",), ((),))
    assert len(tokenize(short, tokenizer, 24, None, 8)) == 1
    with pytest.raises(DataError, match="x:0: 20 tokens leave 0"):
        tokenize(short, tokenizer, 23, None, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_are_pairs(family: Family, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    tokenized = tokenize(chosen(), tokenizer, 20, None)
    assert tokenized.task_type.name == "multiple_choice" and tokenized.choices == 3
    assert tokenized.example.tolist() == [0, 0, 0, 1, 1, 1] and len(tokenized.id) == 2
    assert tokenized.label.tolist() == [2, 0]
    backend = load(tmp_path, family).backend_tokenizer
    backend.enable_truncation(20, strategy="longest_first")
    cut = [False, False]
    for i, where in enumerate(sequences(tokenized)):
        text_b: Any = chosen().text_b
        one = backend.encode(chosen().text_a[i // 3], text_b[i // 3][i % 3])
        assert tokenized.token[where].tolist() == one.ids
        cut[i // 3] |= bool(one.overflowing)
    assert tokenized.truncated == sum(cut) and cut[1]


KINDS = {
    "classification": pairs,
    "tagging": tagged,
    "question_answering": asked,
    "multiple_choice": chosen,
}


class Untouchable:
    """A tokenizer that may be asked what it is, but not be called."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the tokenizer was called")


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_make_no_difference(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load(tmp_path)
    whole = tokenize(KINDS[kind](), tokenizer, 32, None, 8)
    monkeypatch.setattr("flaxfer.data.encode.CHUNK", 2)
    assert_same(whole, tokenize(KINDS[kind](), tokenizer, 32, None, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_cache_hit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load(tmp_path / "model", "roberta")
    data = KINDS[kind]()
    first = tokenize(data, tokenizer, 48, tmp_path / "cache", 8)
    assert_same(first, tokenize(data, tokenizer, 48, None, 8))
    untouchable: Any = Untouchable(tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(type(data.task_type), "encode", None)
        assert_same(first, tokenize(data, untouchable, 48, tmp_path / "cache", 8))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]
    stride = tokenize(data, tokenizer, 48, None, 9).fingerprint
    assert (stride == first.fingerprint) == (kind != "question_answering")


@pytest.mark.parametrize("kind", KINDS)
def test_cache_of_other_arrays_is_made_again(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load(tmp_path / "model")
    data = KINDS[kind]()
    first = tokenize(data, tokenizer, 32, tmp_path / "cache", 8)
    (path,) = (tmp_path / "cache").iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    example, label, span = (arrays[name] for name in ("example", "label", "span"))
    for name, array in (
        ("example", example[:-1]),
        ("example", example[::-1]),
        ("example", np.zeros_like(example)),
        ("example", example[None]),
        ("label", label.astype(np.int64)),
        ("label", np.concatenate([label, label, [label[0]] if len(label) else [0]])),
        ("span", np.concatenate([span, [[0, 1]]]).astype(np.int32)),
        ("counts", arrays["counts"][:2]),
        ("offset", arrays["offset"][:-1]),
        ("token", arrays["token"][::-1]),
        ("type", np.array([None, {}], dtype=object)),
        ("cls", arrays["cls"] + 1),
    ):
        caplog.clear()
        np.savez(path, **(arrays | {name: array}))
        assert_same(first, tokenize(data, tokenizer, 32, tmp_path / "cache", 8))
        assert "is damaged and is made again" in caplog.text, name


def test_the_fingerprint_covers_the_splitting_of_words_and_all_tags(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "roberta")
    of_texts = json.loads(tokenizer.backend_tokenizer.pre_tokenizer.__getstate__())
    (of_words,) = TASK_TYPES["tagging"].encoding_settings(tokenizer, 0)
    assert of_words == of_texts | {"add_prefix_space": True} != of_texts
    before = tokenize(tagged(), tokenizer, 32, None).fingerprint
    changed = dataclasses.replace(tagged(), label=(*tagged().label[:-1], (0, 0, 0)))
    assert tokenize(changed, tokenizer, 32, None).fingerprint != before
