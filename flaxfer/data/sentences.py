"""Readers of files with one word per line, CoNLL and CoNLL-U; values are lists with lines."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from flaxfer.config import Source
from flaxfer.data import appearance
from flaxfer.data.files import split_lines
from flaxfer.data.tables import (
    COMMENTS,
    Column,
    Key,
    Problems,
    Table,
    lacks_only,
    locate,
    without_labels,
)
from flaxfer.errors import DataError, bounded

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
"""The columns of CoNLL-U (universaldependencies.org/format.html)."""

Line = tuple[int, str]
"""A one-based line number, and the line."""

Row = tuple[int, list[str]]
"""A one-based line number, and the values of the line."""


def conll(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read sentences with one word per line, in columns, and a blank line after each sentence.

    Spaces around a value are removed; a no-break space is part of the word. Lines that begin with
    `source.comment` are skipped. A line of -DOCSTART- ends a sentence, and is skipped too.

    Raises:
      DataError: If the file has too few columns, words without tags, comments that no setting
        skips, or an unexpected language prefix before all words.
    """
    delimiter = source.delimiter or "\t"

    def values(line: str) -> list[str]:
        if delimiter == " ":
            return re.split("[ \t]+", line.strip(" \t"))
        return [value.strip(" ") for value in line.split(delimiter)]

    parts, skipped = _without_notes(_lines(text), source)
    sentences = [[(number, values(line)) for number, line in part] for part in parts]
    width = max((len(row) for sentence in sentences for _, row in sentence), default=0)
    if width == 1 and not source.delimiter:
        _require_tabs(parts, path)
        if lacks_only(source.columns.get("tags"), keys, width):
            raise without_labels("each line has a word and no tag", path)
    if not source.comment:
        _refuse_comments(parts, sentences, path)
    column_index = locate(keys, [str(i) for i in range(width)], str(path))
    needed = 1 + max(column_index.values(), default=-1)
    problems: Problems = []
    for i, sentence in enumerate(sentences):
        for number, row in sentence:
            if len(row) < needed:
                what = f"has {len(row)} column(s), {needed} are needed"
                problems.append((i, f"{path.name}:{number}: {what}"))
                row += [""] * (needed - len(row))
    words = column_index.get(source.columns.get("words", ""))
    if words is not None:
        problems += _remove_prefix(sentences, words, source.word_prefix, path)
    columns = {key: _column(path, str(i), sentences, i) for key, i in column_index.items()}
    return Table(len(sentences), columns, problems, skipped)


def conllu(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read CoNLL-U: columns by number or name, and comments such as `sent_id` by their key.

    Lines of multiword tokens (`1-2`) and empty nodes (`8.1`) are skipped, because their words have
    lines of their own, or are not in the text.

    Raises:
      DataError: If a key is neither a column nor the key of a comment.
    """
    problems: Problems = []
    sentences: list[list[Row]] = []
    comments: list[dict[str, str]] = []
    parts = _sentences(_lines(text))
    for i, lines in enumerate(parts):
        tokens = [line for line in lines if not line[1].startswith("#")]
        heads = (line.removeprefix("#").partition("=") for _, line in lines if line[:1] == "#")
        comments.append({key.strip(): value.strip() for key, sign, value in heads if sign})
        sentences.append([])
        for number, line in tokens:
            row = line.split("\t")
            expected = str(len(sentences[i]) + 1)
            what = ""
            if len(row) != len(CONLLU):
                what = f"has {len(row)} column(s), CoNLL-U has {len(CONLLU)}"
            elif "" in row:
                what = f"column {CONLLU[row.index('')]}: is empty; CoNLL-U writes _"
            elif re.fullmatch(r"\d+[-.]\d+", row[0], re.ASCII):
                continue
            elif row[0] != expected:
                what = f"word {row[0]!r} stands for word {expected}"
            if what:
                problems.append((i, f"{path.name}:{number}: {what}"))
            sentences[i].append((number, [*row, *[""] * (len(CONLLU) - len(row))]))
        if not tokens:
            problems.append((i, f"{path.name}:{lines[0][0]}: comments without a sentence"))
    names = [*CONLLU, *dict.fromkeys(key for each in comments for key in each)]
    firsts = [lines[0][0] for lines in parts]
    columns: dict[Key, Column] = {}
    for key, i in locate(keys, names, str(path)).items():
        if i < len(CONLLU):
            columns[key] = _column(path, names[i], sentences, i)
        else:
            values = [each.get(names[i]) for each in comments]
            columns[key] = Column(path.name, repr(names[i]), values, firsts)
    return Table(len(sentences), columns, problems)


def _lines(text: str) -> list[Line]:
    return list(enumerate(split_lines(text), 1))


def _sentences(lines: Iterable[Line]) -> list[list[Line]]:
    """Return the lines of each sentence; lines with only whitespace separate sentences."""
    groups = itertools.groupby(lines, lambda line: bool(line[1].strip(" \t")))
    return [list(part) for filled, part in groups if filled]


def _without_notes(lines: list[Line], source: Source) -> tuple[list[list[Line]], dict[str, int]]:
    """Return the sentences without comments and boundaries of documents, and how many those are."""
    boundary = re.compile(rf"\s*(?:{re.escape(source.word_prefix)})?(\d+\s+)?-DOCSTART-(?:\s|$)")
    kept: list[Line] = []
    skipped: Counter[str] = Counter()
    for number, line in lines:
        if "-DOCSTART-" in line and boundary.match(line):
            skipped["-DOCSTART- lines"] += 1
            kept.append((number, ""))
        elif source.comment and line.startswith(source.comment):
            skipped[COMMENTS] += 1
        else:
            kept.append((number, line))
    return _sentences(kept), dict(skipped)


def _require_tabs(parts: list[list[Line]], path: Path) -> None:
    """Refuse a file without tabs whose lines another delimiter divides into columns."""
    lines = [line for part in parts[:50] for _, line in part[:50]]
    blanks = Counter(len(line.split()) for line in lines).most_common(1)[0]
    other, _ = appearance.other_delimiter(lines, "\t")
    if blanks[0] > 1 and blanks[1] >= 0.8 * len(lines):
        other = " "
    if other:
        what = "blanks" if other == " " else repr(other)
        raise DataError(
            f"the columns are separated by {what}, not by tabs",
            where=f"{path}:{parts[0][0][0]}",
            hint=f"set delimiter={other!r} in the source.",
        )


def _refuse_comments(parts: list[list[Line]], sentences: list[list[Row]], path: Path) -> None:
    """Refuse lines at the beginning of sentences that look like comments.

    They begin with a mark such as #, and have another number of columns than most lines, or more
    words in their first column, or assign a value, which no other line does.
    """
    lines = [line for part in parts for _, line in part]
    rows = [row for sentence in sentences for _, row in sentence]
    marked = [bool(appearance.COMMENT.match(line)) for line in lines]
    if not any(marked):
        return
    plain = [i for i, each in enumerate(marked) if not each]
    usual = Counter(len(rows[i]) for i in plain).most_common(1)[0][0] if plain else 0
    assignments = any("=" in lines[i] for i in plain)
    found: list[Line] = []
    for part, sentence in zip(parts, sentences, strict=True):
        for (number, line), (_, row) in zip(part, sentence, strict=True):
            mark = appearance.COMMENT.match(line)
            if not mark:
                break
            phrase = re.match(r"\s+\S", row[0][mark.end() :])
            assigned = re.match(r"\s+.*\w\s*=\s*\S", line[mark.end() :])
            if len(row) == usual and not phrase and (assignments or not assigned):
                break
            found.append((number, line))
    if found:
        prefixes = appearance.comment_prefixes([line for _, line in found])
        raise DataError(
            f"{len(found)} line(s) look like comments, the first is {bounded(found[0][1])}",
            where=f"{path}:{found[0][0]}",
            hint=f"set comment={prefixes!r} to skip the lines that begin so, or give them columns.",
        )


def _column(path: Path, name: str, sentences: Sequence[Sequence[Row]], index: int) -> Column:
    values = [[row[index] for _, row in sentence] for sentence in sentences]
    numbers = [[number for number, _ in sentence] for sentence in sentences]
    return Column(path.name, name, values, [lines[0] if lines else 1 for lines in numbers], numbers)


def _remove_prefix(sentences: list[list[Row]], column: int, prefix: str, path: Path) -> Problems:
    """Remove `prefix` from the words in `column`, in place; return a problem for each without."""
    problems: Problems = []
    firsts = {row[column].partition(":")[:2] for sentence in sentences for _, row in sentence}
    if not prefix and len(sentences) > 1 and len(firsts) == 1:
        language, colon = firsts.pop()
        if colon and re.fullmatch("[a-z]{2,3}", language):
            raise DataError(
                f"every word begins with '{language}:'",
                where=str(path),
                hint=f"set word_prefix='{language}:' in the source to read the words without it.",
            )
    for i, sentence in enumerate(sentences):
        for number, row in sentence:
            if not row[column].startswith(prefix):
                what = f"column {column}: {row[column]!r} does not begin with {prefix!r}"
                problems.append((i, f"{path.name}:{number}: {what}"))
            row[column] = row[column].removeprefix(prefix)
    return problems
