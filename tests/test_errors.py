"""Errors that say what is wrong, where, and what to do."""

from __future__ import annotations

import copy
import pickle

import pytest

from flaxfer import errors
from flaxfer.errors import FlaxferError, summarised

ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, FlaxferError)
]


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = errors.DataError("wrong", where="a.tsv:3", hint="fix it.", details=["x: bad", "y"])
    assert str(error) == "a.tsv:3: wrong\n  - x: bad\n  - y\n  Hint: fix it."
    assert str(errors.DataError("wrong")) == "wrong"


def test_details_of_a_kind_are_counted_beyond_the_tenth() -> None:
    rows = [f"data.tsv:{i}: column 'label': '{i % 3}' is no label" for i in range(1, 5001)]
    empty = [f"data.tsv:{i}: column 'text': is empty" for i in (7, 9)]
    lines = str(errors.DataError("wrong", details=[*rows[:20], *empty, *rows[20:]])).split("\n")
    assert lines[1:] == [
        "  - data.tsv:1: column 'label': '1' is no label (the first of 1,667 like this)",
        "  - data.tsv:2: column 'label': '2' is no label (the first of 1,667 like this)",
        "  - data.tsv:3: column 'label': '0' is no label (the first of 1,666 like this)",
        *(f"  - {text}" for text in empty),
    ]
    rows = [f"data.tsv:{i}: column 'label': 'label {i}' is no label" for i in range(1, 5001)]
    lines = str(errors.DataError("wrong", details=rows)).split("\n")
    assert lines[1:11] == [f"  - {row}" for row in rows[:10]]
    assert lines[11:] == ["  - and 4,990 more of this kind"]


def test_details_keep_their_order_if_no_kind_has_more_than_ten() -> None:
    details = [f"{at}.key: is {what}" for at in ("a", "b", "c") for what in ("missing", "unknown")]
    assert summarised(details) == details
    assert summarised(["x"] * 10) == ["x"] * 10
    assert summarised(["x"] * 11) == ["x (the first of 11 like this)"]


def test_an_error_prints_a_bounded_number_of_lines_and_characters() -> None:
    words = [chr(ord("a") + i // 26) + chr(ord("a") + i % 26) for i in range(100)]
    lines = summarised([f"is {word}" for word in words])
    assert lines == [*(f"is {word}" for word in words[:40]), "and 60 more of other kinds"]
    many = [f"{kind} {i}" for kind in words for i in range(12)]
    lines = summarised(many)
    assert lines[:11] == [*many[:10], "and 2 more of this kind"]
    assert len(lines) <= 41 and lines[-1] == "and 1,164 more of other kinds"
    text = str(FlaxferError("wrong", details=["x" * 89_000], hint="columns " + "y" * 89_000))
    assert len(text) < 1500 and "characters left out" in text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a.tsv:1: 'x' is no label", "b.tsv:20: 'it\\'s' is no label", True),
        ("target.train.epochs: is missing", "name: is missing", True),
        ("seeds.0: is -1", "seeds.1: is 2.5e+3", True),
        ("a: is missing", "a: is unexpected", False),
        ("column 'a': is empty", 'column "b\'s": is empty', True),
        ("a.json: record 1: is empty", "a.json: data[3].qas[0]: is empty", True),
    ],
)
def test_details_are_of_one_kind_if_only_places_quotes_and_numbers_differ(
    one: str, other: str, same: bool
) -> None:
    lines = summarised([one] * 6 + [other] * 6)
    assert (len(lines) < 12) is same


def test_every_error_has_its_own_exit_code() -> None:
    codes = {error.__name__: error.exit_code for error in ERRORS}
    assert codes["ConfigError"] == 2
    assert codes["DataError"] == 3
    assert codes["UnavailableError"] == 69  # EX_UNAVAILABLE of sysexits.h
    assert len(set(codes.values())) == len(codes)
    assert all(0 < code < 126 for code in codes.values())
    meanings = errors.exit_codes()
    assert meanings[69] == "A required program is not installed, or does not start."
    assert list(meanings) == sorted({0, 130, *codes.values()}) and all(meanings.values())


@pytest.mark.parametrize("error_type", ERRORS)
def test_errors_survive_pickling_and_copying(error_type: type[FlaxferError]) -> None:
    error = error_type("wrong", where="here", hint="fix it.", details=["one"])
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is error_type
        assert vars(copied) == vars(error)
        assert str(copied) == str(error)
