"""Multiple choice, and what examples of every kind have in common."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Source
from flaxfer.data.examples import Examples
from flaxfer.errors import DataError
from tests.data.helpers import (
    COPA,
    COPA_COLUMNS,
    COPA_QUESTIONS,
    examples_of,
    read,
    refusal,
    text_file,
)

ROWS: list[dict[str, Any]] = [
    {"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect"},
    {"premise": "He fell.", "choice1": "Sun.", "choice2": "Ice.", "question": "cause"},
]


def copa(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Source:
    labelled = [{"label": i % 2} | row for i, row in enumerate(rows)]
    text = "".join(json.dumps(row) + "\n" for row in labelled)
    path = text_file(folder, text, "data.jsonl")
    return Source(path, **({"columns": COPA_COLUMNS, "questions": COPA_QUESTIONS} | settings))


def test_choices(tmp_path: Path) -> None:
    examples = read(copa(tmp_path, ROWS), COPA)
    assert examples.text_a == (
        "It rained. What happened as a result?",
        "He fell. What was the cause?",
    )
    assert examples.text_b == (("Wet.", "Dry."), ("Sun.", "Ice."))
    assert examples.label.tolist() == [0, 1] and examples.label.dtype == np.int32
    assert (examples.task_type.name, examples.choices) == ("multiple_choice", 2)
    as_written = read(copa(tmp_path, ROWS, questions={}), COPA)
    assert as_written.text_a == ("It rained. effect", "He fell. cause")
    plain = {role: column for role, column in COPA_COLUMNS.items() if role != "question"}
    only = copa(tmp_path, ROWS, columns=plain, questions={}, keep={"question": ("cause",)})
    assert read(only, COPA).text_a == ("He fell.",)


def test_choices_keep_the_order_of_their_roles(tmp_path: Path) -> None:
    columns: dict[str, str | int] = {f"choice_{i}": i for i in (3, 1, 11, 10, 2, 5, 4, 6, 9, 8, 7)}
    cells = [f"c{i}" for i in range(12)]
    path = text_file(tmp_path, "\t".join(["10", *cells[1:], "a"]) + "\n")
    source = Source(path, header=False, columns=columns | {"text_a": 12, "label": 0})
    examples = read(source, COPA)
    assert examples.text_b == (tuple(cells[1:]),) and examples.label.tolist() == [10]
    assert examples.choices == 11


def test_numbers_of_choices_are_mapped(tmp_path: Path) -> None:
    rows = [row | {"label": label} for row, label in zip(ROWS, (2, 1), strict=True)]
    source = copa(tmp_path, rows, labels={"1": "0", "2": "1"})
    assert read(source, COPA).label.tolist() == [1, 0]
    assert refusal(dataclasses.replace(source, labels={}), COPA).details == (
        "data.jsonl:1: column 'label': '2' is no label",
    )


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"label": None}, "column 'label': '' stands for no label"),
        ({"label": -1}, "column 'label': '-1' stands for no label"),
        ({"label": "first"}, "column 'label': 'first' is no label"),
        ({"label": 1.0}, "column 'label': '1.0' is no label"),
        ({"choice2": " "}, "column 'choice2': is empty"),
        ({"choice1": ["a"]}, "column 'choice1': is of type list, not a text"),
        ({"premise": None}, "column 'premise': is missing"),
        ({"question": "why"}, "column 'question': has no entry in questions; there are cause, eff"),
    ],
)
def test_invalid_choices_are_named_with_their_line(
    change: dict[str, Any], finding: str, tmp_path: Path
) -> None:
    (detail,) = refusal(copa(tmp_path, [ROWS[0], ROWS[1] | change]), COPA).details
    assert detail.startswith(f"data.jsonl:2: {finding}")


def test_sets_of_other_numbers_of_choices_do_not_join(tmp_path: Path) -> None:
    two = read(copa(tmp_path, ROWS), COPA)
    rows = [row | {"third": "x"} for row in ROWS]
    three = read(copa(tmp_path, rows, columns=COPA_COLUMNS | {"choice_3": "third"}), COPA)
    assert three.choices == 3 and len(Examples.join([two, two])) == 4
    with pytest.raises(DataError, match="2 choices and 3 choices cannot be joined"):
        Examples.join([two, three])


ONE = np.array([1, 0], np.int32)
TAGGED = examples_of("tagging", (("ab", "c"), ("d",)), None, ((0, 1), (-1,)))
ASKED_2 = examples_of("question_answering", ("q", "r"), ("ab", "c"), ((("a", 0), ("b", 1)), ()))
CHOSEN = examples_of("multiple_choice", ("a", "b"), (("ab", "c"), ("d", "e")), ONE)
KINDS = {"tagging": TAGGED, "question_answering": ASKED_2, "multiple_choice": CHOSEN}


@pytest.mark.parametrize("kind", KINDS)
def test_take_and_join_undo_each_other(kind: str) -> None:
    base = KINDS[kind]
    assert base.task_type.name == kind
    turned = base.take([1, 0])
    assert turned.task_type.name == kind and turned.fingerprint != base.fingerprint
    assert turned.text_a == base.text_a[::-1] and list(turned.label) == list(base.label)[::-1]
    assert turned.take(np.array([1, 0])).fingerprint == base.fingerprint
    joined = Examples.join([base.take([0]), base.take([1])])
    assert joined.fingerprint == base.fingerprint and joined.task_type.name == kind
    assert len(base.take([])) == 0


def test_fingerprint_tells_apart_at_every_depth() -> None:
    words = [(("a", "bc"), ("d",)), (("ab", "c", "d"), ()), (("abc",), ("d",))]
    tags = [((0, 1), (1,)), ((0,), (1, -1)), ((1,), (-1,))]
    answers: list[Any] = [((("a", 0),), (("b", 1),)), ((), ())]
    answers += [((("a", 0), each), ()) for each in (("b", 2), ("b1", 1), ("b", 11))]
    different = [
        *KINDS.values(),
        *(dataclasses.replace(TAGGED, text_a=each) for each in words),
        *(dataclasses.replace(TAGGED, label=each) for each in tags),
        *(dataclasses.replace(ASKED_2, label=each) for each in answers),
        dataclasses.replace(CHOSEN, text_b=(("a", "bc"), ("d", "e"))),
        dataclasses.replace(CHOSEN, label=ONE[::-1].copy()),
        examples_of("classification", CHOSEN.text_a, ("abc", "de"), ONE),
        examples_of("classification", CHOSEN.text_a, None, ONE),
    ]
    assert len({each.fingerprint for each in different}) == len(different) == 18
