"""Questions and the sentences that answer them, as in LAReQA (Roy et al. 2020, arXiv 2004.05484).

A passage is a sentence, followed without a blank by its whole paragraph, as in XTREME-R's published
code. It is the one that the first answer of a question begins in.

The format `lareqa` has the test data, XQuAD-R: a folder with a file for each language, named by its
code, such as `de.json`: SQuAD's JSON with the sentence breaks of every paragraph. The same question
has the same id in every language. The format `squad_sentences` has the training data: SQuAD's own
JSON, in English if it has no sentence breaks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxfer.config import Source
from flaxfer.data.files import decode, parse_json, read_bytes
from flaxfer.data.normal_form import normalise
from flaxfer.data.sentence_breaks import sentence_breaks
from flaxfer.data.squad import questions_of
from flaxfer.data.tables import Column, Key, Table, locate
from flaxfer.errors import DataError

UNANSWERED = "questions whose answer begins in no sentence"

NAMES = ("query", "passage", "negative", "id", "language", "cluster")
SQUAD_NAMES = ("query", "passage", "id", "cluster")

HINTS: Mapping[str, tuple[str, str]] = {
    "lareqa": (
        "XQuAD-R",
        "download the file again: github.com/google-research-datasets/lareqa.",
    ),
    "squad_sentences": ("SQuAD", "set format to how it is written, or correct the file."),
}
"""Name of the data set of a format, and what to do about a file that is none of its files."""


class Pool(NamedTuple):
    """The questions of all languages, and the candidates for their answers.

    Attributes:
      questions: Texts of the questions whose answer begins in a sentence.
      question_languages: Language of each.
      candidates: The passages of all paragraphs, those of a language that are equal but for case,
        punctuation and spaces once.
      candidate_languages: Language of each.
      relevant: Indices of the candidates that answer each question, in all languages.
    """

    questions: Sequence[str]
    question_languages: Sequence[str]
    candidates: Sequence[str]
    candidate_languages: Sequence[str]
    relevant: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class _Question:
    """A question in one language.

    Attributes:
      text: The question.
      file: Name of its file.
      place: Its path in the file.
      passages: All sentences of its paragraph, each followed by the paragraph.
      answer: Index of the one with the first answer; None if there is none.
    """

    text: Any
    file: str
    place: str
    passages: Sequence[str]
    answer: int | None

    @property
    def paragraph(self) -> str:
        """Path of its paragraph in the file."""
        return self.place.rpartition(".")[0]


def lareqa(path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read the questions of all languages of a folder, or of the one of a file.

    Columns: `query`; `passage`, the list of the passages with the first answer, of the question's
    language first, then of the others; `negative`, the other passages of the paragraph; `id`,
    such as `de/56be...`; `language`; and `cluster`, the id, which all languages share. Questions
    whose first answer begins in no sentence are left out and counted.

    Raises:
      DataError: There is no file, or one is not built as those of XQuAD-R.
    """
    normal = functools.cache(normalise)  # Paragraphs have several questions.
    by_language = _by_language(path, source.encoding)
    records: list[tuple[Any, ...]] = []
    read: list[_Question] = []
    for language, questions in by_language.items():
        for identity, question in questions.items():
            if question.answer is None:
                continue
            right = [
                each.passages[each.answer]
                for each in (question, *(of.get(identity) for of in by_language.values()))
                if each is not None and each.answer is not None
            ]
            same = set(map(normal, right))
            others = [text for text in question.passages if normal(text) not in same]
            name = f"{language}/{identity}"
            records.append(
                (question.text, list(dict.fromkeys(right)), others, name, language, identity)
            )
            read.append(question)
    return _table(path, keys, NAMES, records, read, sum(map(len, by_language.values())))


def read_pool(path: Path) -> Pool:
    """Read the questions and candidates of a folder of XQuAD-R.

    Raises:
      DataError: There is no file, or one is not built as those of XQuAD-R.
    """
    by_language = _by_language(path, "utf-8")
    number_of: dict[tuple[str, str], int] = {}
    candidates: list[tuple[str, str]] = []
    normal = functools.cache(normalise)

    def number(language: str, text: str) -> int:
        key = language, normal(text)
        if key not in number_of:
            number_of[key] = len(candidates)
            candidates.append((language, text))
        return number_of[key]

    right: dict[str, list[int]] = {}
    for language, questions in by_language.items():
        for identity, question in questions.items():
            numbers = [number(language, text) for text in question.passages]
            if question.answer is not None:
                right.setdefault(identity, []).append(numbers[question.answer])
    asked = [
        (language, identity, question.text)
        for language, questions in by_language.items()
        for identity, question in questions.items()
        if question.answer is not None
    ]
    return Pool(
        [text for _, _, text in asked],
        [language for language, _, _ in asked],
        [text for _, text in candidates],
        [language for language, _ in candidates],
        [right[identity] for _, identity, _ in asked],
    )


def squad_sentences(text: str, path: Path, source: Source, keys: Sequence[Key]) -> Table:
    """Read the questions of a file of SQuAD, each with the passage of its first answer.

    Columns: `query`, `passage`, `id`, and `cluster`, the paragraph. There are no negatives: as in
    the published training, the wrong passages of a question are those of the batch. Paragraphs
    without `sentence_breaks` are divided by `sentence_breaks.sentence_breaks`. Questions without
    an answer, and those whose first one begins in no sentence, are left out and counted.

    Raises:
      DataError: The file is not built as those of SQuAD.
    """
    records: list[tuple[Any, ...]] = []
    read: list[_Question] = []
    questions = _questions(text, path, "squad_sentences")
    for name, question in questions.items():
        if question.answer is not None:
            passage = question.passages[question.answer]
            records.append((question.text, passage, name, question.paragraph))
            read.append(question)
    return _table(path, keys, SQUAD_NAMES, records, read, len(questions))


def _by_language(path: Path, encoding: str) -> dict[str, dict[str, _Question]]:
    """Return the questions of a folder or file by language and id."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        hint = "name the folder that holds ar.json, de.json and the others."
        raise DataError("there are no json files", where=str(path), hint=hint)
    return {
        file.stem: _questions(
            decode(read_bytes(file, "path", "lareqa"), encoding, file), file, "lareqa"
        )
        for file in files
    }


def _table(
    path: Path,
    keys: Sequence[Key],
    names: Sequence[str],
    records: Sequence[tuple[Any, ...]],
    read: Sequence[_Question],
    total: int,
) -> Table:
    lines = [f"{each.file}: {each.place}" for each in read]
    columns: dict[Key, Column] = {
        key: Column(path.name, repr(names[i]), [each[i] for each in records], lines)
        for key, i in locate(keys, names, str(path)).items()
    }
    return Table(len(records), columns, [], {UNANSWERED: total - len(records)}, names)


def _questions(text: str, path: Path, form: str) -> dict[str, _Question]:
    """Return the questions of a file by id."""
    faults: list[str] = []
    questions: dict[str, _Question] = {}
    document = parse_json(text, path, form)
    divided: dict[int, _Passages] = {}
    for place, _, paragraph, question in questions_of(document, path, faults):
        fault, identity = _fault(question, paragraph, form), str(question.get("id"))
        if not fault and identity in questions:
            fault = f"the id {identity!r} is also that of {questions[identity].place}"
        if fault:
            faults.append(f"{path.name}: {place}: {fault}")
            continue
        if id(paragraph) not in divided:
            divided[id(paragraph)] = _Passages(paragraph)
        passages = divided[id(paragraph)]
        questions[identity] = _Question(
            question["question"],
            path.name,
            place,
            passages.texts,
            passages.of(question["answers"]),
        )
    if faults:
        data_set, hint = HINTS[form]
        what = f"the file is not built as those of {data_set}"
        raise DataError(what, where=str(path), hint=hint, details=faults)
    return questions


class _Passages:
    """The passages of a paragraph.

    Attributes:
      breaks: Start and end of each sentence.
      texts: Each sentence, followed by the paragraph.
    """

    def __init__(self, paragraph: Mapping[str, Any]):
        context = paragraph["context"]
        breaks = paragraph.get("sentence_breaks")
        self.breaks = sentence_breaks(context) if breaks is None else breaks
        self.texts = [(context[a:b] + context).replace("\n", "") for a, b in self.breaks]

    def of(self, answers: Sequence[Mapping[str, Any]]) -> int | None:
        """Return the index of the sentence that the first answer begins in; None if none is."""
        start = answers[0]["answer_start"] if answers else -1
        return next((i for i, (a, b) in enumerate(self.breaks) if a <= start < b), None)


def _fault(question: Mapping[str, Any], paragraph: Mapping[str, Any], form: str) -> str:
    """Return what a question lacks; empty if nothing."""
    answers, breaks = question.get("answers"), paragraph.get("sentence_breaks")
    if not isinstance(question.get("id"), str):
        return "has no id"
    if not isinstance(question.get("question"), str):
        return "has no question"
    impossible = form == "squad_sentences" and question.get("is_impossible") is True
    if not (isinstance(answers, list) and (answers or impossible)):
        return "has no answer"
    if answers and not (
        isinstance(answers[0], dict) and type(answers[0].get("answer_start")) is int
    ):
        return "its first answer has no answer_start"
    if not isinstance(paragraph.get("context"), str):
        return "its paragraph has no context"
    if breaks is None and form == "squad_sentences":
        return ""
    if not (isinstance(breaks, list) and breaks and all(map(_is_pair, breaks))):
        return "its paragraph has no list of sentence_breaks"
    return ""


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)
