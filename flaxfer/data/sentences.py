"""Readers of files with one word per line, CoNLL and CoNLL-U; values are lists with lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from flaxfer.config import Source
from flaxfer.data.files import split_lines
from flaxfer.data.tables import Column, Key, Problems, Table, locate, missing_columns
from flaxfer.errors import DataError

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
"""The columns of CoNLL-U (universaldependencies.org/format.html)."""

Line = tuple[int, str]
"""A one-based line number, and the line."""


def conll(text: str, path: Path, source: Source, keys: list[Key]) -> Table:
    """Read sentences with one word per line, in columns, and a blank line after each sentence.

    Spaces around a value are removed; a no-break space is part of the word.

    Raises:
      DataError: If the file has too few columns, or all words have an unexpected language prefix.
    """
    delimiter = source.delimiter or "\t"

    def cells(line: str) -> list[str]:
        if delimiter == " ":
            return re.split("[ \t]+", line.strip(" \t"))
        return [cell.strip(" ") for cell in line.split(delimiter)]

    sentences = _sentences(text)
    rows = [[cells(line) for _, line in lines] for lines in sentences]
    width = max((len(row) for sentence in rows for row in sentence), default=0)
    found, missing = locate(keys, [str(i) for i in range(width)])
    if missing:
        raise missing_columns(str(path), missing, range(width))
    needed = 1 + max(found.values(), default=-1)
    problems: Problems = []
    for i, (sentence, lines) in enumerate(zip(rows, sentences, strict=True)):
        for row, (number, _) in zip(sentence, lines, strict=True):
            if len(row) < needed:
                what = f"has {len(row)} column(s), {needed} are needed"
                problems.append((i, f"{path.name}:{number}: {what}"))
                row += [""] * (needed - len(row))
    words = found.get(source.columns.get("words", ""))
    if words is not None:
        problems += _remove_prefix(rows, sentences, words, source.word_prefix, path)
    columns = {key: _column(path, str(i), rows, i, sentences) for key, i in found.items()}
    return Table(len(rows), columns, problems)


def conllu(text: str, path: Path, keys: list[Key]) -> Table:
    """Read CoNLL-U: columns by number or name, and comments such as `sent_id` by their key.

    Lines of multiword tokens (`1-2`) and empty nodes (`8.1`) are skipped, because their words have
    lines of their own, or are not in the text.

    Raises:
      DataError: If a key is neither a column nor the key of a comment.
    """
    problems: Problems = []
    rows: list[list[list[str]]] = []
    comments: list[dict[str, str]] = []
    kept: list[list[Line]] = []
    sentences = _sentences(text)
    for i, lines in enumerate(sentences):
        tokens = [line for line in lines if not line[1].startswith("#")]
        heads = (line.removeprefix("#").partition("=") for _, line in lines if line[:1] == "#")
        comments.append({key.strip(): value.strip() for key, sign, value in heads if sign})
        rows.append([])
        kept.append([])
        for number, line in tokens:
            row = line.split("\t")
            expected = str(len(rows[i]) + 1)
            if len(row) != len(CONLLU):
                what = f"has {len(row)} column(s), CoNLL-U has {len(CONLLU)}"
            elif "" in row:
                what = f"column {CONLLU[row.index('')]}: is empty; CoNLL-U writes _"
            elif re.fullmatch(r"\d+[-.]\d+", row[0], re.ASCII):
                continue
            else:
                what = "" if row[0] == expected else f"word {row[0]!r} stands for word {expected}"
            if what:
                problems.append((i, f"{path.name}:{number}: {what}"))
            rows[i].append([*row, *[""] * (len(CONLLU) - len(row))])
            kept[i].append((number, line))
        if not tokens:
            problems.append((i, f"{path.name}:{lines[0][0]}: comments without a sentence"))
    names = [*CONLLU, *dict.fromkeys(key for each in comments for key in each)]
    found, missing = locate(keys, names)
    if missing:
        raise missing_columns(str(path), missing, names)
    columns: dict[Key, Column] = {}
    for key, i in found.items():
        if i < len(CONLLU):
            columns[key] = _column(path, names[i], rows, i, kept)
        else:
            values = [each.get(names[i]) for each in comments]
            firsts = [lines[0][0] for lines in sentences]
            columns[key] = Column(path.name, repr(names[i]), values, firsts)
    return Table(len(rows), columns, problems)


def _sentences(text: str) -> list[list[Line]]:
    """Return the lines of each sentence; lines with only whitespace separate sentences."""
    groups = itertools.groupby(
        enumerate(split_lines(text), 1), lambda line: bool(line[1].strip(" \t"))
    )
    return [list(lines) for filled, lines in groups if filled]


def _column(
    path: Path,
    name: str,
    rows: Sequence[Sequence[Sequence[str]]],
    index: int,
    sentences: Sequence[Sequence[Line]],
) -> Column:
    values = [[row[index] for row in sentence] for sentence in rows]
    numbers = [[number for number, _ in lines] for lines in sentences]
    return Column(path.name, name, values, [lines[0] if lines else 1 for lines in numbers], numbers)


def _remove_prefix(
    rows: list[list[list[str]]],
    sentences: list[list[Line]],
    column: int,
    prefix: str,
    path: Path,
) -> Problems:
    """Remove `prefix` from the words in `column`, in place; return a problem for each without."""
    problems: Problems = []
    firsts = {row[column].partition(":")[:2] for sentence in rows for row in sentence}
    if not prefix and len(rows) > 1 and len(firsts) == 1:
        language, colon = firsts.pop()
        if colon and re.fullmatch("[a-z]{2,3}", language):
            raise DataError(
                f"every word begins with '{language}:'",
                where=str(path),
                hint=f"set word_prefix='{language}:' in the source to read the words without it.",
            )
    for i, (sentence, lines) in enumerate(zip(rows, sentences, strict=True)):
        for row, (number, _) in zip(sentence, lines, strict=True):
            if not row[column].startswith(prefix):
                what = f"column {column}: {row[column]!r} does not begin with {prefix!r}"
                problems.append((i, f"{path.name}:{number}: {what}"))
            row[column] = row[column].removeprefix(prefix)
    return problems
