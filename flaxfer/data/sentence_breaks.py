"""Sentences of English text, for files that have none, such as SQuAD's.

The rules follow those of LAReQA in XTREME-R's published code, without its exceptions for single
names: a break is after a period, question or exclamation mark before a capital or digit, unless
what precedes the mark is an abbreviation or an initial.
"""

from __future__ import annotations

import re

_END = re.compile(
    r"""(?:[.?!][)'"\ \u201D]*|[.?!]['"]?(?:\[[a-zA-Z0-9 ?]+\])+|\[\.\.\.\])\s+"""
    r"""(?=[\['"(\u201C]?[A-Z0-9])"""
)
"""End of a sentence, such as `."`, `.[citation needed]` or `[...]`, and the blanks after it."""

_STARTS = "The|This|That|These|It"
_STARTS_AFTER_PERIOD = (
    "Meanwhile|However|In|On|By|During|After|Under|Although|Yet|As|Several|According to"
)
_START = re.compile(
    rf"""(?:(?<=[.?!])|(?<=[.?!]['")]))\ (?=(?:{_STARTS})\ )"""
    rf"""|(?<=\.)\ (?=(?:{_STARTS_AFTER_PERIOD})\b)"""
    r"""|\ (?=\u2022\ [A-Z])|\ (?=\[\.\.\.\]\ +\[?[A-Z])"""
)
"""Blank before a word that begins a sentence even after an abbreviation, an item of a list, or an
ellipsis between sentences."""

_ABBREVIATION = re.compile(
    r"\b(?:Mrs?|Ms|Dr|Prof|Fr|Rev|Msgr|Sta?|Lt|Gen|Col|Maj|Adm|Capt|Sgt|Rep|Gov|Sen|Pres"
    r"|e\.g|i\.?e|vs?|pp?|cf|a\.k\.a|approx|app|es[pt]|tr|Jan|Aug|Oct|Nov|Dec|Mt|Ft"
    r"|[bdrc]|ca|fl)\.$"
)
_INITIAL = re.compile(r"\b[A-Z]\.$")
_NAME = re.compile(r'(?:[A-Z]\. )*"?[A-Z][a-z]')
"""What follows an initial that belongs to a name."""
_BEFORE_NUMBER = re.compile(
    r"\b(?:[Aa]rt|[Nn]o|Opp?|ch|Sec|cl|Rec|Ecl|Cor|Lk|Jn|Vol|et al|H\.R|U\.S|Rs)\.$"
)
_NUMBER = re.compile(r"\(?[0-9IVX]")


def sentence_breaks(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each sentence, without the blanks around it."""
    text = text.replace("\n", " ")
    ends = {match.end() for match in _END.finditer(text) if not _goes_on(text, match)}
    ends |= {match.end() for match in _START.finditer(text)}
    starts = [0, *sorted(ends)]
    pairs = zip(starts, [*starts[1:], len(text)], strict=True)
    return [
        (end - len(text[start:end].lstrip()), start + len(text[start:end].rstrip()))
        for start, end in pairs
        if text[start:end].strip()
    ]


def _goes_on(text: str, match: re.Match[str]) -> bool:
    """Return whether the mark belongs to an abbreviation or initial within a sentence."""
    before = text[max(match.start() - 12, 0) : match.end()].rstrip()
    if _ABBREVIATION.search(before):
        return True
    if _INITIAL.search(before) and _NAME.match(text, match.end()):
        return True
    return bool(_BEFORE_NUMBER.search(before) and _NUMBER.match(text, match.end()))
