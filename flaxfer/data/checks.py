"""Checks of a whole data set: headers, values in place of texts, and settings without effect."""

from __future__ import annotations

import ast
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data.examples import Examples
from flaxfer.data.labels import same_label
from flaxfer.data.tables import COMMENTS, Column
from flaxfer.data.task_types import TaskType
from flaxfer.data.values import written
from flaxfer.errors import DataError, bounded

PLACEHOLDERS = frozenset(
    ["ns", "nan", "null", "n/a", "#n/a", "<na>", "#name?", "#ref!", "#value!", "#div/0!", r"\n"]
) | {"[deleted]", "[removed]"}
"""Texts in lower case that stand for a text that is not there."""

AMBIGUOUS = frozenset(("_", "-", "?", "na", "none", "nil"))
"""Texts that may stand for none, or for themselves."""

MAX_PLACEHOLDER = 20
"""Number of characters from which on a text is no placeholder."""

MIN_SAME = 10
"""Number of examples from which on they cannot all be the same."""

MIN_LABELS = 50
"""Number of labels from which on they may be stand-ins if they are all the same."""

logger = logging.getLogger("flaxfer.data")


def require_header(
    columns: Mapping[str, Column], source: Source, task: Task, task_type: TaskType, where: str
) -> None:
    """Refuse a csv or tsv file whose header is a record, by its label.

    Columns that are given by name have a header; for those given by number, nobody has looked.
    """
    delimited = source.file_format in ("csv", "tsv")
    if not (delimited and source.header and isinstance(source.columns.get("label"), int)):
        return
    first = {
        role: dataclasses.replace(column, values=[ast.literal_eval(column.name)], lines=[1])
        for role, column in columns.items()
        if role in source.columns
    }
    if 0 in task_type.read_labels(first, source, task, [0]).values:
        raise DataError(
            f"the first line is not a header but a record: its label is {first['label'].name}",
            where=f"{where}:1",
            hint="set header=False in the source.",
        )


def require_texts(examples: Examples, columns: Mapping[str, Column], where: str) -> None:
    """Refuse texts that are placeholders or all the same; warn of single placeholders.

    A literal underscore is a word; a treebank that is published without words has nothing else.
    """
    n, second = len(examples), examples.text_b or examples.text_a
    if n >= MIN_SAME and all(
        a == examples.text_a[0] and b == second[0]
        for a, b in zip(examples.text_a, second, strict=True)
    ):
        text = " ".join(_flat(examples.text_a[:1]))
        raise DataError(
            f"all {n} texts are the same: {bounded(text)}",
            where=where,
            hint="check `columns`: does text_a name the column of the texts?",
        )
    for role, texts in ((examples.task_type.roles[0], examples.text_a), ("text_b", second)):
        if texts is examples.text_a and role == "text_b":
            continue
        at = f"{where}: column {columns[role].name}" if role in columns else where
        counts = Counter(_flat(texts))
        plain = {text: text.strip().lower() for text in counts if len(text) < MAX_PLACEHOLDER}
        empty = [text for text, each in plain.items() if each in PLACEHOLDERS]
        doubtful = {"_"} if role == "words" else AMBIGUOUS  # A hyphen is a usual word.
        unclear = [text for text, each in plain.items() if each in doubtful]
        total, missing = counts.total(), sum(counts[text] for text in empty + unclear)
        shown = ", ".join(f"{text!r} ({counts[text]:,})" for text in [*empty, *unclear])
        if total > 1 and missing > total / 2:
            unit = "words" if role == "words" else "texts"
            raise DataError(
                f"{missing:,} of {total:,} {unit} stand for a missing one: {shown}",
                where=at,
                hint="if the set is published without its texts, restore them from their source; "
                "else leave such records out with `drop`.",
            )
        if empty and role in ("text_a", "text_b") and examples.choices == 1:
            logger.warning(
                "%s: %d of %d texts may stand for a missing one: %s; to leave them out, set "
                "drop={%r: (%r,)}",
                *(at, sum(counts[text] for text in empty), total, shown, role, empty[0]),
            )


def _flat(texts: Iterable[object]) -> Iterator[str]:
    for text in texts:
        if isinstance(text, tuple):
            yield from text
        else:
            yield str(text)


def warn_of_stand_ins(examples: Examples, where: str) -> None:
    """Warn of classes or choices that are all the same, as where a test set's are not published."""
    label = examples.label
    if not isinstance(label, np.ndarray) or label.dtype.kind != "i" or len(label) < MIN_LABELS:
        return
    if (label == label[0]).all():
        logger.warning(
            "%s: all %d labels are the same; if they stand for labels that are not published, do "
            "not evaluate with this set",
            *(where, len(label)),
        )


def warn_of_sorted(source: Sequence[str], target: Sequence[str], where: str) -> None:
    """Warn of translations with one sorted side, whose lines may not correspond.

    XTREME's script sorts the English sentences of Tatoeba to remove the labels.
    """
    sides = [list(side) for side in (source, target)]
    if len(sides[0]) >= MIN_LABELS and sum(side == sorted(side) for side in sides) == 1:
        logger.warning(
            "%s: the lines of one side are sorted, those of the other are not; if they are as "
            "XTREME's script writes them, line n of one side does not belong to line n of the "
            "other: read the files of LASER instead",
            where,
        )


def warn_of_unused(
    columns: Mapping[str, Column], source: Source, skipped: Mapping[str, int], where: str
) -> None:
    """Warn of values in `labels`, `questions`, `keep` and `drop` that no record of the set has.

    These are no errors: a small split may lack a class that others have.
    """
    if source.comment and COMMENTS not in skipped:
        logger.warning("%s: no line begins with comment=%r", where, source.comment)
    settings: list[tuple[str, str, Sequence[str]]] = [
        ("question", "questions", [*source.questions])
    ]
    for role in ("label", "tags"):
        settings.append((role, "labels", [*source.labels]))
    for key in ("keep", "drop"):
        settings += [
            (name, f"{key}.{name}", values) for name, values in getattr(source, key).items()
        ]
    for name, setting, values in settings:
        if name not in columns or not values:
            continue
        there = set(_written(columns[name].values, setting == "labels"))
        if absent := [value for value in values if value not in there]:
            near = [v for v in sorted(there) if any(same_label(v, value) for value in absent)]
            hint = f"; there is {', '.join(map(bounded, near[:5]))}" if near else ""
            shown = ", ".join(map(bounded, absent[:10]))
            logger.warning("%s: %s names %s, which no record has%s", where, setting, shown, hint)


def _written(values: Iterable[object], items: bool) -> Iterator[str]:
    for value in values:
        if items and isinstance(value, list):
            yield from map(written, value)
        else:
            yield written(value)
