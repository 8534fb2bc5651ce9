"""The normal form of a text, by which texts are compared, and its hash."""

from __future__ import annotations

import functools
import hashlib
import html
import re
import unicodedata

TELLING = 20
"""Length from which on equal texts are not considered a coincidence: the number of letters and
digits of the normal form, with three for a wide character (Chinese, Japanese, Korean). That is four
to five English words, or seven Chinese characters. The lengths of the texts of an example add up.
"""

_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_MEANING = frozenset("%‰‱٪′″")
"""Punctuation that changes the number before it."""

_EMOJI_PARTS = (*range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080))
"""Colours of skin, and the letters of regional flags."""

_DASHES = str.maketrans(dict.fromkeys("-\u2010\u2011\u2012\u2013\u2014\u2015", "\u2212"))
_SUPERSCRIPT = "²³¹⁰⁴⁵⁶⁷⁸⁹"

# What a number loses with its punctuation: what stands between two digits, and a sign; and the
# sharp of C#. The normal form has characters that it keeps: a minus for a hyphen or dash, and a
# musical sharp.
# A point before the first digit is not told from the end of a sentence in tokenised texts.
_NUMBERS = re.compile(
    r"(?<=\d)(?P<between>(?:[^\w]|_)+)(?=\d)"
    r"|(?<![\w\-\u2010-\u2015])(?P<sign>[-\u2010-\u2015])(?=[.]?\d)"
    r"|(?<=[a-z])(?P<sharp>#)(?!\w)"
)
_NUMBER_OR_SHARP = re.compile(r"[\d#]")


class _Kept(dict[int, int | None]):
    """A table for `str.translate` that keeps a character or removes it."""

    def __init__(self, categories: str):
        super().__init__({code: code for code in _EMOJI_PARTS})
        self._categories = categories

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        dropped = category[0] in self._categories or 0xFE00 <= code <= 0xFE0F
        if "P" in self._categories:
            dropped = (dropped or category == "Sk") and chr(code) not in _MEANING
        return self.setdefault(code, None if dropped else code)


_KEPT = _Kept("PZC")
_VISIBLE = _Kept("ZC")


def normalise(text: str) -> str:
    """Return the normal form of a text: letters, marks, digits and symbols, and whole numbers.

    In this order: HTML character references are resolved and line breaks `<br />` removed; Unicode
    NFKC; case folding; NFKC again, as folding can undo it; punctuation (categories P), whitespace
    (Z), control and format characters (C), modifier symbols (Sk, such as the backquote) and
    variation selectors are removed. So tokenised and plain text, with or without spaces, are equal;
    accents, vowel signs and emoji still distinguish texts.

    What distinguishes numbers stays: punctuation or a space between digits (1.5, 1,5, 3:2, 1 5), a
    sign, and percent signs. A text of nothing but punctuation, such as :-), keeps it.
    """
    folded = _folded(text)
    return _content(folded) or folded.translate(_VISIBLE)


def _folded(text: str) -> str:
    """Return a text in lower case and compatibility form, without invisible characters."""
    text = _BREAK.sub(" ", html.unescape(text))
    if not text.isascii():
        text = _digit_like().sub(_apart, text)
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    if not folded.isascii():
        folded = folded.replace("\u2044", "/").translate(_invisible())
    return folded


def _content(folded: str) -> str:
    """Return what the normal form keeps of a folded text."""
    if not _NUMBER_OR_SHARP.search(folded):  # Then `_NUMBERS`, which is slow, matches nothing.
        return folded.translate(_KEPT)
    parts, end = [], 0
    for match in _NUMBERS.finditer(folded):
        parts.append(folded[end : match.start()].translate(_KEPT))
        end = match.end()
        if between := match["between"]:
            parts.append(between.translate(_VISIBLE).translate(_DASHES) or " ")
        else:
            parts.append({"sign": "\u2212", "sharp": "\u266f"}[match.lastgroup or ""])
    parts.append(folded[end:].translate(_KEPT))
    return "".join(parts)


@functools.cache
def _digit_like() -> re.Pattern[str]:
    """Return a pattern of characters after a digit whose compatibility form begins with one.

    Such as fractions, circled and superscript digits: 1½ is not 11/2, and 10² is not 102.
    """
    codes = (*range(0xB2, 0x33FF), *range(0x1F100, 0x1F10B))
    found = [
        character
        for character in map(chr, codes)
        if unicodedata.category(character) != "Nd"
        and unicodedata.normalize("NFKC", character)[0].isdigit()
    ]
    return re.compile(f"(?<=[\\d{''.join(found)}])[{''.join(found)}]")


def _apart(match: re.Match[str]) -> str:
    return ("^" if match[0] in _SUPERSCRIPT else " ") + match[0]


@functools.cache
def _invisible() -> dict[int, None]:
    """Return a table that removes the usual format characters, which may stand in a number."""
    codes = (0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070))
    return dict.fromkeys(codes)


def hashed(text: str) -> tuple[int, int]:
    """Return a 64-bit hash of the normal form, and its length as described in `TELLING`."""
    folded = _folded(text)
    text = _content(folded)
    length = len(text)
    text = text or folded.translate(_VISIBLE)
    if length and length < TELLING:
        length += 2 * sum(unicodedata.east_asian_width(character) == "W" for character in text)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little"), length
