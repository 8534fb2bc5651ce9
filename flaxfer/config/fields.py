"""Types of the configuration's fields: strict scalars with their ranges, and tuples."""

from __future__ import annotations

import codecs
import dataclasses
import re
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

T = TypeVar("T")

LARGEST = 2**31 - 1
"""Largest count, seed and number of a column: devices count in int32, and seeds beyond it would
repeat the random numbers of others."""
MAX_NAME = 100
"""Bytes of a name: several, a hash and a suffix make a file name of at most 255."""

TUPLE, SECTION = "<tuple>", "<section>"
"""Tags of the types of a field that is a tuple or a section, in locations of errors."""

RUN_FIELDS = ("study", "condition", "stage", "seed")
"""Fields of the names of tracked runs."""

_VARIABLE = re.compile(r"\$(\w|\{)")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*", re.ASCII)


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("should not contain duplicates")
    return values


def _increasing(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("should increase from one to the next")
    return values


def tuple_or_section(value: Any) -> str:
    """Return the tag of the type that a value is meant to have."""
    return SECTION if isinstance(value, dict) or dataclasses.is_dataclass(value) else TUPLE


def _run_name(template: str) -> str:
    try:
        template.format(**(dict.fromkeys(RUN_FIELDS, "") | {"seed": 0}))
    except (LookupError, ValueError, AttributeError) as error:
        *others, last = (f"{{{name}}}" for name in RUN_FIELDS)
        allowed = f"{', '.join(others)} and {last}"
        raise ValueError(f"should have no other fields than {allowed}") from error
    return template


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"should be a regular expression ({error})") from error
    return pattern


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise ValueError("should not begin or end with a space")
    if not text.isprintable():
        raise ValueError("should not contain characters that cannot be printed")
    return text


def _path(text: str) -> str:
    if _VARIABLE.search(text):
        raise ValueError("environment variables are not expanded here; write the path itself")
    return _trimmed(text)


def _name(text: str) -> str:
    if len(text.encode()) > MAX_NAME:
        raise ValueError(f"should have at most {MAX_NAME} bytes")
    return text


def _language(code: str) -> str:
    if not _LANGUAGE.fullmatch(code):
        raise ValueError("should be a language code such as de, pt-BR or zh-Hant")
    return code


def _encoding(name: str) -> str:
    try:
        if codecs.lookup(name)._is_text_encoding:
            return name
    except (LookupError, ValueError):
        pass
    raise ValueError("should be an encoding that Python knows, such as utf-8, latin-1 or cp1252")


# Strict, so that 32.0, "32" and True are not accepted for 32. An int is accepted for a float.
Bool: TypeAlias = StrictBool
Int: TypeAlias = Annotated[int, Field(strict=True, ge=-LARGEST, le=LARGEST)]
NonNegativeInt: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
PositiveInt: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
Float: TypeAlias = Annotated[float, Field(strict=True)]
NonNegative: TypeAlias = Annotated[float, Field(strict=True, ge=0)]
Positive: TypeAlias = Annotated[float, Field(strict=True, gt=0)]
Fraction: TypeAlias = Annotated[float, Field(strict=True, gt=0, le=1)]
UnitInterval: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, Field(strict=True, ge=0, lt=1)]
Option: TypeAlias = Bool | Int | str
Name: TypeAlias = Annotated[str, Field(pattern=r"^\w[\w.-]*$"), AfterValidator(_name)]
"""A name of a file or folder; it begins with a letter, digit or underscore."""
Part: TypeAlias = Annotated[str, Field(pattern=r"^\w[\w-]*$", max_length=40)]
"""A part of a name, without dots."""
Title: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_trimmed)]
"""A text in one line, which is not empty."""
Line: TypeAlias = Annotated[str, AfterValidator(_trimmed)]
"""A text in one line, which may be empty."""
File: TypeAlias = Annotated[str, AfterValidator(_path)]
"""A path; `~` stands for the home folder, and variables are refused."""
Language: TypeAlias = Annotated[str, AfterValidator(_language)]
Text: TypeAlias = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value)
]
"""A text, such as a label; a whole number stands for its digits."""
Encoding: TypeAlias = Annotated[str, AfterValidator(_encoding)]
RunName: TypeAlias = Annotated[Title, AfterValidator(_run_name)]
Regex: TypeAlias = Annotated[str, AfterValidator(_regex)]
Tuple: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
"""A tuple; a single item need not be wrapped."""
Distinct: TypeAlias = Annotated[Tuple[T], AfterValidator(_distinct)]
"""A tuple without duplicates; a single item need not be wrapped."""
Increasing: TypeAlias = Annotated[Tuple[T], AfterValidator(_increasing)]
"""A tuple of increasing numbers; a single one need not be wrapped."""
AutoCount: TypeAlias = Annotated[
    NonNegativeInt, BeforeValidator(lambda count: 0 if count == "auto" else count)
]
"""A positive number, or `auto`, which is stored as 0."""
TagScheme: TypeAlias = Literal[
    "auto", "iob2", "iob1", "ioe2", "ioe1", "iobes", "bilou", "bmes", "bmewo", "chunks", "none"
]
"""How tags mark entities, see `flaxfer.tasks.schemes`: `auto` detects it from the labels; with
`none` they are only classes of words; `chunks` reads any tags as XTREME does for parts of speech.
"""
