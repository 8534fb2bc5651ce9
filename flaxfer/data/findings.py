"""Lists of findings in data, shortened to a few of each kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MAX_OF_A_KIND = 10

_PLACE = re.compile(r"^.*?(?::\d+|: record \d+|: \S*\]): ")
_VARIABLE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+""")


def summarised(findings: Sequence[str]) -> list[str]:
    """Return the findings, but of each kind with more than ten only those that differ.

    Findings are of the same kind if they differ only in their places, quoted values and numbers.
    Those that differ only in their places become one with a count; if there are still more than
    ten of a kind, the rest is counted.
    """
    if len(findings) <= MAX_OF_A_KIND:
        return list(findings)
    texts = [_PLACE.sub("", finding, count=1) for finding in findings]
    kinds = {text: _VARIABLE.sub("?", text) for text in set(texts)}
    same, total = Counter(texts), Counter(kinds[text] for text in texts)
    shown: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    lines: list[str] = []
    last: dict[str, int] = {}
    for text, finding in zip(texts, findings, strict=True):
        kind = kinds[text]
        if total[kind] <= MAX_OF_A_KIND:
            lines.append(finding)
        elif same[text] and shown[kind] < MAX_OF_A_KIND:
            many = f" (the first of {same[text]:,} like this)" if same[text] > 1 else ""
            lines.append(finding + many)
            shown[kind] += 1
            counted[kind] += same[text]
            same[text] = 0
            last[kind] = len(lines) - 1
    for kind, line in last.items():
        if total[kind] > counted[kind]:
            lines[line] += f"; and {total[kind] - counted[kind]:,} more of this kind"
    return lines


def bounded(text: str, length: int = 80) -> str:
    """Return the representation of a text, shortened to a length."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"
