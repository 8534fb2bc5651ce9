"""Characters of answers: combining marks, invisible characters, and what tokenizers merge."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from flaxfer.config import Model, Source, Task
from flaxfer.data.examples import Examples
from flaxfer.data.sources import read_source
from flaxfer.data.tokenize import load_tokenizer, tokenize
from flaxfer.tasks import characters, task_type
from tests.data.helpers import examples_of
from tests.data.test_shared_kinds import model
from tests.data.test_tokenize import FAMILIES, load
from tests.helpers import Family

QA = Task("qa", "question_answering", "f1", no_answer=True)


def decoded(data: Examples, tokenizer: Any, max_length: int = 64, stride: int = 8) -> list[str]:
    """The text of each question's first answer, as its tokens have it; the first window's."""
    tokenized = tokenize(data, tokenizer, max_length, None, stride)
    texts: dict[int, str] = {}
    for i, example in enumerate(tokenized.example.tolist()):
        first, last = tokenized.label[i].tolist()
        if first != tokenized.cls[i]:
            span = tokenized.span[tokenized.offset[i] : tokenized.offset[i + 1]]
            context, _ = tokenized.reference[example]
            texts.setdefault(example, context[span[first, 0] : span[last, 1]])
    return [texts.get(i, "") for i in range(len(data))]


def answered(*pairs: tuple[str, str]) -> Examples:
    """Questions with contexts and an answer that occurs there once."""
    assert all(context.count(answer) == 1 for context, answer in pairs)
    labels = tuple(((answer, context.index(answer)),) for context, answer in pairs)
    return examples_of("question_answering", ("who",) * len(pairs), [c for c, _ in pairs], labels)


def by_character(normalizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for every character of the normalised text."""
    special = ["[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {name: i for i, name in enumerate(special)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizer
    pattern = tokenizers.Regex(r"[\s\S]")
    backend.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[SEP]", **names)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_keep_their_combining_marks(family: Family, tmp_path: Path) -> None:
    pairs = [
        (nfd("born in malmö as a child"), nfd("malmö")),
        (nfd("é à malmö, é"), nfd("malmö")),
        ("a cat \u0915\u094b dog", "\u0915\u094b"),
        (nfd("réd dog"), nfd("réd")),
    ]
    assert decoded(answered(*pairs), load(tmp_path, family)) == [answer for _, answer in pairs]


@pytest.mark.parametrize("hidden", ["\u200b", "\ufeff", "\u00ad", "\u200e", "\u2066", "\x1c"])
@pytest.mark.parametrize("family", FAMILIES)
def test_invisible_characters_around_an_answer_are_left_out(
    family: Family, hidden: str, tmp_path: Path
) -> None:
    data = answered((f"a man in {hidden}turku{hidden} is{hidden} a child", "turku"))
    assert decoded(data, load(tmp_path, family)) == ["turku"]


def test_invisible_characters_within_an_answer_stay(tmp_path: Path) -> None:
    pairs = [("a foot\u00adball dog", "foot\u00adball"), ("a \u06dd12 dog", "\u06dd12")]
    assert decoded(answered(*pairs), load(tmp_path)) == [answer for _, answer in pairs]


@pytest.mark.parametrize(
    "answer",
    [
        "\uff8a\uff9f\uff85\uff8f",  # Half-width kana: NFKC makes one of the first two.
        "\uff76\uff9e",
        nfd("서울"),
        nfd("각"),
        "\u0e19\u0e49\u0e33",  # NFKC divides the last one.
        "\u0915\u094d\u200d",  # A joiner that the letter before needs.
        "ﬁsh½",
        nfd("Å"),
        "\U0001f44d\U0001f3fd",
        "\u2764\ufe0f",
    ],
)
@pytest.mark.parametrize("form", ["NFKC", "NFD", ""])
def test_answers_have_whole_characters_whatever_the_normaliser_makes_of_them(
    answer: str, form: str
) -> None:
    normalizer = normalizers.Sequence([getattr(normalizers, form)()] if form else [])
    data = answered((f"x {answer} y", answer), (f"«{answer}»", answer), (answer, answer))
    assert decoded(data, by_character(normalizer)) == [answer] * 3


def test_a_dropped_mark_belongs_to_the_character_before_it() -> None:
    drop = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    data = answered((nfd("is Malmö big"), nfd("Malmö")), (nfd("ö ä"), nfd("ä")))
    assert decoded(data, by_character(drop)) == [nfd("Malmö"), nfd("ä")]


def test_a_mark_without_a_character_stands_alone() -> None:
    text = "\u0301a \u0301b\u200b\u0301\u0301"
    assert characters.joined(text).tolist() == [False] * 7 + [True]
    assert characters.joined("").tolist() == []
    assert characters.blank("a\u200b \u3164\u200d\u0301").tolist() == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("xlnet-cased", "xquad/xquad.hi.json"),
        ("xlnet-cased", "xquad/xquad.th.json"),
        ("bert-base-multilingual-cased", "tydiqa-goldp/telugu_tydiqa_dev.json"),
        ("me5-small-32k-xlmr", "xquad/xquad.ar.json"),
    ],
)
def test_real_answers_lose_no_character(name: str, file: str, shared: Path, tmp_path: Path) -> None:
    data = read_source(Source(str(shared / "data" / file), format="squad"), QA, task_type(QA))
    data = data.take(np.arange(0, len(data), 10))
    tokenizer = load_tokenizer(Model(path=model(name, shared, tmp_path)))
    golds = [answers[0][0] for answers in data.label]
    texts = decoded(data, tokenizer, 384, 128)
    assert all(gold in text for gold, text in zip(golds, texts, strict=True))
    # The others begin or end within a token.
    assert sum(gold == text for gold, text in zip(golds, texts, strict=True)) > 0.75 * len(data)
