"""Passages in a file of their own, among which the queries of an evaluated set are searched."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Source
from flaxfer.data import mewslix
from flaxfer.data.examples import Candidates, Examples
from flaxfer.data.readers import read_table
from flaxfer.data.tables import Column
from flaxfer.data.values import text_fault
from flaxfer.errors import DataError

logger = logging.getLogger("flaxfer.data")

COLUMNS = ("id", "passage")


def read_candidates(source: Source, data_dir: str = "") -> Candidates:
    """Read the file of a source's `candidates`, as a table or as the entities of Mewsli-X.

    Raises:
      DataError: The file cannot be read, or a candidate lacks a name of its own, or a text.
    """
    path = Path(data_dir).expanduser() / Path(source.candidates).expanduser()
    stat = path.stat() if path.exists() else None
    version = (stat.st_size, stat.st_mtime_ns) if stat else None
    return _read(path, source.file_format == "mewslix", source.encoding, version)


@functools.lru_cache(maxsize=1)  # Sets and seeds share the last file, unless it has changed.
def _read(path: Path, entities: bool, encoding: str, version: object) -> Candidates:
    names: dict[str, str] = {}
    texts: list[str] = []
    faults: list[str] = []
    for place, name, text in _entities(path) if entities else _rows(path, encoding):
        if fault := text_fault(name):
            faults.append(f"{place}: id: {fault}")
        elif name in names:
            faults.append(f"{place}: the id {name!r} is also at {names[name]}")
        elif text != "" and (fault := text_fault(text)):
            faults.append(f"{place}: passage: {fault}")
        else:
            names[name] = place
            texts.append(text)
    if faults:
        raise DataError(
            f"{len(faults):,} of {len(texts) + len(faults):,} candidates cannot be used",
            where=str(path),
            hint="give each candidate an id of its own, and a text.",
            details=faults,
        )
    logger.info("%s: %d candidates", path, len(texts))
    if empty := texts.count(""):
        logger.warning("%s: %d of %d candidates have no text", path, empty, len(texts))
    return Candidates(tuple(names), tuple(texts))


def _entities(path: Path) -> Iterator[tuple[str, str, str]]:
    return ((f"{path.name}:{line}", name, text) for line, name, text in mewslix.entities(path))


def _rows(path: Path, encoding: str) -> Iterator[tuple[str, Any, Any]]:
    table = read_table(path, Source(str(path), encoding=encoding), COLUMNS)
    if table.problems:
        raise DataError(
            f"{len(table.problems):,} finding(s) in the data",
            where=str(path),
            hint="correct the file.",
            details=[text for _, text in table.problems],
        )
    identity, passage = (table.columns[name] for name in COLUMNS)
    for i, (name, text) in enumerate(zip(identity.values, passage.values, strict=True)):
        yield identity.place(i).partition(": column")[0], name, text


def named(
    examples: Examples, candidates: Candidates, passage: Column, records: Sequence[int]
) -> Examples:
    """Return examples of retrieval whose passages are names of candidates, with their texts.

    Raises:
      DataError: A name is that of no candidate.
    """
    row_of = {name: row for row, name in enumerate(candidates.names)}
    faults, texts, label = [], [], []
    for i, first, (others, _) in zip(records, examples.text_b or (), examples.label, strict=True):
        names = dict.fromkeys((str(first), *others))
        faults += [
            f"{passage.place(i)}: {name!r} is no candidate" for name in names if name not in row_of
        ]
        if not faults:
            rows = tuple(row_of[name] for name in names)
            texts.append(candidates.texts[rows[0]])
            label.append((rows, ()))
    if faults:
        raise DataError(
            f"{len(faults):,} passages are not among the {len(candidates.names):,} candidates",
            where=passage.file,
            hint="name passages by the ids in the file of `candidates`, which must hold them all.",
            details=faults,
        )
    return dataclasses.replace(
        examples, text_b=tuple(texts), label=tuple(label), candidates=candidates
    )
