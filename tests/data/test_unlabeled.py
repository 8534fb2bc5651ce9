"""Values that stand for no label, and labels that the task does not have."""

from __future__ import annotations

import dataclasses
import decimal
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from flaxfer.errors import summarised
from tests.data.helpers import STS, read, refusal, text_file

TASK = Task("polarity", "classification", "accuracy", labels=("neg", "pos"))
NER = Task("ner", "tagging", "accuracy", labels=("O", "B-PER"))
QA = Task("qa", "question_answering", "f1")
COLUMNS: dict[str, str | int] = {"text_a": "a", "label": "y"}
NONE = ["-1", "-1.0", "-100", "NaN", "nan", "-", "_", "", "  ", "null", "None", "N/A", "NA", "<NA>"]
NONE += ["#N/A", "NULL", "nil", "?", r"\N"]


def table(folder: Path, *labels: str, **settings: Any) -> Source:
    rows = "".join(f"text {i}\t{label}\n" for i, label in enumerate(labels))
    return Source(text_file(folder, "a\ty\n" + rows), **({"columns": COLUMNS} | settings))


@pytest.mark.parametrize("task", [TASK, STS], ids=["class", "score"])
@pytest.mark.parametrize("none", NONE)
def test_a_value_for_no_label_is_dropped_and_counted(
    none: str, task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = "pos" if task is TASK else "3.5"
    source = table(tmp_path, none, good, none, drop_unlabeled=True)
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        assert read(source, task).text_a == ("text 1",)
    assert "3 records read, 0 left out by keep and drop, 2 without a label, 1 used" in caplog.text
    error = refusal(dataclasses.replace(source, drop_unlabeled=False), task)
    assert error.details == tuple(
        f"data.tsv:{line}: column 'y': {none!r} stands for no label" for line in (2, 4)
    )
    assert "Set drop_unlabeled=True" in str(error.hint)


@pytest.mark.parametrize("none", ["-1", "NaN", "null", '"-"', '"None"', "-1.0", "-100"])
def test_json_values_for_no_label_are_dropped(none: str, tmp_path: Path) -> None:
    lines = f'{{"a": "x", "y": {none}}}\n{{"a": "z"}}\n{{"a": "y", "y": "pos"}}\n'
    path = text_file(tmp_path, lines, "data.jsonl")
    source = Source(path, columns=COLUMNS, drop_unlabeled=True)
    assert read(source, TASK).text_a == ("y",)
    lines = lines.replace('"pos"', "2")
    text_file(tmp_path, lines, "data.jsonl")
    assert read(source, STS).label.tolist() == [2]


def test_a_setting_that_is_set_is_not_advised(tmp_path: Path) -> None:
    error = refusal(table(tmp_path, "-1", "maybe", "pos", drop_unlabeled=True), TASK)
    assert error.details == ("data.tsv:3: column 'y': 'maybe' is no label",)
    assert "drop_unlabeled" not in str(error) and "map others with `labels`" in str(error)
    error = refusal(table(tmp_path, "7", drop_unlabeled=True), STS)
    assert "drop_unlabeled" not in str(error) and "`labels`" not in str(error)
    error = refusal(table(tmp_path, "0", "2", labels={"0": "neg", "1": "pos"}), TASK)
    assert "drop_unlabeled" not in str(error) and "which has '0', '1' so far" in str(error)


def test_names_of_the_task_come_before_values_for_no_label(tmp_path: Path) -> None:
    task = dataclasses.replace(TASK, labels=("none", "some"))
    assert read(table(tmp_path, "none", "some"), task).label.tolist() == [0, 1]
    mapped = table(tmp_path, "-1", "1", labels={"-1": "none", "1": "some"}, drop_unlabeled=True)
    assert read(mapped, task).label.tolist() == [0, 1]
    # Another spelling of a label is not silently left out.
    other = table(tmp_path, "None", "NONE ", "-1.0", drop_unlabeled=True)
    error = refusal(other, task)
    assert error.details == (
        "data.tsv:2: column 'y': 'None' is no label, but 'none' is; map it with `labels`",
        "data.tsv:3: column 'y': 'NONE ' is no label, but 'none' is; map it with `labels`",
    )
    polarity = dataclasses.replace(STS, score_range=(-1.0, 1.0))
    scores = read(table(tmp_path, "-1", "nan", "1", drop_unlabeled=True), polarity)
    assert scores.label.tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("written", "label"),
    [("Pos", "pos"), ("pos ", "pos"), ("1.0", "1"), ("1e0", "1"), ("01", "1"), ("TRUE", "true")],
)
def test_another_spelling_of_a_label_is_named(written: str, label: str, tmp_path: Path) -> None:
    task = dataclasses.replace(TASK, labels=(label, "other"))
    assert refusal(table(tmp_path, written), task).details == (
        f"data.tsv:2: column 'y': {written!r} is no label, but {label!r} is; map it with `labels`",
    )
    mapped = table(tmp_path, written, labels={written: label})
    assert read(mapped, task).label.tolist() == [0]


def test_another_normal_form_of_a_label_is_named(tmp_path: Path) -> None:
    task = dataclasses.replace(TASK, labels=("négatif", "positif"))
    decomposed = unicodedata.normalize("NFD", "négatif")
    assert "but 'négatif' is" in str(refusal(table(tmp_path, decomposed), task))


def test_numbers_of_other_types_are_labels_and_scores_by_value(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    def parquet(values: Any, **settings: Any) -> Source:
        path = tmp_path / "data.parquet"
        texts = [f"text {i}" for i in range(len(values))]
        pyarrow.parquet.write_table(pa.table({"a": texts, "y": values}), path)
        return Source(str(path), columns=COLUMNS, **settings)

    mapping = {"0": "neg", "1": "pos"}
    for values in (
        pa.array([1, 0, 1], pa.int8()),
        pa.array(["1", "0", "1"]).dictionary_encode(),
        pa.array(["1", "0", "1"], pa.large_string()),
        pa.array([decimal.Decimal(1), decimal.Decimal(0), decimal.Decimal(1)]),
    ):
        assert read(parquet(values, labels=mapping), TASK).label.tolist() == [1, 0, 1]
    floats = parquet(pa.array([1.0, float("nan"), None]), labels=mapping, drop_unlabeled=True)
    assert refusal(floats, TASK).details == (
        "data.parquet: record 1: column 'y': '1.0' is no label, but '1' is; map it with `labels`",
    )
    floats = dataclasses.replace(floats, labels={"1.0": "pos"})
    assert read(floats, TASK).label.tolist() == [1]
    flags = parquet(pa.array([True, False]), labels={"True": "pos", "false": "neg"})
    assert "'true' is no label, but 'True' is" in str(refusal(flags, TASK))
    decimals = pa.array([decimal.Decimal("4.50"), decimal.Decimal("0.25")])
    assert read(parquet(decimals), STS).label.tolist() == [4.5, 0.25]
    for odd, what in (
        (pa.array([["1"], ["0"]]), "is a list of 1, not a label"),
        (pa.array([{"x": 1}, {"x": 0}]), "is a dict of 1, not a label"),
    ):
        assert what in str(refusal(parquet(odd, labels=mapping), TASK))
        assert what in str(refusal(parquet(odd), STS))


def test_parquet_columns_of_one_name_or_with_a_dot_are_read_by_place(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    names = ["z", "a", "a", "y", "b.c"]
    twice = pa.table([["1"], ["2"], ["3"], ["pos"], ["5"]], names=names)
    pyarrow.parquet.write_table(twice, tmp_path / "data.parquet")
    for key, text in ((0, "1"), (1, "2"), (2, "3"), ("z", "1"), ("b.c", "5")):
        columns: dict[str, str | int] = {"text_a": key, "label": "y"}
        source = Source(str(tmp_path / "data.parquet"), columns=columns)
        assert read(source, TASK).text_a == (text,)


def test_tags_for_none_are_kept_but_not_scored(tmp_path: Path) -> None:
    text = "".join(f"w\t{none}\n" for none in NONE if none.strip()) + "x\tO\n\ny\t-\nz\t_\n"
    path = text_file(tmp_path, text, "data.conll")
    source = Source(path, columns={"words": 0, "tags": 1}, drop_unlabeled=True)
    examples = read(source, NER)
    assert len(examples) == 1 and examples.label[0][-2:] == (-1, 0)
    assert set(examples.label[0]) == {-1, 0}
    error = refusal(dataclasses.replace(source, drop_unlabeled=False), NER)
    assert "stands for no label" in str(error) and "Set drop_unlabeled=True" in str(error)
    named = dataclasses.replace(NER, labels=("O", "-"))
    assert read(dataclasses.replace(source, labels={"O": "O", "-": "-"}), named).label[1][0] == 1


def test_tags_and_answers_that_are_null_are_dropped(tmp_path: Path) -> None:
    rows = [{"w": ["a"], "t": None}, {"w": ["b"], "t": ["O"]}, {"w": ["c"], "t": [None]}]
    path = text_file(tmp_path, "\n".join(map(json.dumps, rows)) + "\n", "data.jsonl")
    source = Source(path, columns={"words": "w", "tags": "t"}, drop_unlabeled=True)
    assert read(source, NER).text_a == (("b",),)
    error = refusal(dataclasses.replace(source, drop_unlabeled=False), NER)
    assert error.details == (
        "data.jsonl:1: column 't': is missing",
        "data.jsonl:3: column 't': item 1: '' stands for no label",
    )
    answers = {"text": ["b"], "answer_start": [0]}
    rows = [{"q": "a?", "c": "b", "a": None}, {"q": "d?", "c": "b", "a": answers}]
    path = text_file(tmp_path, "\n".join(map(json.dumps, rows)) + "\n", "qa.jsonl")
    columns: dict[str, str | int] = {"text_a": "q", "text_b": "c", "answers": "a"}
    source = Source(path, columns=columns, drop_unlabeled=True)
    assert read(source, QA).text_a == ("d?",)
    assert "drop_unlabeled" in str(refusal(dataclasses.replace(source, drop_unlabeled=False), QA))


def test_unmapped_labels_are_a_line_each(tmp_path: Path) -> None:
    error = refusal(table(tmp_path, *("0", "1") * 2000, "pos"), TASK)
    assert error.what == "4,000 finding(s) in the data"
    assert summarised(error.details) == [
        "data.tsv:2: column 'y': '0' is no label (the first of 2,000 like this)",
        "data.tsv:3: column 'y': '1' is no label (the first of 2,000 like this)",
    ]
    assert "The labels are 'neg', 'pos'; map others with `labels`." in str(error.hint)


def test_more_than_ten_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    labels = [f"label {i}" for i in range(30)]
    error = refusal(table(tmp_path, *labels, "", "Pos"), TASK)
    lines = summarised(error.details)
    assert lines[9] == "data.tsv:11: column 'y': 'label 9' is no label"
    assert lines[10] == "and 20 more of this kind"
    assert lines[11].startswith("data.tsv:32: column 'y': '' stands for no label")
    assert lines[12].startswith("data.tsv:33: column 'y': 'Pos' is no label, but 'pos'")
    assert len(lines) == 13
    assert len(refusal(table(tmp_path, *labels[:10]), TASK).details) == 10
    text = "a\ty\n" + "\tpos\n" * 50 + "x\ty\tz\n" * 11
    source = Source(text_file(tmp_path, text), columns=COLUMNS)
    assert summarised(refusal(source, TASK).details) == [
        "data.tsv:2: column 'a': is empty (the first of 50 like this)",
        "data.tsv:52: has 3 column(s), the header 2 (the first of 11 like this)",
    ]


def test_scores_that_are_no_numbers_say_why(tmp_path: Path) -> None:
    error = refusal(table(tmp_path, "4,5", "1e3", "inf", "-inf", "1.234,5"), STS)
    assert [detail.partition("'y': ")[2] for detail in error.details] == [
        "'4,5' is not a number: its decimal mark is a comma; write a point",
        "'1e3' is outside 0 to 5",
        "'inf' is not a number",
        "'-inf' is not a number",
        "'1.234,5' is not a number",
    ]


def test_many_equal_mistakes_become_a_count_of_values(tmp_path: Path) -> None:
    stars = [*["1"] * 120, *["5"] * 96, "good"]
    lines = "".join(f"{star}\tA sentence, number {i}.\n" for i, star in enumerate(stars))
    path = tmp_path / "stars.tsv"
    path.write_text(lines)
    task = Task("mood", "classification", "accuracy", labels=("bad", "good"))
    source = Source(str(path), header=False, columns={"label": 0, "text_a": 1})
    message = str(refusal(source, task))
    assert "Values found: '1' (120), '5' (96)." in message
    assert message.count("\n") <= 4
    mapped = dataclasses.replace(source, labels={"1": "bad", "5": "good", "good": "good"})
    assert len(read(mapped, task)) == 217


def test_only_tags_that_are_no_labels_are_counted(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\tO\nb\tB-XX\nc\tB-PER\n\nd\tB-XX\n", "words.conll")
    source = Source(path, columns={"words": 0, "tags": 1})
    assert str(refusal(source, NER).hint).endswith("Values found: 'B-XX' (2).")
