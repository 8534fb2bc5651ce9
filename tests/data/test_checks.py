"""Data sets that hold no texts, lines that are no records, and values that no record has."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from tests.data.helpers import NLI, read, refusal, text_file

TASK = Task("polarity", "classification", "accuracy", labels=("neg", "pos"))
POS = Task("pos", "tagging", "accuracy", labels=("NOUN", "PUNCT"))
NER = Task("ner", "tagging", "accuracy", labels=("O", "B-PER"))


def treebank(folder: Path, *words: str) -> Source:
    lines = [f"{i}\t{word}\t_\tNOUN\t_\t_\t0\troot\t_\t_" for i, word in enumerate(words, 1)]
    return Source(text_file(folder, "\n".join([*lines, "", *lines, ""]), "data.conllu"))


def test_a_treebank_without_words_is_refused(tmp_path: Path) -> None:
    error = refusal(treebank(tmp_path, "_", "_", "_"), POS)
    assert error.what == "6 of 6 words stand for a missing one: '_' (6)"
    assert error.where == f"{tmp_path}/data.conllu: column FORM"
    assert "restore them from their source" in str(error.hint)
    assert "4 of 6 words" in refusal(treebank(tmp_path, "_", "_", "."), POS).what
    path = text_file(tmp_path, "_\tO\n_\tO\n\n_\tO\n", "data.conll")
    assert "3 of 3 words" in refusal(Source(path, columns={"words": 0, "tags": 1}), NER).what
    path = text_file(tmp_path, '{"w": ["_", "_"], "t": ["O", "O"]}\n', "data.jsonl")
    assert "2 of 2 words" in refusal(Source(path, columns={"words": "w", "tags": "t"}), NER).what


@pytest.mark.parametrize("words", [("_", "a", "b"), ("a", "_"), ("-", "a", "?")])
def test_a_literal_underscore_is_a_word(words: tuple[str, ...], tmp_path: Path) -> None:
    assert read(treebank(tmp_path, *words), POS).text_a == (words, words)
    path = text_file(tmp_path, "_\tO\n", "data.conll")
    assert read(Source(path, columns={"words": 0, "tags": 1}), NER).text_a == (("_",),)


def texts(folder: Path, *values: str, **settings: Any) -> Source:
    rows = "".join(f"{value},pos\n" for value in values)
    path = text_file(folder, "text,label\n" + rows, "data.csv")
    return Source(path, **({"columns": {"text_a": "text", "label": "label"}} | settings))


@pytest.mark.parametrize("text", ["NS", "nan", "NaN", "#N/A", "None", "null", "[deleted]", "#REF!"])
def test_texts_that_are_placeholders_are_refused(text: str, tmp_path: Path) -> None:
    error = refusal(texts(tmp_path, text, "good", text, text), TASK)
    assert error.what == f"3 of 4 texts stand for a missing one: {text!r} (3)"
    assert error.where == f"{tmp_path}/data.csv: column 'text'"
    rows = "".join(f"text {i},{text},neutral\n" for i in range(4))
    path = text_file(tmp_path, "a,b,y\n" + rows, "data.csv")
    pairs = Source(path, columns={"text_a": "a", "text_b": "b", "label": "y"})
    assert "column 'b'" in str(refusal(pairs, NLI).where)


def test_some_placeholders_are_a_warning_with_the_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = texts(tmp_path, "NS", "fine", "good", "nan", "bad", "x", "none")
    assert len(read(source, TASK)) == 7
    assert "column 'text': 2 of 7 texts may stand for a missing one" in caplog.text
    assert "drop={'text_a': ('NS',)}" in caplog.text
    caplog.clear()
    dropped = dataclasses.replace(source, drop={"text_a": ("NS", "nan")})
    assert len(read(dropped, TASK)) == 5 and not caplog.text


def test_texts_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    error = refusal(texts(tmp_path, *["the text"] * 10), TASK)
    assert error.what == "all 10 texts are the same: 'the text'" and "`columns`" in str(error.hint)
    assert len(read(texts(tmp_path, *["the text"] * 10, "other"), TASK)) == 11
    rows = "".join(f"premise,hypothesis {i},neutral\n" for i in range(12))
    path = text_file(tmp_path, "a,b,y\n" + rows, "data.csv")
    pairs = Source(path, columns={"text_a": "a", "text_b": "b", "label": "y"})
    assert len(read(pairs, NLI)) == 12


DOCUMENTS = (
    "-DOCSTART- -X- O O\n\nEU NNP I-NP B-PER\nsays VBZ I-VP O\n\n-DOCSTART- -X- -X- O\nNo DT O O\n"
)


@pytest.mark.parametrize(
    "text",
    [
        DOCUMENTS,
        DOCUMENTS.replace("O O\n\nEU", "O O\nEU"),
        DOCUMENTS.replace("says VBZ I-VP O\n\n", "says VBZ I-VP O\n"),
        DOCUMENTS.replace(" -X- O O", "").replace(" -X- -X- O", ""),
        DOCUMENTS.replace(" ", "\t"),
        DOCUMENTS + "\n-DOCSTART- -X- O O\n",
        DOCUMENTS.replace("\n", "\r\n"),
    ],
    ids=["blank lines", "none behind", "none before", "bare", "tabs", "at the end", "crlf"],
)
def test_document_boundaries_are_skipped_and_counted(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = text_file(tmp_path, text, "data.conll")
    delimiter = "\t" if "\t" in text else " "
    source = Source(path, columns={"words": 0, "tags": 3}, delimiter=delimiter, num_records=2)
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        examples = read(source, NER)
    assert examples.text_a == (("EU", "says"), ("No",)) and examples.label == ((1, 0), (0,))
    assert f"; {text.count('-DOCSTART-')} -DOCSTART- lines skipped" in caplog.text


def test_a_boundary_divides_a_sentence_and_may_have_a_prefix(tmp_path: Path) -> None:
    path = text_file(tmp_path, "en:a\tO\nen:-DOCSTART-\tO\nen:b\tO\n", "data.conll")
    source = Source(path, columns={"words": 0, "tags": 1}, word_prefix="en:")
    assert read(source, NER).text_a == (("a",), ("b",))
    path = text_file(tmp_path, "x-DOCSTART-\tO\n-DOCSTART-s\tO\n", "data.conll")
    source = dataclasses.replace(source, word_prefix="")
    assert read(source, NER).text_a == (("x-DOCSTART-", "-DOCSTART-s"),)


def test_values_that_no_record_has_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = texts(
        tmp_path,
        *("one", "two"),
        labels={"pos": "pos", "Neg": "neg"},
        drop={"text": ("One", "three")},
        keep={"label": ("pos", "neg")},
    )
    assert len(read(source, TASK)) == 2
    assert [record.getMessage().partition("data.csv: ")[2] for record in caplog.records] == [
        "labels names 'Neg', which no record has",
        "keep.label names 'neg', which no record has",
        "drop.text names 'One', 'three', which no record has; there is 'one'",
    ]
    caplog.clear()
    read(texts(tmp_path, "one", comment=("# ",)), TASK)
    assert "data.csv: no line begins with comment=('# ',)" in caplog.text
    caplog.clear()
    source = texts(tmp_path, "one", "two")
    used = dataclasses.replace(source, labels={"pos": "pos"}, drop={"text": ("one",)}, keep={})
    assert len(read(used, TASK)) == 1 and not caplog.text


def test_the_number_of_records_is_advised_where_nothing_checks_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is cut off at the end of a line cannot be told from a whole one."""
    source = texts(tmp_path, "one", "two")
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        read(source, TASK)
    assert "; num_records=2 would check that none gets lost" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        read(dataclasses.replace(source, num_records=2), TASK)
    assert "num_records" not in caplog.text
    assert "holds 2 records, not 3" in str(
        refusal(dataclasses.replace(source, num_records=3), TASK)
    )
