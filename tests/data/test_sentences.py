"""Sentences with a tag a word, in every format, and what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Data, Source, Task
from flaxfer.data.examples import Examples
from flaxfer.errors import DataError
from tests.data.helpers import read, read_splits, refusal, text_file

NER = Task("ner", "tagging", "f1", labels=("O", "B-PER", "I-PER"))
POS = Task("pos", "tagging", "accuracy", labels=("NOUN", "VERB", "DET", "ADP", "PRON"))
COLUMNS: dict[str, str | int] = {"words": 0, "tags": 1}
CONLL = "Anna\tB-PER\nLisa\tI-PER\nsings\tO\n\nNobody\tO\n"
ANNA = (("Anna", "Lisa", "sings"), ("Nobody",))


def conll(folder: Path, text: str, **settings: Any) -> Source:
    path = text_file(folder, text, "data.conll")
    return Source(path, **({"columns": COLUMNS} | settings))


def details(source: Source, task: Task = NER) -> tuple[str, ...]:
    return refusal(source, task).details


@pytest.mark.parametrize(
    "text",
    [
        CONLL,
        CONLL.rstrip("\n"),
        "\ufeff\n\n" + CONLL.replace("\n\n", "\n\n \t \n\n") + "\n\n",
        CONLL.replace("\n", "\r\n"),
        CONLL.replace("\n", " \n").replace("\t", " \t "),
        CONLL.replace("\t", "\tx\t").replace("x\tB", "y\tB"),
    ],
    ids=["plain", "no line end", "blank lines", "crlf", "spaces", "third column"],
)
def test_conll(text: str, tmp_path: Path) -> None:
    columns = COLUMNS | {"tags": 2} if "\tx\t" in text else COLUMNS
    examples = read(conll(tmp_path, text, columns=columns, num_records=2), NER)
    assert examples.text_a == ANNA and examples.text_b is None
    assert examples.task_type.name == "tagging"
    assert examples.label == ((1, 2, 0), (0,))
    assert examples.id == ("data:1", "data:2") and examples.language == ("en", "en")


def test_conll_in_a_packed_file_of_another_ending(tmp_path: Path) -> None:
    path = text_file(tmp_path, gzip.compress(CONLL.encode()), "data.tsv.gz")
    examples = read(Source(path, format="conll", columns=COLUMNS), NER)
    assert examples.text_a == ANNA and examples.id[0] == "data:1"


def test_a_space_stands_for_any_white_space_but_one_that_belongs_to_words(tmp_path: Path) -> None:
    text = "a\u00a0b  \t NN   O \n\u3000x VB\tB-PER\n"
    source = conll(tmp_path, text, delimiter=" ", columns={"words": 0, "tags": 2})
    assert read(source, NER).text_a == (("a\u00a0b", "\u3000x"),)
    source = conll(tmp_path, "a\u00a0b\tO\n\u00a0c\u00a0\tO\n")
    assert read(source, NER).text_a == (("a\u00a0b", "\u00a0c\u00a0"),)


def test_tags_map_by_name(tmp_path: Path) -> None:
    other = dataclasses.replace(NER, labels=("I-PER", "O", "B-PER"))
    assert read(conll(tmp_path, CONLL), other).label == ((2, 0, 1), (1,))
    text = CONLL.replace("B-PER", "1").replace("I-PER", "2").replace("\tO", "\t0")
    mapped = conll(tmp_path, text, labels={"0": "O", "1": "B-PER", "2": "I-PER"})
    assert read(mapped, other).label == ((2, 0, 1), (1,))
    assert len(details(dataclasses.replace(mapped, labels={}))) == 4


def test_findings_of_conll_name_every_line(tmp_path: Path) -> None:
    text = "a\tO\nb\n\tO\nc\tB-LOC\n\n \u00a0 \tO\nd\t\n"
    assert details(conll(tmp_path, text)) == (
        "data.conll:2: has 1 column(s), 2 are needed",
        "data.conll:6: column 0: is empty",
        "data.conll:7: column 1: '' stands for no label",
    )
    assert details(conll(tmp_path, text.replace("b\n", ""))) == (
        "data.conll:2: column 0: is empty",
        "data.conll:3: column 1: 'B-LOC' is no label",
        "data.conll:5: column 0: is empty",
        "data.conll:6: column 1: '' stands for no label",
    )
    columns: dict[str, str | int] = {"words": 2, "tags": 1}
    error = refusal(conll(tmp_path, "a\nb\n\nc\n", columns=columns), NER)
    assert error.details == ("there is no column 2", "there is no column 1")
    assert "the columns are '0'; name" in str(error)
    for text in ("", "\n\n"):
        assert "the file is empty" in str(refusal(conll(tmp_path, text), NER))


@pytest.mark.parametrize("cut", range(1, 7))
def test_conll_cut_off_in_its_last_line_is_refused(cut: int, tmp_path: Path) -> None:
    text = "Anna\tB-PER\n\nAda\tB-PER"[:-cut]
    refusal(conll(tmp_path, text, num_records=2), NER)


def test_sentences_are_counted(tmp_path: Path) -> None:
    source = conll(tmp_path, CONLL, num_records=3)
    assert "holds 2 records, not 3" in str(refusal(source, NER))


def test_prefix_of_words_is_not_trained_on(tmp_path: Path) -> None:
    text = "de:Anna\tB-PER\nde:Lisa\tI-PER\nde:sings\tO\n\nde:Nobody\tO\n"
    error = refusal(conll(tmp_path, text), NER)
    assert "every word begins with 'de:'" in str(error) and "word_prefix='de:'" in str(error)
    assert read(conll(tmp_path, text, word_prefix="de:"), NER).text_a == ANNA
    mixed = text.replace("de:Lisa", "en:Lisa")
    assert read(conll(tmp_path, mixed), NER).text_a[0][1] == "en:Lisa"
    assert details(conll(tmp_path, mixed, word_prefix="de:")) == (
        "data.conll:2: column 0: 'en:Lisa' does not begin with 'de:'",
    )
    bare = text.replace("de:Lisa", "de:")
    assert details(conll(tmp_path, bare, word_prefix="de:")) == (
        "data.conll:2: column 0: is empty",
    )


def test_words_without_a_tag_are_refused_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "a\tO\nb\t\nc\tB-PER\n\nd\t-1\ne\t_\n"
    source = conll(tmp_path, text)
    assert details(source) == (
        "data.conll:2: column 1: '' stands for no label",
        "data.conll:5: column 1: '-1' stands for no label",
        "data.conll:6: column 1: '_' stands for no label",
    )
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        examples = read(dataclasses.replace(source, drop_unlabeled=True), NER)
    assert examples.text_a == (("a", "b", "c"),) and examples.label == ((0, -1, 1),)
    assert "2 records read, 0 left out by keep and drop, 1 without a label, 1 used" in caplog.text
    wrong = conll(tmp_path, text.replace("-1", "X"), drop_unlabeled=True)
    assert details(wrong) == ("data.conll:5: column 1: 'X' is no label",)


CONLLU = """\
# newdoc id = doc
# sent_id = doc-1
# text = vom Hund
1-2\tvom\t_\t_\t_\t_\t_\t_\t_\t_
1\tvon\tvon\tADP\tAPPR\t_\t3\tcase\t_\t_
2\tdem\tder\tDET\tART\t_\t3\tdet\t_\t_
3\tHund\tHund\tNOUN\tNN\t_\t0\troot\t_\t_
3.1\t_\t_\tVERB\t_\t_\t_\t_\t_\t_

# sent_id = doc-2
1\t#\t#\tNOUN\tXY\t_\t0\troot\t_\t_
"""


def test_conllu(tmp_path: Path) -> None:
    path = text_file(tmp_path, CONLLU, "data.conllu")
    examples = read(Source(path, num_records=2), POS)
    assert examples.text_a == (("von", "dem", "Hund"), ("#",))
    assert examples.label == ((3, 2, 0), (0,)) and examples.id == ("data:1", "data:2")
    named: dict[str, str | int] = {"id": "sent_id", "words": "LEMMA", "tags": 4}
    xpos = dataclasses.replace(POS, labels=("APPR", "ART", "NN", "XY"))
    examples = read(Source(path, format="conllu", columns=named), xpos)
    assert examples.id == ("doc-1", "doc-2") and examples.text_a[0][1] == "der"
    assert examples.label == ((0, 1, 2), (3,))
    kept = Source(path, columns={"id": "sent_id"}, keep={"sent_id": ("doc-2",)})
    assert read(kept, POS).text_a == (("#",),)


def test_findings_of_conllu_name_every_line(tmp_path: Path) -> None:
    def found(old: str, new: str, **settings: Any) -> tuple[str, ...]:
        path = text_file(tmp_path, CONLLU.replace(old, new), "data.conllu")
        return details(Source(path, **settings), POS)

    assert found("\tADP\t", "\tCCONJ\t") == ("data.conllu:5: column UPOS: 'CCONJ' is no label",)
    assert found("\tADP\t", "\t_\t") == ("data.conllu:5: column UPOS: '_' stands for no label",)
    assert found("2\tdem", "2\t") == ("data.conllu:6: column FORM: is empty; CoNLL-U writes _",)
    assert found("2\tdem\tder", "2 dem der") == ("data.conllu:6: has 8 column(s), CoNLL-U has 10",)
    assert found("2\tdem", "3\tdem")[0] == "data.conllu:6: word '3' stands for word 2"
    assert found("1\t#\t#\tNOUN\tXY\t_\t0\troot\t_\t_\n", "") == (
        "data.conllu:10: comments without a sentence",
    )
    assert found("# sent_id = doc-2\n", "", columns={"id": "sent_id"}) == (
        "data.conllu:10: column 'sent_id': is empty",
    )
    assert found("doc-2", "doc-1", columns={"id": "sent_id"}) == (
        "data.conllu:10: column 'sent_id': 'doc-1' is also data.conllu:1: column 'sent_id'",
    )
    assert found("", "", columns={"id": "sent-id", "tags": "XPO"}) == (
        "there is no column 'XPO'; did you mean 'XPOS'?",
        "there is no column 'sent-id'; did you mean 'sent_id'?",
    )


@pytest.mark.parametrize("cut", range(2, 21))
def test_conllu_cut_off_in_its_last_line_is_refused(cut: int, tmp_path: Path) -> None:
    path = text_file(tmp_path, CONLLU[:-cut], "data.conllu")
    refusal(Source(path, num_records=2), POS)


LISTS = [{"w": ["Anna", "sings"], "t": ["B-PER", "O"]}, {"w": ["x"], "t": ["O"]}]


def write_lists(folder: Path, records: list[Any], ending: str) -> Source:
    import pyarrow
    import pyarrow.parquet

    path = folder / f"data.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        lines = [json.dumps(record) for record in records]
        text = "\n".join(lines) if ending == "jsonl" else f"[{','.join(lines)}]"
        path.write_text(text + "\n")
    return Source(str(path), columns={"words": "w", "tags": "t"})


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_lists_in_records(ending: str, tmp_path: Path) -> None:
    examples = read(write_lists(tmp_path, LISTS, ending), NER)
    assert examples.text_a == (("Anna", "sings"), ("x",)) and examples.label == ((1, 0), (0,))
    numbers = [{**record, "t": [NER.labels.index(tag) for tag in record["t"]]} for record in LISTS]
    source = write_lists(tmp_path, numbers, ending)
    assert len(details(source)) == 3
    mapped = dataclasses.replace(source, labels={"0": "O", "1": "B-PER"})
    assert read(mapped, NER).fingerprint == examples.fingerprint


def test_findings_of_lists_name_every_record(tmp_path: Path) -> None:
    records = [
        {"w": ["a", "b"], "t": ["O"]},
        {"w": "a b", "t": ["O", "O"]},
        {"w": ["a", ""], "t": ["O", "LOC"]},
        {"w": ["a", None, 3], "t": ["O", "O", "O"]},
        {"w": ["a"]},
        {"w": [], "t": []},
    ]
    assert details(write_lists(tmp_path, records, "jsonl")) == (
        "data.jsonl:1: column 't': holds 1 tags for 2 words",
        "data.jsonl:2: column 'w': is of type str, not a list",
        "data.jsonl:3: column 't': item 2: 'LOC' is no label",
        "data.jsonl:3: column 'w': item 2: is empty",
        "data.jsonl:4: column 'w': item 2: is missing",
        "data.jsonl:4: column 'w': item 3: is of type int, not a text",
        "data.jsonl:5: column 't': is missing",
        "data.jsonl:6: column 't': is empty",
        "data.jsonl:6: column 'w': is empty",
    )


def test_classes_of_the_hub_map_by_name(hub: dict[str, Any]) -> None:
    import datasets

    tags = datasets.ClassLabel(names=["I-PER", "O", "B-PER"])
    features = datasets.Features(
        {"w": datasets.Sequence(datasets.Value("string")), "t": datasets.Sequence(tags)}
    )
    hub["dataset"] = datasets.Dataset.from_dict({"w": [["Anna", "x"]], "t": [[2, 1]]}, features)
    source = Source(hub="owner/ner", columns={"words": "w", "tags": "t"})
    assert read(source, NER).label == ((1, 0),)
    mapped = dataclasses.replace(source, labels={"B-PER": "I-PER", "O": "O"})
    assert read(mapped, NER).label == ((2, 0),)


def many(folder: Path, n: int) -> Source:
    return conll(folder, "".join(f"word{i}\tO\nx\tB-PER\n\n" for i in range(n)))


def test_keep_drop_fraction_and_splits(tmp_path: Path) -> None:
    source = many(tmp_path, 40)
    dropped = dataclasses.replace(source, drop={"words": ("word3 x", "word5")})
    assert len(read(dropped, NER)) == 39
    part = read(dataclasses.replace(source, fraction=0.25), NER, seed=3)
    assert len(part) == 10 and all(tags == (0, 1) for tags in part.label)
    splits = read_splits(Data(train=(source,)), NER)
    assert {name: len(part) for name, part in splits.items()} == {"train": 28, "dev": 6, "test": 6}
    assert Examples.join(list(splits.values())).task_type.name == "tagging"


def test_task_types_are_not_joined(tmp_path: Path) -> None:
    tagged = read(conll(tmp_path, CONLL), NER)
    path = text_file(tmp_path, "a\ty\nx\tO\n")
    single = Source(path, columns={"text_a": "a", "label": "y"})
    task = dataclasses.replace(NER, type="classification", metric="accuracy")
    with pytest.raises(DataError, match="tagging and classification cannot be joined"):
        Examples.join([tagged, read(single, task)])
