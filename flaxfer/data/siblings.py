"""Files beside a file that hold other splits or languages of the same data set, by their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from flaxfer.data.column_names import SPLIT_OF
from flaxfer.data.languages import CODES


class Sibling(NamedTuple):
    """A file of a data set, with what its name says; empty where it says nothing."""

    path: Path
    split: str
    language: str


def family(path: Path) -> list[Sibling]:
    """Return a file and those in its folder whose names differ only in split and language.

    Splits are words such as `train` or `val`, languages two-letter codes, between hyphens,
    underscores and dots: `reviews_de.csv`, `sts-en-train.csv`, `test.tsv`. If a name has several
    codes, the one counts that differs between files.

    Returns:
      The files by name, `path` among them.
    """
    words = _words(path.name)
    split_at = next((i for i, word in enumerate(words) if word.lower() in SPLIT_OF), -1)
    places = [i for i, word in enumerate(words) if word in CODES and i != split_at]
    members = [_members(path, words, split_at, place) for place in [*places, -1]]
    return max(members, key=lambda files: len({one.language for one in files}))


def _words(name: str) -> list[str]:
    """Return the words of a file's name without those of its ending, and the marks between them."""
    stem, dot, ending = name.removesuffix(".gz").rpartition(".")
    if not dot or ending.lower() in SPLIT_OF:  # As in eng.train.
        return [*re.split("([-_.])", name), ""]
    return [*re.split("([-_.])", stem), name[len(stem) :]]


def _members(path: Path, words: list[str], split_at: int, language_at: int) -> list[Sibling]:
    files = []
    for other in sorted(path.parent.iterdir()):
        its = _words(other.name)
        fits = len(its) == len(words) and all(
            a == b or (i == split_at and b.lower() in SPLIT_OF) or (i == language_at and b in CODES)
            for i, (a, b) in enumerate(zip(words, its, strict=True))
        )
        if fits and other.is_file():
            split = SPLIT_OF[its[split_at].lower()] if split_at >= 0 else ""
            files.append(Sibling(other, split, its[language_at] if language_at >= 0 else ""))
    return files
