"""The JSON format of SQuAD 1.1 and 2.0, with a record per question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Source
from flaxfer.data.files import parse_json
from flaxfer.data.tables import Key, Problems, Table, record_table, without_labels
from flaxfer.errors import DataError

Question = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]
"""Path of a question in its file, its article, its paragraph, and the question itself."""


def squad(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read the fields of all questions, and the `context` and `title` of each.

    Raises:
      DataError: If the file is not JSON, does not have SQuAD's structure, lacks a field, or has
        empty answers in place of all that were removed.
    """
    faults: list[str] = []
    questions = [
        (place, {"title": article.get("title"), "context": paragraph.get("context"), **question})
        for place, article, paragraph, question in questions_of(
            parse_json(text, path, "squad"), path, faults
        )
    ]
    if faults:
        raise DataError(
            "the file is not built as those of SQuAD: data, paragraphs, context and qas",
            where=str(path),
            hint="set format to how it is written, or correct the file.",
            details=faults,
        )
    places, records = [place for place, _ in questions], [record for _, record in questions]
    if "answers" in keys and records and all(map(_is_stripped, records)):
        raise without_labels(f"all {len(records):,} questions have an empty answer", path)
    problems: Problems = []
    for i, record in enumerate(records):
        impossible = record.get("is_impossible")
        if impossible is not None and bool(record.get("answers")) == bool(impossible):
            what = "has answers" if impossible else "has no answers"
            problems.append((i, f"{path.name}: {places[i]}: {what}, is_impossible is {impossible}"))
    return record_table(records, path, keys, places, problems)


def _is_stripped(question: dict[str, Any]) -> bool:
    """Return whether a question has answers, and all of them are empty."""
    answers = question.get("answers")
    return (
        isinstance(answers, list)
        and bool(answers)
        and all(isinstance(each, dict) and each.get("text") == "" for each in answers)
    )


def questions_of(value: Any, path: Path, faults: list[str]) -> Iterator[Question]:
    """Yield every question with its path in the file; errors of structure go to `faults`."""

    def items(parent: Any, at: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        inner = parent.get(name) if isinstance(parent, dict) else None
        at = f"{at}.{name}" if at else name
        if not isinstance(inner, list):
            faults.append(f"{path.name}: {at}: is no list")
            return
        for i, item in enumerate(inner):
            if isinstance(item, dict):
                yield f"{at}[{i}]", item
            else:
                faults.append(f"{path.name}: {at}[{i}]: is no object")

    for article_at, article in items(value, "", "data"):
        for paragraph_at, paragraph in items(article, article_at, "paragraphs"):
            for at, question in items(paragraph, paragraph_at, "qas"):
                yield at, article, paragraph, question
