"""Guesses at the encoding of a text file, from its bytes."""

from __future__ import annotations

import codecs
import re

_SAMPLE = 2**20
"""Bytes that a guess at an encoding of single bytes looks at."""

_WESTERN = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüÿœšžßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŸŒŠŽ"
    "–—‘’‚“”„†•…‰‹›€«»¡¿\xa0£¥¢©®™°§±×·´²³µ¼½¾ªº\xad"
)
"""Characters of Western European texts; not those of Icelandic, whose bytes are Turkish letters."""

_UTF8 = re.compile(rb"[\xc2-\xf4][\x80-\xbf]{1,3}")


def unicode_encoding(data: bytes) -> str:
    """Return the encoding that a byte order mark or the places of zeros tell; empty if none."""
    for mark, name in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")):
        if data.startswith(mark):
            return name
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = data[:2000]
    for name, zeros, others in (
        ("utf-16-le", head[1::2], head[::2]),
        ("utf-16-be", head[::2], head[1::2]),
    ):
        if (
            len(head) > 1
            and zeros.count(0) > 0.5 * len(zeros)
            and others.count(0) < 0.1 * len(others)
        ):
            return name
    return ""


def is_utf8(data: bytes) -> bool:
    """Return whether data is valid UTF-8, which ASCII is too."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def guess(data: bytes) -> str:
    """Return the encoding that data seems to have; empty if it cannot be told.

    Unicode is recognised by its structure. Windows-1252, which Excel writes in Western Europe and
    which is ISO 8859-1 (latin-1) but for rare characters, is recognised by its letters: nearly all
    characters beyond ASCII are Western European, and few compared with plain letters. Other
    encodings of single bytes are not told apart, and a few, such as that of Czech, look like it.
    """
    if name := unicode_encoding(data):
        return name
    if is_utf8(data):
        return "utf-8"
    return "cp1252" if _is_western(data[:_SAMPLE] if not data[:_SAMPLE].isascii() else data) else ""


def _is_western(data: bytes) -> bool:
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:  # Five bytes have no meaning.
        return False
    others = [character for character in text if not character.isascii()]
    letters = sum(map(str.isalpha, text))
    beyond = sum(map(str.isalpha, others))
    pairs = sum(map(len, _UTF8.findall(data)))
    return (
        sum(character in _WESTERN for character in others) >= 0.95 * len(others)
        and beyond <= 0.5 * letters
        and pairs <= 0.5 * len(others)  # Otherwise it is UTF-8 with some damage.
    )
