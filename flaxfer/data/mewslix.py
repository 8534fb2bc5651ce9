"""Mewsli-X of XTREME-R (Ruder et al. 2021, arXiv 2104.07412): mentions and what they refer to.

Its script `get-mewsli-x.sh` (google-research, dense_representations_for_entity_retrieval/mel) makes
files of JSON lines: `wikipedia_pairs` with a mention and its entity on each line, for training;
`wikinews_mentions` with an article and its mentions, for evaluation; and `candidate_set_entities`
with an entity, 1,003,893 of them.

Texts are those of XTREME-R's published code: a mention is followed by a colon and its sentence,
where it stands between braces; an entity is the sentences of its description, without its title.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxfer.config import Source
from flaxfer.data.files import FETCH_AGAIN, decode, load_json, read_bytes
from flaxfer.data.tables import Column, Key, Table, locate, without_labels
from flaxfer.errors import DataError, bounded

NAMES = ("query", "passage", "id", "language", "cluster")

_HINT = "read a file that get-mewsli-x.sh of Mewsli-X writes; docs/guides/xtreme.md lists them."
_BRACES = re.compile("{(.*?)}")


def mewslix(path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read the mentions of a file.

    Columns: `query`, the mention in its sentence; `passage`, the text of its entity, or the id of
    the entity if the source has `candidates`; `id`; `language` and `cluster`, the article.

    Raises:
      DataError: The file is not built as those of Mewsli-X, has no texts or no entities, or names
        entities without `candidates`.
    """
    faults: list[str] = []
    records: list[tuple[str, ...]] = []
    lines: list[int] = []
    for number, value in _objects(path, "path", faults):
        try:
            for record in _mentions(value, source, path):
                records.append(record)
                lines.append(number)
        except _Fault as fault:
            faults.append(f"{path.name}:{number}: {fault}")
    _require(not faults, path, faults)
    if source.candidates and records and not any(record[1] for record in records):
        raise without_labels("no mention has an entity_id", path)
    columns: dict[Key, Column] = {
        key: Column(path.name, repr(NAMES[i]), [record[i] for record in records], lines)
        for key, i in locate(keys, NAMES, str(path)).items()
    }
    return Table(len(records), columns, [], names=NAMES)


def entities(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, id and text of each entity of a file, one at a time.

    Raises:
      DataError: The file is not built as that of Mewsli-X.
    """
    faults: list[str] = []
    for number, value in _objects(path, "candidates", faults):
        try:
            entity = _entity(value)
        except _Fault as fault:
            faults.append(f"{path.name}:{number}: {fault}")
        else:
            yield (number, *entity)
    _require(not faults, path, faults)


class _Fault(Exception):
    """A fault of a line, which the message describes."""


class _Span(NamedTuple):
    start: int
    end: int


def _require(good: bool, path: Path, faults: Sequence[str]) -> None:
    if not good:
        what = "the file is not built as those of Mewsli-X"
        raise DataError(what, where=str(path), hint=_HINT, details=list(faults))


def _objects(path: Path, setting: str, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of each line; lines without one go to `faults`.

    The content of the file is in memory as bytes, and one line as text.
    """
    data = read_bytes(path, setting, "jsonl")
    if not data.strip():
        raise DataError("the file is empty", where=str(path), hint=FETCH_AGAIN)
    for number, line in enumerate(io.BytesIO(data.removeprefix(codecs.BOM_UTF8)), 1):
        try:
            value = load_json(line.decode())
        except UnicodeDecodeError:
            decode(data, "utf-8", path)  # Raises an error that names all such lines.
            raise
        except (ValueError, RecursionError) as error:
            faults.append(f"{path.name}:{number}: the line is no JSON: {error}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.append(f"{path.name}:{number}: is a {type(value).__name__}, no object")


def _mentions(value: Mapping[str, Any], source: Source, path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the values of `NAMES` of each mention of a line."""
    if "contextual_mention" in value:
        pair = _field(value, "contextual_mention", dict)
        context, mentions = _field(pair, "context", dict), [_field(pair, "mention", dict)]
        entity = _entity(_field(value, "entity", dict))
        if entity[0] != mentions[0].get("entity_id"):
            raise _Fault(f"the mention's entity_id is not that of the entity, {entity[0]!r}")
    elif not source.candidates:
        raise DataError(
            "the entities are in another file",
            where=str(path),
            hint="set `candidates` of the source to candidate_set_entities.jsonl.",
        )
    else:
        entity = None
        context, mentions = _field(value, "context", dict), _field(value, "mentions", list)
    text, spans = _field(context, "text", str), _spans(context, "text")
    if not text:
        raise DataError(
            "the texts of the articles are not in this file",
            where=str(path),
            hint="run get-mewsli-x.sh, which adds them, and read wikinews_mentions-*.jsonl.",
        )
    for i, mention in enumerate(mentions):
        try:
            if not isinstance(mention, dict):
                raise _Fault("is no object")
            query = _query(text, spans, _field(mention, "mention_span", dict))
            name = _field(mention, "entity_id", str)
            yield (
                query,
                entity[1] if entity and not source.candidates else name,
                _field(mention, "example_id", str),
                _field(context, "language", str),
                _field(context, "document_id", str),
            )
        except _Fault as fault:
            raise _Fault(f"mention {i + 1}: {fault}") from None


def _query(text: str, spans: Sequence[_Span], mention: Mapping[str, Any]) -> str:
    """Return a mention and its sentence with the mention between braces.

    Braces before and after the mention become parentheses where they form a pair.
    """
    start, end, written = (_field(mention, name) for name in ("start", "end", "text"))
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise _Fault(f"mention_span is {start!r} to {end!r} in a text of {len(text)} characters")
    if text[start:end] != written:
        found = bounded(text[start:end])
        raise _Fault(f"mention_span says {bounded(str(written))}, where the text has {found}")
    for sentence in spans:
        if sentence.start <= start and end <= sentence.end:
            left, right = (
                _BRACES.sub(r"(\1)", part)
                for part in (text[sentence.start : start], text[end : sentence.end])
            )
            return _one_line(f"{written}: {left} {{ {written} }} {right}")
    raise _Fault(f"{bounded(str(written))} lies in no single sentence")


def _entity(value: Mapping[str, Any]) -> tuple[str, str]:
    """Return id and text of an entity."""
    name, text = _field(value, "entity_id", str), _field(value, "description", str)
    if not name:
        raise _Fault("entity_id is empty")
    spans = _spans(value, "description")
    return name, _one_line(" ".join(text[span.start : span.end] for span in spans))


def _spans(value: Mapping[str, Any], name: str) -> list[_Span]:
    """Return the sentences of a text."""
    spans, size = [], len(value[name])
    for i, span in enumerate(_field(value, "sentence_spans", list)):
        start, end = (span.get(key) if isinstance(span, dict) else None for key in ("start", "end"))
        # Files without texts have spans, too.
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= (size or end):
            raise _Fault(f"sentence {i + 1} is {start!r} to {end!r} of {size} characters")
        spans.append(_Span(start, end))
    return spans


def _one_line(text: str) -> str:
    """Return a text without line ends, and with half of each run of spaces."""
    return " ".join(text.splitlines()).replace("  ", " ").strip()


def _field(value: Mapping[str, Any], name: str, kind: type | None = None) -> Any:
    if name not in value:
        raise _Fault(f"there is no {name}")
    if kind is not None and not isinstance(value[name], kind):
        raise _Fault(f"{name} is a {type(value[name]).__name__}, no {kind.__name__}")
    return value[name]
