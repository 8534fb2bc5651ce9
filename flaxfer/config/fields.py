"""Types of the configuration's fields: strict scalars with their ranges, and tuples."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

T = TypeVar("T")


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("should not contain duplicates")
    return values


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"should be a regular expression ({error})") from error
    return pattern


# Strict, so that 32.0, "32" and True are not accepted for 32. An int is accepted for a float.
Bool: TypeAlias = StrictBool
Int: TypeAlias = Annotated[int, Field(strict=True)]
NonNegativeInt: TypeAlias = Annotated[int, Field(strict=True, ge=0)]
PositiveInt: TypeAlias = Annotated[int, Field(strict=True, ge=1)]
Float: TypeAlias = Annotated[float, Field(strict=True)]
NonNegative: TypeAlias = Annotated[float, Field(strict=True, ge=0)]
Positive: TypeAlias = Annotated[float, Field(strict=True, gt=0)]
Fraction: TypeAlias = Annotated[float, Field(strict=True, gt=0, le=1)]
UnitInterval: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, Field(strict=True, ge=0, lt=1)]
Option: TypeAlias = Bool | Int | str
Name: TypeAlias = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Regex: TypeAlias = Annotated[str, AfterValidator(_regex)]
Tuple: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
"""A tuple; a single item need not be wrapped."""
Distinct: TypeAlias = Annotated[Tuple[T], AfterValidator(_distinct)]
"""A tuple without duplicates; a single item need not be wrapped."""
RowLength: TypeAlias = Annotated[
    NonNegativeInt, BeforeValidator(lambda length: 0 if length == "auto" else length)
]
"""Tokens in a packed row; `auto` is stored as 0."""
TagScheme: TypeAlias = Literal[
    "auto", "iob2", "iob1", "ioe2", "ioe1", "iobes", "bilou", "bmes", "bmewo", "chunks", "none"
]
"""How tags mark entities, see `flaxfer.tasks.schemes`: `auto` detects it from the labels; with
`none` they are only classes of words; `chunks` reads any tags as XTREME does for parts of speech.
"""
