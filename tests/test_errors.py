"""Errors that say what is wrong, where, and how to mend it."""

from __future__ import annotations

import copy
import pickle

import pytest

from flaxfer import errors
from flaxfer.errors import FlaxferError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FlaxferError)
]


def test_an_error_says_what_where_and_how_to_mend_it() -> None:
    error = errors.DataError("wrong", where="a.tsv:3", hint="fix it.", details=["x: bad", "y"])
    assert str(error) == "a.tsv:3: wrong\n  - x: bad\n  - y\n  Hint: fix it."
    assert str(errors.DataError("wrong")) == "wrong"


def test_a_long_list_is_cut_and_counted() -> None:
    lines = str(FlaxferError("wrong", details=[f"{i}" for i in range(50)])).split("\n")
    assert lines[1] == "  - 0"
    assert lines[-2:] == ["  - 39", "  - and 10 more"]
    assert len(str(FlaxferError("wrong", details=["x"] * 40)).split("\n")) == 41


def test_exit_codes_tell_the_kinds_apart() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes["ConfigError"] == 2
    assert codes["DataError"] == 3
    assert codes["UnavailableError"] == 69  # EX_UNAVAILABLE of sysexits.h
    assert codes["PreemptedError"] == 75  # EX_TEMPFAIL of sysexits.h: try again
    assert len(set(codes.values())) == len(codes)
    assert all(0 < code < 126 for code in codes.values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_processes_whole(kind: type[FlaxferError]) -> None:
    error = kind("wrong", where="here", hint="fix it.", details=["one"])
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert str(again) == str(error)
