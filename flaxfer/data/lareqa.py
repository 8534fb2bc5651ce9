"""XQuAD-R of LAReQA (Roy et al. 2020, arXiv 2004.05484): questions, and sentences that answer them.

A folder has a file for each language, named by its code, such as `de.json`: SQuAD's JSON with the
sentences of every paragraph. The same question has the same id in every language.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Source
from flaxfer.data.files import decode, parse_json, read_bytes
from flaxfer.data.normal_form import normalise
from flaxfer.data.squad import questions_of
from flaxfer.data.tables import Column, Key, Table, locate
from flaxfer.errors import DataError

UNANSWERED = "questions whose answer lies in no single sentence"

NAMES = ("query", "passage", "negative", "id", "language", "cluster")


@dataclasses.dataclass(frozen=True)
class _Question:
    """A question in one language.

    Attributes:
      text: The question.
      file: Name of its file.
      place: Its path in the file.
      sentences: All sentences of its paragraph.
      answer: Index of the one with the first answer; None if there is none.
    """

    text: Any
    file: str
    place: str
    sentences: Sequence[Any]
    answer: int | None


def lareqa(path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read the questions of all languages of a folder, or of the one of a file.

    Columns: `query`; `passage`, the list of the sentences with the first answer, of the question's
    language first, then of the others; `negative`, the other sentences of the paragraph; `id`,
    such as `de/56be...`; `language`; and `cluster`, the id, which all languages share. Questions
    whose first answer lies in no single sentence are left out and counted, as in LAReQA.

    Raises:
      DataError: There is no file, or one is not built as those of XQuAD-R.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        hint = "name the folder that holds ar.json, de.json and the others."
        raise DataError("there are no json files", where=str(path), hint=hint)
    normal = functools.cache(normalise)  # Paragraphs have several questions.
    by_language = {file.stem: _read(file, source) for file in files}
    places = locate(keys, NAMES, str(path))
    records: list[tuple[Any, ...]] = []
    read: list[_Question] = []
    for language, questions in by_language.items():
        for identity, question in questions.items():
            if question.answer is None:
                continue
            right = [
                each.sentences[each.answer]
                for each in (question, *(of.get(identity) for of in by_language.values()))
                if each is not None and each.answer is not None
            ]
            same = set(map(normal, right))
            others = [text for text in question.sentences if normal(text) not in same]
            name = f"{language}/{identity}"
            records.append(
                (question.text, list(dict.fromkeys(right)), others, name, language, identity)
            )
            read.append(question)
    total = sum(map(len, by_language.values()))
    columns: dict[Key, Column] = {
        key: Column(path.name, repr(NAMES[i]), [each[i] for each in records], lines)
        for key, i in places.items()
        for lines in [[f"{each.file}: {each.place}" for each in read]]
    }
    return Table(len(records), columns, [], {UNANSWERED: total - len(records)}, NAMES)


def _read(path: Path, source: Source) -> dict[str, _Question]:
    """Return the questions of a file by id."""
    text = decode(read_bytes(path, "path", "lareqa"), source.encoding, path)
    faults: list[str] = []
    questions: dict[str, _Question] = {}
    document = parse_json(text, path, "lareqa")
    for place, _, paragraph, question in questions_of(document, path, faults):
        fault, identity = _fault(question, paragraph), str(question.get("id"))
        if not fault and identity in questions:
            fault = f"the id {identity!r} is also that of {questions[identity].place}"
        if fault:
            faults.append(f"{path.name}: {place}: {fault}")
            continue
        answer = next(_containing(question["answers"][0], paragraph["sentence_breaks"]), None)
        questions[identity] = _Question(
            question["question"], path.name, place, paragraph["sentences"], answer
        )
    if faults:
        raise DataError(
            "the file is not built as those of XQuAD-R",
            where=str(path),
            hint="download the file again: github.com/google-research-datasets/lareqa.",
            details=faults,
        )
    return questions


def _containing(answer: Any, breaks: Sequence[Sequence[int]]) -> Iterator[int]:
    """Yield the index of the sentence that an answer lies in."""
    start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    return (i for i, (first, last) in enumerate(breaks) if first <= start and end <= last)


def _fault(question: Mapping[str, Any], paragraph: Mapping[str, Any]) -> str:
    """Return what a question lacks; empty if nothing."""
    answers = question.get("answers")
    sentences, breaks = (paragraph.get(name) for name in ("sentences", "sentence_breaks"))
    if not isinstance(question.get("id"), str):
        return "has no id"
    if not (isinstance(answers, list) and answers and isinstance(answers[0], dict)):
        return "has no answer"
    if not (type(answers[0].get("answer_start")) is int and type(answers[0].get("text")) is str):
        return "its first answer has no text or no answer_start"
    if not (isinstance(sentences, list) and all(isinstance(each, str) for each in sentences)):
        return "its paragraph has no list of sentences"
    if not (
        isinstance(breaks, list) and len(breaks) == len(sentences) and all(map(_is_pair, breaks))
    ):
        return "its paragraph has not as many sentence_breaks as sentences"
    return ""


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)
