"""Characters of a context: which are blank, and which belong to the one before.

Tokenizers remove combining marks (uncased BERT, XLNet), compose characters (Unicode NFKC: kana with
a voiced sound mark, Hangul letters), and drop or replace invisible ones. The characters of a token
then begin or end within one that readers see as a whole.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

VERSION = 1
"""Part of the name of cached tokens; raised when the same text would have other characters."""

_PREPENDED = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Format characters that are drawn around or below the number that follows."""

_FILLERS = frozenset("\u115f\u3164\uffa0\u2800")
"""Letters and a symbol that look like a space: fillers of Hangul, and empty Braille."""

_JOINING = (
    (0x0E33, 0x0E33), (0x0EB3, 0x0EB3),  # Vowels AM of Thai and Lao, which NFKC divides in two.
    (0x1160, 0x11FF), (0xD7B0, 0xD7FB),  # Vowels and final consonants of Hangul.
    (0x200C, 0x200D),  # Joiners, which some scripts need at the end of a word.
    (0xFF9E, 0xFF9F),  # Voiced sound marks of half-width kana.
    (0x1F3FB, 0x1F3FF),  # Colours of skin.
)  # fmt: skip


def blank(text: str) -> np.ndarray:
    """Return which characters are whitespace, control or invisible format characters, bool."""
    return np.array([_is_blank(character) for character in text], bool)


def joined(text: str) -> np.ndarray:
    """Return which characters belong to the one before, such as combining marks, bool.

    They follow the extended grapheme clusters of Unicode (UAX 29), except for sequences of emoji.
    """
    marks = np.array([_is_joining(character) for character in text], bool)
    # A mark after a blank, or at the beginning, stands alone.
    marks[:1] = False
    marks[1:] &= ~blank(text)[:-1]
    marks[1:] |= np.array([character in _PREPENDED for character in text[:-1]], bool)
    return marks


@functools.cache
def _is_blank(character: str) -> bool:
    if character.isspace() or character in _FILLERS:
        return True
    hidden = unicodedata.category(character) in ("Cc", "Cf") and character not in _PREPENDED
    return hidden and not _is_joining(character)


@functools.cache
def _is_joining(character: str) -> bool:
    if unicodedata.category(character)[0] == "M":
        return True
    return any(first <= ord(character) <= last for first, last in _JOINING)
