"""Conversion and checks of single values."""

from __future__ import annotations

import decimal
import math
import numbers
import re
from typing import Any

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def written(value: Any) -> str:
    """Return a value as the text that values in the config are compared with."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(map(written, value))
    return str(value)


def text_fault(value: Any) -> str:
    """Return what is wrong with a text; empty if nothing is."""
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}, not a text"
    if not value or value.isspace():
        return "is empty"
    if "\0" in value:
        return "holds a NUL"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"holds half of a surrogate pair, U+{ord(value[error.start]):04X}"
    return ""


def list_fault(value: Any) -> str:
    """Return what is wrong with a list, whatever its items are; empty if nothing is."""
    if value is None:
        return "is missing"
    if not isinstance(value, list):
        return f"is of type {type(value).__name__}, not a list"
    return "" if value else "is empty"


def score(value: Any, score_range: tuple[float, float]) -> float | None:
    """Return the value as a number if it is one within the range, else None."""
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real | decimal.Decimal):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # An integer of more than 308 digits, a signaling NaN.
        number = math.inf
    return number if score_range[0] <= number <= score_range[1] else None


def score_fault(value: Any, score_range: tuple[float, float]) -> str:
    """Return why a value is not a valid score."""
    if score(value, (-math.inf, math.inf)) is None:
        if isinstance(value, str) and NUMBER.fullmatch(value.strip().replace(",", ".", 1)):
            return "is not a number: its decimal mark is a comma; write a point"
        return "is not a number"
    return f"is outside {score_range[0]:g} to {score_range[1]:g}"
