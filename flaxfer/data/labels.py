"""What is to be predicted: classes, scores, choices, tags and answers, checked against the task.

Classes and tags are mapped by name, never by number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data.tables import Column, Problems
from flaxfer.data.values import list_fault, score, score_fault, text_fault, written
from flaxfer.errors import ConfigError

NO_LABEL = ("", "-1")
"""How data sets write that a record has no label, unless the task has a label of that name."""

NO_TAG = (*NO_LABEL, "_")
"""The same of a word."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """The label of each record that has one, the records that have none, and what is wrong."""

    values: dict[int, Any] = dataclasses.field(default_factory=dict)
    missing: set[int] = dataclasses.field(default_factory=set)
    problems: Problems = dataclasses.field(default_factory=list)

    def of(self, records: Sequence[int], task: Task) -> np.ndarray | tuple[Any, ...]:
        """The labels of `records` as `Examples` has them."""
        values = tuple(self.values[i] for i in records)
        if task.kind in ("tagging", "question_answering"):
            return values
        return np.array(values, np.float32 if task.kind == "regression" else np.int32)

    def lacks(self, record: int, finding: str, source: Source) -> None:
        """Notes that a record has no label."""
        if source.drop_unlabeled:
            self.missing.add(record)
        else:
            self.problems.append((record, finding))


def read_labels(
    columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
) -> Labels:
    """The labels of `records`, by the kind of the task; `columns` go by their roles.

    Raises:
      ConfigError: `source.labels` leads to labels that the task does not have.
    """
    if task.kind == "tagging":
        return _tags(columns["words"], columns["tags"], source, task, records)
    if task.kind == "question_answering":
        return _answers(columns["text_b"], columns["answers"], source, task, records)
    choices = sum(role.startswith("choice_") for role in columns)
    names = task.labels if task.kind == "classification" else tuple(map(str, range(choices)))
    return _single(columns["label"], source, task, names, records)


def _single(
    column: Column, source: Source, task: Task, names: tuple[str, ...], records: Sequence[int]
) -> Labels:
    """A class, a choice or a score for each record."""
    labels = Labels()
    scores = task.kind == "regression"
    index = {} if scores else _index(source, task, names)
    for i in records:
        value = column.values[i]
        text = written(value)
        number = score(value, task.score_range) if scores else index.get(text)
        if number is not None:
            labels.values[i] = number
        elif text in NO_LABEL:
            labels.lacks(i, f"{column.place(i)}: {text!r} stands for no label", source)
        else:
            fault = score_fault(value, task.score_range) if scores else "is no label"
            labels.problems.append((i, f"{column.place(i)}: {text!r} {fault}"))
    return labels


def _tags(
    words: Column, column: Column, source: Source, task: Task, records: Sequence[int]
) -> Labels:
    """A tag for every word; -1 where there is none, if `drop_unlabeled` allows it."""
    labels = Labels()
    index = _index(source, task, task.labels)
    for i in records:
        tags = column.values[i]
        fault = list_fault(tags)
        if not fault and isinstance(words.values[i], list) and len(words.values[i]) != len(tags):
            fault = f"holds {len(tags)} tags for {len(words.values[i])} words"
        if fault:
            labels.problems.append((i, f"{column.place(i)}: {fault}"))
            continue
        names = [written(tag) for tag in tags]
        numbers = tuple(index.get(name, -1) for name in names)
        for item, (name, number) in enumerate(zip(names, numbers, strict=True)):
            if number < 0 and (name not in NO_TAG or not source.drop_unlabeled):
                fault = "stands for no label" if name in NO_TAG else "is no label"
                labels.problems.append((i, f"{column.place(i, item)}: {name!r} {fault}"))
        if source.drop_unlabeled and max(numbers) < 0:
            labels.missing.add(i)
        else:
            labels.values[i] = numbers
    return labels


def _answers(
    contexts: Column, column: Column, source: Source, task: Task, records: Sequence[int]
) -> Labels:
    """The answers of each question with their first characters in the context."""
    labels = Labels()
    for i in records:
        pairs = _pairs(column.values[i])
        if isinstance(pairs, str):
            labels.problems.append((i, f"{column.place(i)}: {pairs}"))
            continue
        context = contexts.values[i]
        for item, (text, start) in enumerate(pairs):
            fault = _answer_fault(text, start, context) if isinstance(context, str) else ""
            if fault:
                labels.problems.append((i, f"{column.place(i, item)}: {fault}"))
        if pairs or task.no_answer:
            labels.values[i] = tuple(pairs)
        else:
            finding = f"{column.place(i)}: holds no answer; is that right, set task.no_answer"
            labels.lacks(i, finding, source)
    return labels


def _pairs(value: Any) -> list[tuple[Any, Any]] | str:
    """(text, start) of `{"text": [...], "answer_start": [...]}` or of a list of such objects."""
    fields = ("text", "answer_start")
    if isinstance(value, dict) and all(isinstance(value.get(name), list) for name in fields):
        texts, starts = (value[name] for name in fields)
        if len(texts) != len(starts):
            return f"holds {len(texts)} text(s) and {len(starts)} answer_start(s)"
        return list(zip(texts, starts, strict=True))
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return [(each.get("text"), each.get("answer_start")) for each in value]
    if value is None:
        return "is missing"
    return "is not of the form {'text': [...], 'answer_start': [...]}"


def _answer_fault(text: Any, start: Any, context: str) -> str:
    fault = text_fault(text)
    if fault:
        return f"text {fault}"
    if isinstance(start, bool) or not isinstance(start, int):
        return f"answer_start {start!r} is no whole number"
    there = context[start : start + len(text)] if start >= 0 else ""
    if there == text:
        return ""
    places = [at for at in range(len(context)) if context.startswith(text, at)][:3]
    at = f"it stands at {', '.join(map(str, places))}" if places else "it stands nowhere in it"
    return f"{text!r} does not stand at character {start} of the context, {there!r} does; {at}"


def _index(source: Source, task: Task, labels: tuple[str, ...]) -> dict[str, int]:
    """Label as written -> its number among `labels`, by way of its name."""
    names = dict(source.labels) or {label: label for label in labels}
    unknown = [f"{w!r} -> {n!r}" for w, n in names.items() if n not in labels]
    if unknown:
        raise ConfigError(
            f"labels of the source are mapped to labels that {task.name} does not have",
            hint=f"the labels of the task are {', '.join(map(repr, labels))}.",
            details=unknown,
        )
    return {label: labels.index(name) for label, name in names.items()}
