"""Questions with contexts and answers, in every format, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Data, Source, Task
from flaxfer.errors import DataError
from tests.data.helpers import read, read_splits, refusal, text_file

QA = Task("qa", "question_answering", "f1")
QA2 = dataclasses.replace(QA, no_answer=True)
CONTEXT = "\ufeffDie Verteidigung gab 308 Punkte ab, 308!"


def answers(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"text": text, "answer_start": start} for text, start in pairs]


SQUAD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Football",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Wie viele?",
                            "answers": answers(("308", 22), ("308 Punkte", 22)),
                        },
                        {"id": "q2", "question": "Wer?", "answers": answers(("Die", 1))},
                    ],
                }
            ],
        },
        {
            "paragraphs": [
                {
                    "context": "A second one.",
                    "qas": [{"id": "q3", "question": "Which?", "answers": answers(("second", 2))}],
                }
            ]
        },
    ],
}


def squad(folder: Path, data: Any = SQUAD, **settings: Any) -> Source:
    text = data if isinstance(data, str) else json.dumps(data)
    return Source(text_file(folder, text, "data.json"), format="squad", **settings)


def question(data: Any, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = data["data"][0]["paragraphs"][0]["qas"][number]
    return found


def test_squad(tmp_path: Path) -> None:
    examples = read(squad(tmp_path, num_records=3, language="de"), QA)
    assert examples.task_type.name == "question_answering" and examples.id == ("q1", "q2", "q3")
    assert examples.text_a == ("Wie viele?", "Wer?", "Which?")
    assert examples.text_b == (CONTEXT, CONTEXT, "A second one.")
    assert examples.label == ((("308", 22), ("308 Punkte", 22)), (("Die", 1),), (("second", 2),))
    dropped = squad(tmp_path, drop={"title": ("Football",)})
    assert read(dropped, QA).id == ("q3",)
    with pytest.raises(DataError, match=r"is in SQuAD's format\n  Hint: set format='squad'"):
        columns: dict[str, str | int] = {"text_a": "question", "text_b": "context"}
        columns["answers"] = "answers"
        read(Source(squad(tmp_path).path, columns=columns), QA)


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet", "hub", "list of objects"])
def test_rows(form: str, tmp_path: Path, hub: dict[str, Any]) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"q": "Wie viele?", "c": CONTEXT, "a": answers(("308", 22), ("308 Punkte", 22))},
        {"q": "Which?", "c": "A second one.", "a": answers(("second", 2))},
    ]
    if form != "list of objects":
        for row in rows:
            row["a"] = {key: [a[key] for a in row["a"]] for key in ("text", "answer_start")}
    columns: dict[str, str | int] = {"text_a": "q", "text_b": "c", "answers": "a"}
    path = tmp_path / f"data.{'jsonl' if form == 'list of objects' else form}"
    source = Source(str(path), columns=columns)
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "hub":
        hub["dataset"] = datasets.Dataset.from_list(rows)
        source = Source(hub="owner/data", columns=columns)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text(f"[{','.join(lines)}]" if form == "json" else "\n".join(lines) + "\n")
    examples = read(source, QA)
    assert examples.text_a == ("Wie viele?", "Which?") and examples.text_b is not None
    assert examples.text_b[0] == CONTEXT
    assert examples.label == ((("308", 22), ("308 Punkte", 22)), (("second", 2),))


CASES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {"answers": answers(("308", 21))},
        (
            "column 'answers': item 1: '308' does not stand at character 21 of the context, "
            "' 30' does; it stands at 22, 37",
        ),
    ),
    (
        {"answers": answers(("308", 22), ("309", 22))},
        (
            "column 'answers': item 2: '309' does not stand at character 22 of the context, "
            "'308' does; it stands nowhere in it",
        ),
    ),
    (
        {"answers": answers(("!", -1))},
        (
            "column 'answers': item 1: '!' does not stand at character -1 of the context, "
            "'' does; it stands at 40",
        ),
    ),
    (
        {"answers": answers(("308", "22"), ("308", None), ("308", True))},
        (
            "column 'answers': item 1: answer_start '22' is no whole number",
            "column 'answers': item 2: answer_start None is no whole number",
            "column 'answers': item 3: answer_start True is no whole number",
        ),
    ),
    (
        {"answers": answers(("", 3), (None, 3))},
        (
            "column 'answers': item 1: text is empty",
            "column 'answers': item 2: text is missing",
        ),
    ),
    ({"answers": []}, ("column 'answers': holds no answer; is that right, set task.no_answer",)),
    ({"answers": None}, ("column 'answers': is missing",)),
    (
        {"answers": "308"},
        ("column 'answers': is not of the form {'text': [...], 'answer_start': [...]}",),
    ),
    (
        {"answers": {"text": ["308"], "answer_start": []}},
        ("column 'answers': holds 1 text(s) and 0 answer_start(s)",),
    ),
    ({"question": " "}, ("column 'question': is empty",)),
    ({"question": None}, ("column 'question': is missing",)),
    ({"id": ""}, ("column 'id': is empty",)),
    (
        {"is_impossible": True},
        ("has answers, is_impossible is True",),
    ),
    (
        {"is_impossible": False, "answers": []},
        ("has no answers, is_impossible is False",),
    ),
]


@pytest.mark.parametrize(("change", "findings"), CASES, ids=[case[1][0][-40:] for case in CASES])
def test_findings_name_the_question(
    change: dict[str, Any], findings: tuple[str, ...], tmp_path: Path
) -> None:
    data = copy.deepcopy(SQUAD)
    question(data).update(change)
    details = refusal(squad(tmp_path, data), QA).details
    assert details == tuple(f"data.json: data[0].paragraphs[0].qas[0]: {f}" for f in findings)


def test_missing_fields_are_named(tmp_path: Path) -> None:
    data = copy.deepcopy(SQUAD)
    del question(data, 1)["answers"], data["data"][1]["paragraphs"][0]["context"]
    assert refusal(squad(tmp_path, data), QA).details == (
        "data.json: data[0].paragraphs[0].qas[1]: column 'answers': is missing",
        "data.json: data[1].paragraphs[0].qas[0]: column 'context': is missing",
    )
    wrong = squad(tmp_path, columns={"domain": "titel"})
    assert refusal(wrong, QA).details == ("there is no column 'titel'; did you mean 'title'?",)


def test_ids_are_unique(tmp_path: Path) -> None:
    data = copy.deepcopy(SQUAD)
    question(data, 1)["id"] = "q1"
    assert refusal(squad(tmp_path, data), QA).details == (
        "data.json: data[0].paragraphs[0].qas[1]: column 'id': 'q1' is also "
        "data.json: data[0].paragraphs[0].qas[0]: column 'id'",
    )


def test_files_of_another_structure_are_refused(tmp_path: Path) -> None:
    data = copy.deepcopy(SQUAD)
    data["data"][0]["paragraphs"][0]["qas"] = "none"
    data["data"][1]["paragraphs"].append(7)
    error = refusal(squad(tmp_path, data), QA)
    assert error.details == (
        "data.json: data[0].paragraphs[0].qas: is no list",
        "data.json: data[1].paragraphs[1]: is no object",
    )
    for other in ([], {"rows": []}, {"data": {}}, 7):
        details = refusal(squad(tmp_path, json.dumps(other)), QA).details
        assert details == ("data.json: data: is no list",)
    assert "none is left" in str(refusal(squad(tmp_path, {"data": []}), QA))


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    text = json.dumps(SQUAD)
    for cut in range(1, len(text), 29):
        error = refusal(squad(tmp_path, text[:-cut]), QA)
        assert "the file is damaged, cut off, or no JSON" in str(error)


def test_questions_without_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = copy.deepcopy(SQUAD)
    question(data).update(is_impossible=True, answers=[], plausible_answers=answers(("308", 22)))
    question(data, 1).update(is_impossible=False)
    examples = read(squad(tmp_path, data), QA2)
    assert examples.label == ((), (("Die", 1),), (("second", 2),))
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        left = read(squad(tmp_path, data, drop_unlabeled=True), QA)
    assert left.id == ("q2", "q3") and "1 without a label, 2 used" in caplog.text
    kept = read(squad(tmp_path, data, drop_unlabeled=True), QA2)
    assert kept.id == ("q1", "q2", "q3")


def test_splits(tmp_path: Path) -> None:
    data = copy.deepcopy(SQUAD)
    data["data"][0]["paragraphs"][0]["qas"] = [
        {"id": f"n{i}", "question": f"Nummer {i}?", "answers": answers(("308", 22))}
        for i in range(19)
    ]
    source = squad(tmp_path, data)
    splits = read_splits(Data(train=(source,)), QA)
    assert {name: len(part) for name, part in splits.items()} == {"train": 14, "dev": 3, "test": 3}
