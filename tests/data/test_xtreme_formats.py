"""The files of XTREME-R's tasks, as their authors publish them and as XTREME's scripts write them.

Invented lines in every format, and, where they are there, the published files: their records are
counted a second time without the readers.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from flaxfer.data.checks import warn_of_sorted
from tests.data.helpers import COPA, COPA_COLUMNS, COPA_QUESTIONS, NLI, read, refusal, text_file

UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
POS = Task(
    "pos",
    "tagging",
    "accuracy",
    labels=tuple(UPOS.split(" ")),
)
NER = Task("ner", "tagging", "f1", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
QA = Task("qa", "question_answering", "f1")
PAIR_THEN_LABEL: dict[str, str | int] = {"text_a": 0, "text_b": 1, "label": 2}
WORD_THEN_TAG: dict[str, str | int] = {"words": 0, "tags": 1}
SIQA: dict[str, str | int] = {
    "text_a": "context",
    "question": "question",
    "choice_1": "answerA",
    "choice_2": "answerB",
    "choice_3": "answerC",
}
LETTERS = {"A": "0", "B": "1", "C": "2"}
NUMBERS = {"1": "0", "2": "1", "3": "2"}
REMOVED = "the labels are not in this file: "


def siqa(*labels: str) -> str:
    rows = [
        {"context": f"Kim ran {i}.", "question": "Why?"}
        | {f"answer{letter}": f"{letter}{i}" for letter in LETTERS}
        | ({"correct": label} if label else {})
        for i, label in enumerate(labels)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def squad(*answers: tuple[str, int]) -> str:
    questions = [
        {"id": f"q{i}", "question": "Wer?", "answers": [{"text": text, "answer_start": start}]}
        for i, (text, start) in enumerate(answers)
    ]
    paragraph = {"context": " Anna 2 ", "qas": questions}
    return json.dumps({"data": [{"paragraphs": [paragraph]}]})


def test_xnli_is_read_as_published_and_as_xtreme_writes_it(tmp_path: Path) -> None:
    plain = 'He said "no".\tHe spoke.\tentailment\nA, b\tC\tneutral\n'
    source = Source(text_file(tmp_path, plain), header=False, columns=PAIR_THEN_LABEL)
    published = read(source, NLI)
    # Python's csv module: quotes are doubled, and lines end in CR LF.
    copied = '"He said ""no""."\tHe spoke.\tentailment\r\nA, b\tC\tneutral\r\n'
    path = text_file(tmp_path, copied, "dev-en.tsv")
    source = Source(path, header=False, columns=PAIR_THEN_LABEL, quotes="csv")
    copy = read(source, NLI)
    assert published.text_a == copy.text_a == ('He said "no".', "A, b")
    assert published.label.tolist() == copy.label.tolist() == [0, 1]
    path = text_file(tmp_path, "A, b\tC\r\nD\tE\r\n", "test-en.tsv")
    error = refusal(Source(path, header=False, columns=PAIR_THEN_LABEL, quotes="csv"), NLI)
    assert error.what.startswith(f"{REMOVED}each line has 2 column(s)")


def test_siqa_has_its_labels_in_the_records_or_in_a_file_apart(tmp_path: Path) -> None:
    path = text_file(tmp_path, siqa("C", "A"), "train.jsonl")
    inside = read(Source(path, columns=SIQA | {"label": "correct"}, labels=LETTERS), COPA)
    path = text_file(tmp_path, siqa("", ""), "dev.jsonl")
    text_file(tmp_path, "3\n1\n", "dev-labels.lst")
    apart = Source(path, columns=SIQA, aligned={"label": "dev-labels.lst"}, labels=NUMBERS)
    beside = read(apart, COPA)
    for examples in (inside, beside):
        assert examples.text_a == ("Kim ran 0. Why?", "Kim ran 1. Why?")
        assert examples.text_b == (("A0", "B0", "C0"), ("A1", "B1", "C1"))
        assert list(examples.label) == [2, 0]
    text_file(tmp_path, "3\n", "dev-labels.lst")
    assert "aligned files must have as many lines" in refusal(apart, COPA).what


def test_choices_that_are_all_the_same_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause"}
    rows = [row | {"premise": f"P{i}.", "label": 0} for i in range(60)]

    def warnings(rows: list[dict[str, Any]]) -> list[str]:
        caplog.clear()
        path = text_file(tmp_path, "".join(map(json.dumps, rows)).replace("}", "}\n"), "c.jsonl")
        read(Source(path, columns=COPA_COLUMNS, questions={"cause": "Why?"}), COPA)
        return [r.message for r in caplog.records if r.levelno == logging.WARNING]

    assert ["all 60 labels are the same" in text for text in warnings(rows)] == [True]
    assert not warnings([*rows[1:], rows[0] | {"label": 1}]) and not warnings(rows[:49])


def test_words_may_have_the_language_before_them(tmp_path: Path) -> None:
    panx = "en:Anna\tB-PER\nen:sings\tO\n\nen:Ulm\tB-LOC\n"
    path = text_file(tmp_path, panx, "en-train")
    source = Source(path, format="conll", columns=WORD_THEN_TAG, word_prefix="en:")
    bare = text_file(tmp_path, panx.replace("en:", ""), "train-en.tsv")
    for examples in (
        read(source, NER),
        read(Source(bare, format="conll", columns=WORD_THEN_TAG), NER),
    ):
        assert examples.text_a == (("Anna", "sings"), ("Ulm",))
        assert examples.label == ((1, 0), (3,))


def test_words_without_tags_are_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path, "Anna\nsings\n\nUlm\n", "test-en.tsv")
    error = refusal(Source(path, format="conll", columns=WORD_THEN_TAG), NER)
    assert error.what == f"{REMOVED}each line has a word and no tag"
    assert "as its authors publish it" in str(error.hint)


def test_tydiqa_has_no_version_and_may_be_stripped(tmp_path: Path) -> None:
    path = text_file(tmp_path, squad(("Anna", 1), ("2", 6)), "tydiqa.json")
    examples = read(Source(path, format="squad", language="fi"), QA)
    assert examples.label == ((("Anna", 1),), (("2", 6),))
    assert examples.text_b is not None and examples.text_b[0] == " Anna 2 "
    path = text_file(tmp_path, squad(("", 0), ("", 0)), "stripped.json")
    error = refusal(Source(path, format="squad"), QA)
    assert error.what == f"{REMOVED}all 2 questions have an empty answer"
    # A single empty answer is a fault of its record.
    path = text_file(tmp_path, squad(("Anna", 1), ("", 0)), "damaged.json")
    assert refusal(Source(path, format="squad"), QA).what == "1 finding(s) in the data"


def test_translations_of_which_one_side_is_sorted_are_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    english = [f"{i:02}" for i in range(60)]
    other = [f"{i * 7 % 60:02}" for i in range(60)]
    warn_of_sorted(other, english, "t")
    warn_of_sorted(english, other, "t")
    assert len(caplog.records) == 2 and "the lines of one side are sorted" in caplog.text
    warn_of_sorted(english, english, "t")
    warn_of_sorted(other, other, "t")
    warn_of_sorted(other[:9], english[:9], "t")
    assert len(caplog.records) == 2


def test_tatoeba_is_read_from_aligned_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task("translations", "retrieval", "accuracy_at_1")
    english = [f"Sentence {i:02}." for i in range(60)]
    german = [f"Satz {i * 7 % 60:02}." for i in range(60)]
    text_file(tmp_path, "\n".join(german) + "\n", "tatoeba.deu-eng.deu")
    files = {"query": "tatoeba.deu-eng.eng", "passage": "tatoeba.deu-eng.deu"}
    source = Source(str(tmp_path), format="lines", aligned=files, language="de")
    # As LASER has them, and as XTREME's script sorts them.
    for lines, sorted_side in ((english[::-1], False), (english, True)):
        caplog.clear()
        text_file(tmp_path, "\n".join(lines) + "\n", "tatoeba.deu-eng.eng")
        examples = read(source, task)
        assert examples.text_a == tuple(lines) and examples.text_b == tuple(german)
        assert ("the lines of one side are sorted" in caplog.text) == sorted_side


# The published files.


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("copa/train-en", 400),
        ("copa/val-en", 100),
        ("siqa/socialIQa_v1.4_dev", 1954),
        ("siqa/socialIQa_v1.4_tst", 2224),
    ],
)
def test_published_choices(file: str, rows: int, shared: Path) -> None:
    path = shared / f"data/{file}.jsonl"
    if file.startswith("copa"):
        source = Source(str(path), columns=COPA_COLUMNS, questions=COPA_QUESTIONS)
        right = [int(n) for n in re.findall(rb'"label": (\d)', path.read_bytes())]
    else:
        source = Source(str(path), columns=SIQA | {"label": "correct"}, labels=LETTERS)
        found = re.findall(r'"correct": "(\w)"', path.read_text(encoding="utf-8"))
        right = ["ABC".index(letter) for letter in found]
    examples = read(source, COPA)
    assert list(examples.label) == right and len(right) == rows


def test_published_labels_of_siqa_in_a_file_apart_are_those_of_its_records(shared: Path) -> None:
    folder = shared / "data/siqa"
    inside = Source(
        str(folder / "socialIQa_v1.4_dev.jsonl"),
        columns=SIQA | {"label": "correct"},
        labels=LETTERS,
    )
    apart = Source(
        str(folder / "leaderboard/dev.jsonl"),
        columns=SIQA,
        aligned={"label": "dev-labels.lst"},
        labels=NUMBERS,
    )
    one, other = read(inside, COPA), read(apart, COPA)
    assert list(one.label) == list(other.label) and one.text_b == other.text_b


@pytest.mark.parametrize(
    ("name", "sentences"),
    [("dev-zh", 1000), ("dev-wo", 449), ("test-th", 1000), ("test-mr", 47), ("test-yo", 318)],
)
def test_published_parts_of_speech(name: str, sentences: int, shared: Path) -> None:
    path = shared / f"data/udpos/{name}.tsv"
    examples = read(Source(str(path), format="conll", columns=WORD_THEN_TAG), POS)
    lines = path.read_bytes().decode().split("\n")
    tags = Counter(line.split("\t")[1] for line in lines if "\t" in line)
    assert Counter(POS.labels[tag] for sentence in examples.label for tag in sentence) == tags
    assert len(examples) == sentences


QUESTIONS = {"mlqa/dev/dev-context-de-question-en": 512, "mlqa/dev/dev-context-vi-question-vi": 511}
QUESTIONS |= {
    f"tydiqa-goldp/{name}": rows
    for name, rows in {
        "bengali_tydiqa_dev": 113,
        "korean_tydiqa_dev": 276,
        "telugu_tydiqa_dev": 669,
        "english_tydiqa_train": 3696,
    }.items()
}
QUESTIONS |= {"xquad/xquad.ro": 1190, "squad/dev-v1.1.half1": 4961}


@pytest.mark.parametrize("name", QUESTIONS)
def test_published_questions(name: str, shared: Path) -> None:
    path = shared / f"data/{name}.json"
    examples = read(Source(str(path), format="squad"), QA)
    text = path.read_text(encoding="utf-8")
    starts = re.findall(r'"answer_start" ?: ?(\d+)', text)
    assert [str(start) for answers in examples.label for _, start in answers] == starts
    assert len(examples) == QUESTIONS[name] == len(re.findall(r'"question" ?:', text))


def test_published_copies_of_xtreme_have_no_labels(shared: Path) -> None:
    path = shared / "data/tydiqa-goldp/xtreme-stripped/tydiqa.goldp.sw.dev.json"
    error = refusal(Source(str(path), format="squad"), QA)
    assert error.what == f"{REMOVED}all 499 questions have an empty answer"
    path = shared / "data/udpos/unlabelled/test-tl.tsv"
    error = refusal(Source(str(path), format="conll", columns=WORD_THEN_TAG), POS)
    assert error.what == f"{REMOVED}each line has a word and no tag"
