"""Errors that say what is wrong, where, and what to do."""

from __future__ import annotations

import copy
import pickle

import pytest

from flaxfer import errors
from flaxfer.errors import FlaxferError

ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, FlaxferError)
]


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = errors.DataError("wrong", where="a.tsv:3", hint="fix it.", details=["x: bad", "y"])
    assert str(error) == "a.tsv:3: wrong\n  - x: bad\n  - y\n  Hint: fix it."
    assert str(errors.DataError("wrong")) == "wrong"


def test_long_details_are_cut_and_counted() -> None:
    lines = str(FlaxferError("wrong", details=[f"{i}" for i in range(50)])).split("\n")
    assert lines[1] == "  - 0"
    assert lines[-2:] == ["  - 39", "  - and 10 more"]
    assert len(str(FlaxferError("wrong", details=["x"] * 40)).split("\n")) == 41


def test_every_error_has_its_own_exit_code() -> None:
    codes = {error.__name__: error.exit_code for error in ERRORS}
    assert codes["ConfigError"] == 2
    assert codes["DataError"] == 3
    assert codes["UnavailableError"] == 69  # EX_UNAVAILABLE of sysexits.h
    assert len(set(codes.values())) == len(codes)
    assert all(0 < code < 126 for code in codes.values())


@pytest.mark.parametrize("error_type", ERRORS)
def test_errors_survive_pickling_and_copying(error_type: type[FlaxferError]) -> None:
    error = error_type("wrong", where="here", hint="fix it.", details=["one"])
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is error_type
        assert vars(copied) == vars(error)
        assert str(copied) == str(error)
