"""Files that are not written as the settings say: each error names the setting to change."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from flaxfer.errors import DataError
from tests.data.helpers import PAIRS, STS, read, refusal, text_file

TASK = Task("polarity", "classification", "accuracy", labels=("neg", "pos"))
NER = Task("ner", "tagging", "accuracy", labels=("O", "B-PER"))
COLUMNS: dict[str, str | int] = {"text_a": "text", "label": "label"}
NUMBERS: dict[str, str | int] = {"text_a": 0, "label": 1}
WORDS: dict[str, str | int] = {"words": 0, "tags": 1}
RECORDS = [{"text": "fine", "label": "pos"}, {"text": "poor", "label": "neg"}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
ARTICLES = {"data": [{"title": "x", "paragraphs": [{"context": "c", "qas": []}]}]}


def source(folder: Path, name: str, text: str | bytes, **settings: Any) -> Source:
    return Source(text_file(folder, text, name), **({"columns": COLUMNS} | settings))


def refused(source: Source, task: Task = TASK) -> DataError:
    return refusal(source, task)


def advice(source: Source, task: Task = TASK) -> str:
    """The error, which has no more than a sentence and a hint, with one line end between them."""
    error = refused(source, task)
    assert error.details == ()
    return str(error).replace(source.path, "FILE")


LAYOUTS: list[tuple[str, str, str, str]] = [
    ("JSON lines", "data.json", LINES, "format='jsonl'"),
    ("JSON lines, the last without an end", "data.json", LINES.strip(), "format='jsonl'"),
    ("array", "data.jsonl", json.dumps(RECORDS), "format='json'"),
    ("array of several lines", "data.jsonl", json.dumps(RECORDS, indent=1), "format='json'"),
    ("SQuAD", "data.json", json.dumps(ARTICLES), "format='squad'"),
    ("SQuAD as JSON lines", "data.jsonl", json.dumps(ARTICLES, indent=2), "format='squad'"),
    ("SQuAD on a line", "data.jsonl", json.dumps(ARTICLES), "format='squad'"),
    ("wrapped", "data.json", json.dumps({"data": RECORDS}), "format='json' and field='data'"),
    ("wrapped, on a line", "data.jsonl", json.dumps({"rows": RECORDS}), "field='rows'"),
    ("columns", "data.json", json.dumps({"text": ["a"], "label": ["pos"]}), "orient='records'"),
    ("csv", "data.json", "text,label\nfine,pos\n", "set format to how the file is written"),
    ("Python", "data.jsonl", f"{RECORDS[0]}\n{RECORDS[1]}\n", "json.dump"),
]
PRETTY = "\n".join(json.dumps(record, indent=2) for record in RECORDS)


@pytest.mark.parametrize(("_", "name", "text", "setting"), LAYOUTS, ids=[c[0] for c in LAYOUTS])
def test_json_of_another_layout_names_the_setting(
    _: str, name: str, text: str, setting: str, tmp_path: Path
) -> None:
    message = advice(source(tmp_path, name, text))
    assert setting in message and "fetch" not in message and message.count("\n") == 1


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize(
    "text", [PRETTY, LINES.replace("\n", ""), json.dumps(RECORDS[0], indent=2)]
)
def test_json_objects_that_are_not_on_a_line_each_are_to_be_written_again(
    text: str, name: str, tmp_path: Path
) -> None:
    if name == "data.json" and text == json.dumps(RECORDS[0], indent=2):
        assert "format='jsonl' for one object a line" in advice(source(tmp_path, name, text))
    else:
        assert "jq -c . FILE" in advice(source(tmp_path, name, text))


def test_following_the_advice_reads_json(tmp_path: Path) -> None:
    expected = (("fine", "poor"), [1, 0])
    for name, text, settings in (
        ("data.json", LINES, {"format": "jsonl"}),
        ("data.jsonl", json.dumps(RECORDS), {"format": "json"}),
        ("data.json", json.dumps({"version": 1, "data": RECORDS}), {"field": "data"}),
        ("data.jsonl", json.dumps({"rows": RECORDS}), {"format": "json", "field": "rows"}),
    ):
        examples = read(source(tmp_path, name, text, **settings), TASK)
        assert (examples.text_a, examples.label.tolist()) == expected
    wrong = source(tmp_path, "data.json", json.dumps({"rows": RECORDS}), field="data")
    assert "there is no field 'data': there are 'rows'" in advice(wrong)


def test_a_key_that_an_object_has_twice_is_refused(tmp_path: Path) -> None:
    text = '{"text": "a", "label": "pos"}\n{"text": "b", "text": "c", "label": "pos"}\n'
    assert refused(source(tmp_path, "data.jsonl", text)).details == (
        "data.jsonl:2: the line is no JSON: an object has the key 'text' twice",
    )
    text = '[{"text": "b", "text": "c", "label": "pos"}]'
    assert "an object has the key 'text' twice" in advice(source(tmp_path, "data.json", text))


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_the_delimiter_that_a_csv_has_is_named(
    header: bool, delimiter: str, tmp_path: Path
) -> None:
    rows = [("one, two", "pos"), ("three", "neg"), ("four", "pos")]
    lines = [("text", "label"), *rows] if header else rows
    text = "".join(delimiter.join(line) + "\n" for line in lines)
    columns = COLUMNS if header else NUMBERS
    wrong = source(tmp_path, "data.csv", text, header=header, columns=columns)
    assert advice(wrong) == (
        f"FILE:1: the delimiter looks like {delimiter!r}, not ',': it divides the first line into "
        f"2 columns\n  Hint: set delimiter={delimiter!r} in the source."
    )
    right = dataclasses.replace(wrong, delimiter=delimiter)
    assert read(right, TASK).text_a == ("one, two", "three", "four")


def test_a_tsv_that_is_a_csv_is_named(tmp_path: Path) -> None:
    wrong = source(tmp_path, "data.tsv", 'text,label\n"one, two",pos\nthree,neg\n')
    assert "Hint: set format='csv'" in advice(wrong)
    assert read(dataclasses.replace(wrong, format="csv"), TASK).text_a == ("one, two", "three")


def test_a_note_of_the_delimiter_is_named_and_skipped(tmp_path: Path) -> None:
    wrong = source(tmp_path, "data.csv", "sep=;\ntext;label\nfine;pos\n")
    assert "set comment='sep=' and delimiter=';'" in advice(wrong)
    right = dataclasses.replace(wrong, comment=("sep=",), delimiter=";")
    assert read(right, TASK).text_a == ("fine",)


def test_lines_that_end_in_cr_are_named(tmp_path: Path) -> None:
    for name, text in (
        ("data.csv", "text,label\rfine,pos\r"),
        ("data.tsv", "text\tlabel\rfine\tpos"),
        ("data.jsonl", LINES.replace("\n", "\r")),
        ("data.conll", "a\tO\rb\tO\r"),
    ):
        assert "the lines end in CR" in advice(source(tmp_path, name, text))
    text_file(tmp_path, "a\rb\r", "a.txt")
    lines = Source(str(tmp_path), format="lines", aligned={"text_a": "a.txt", "label": "a.txt"})
    assert "the lines end in CR" in str(refused(lines))
    mixed = source(tmp_path, "data.csv", "text,label\nfine,pos\rpoor,neg\n")
    assert "data.csv:2: the record that begins here has a CR" in str(refused(mixed))
    mixed = source(tmp_path, "data.tsv", "text\tlabel\nfine\tpos\rpoor\tneg\n")
    assert "data.tsv:2: has 3 column(s), the header 2; it holds a CR" in str(refused(mixed))
    json_file = source(tmp_path, "data.json", json.dumps(RECORDS, indent=1).replace("\n", "\r"))
    assert read(json_file, TASK).text_a == ("fine", "poor")


@pytest.mark.parametrize(
    "text", ["EU NNP I B-PER\nsays VB O O\n\nNo NN O O\n", "EU\u2003x B-PER O O\n"]
)
def test_a_conll_file_with_blanks_names_its_delimiter(text: str, tmp_path: Path) -> None:
    wrong = source(tmp_path, "data.conll", text, columns={"words": 0, "tags": 3})
    message = advice(wrong, NER)
    assert message.startswith("FILE:1: the columns are separated by blanks, not by tabs")
    assert "set delimiter=' '" in message
    if "EU NNP" in text:
        assert read(dataclasses.replace(wrong, delimiter=" "), NER).label == ((1, 0), (0,))


def test_a_conll_file_with_commas_names_its_delimiter(tmp_path: Path) -> None:
    wrong = source(tmp_path, "data.conll", "EU,B-PER\nsays,O\n", columns=WORDS)
    assert "set delimiter=','" in advice(wrong, NER)


COMMENTS: list[tuple[str, str, str]] = [
    ("# id 7\tdomain=en\nEU\tO\nx\tO\n\n# id 8\tdomain=en\ny\tO\n", "\t", "'# id '"),
    ("# id 7 domain=en\nEU O\nx O\n\n# id 8 domain=en\ny O\n", " ", "'# id '"),
    ("# id 7\tdomain=en\nEU _ _ O\n\n# id 8\tdomain=en\ny _ _ O\n", " ", "'# id '"),
    ("-- domain=en\nEU\tO\n\n-- domain=de\nx\tO\n", "\t", "'-- domain'"),
    ("# a note\nEU\tO\nx\tO\n", "\t", "'# a '"),
    ("#begin document (a)\nEU\tO\nx\tO\n\n#end document\n", "\t", "('#begin ', '#end ')"),
    ("%% made today\nEU\tO\nx\tO\n", "\t", "'%% made '"),
]


@pytest.mark.parametrize(
    ("text", "delimiter", "prefix"), COMMENTS, ids=[c[0][:20] for c in COMMENTS]
)
def test_comments_in_a_conll_file_are_named_and_skipped(
    text: str, delimiter: str, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"words": 0, "tags": 3} if "_ _" in text else WORDS
    wrong = source(tmp_path, "data.conll", text, columns=columns, delimiter=delimiter)
    message = advice(wrong, NER)
    assert "FILE:1: " in message and "look like comments" in message
    assert f"set comment={prefix} to skip" in message
    comment = (prefix.strip("'"),) if prefix.startswith("'") else ("#begin ", "#end ")
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        words = read(dataclasses.replace(wrong, comment=comment), NER).text_a
    assert words[0][0] == "EU" and not any(word[0] in "#%-" for each in words for word in each)
    skipped = sum(line.startswith(comment) for line in text.split("\n"))
    assert f"; {skipped} comment lines skipped" in caplog.text


def test_words_that_look_like_marks_of_comments_stay(tmp_path: Path) -> None:
    text = "#\tO\nEU\tO\n\n#tag\tO\n--\tO\n\n;=\tO\n\n#a=b\tO\n"
    words = (("#", "EU"), ("#tag", "--"), (";=",), ("#a=b",))
    plain = source(tmp_path, "data.conll", text, columns=WORDS)
    assert read(plain, NER).text_a == words
    noted = source(tmp_path, "data.conll", "# id 3\n" + text, columns=WORDS, comment=("# id ",))
    assert read(noted, NER).text_a == words


def test_comments_in_a_csv_are_skipped_between_records_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = '# from "us,\ntext,label\n"a\n# b",pos\n# c,neg\nd,neg\n'
    commented = source(tmp_path, "data.csv", text, comment=("# ",))
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        assert read(commented, TASK).text_a == ("a\n# b", "d")
    assert "; 2 comment lines skipped" in caplog.text
    caplog.clear()
    literal = dataclasses.replace(commented, quotes="literal", columns=NUMBERS, header=False)
    assert refused(literal).details[0] == "data.csv:2: column 1: 'label' is no label"


def test_literal_quotes_of_a_file_quoted_as_csv_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'text\tlabel\n"he said ""no"" twice"\tpos\nplain\tneg\n'
    quoted = source(tmp_path, "data.tsv", text)
    assert read(quoted, TASK).text_a[0] == '"he said ""no"" twice"'
    assert "1 of the 1 cells that hold a quote are quoted as in csv" in caplog.text
    assert "set quotes='csv'" in caplog.text
    caplog.clear()
    for quotes, first in (("csv", 'he said "no" twice'), ("literal", '"he said ""no"" twice"')):
        examples = read(dataclasses.replace(quoted, quotes=quotes), TASK)
        assert examples.text_a == (first, "plain")
    for literal in ('"Yes" he said\tpos\n"no"\tneg\n', '5" wide\tpos\n', "plain\tpos\n"):
        read(source(tmp_path, "data.tsv", "text\tlabel\n" + literal), TASK)
    assert not caplog.text
    header = source(tmp_path, "data.tsv", '"text"\t"label"\n"a"\t"pos"\n')
    assert "set quotes='csv'" in str(refused(header))


def test_a_blank_before_a_quote_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'text,label,id\nx, "pos","1"\n "a",pos,2\n'
    spaced = source(tmp_path, "data.csv", text)
    assert refused(spaced).details == ("data.csv:2: column 'label': ' \"pos\"' is no label",)
    assert "data.csv:2: a blank stands before the quote of a cell (2 in all)" in caplog.text
    assert "quotes='csv_spaced'" in caplog.text
    skipped = dataclasses.replace(spaced, quotes="csv_spaced")
    assert read(skipped, TASK).text_a == ("x", "a")
    names = source(tmp_path, "data.csv", 'text, label\n "a, b", "pos"\n')
    assert "quotes='csv_spaced' skips blanks" in str(refused(names))
    assert read(dataclasses.replace(names, quotes="csv_spaced"), TASK).text_a == ("a, b",)
    names = source(tmp_path, "data.csv", 'text, "label"\n "a, b", "pos"\n')
    assert "quotes='csv_spaced'" in str(refused(names))


def test_literal_quotes_that_merge_rows_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"text_a": "text_a", "text_b": "text_b", "label": "label"}
    text = 'label\ttext_a\ttext_b\npos\t"He said\tx\nneg\tyes."\ty\npos\t"z"\tw\n'
    merged = source(tmp_path, "data.tsv", text, columns=columns, quotes="csv")
    message = advice(merged)
    assert "FILE:2: quotes join 2 lines to one record here" in message
    assert "set quotes='literal'" in message and "num_records" in message
    literal = read(dataclasses.replace(merged, quotes="literal"), TASK)
    assert literal.text_a == ('"He said', 'yes."', '"z"') and literal.label.tolist() == [1, 0, 1]
    # The number of records confirms that they are meant to be joined.
    assert len(read(dataclasses.replace(merged, num_records=2), TASK)) == 2
    # Commas stand in every line of a quoted text, so there it is no error.
    commas = source(tmp_path, "data.csv", text.replace("\t", ","), columns=columns)
    assert len(read(commas, TASK)) == 2 and "set quotes='literal'" in caplog.text


@pytest.mark.parametrize(
    ("row", "line", "what"),
    [
        ('"a,pos\n', 2, "a quote is opened and never closed"),
        ('x,pos\n"a" b,pos\n', 3, "',' expected after '\"'"),
    ],
)
def test_unbalanced_quotes_name_their_line(row: str, line: int, what: str, tmp_path: Path) -> None:
    message = advice(source(tmp_path, "data.csv", "text,label\n" + row))
    assert message.startswith(f"FILE:{line}: ") and what in message


def test_a_quote_in_the_middle_is_literal(tmp_path: Path) -> None:
    assert read(source(tmp_path, "data.csv", 'text,label\n5" wide,pos\n'), TASK).text_a == (
        '5" wide',
    )


def test_a_file_without_a_header_is_named(tmp_path: Path) -> None:
    text = "fine,pos\npoor,neg\n"
    by_name = refused(source(tmp_path, "data.csv", text))
    assert "'fine', 'pos'" in str(by_name) and "set header=False" in str(by_name)
    numbered = source(tmp_path, "data.csv", text, columns=NUMBERS)
    assert advice(numbered) == (
        "FILE:1: the first line is not a header but a record: its label is 'pos'\n"
        "  Hint: set header=False in the source."
    )
    assert len(read(dataclasses.replace(numbered, header=False), TASK)) == 2
    scores = source(tmp_path, "data.csv", "a,3.5\nb,2\n", columns=NUMBERS)
    assert "its label is '3.5'" in advice(scores, STS)
    headed = source(tmp_path, "data.csv", "text,label\n" + text, columns=NUMBERS)
    assert len(read(headed, TASK)) == 2
    error = refused(dataclasses.replace(headed, header=False))
    assert error.details == ("data.csv:1: column 1: 'label' is no label",)
    assert "set header=True" in str(error)


def test_rows_that_are_no_records_are_named(tmp_path: Path) -> None:
    text = "text,label\nfine,pos\n\ufefftext,label\n\npoor,neg,\nok,pos,x,y\n"
    assert refused(source(tmp_path, "data.csv", text)).details == (
        "data.csv:3: repeats the header, as in files that were joined",
        "data.csv:4: the line is blank",
        "data.csv:5: has 3 column(s), the header 2: it ends in a delimiter",
        "data.csv:6: has 4 column(s), the header 2",
    )


def test_other_delimiters_are_looked_for_in_any_text(tmp_path: Path) -> None:
    """Long lines, carriage returns and open quotes are not in the way of the message."""
    for first in ("x" * 200_000, "a\rb", 'a"b', '"a'):
        wrong = source(tmp_path, "data.tsv", f"{first}\nmore\n")
        error = refused(wrong)
        assert error.details[0] == "there is no column 'text'"
        assert len(str(error).replace(str(tmp_path), "")) < 500


def test_a_blank_first_line_is_named(tmp_path: Path) -> None:
    for name, text in (("data.csv", "\ntext,label\na,pos\n"), ("data.tsv", "\ntext\tlabel\n")):
        message = advice(source(tmp_path, name, text))
        assert message.startswith("FILE:1: the first line is blank")


def test_one_misspelt_of_many_columns_is_a_short_message(tmp_path: Path) -> None:
    names = [f"column_number_{i}" for i in range(10_000)]
    text = ",".join(names) + "\n" + ",".join("x" * len(names)) + "\n"
    columns: dict[str, str | int] = {"text_a": names[77], "label": "colum_number_9999"}
    error = refused(source(tmp_path, "data.csv", text, columns=columns))
    assert error.details == (
        "there is no column 'colum_number_9999'; did you mean 'column_number_9999'?",
    )
    assert "the columns are 'column_number_9999', " in str(error)
    assert "and 9,980 more" in str(error) and len(str(error)) < 1000
    long = source(tmp_path, "data.csv", f"{'x' * 5000},label\na,pos\n")
    assert len(str(refused(long)).replace(str(tmp_path), "")) < 500


def test_pairs_of_a_file_of_another_kind_are_one_error(tmp_path: Path) -> None:
    for name, head, what in (
        ("data.csv", b"PK\x03\x04\x14\x00", "a zip archive or an Excel workbook"),
        ("data.tsv", b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel workbook (xls)"),
        ("data.csv", b"\x1f\x8b\x08\x00", "compressed with gzip"),
        ("data.jsonl", b"BZh91AY&SY", "compressed with bzip2"),
        ("data.jsonl", b"\xfd7zXZ\x00", "compressed with xz"),
        ("data.json", b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
        ("data.csv", b"PAR1\x15\x04", "a parquet file"),
        ("data.csv", b"\n<!DOCTYPE html><html>", "an HTML page"),
        ("data.json", b"<?xml version='1.0'?>", "an XML document"),
        ("data.csv", b"%PDF-1.7", "a PDF document"),
        ("data.csv", b"SQLite format 3\x00", "an SQLite database"),
        ("data.jsonl", b"\x80\x04\x95\x10", "a Python pickle"),
        ("data.csv", b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        ("data.tsv", b"404: Not Found", "the error message of a server"),
        ("data.parquet", b"PK\x03\x04\x14\x00", "a zip archive"),
        ("data.parquet", b"text,label\n", "no parquet file: it begins with b'text,label"),
        ("data.csv.gz", b"text,label\n", "not compressed"),
        ("data.csv.gz", b"PK\x03\x04\x14\x00", "a zip archive"),
    ):
        with pytest.raises(DataError) as caught:
            read(source(tmp_path, name, head, columns=PAIRS), TASK)
        assert what in caught.value.what and caught.value.hint, name
