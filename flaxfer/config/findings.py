"""Findings: errors in a configuration that the checks report."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from flaxfer.errors import shortened

Finding: TypeAlias = tuple[tuple[str, ...], str]
"""The dotted keys that a check read, and its message, which begins with the key to change."""

MAX_CHOICES = 20
"""Names that a suggestion lists."""

PLACEHOLDER = re.compile(r"TODO\b:?\s*")
"""Beginning of a text that stands for a value that is still to be chosen, before what it says."""


def finding(message: str, *keys: str) -> Finding:
    """Return a finding about the values at dotted keys; the first key is the one to change."""
    return keys, f"{keys[0]}: {message}"


def placeholders(settings: Any, at: str = "") -> Iterator[Finding]:
    """Yield the values of nested settings that begin with TODO, as `flaxfer init` writes them."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from placeholders(value, f"{at}.{key}" if at else str(key))
    elif isinstance(settings, list | tuple):
        for i, value in enumerate(settings):
            yield from placeholders(value, f"{at}.{i}")
    elif isinstance(settings, str) and (match := PLACEHOLDER.match(settings)):
        wanted = settings[match.end() :] or "a value"
        yield finding(f"is still to be filled in: {wanted}", at)


def shown(value: Any) -> str:
    """Return the representation of a value for a message, without its middle if it is long."""
    try:
        return shortened(repr(value), 200)
    except ValueError:  # Python does not write integers of more than 4,300 digits.
        return f"a number of about {value.bit_length() * 3 // 10:,} digits"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the choice that is spelt most like a word; empty if none is near.

    Letters of other alphabets that look like Latin ones do not count as equal, but case does not
    count either, and full-width letters and the like are equal to the usual ones.
    """
    names: dict[str, str] = {}
    for choice in choices:
        names.setdefault(unicodedata.normalize("NFKC", choice).casefold(), choice)
    folded = unicodedata.normalize("NFKC", word).casefold().strip()
    near = difflib.get_close_matches(folded, names, n=1)
    return names[near[0]] if near else ""


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return a hint at the nearest choice, or at the choices if none is near."""
    choices = list(choices)
    if near := nearest(word, choices):
        return f"did you mean {near!r}?{_odd_character(word, near)}"
    more = f" and {len(choices) - MAX_CHOICES:,} more" if choices[MAX_CHOICES:] else ""
    return f"there are {', '.join(choices[:MAX_CHOICES]) or 'none'}{more}"


def _odd_character(word: str, near: str) -> str:
    """Return which character makes a word differ from one that looks the same."""
    odd = [c for c in word if not c.isascii() and c not in near]
    odd += [c for c in word if c.isspace()]
    if not odd:
        return ""
    return f" {word!r} has the character {unicodedata.name(odd[0], f'U+{ord(odd[0]):04X}')}"
