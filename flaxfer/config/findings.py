"""Findings: errors in a configuration that the checks report."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeAlias

Finding: TypeAlias = tuple[tuple[str, ...], str]
"""The dotted keys that a check read, and its message, which begins with the key to change."""


def finding(message: str, *keys: str) -> Finding:
    """Return a finding about the values at dotted keys; the first key is the one to change."""
    return keys, f"{keys[0]}: {message}"


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return a hint at the nearest choice, or at all choices if none is near."""
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(choices) or 'none'}"
