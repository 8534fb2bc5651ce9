"""Examples whose predictions differ most between the conditions, with their texts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Folded, Links, Table, Text
from flaxfer.report.formatting import plural
from flaxfer.report.predictions import SetPredictions
from flaxfer.tasks import task_type

MOST = 20
"""Examples of a set that are shown."""

IN_ALL = 240
"""Examples of a page that are shown."""

SHOWN = 240
"""Characters of a text that are shown."""


def examples_per_set(sets: int) -> int:
    """Return how many examples of each of `sets` sets are shown, so that a page stays small."""
    return max(2, min(MOST, IN_ALL // max(sets, 1)))


def example_blocks(
    data: ReportData, entry: Entry, sets: Sequence[SetPredictions], most: int
) -> list[Block]:
    """Return the most changed examples: folded by set in a report of one study, else in a table.

    Without both conditions they are those with the worst predictions.
    """
    if data.single:
        return [
            Folded(f"Examples of {one.name}", [_table(entry, one, most)], one.row.language)
            for one in sets
        ]
    records = [
        {"language": one.row.language, "set": one.row.set} | record
        for one in sets
        for record in _records(entry.study.task, one, most)
    ]
    caption = f"The {most} examples of each set that change most, or are predicted worst."
    note = f"A report of this study alone shows up to {MOST} examples of each set."
    align = "lllr" if records and "change" in records[0] else "lll"
    return [Table(caption, records, align.ljust(12, "l"), [*_notes(entry, sets), note])]


def _changes(one: SetPredictions) -> tuple[np.ndarray, bool]:
    """Return by how much each example's quality changes, (n,), or else how far it is from the best.

    Also return whether both conditions are there.
    """
    means = {
        condition: np.mean(list(of.values()), axis=0) for condition, of in one.qualities().items()
    }
    if {"direct", "staged"} <= means.keys():
        return means["staged"] - means["direct"], True
    first = next(iter(means.values()))
    return first - first.max(), False


def _records(task: Task, one: SetPredictions, most: int) -> list[dict[str, str]]:
    change, compared = _changes(one)
    order = np.argsort(-np.abs(change), kind="stable")[:most]
    return [
        {
            "example": one.ids[i],
            **({"change": f"{change[i]:+.2f}"} if compared else {}),
            **_predicted(task, one, i),
            "text": _text(task, one.texts.get(one.ids[i], ())),
        }
        for i in order.tolist()
        if change[i]
    ]


def _table(entry: Entry, one: SetPredictions, most: int) -> Block:
    """Return the examples of a set."""
    task, n = entry.study.task, plural(one.row.n, "example")
    change, compared = _changes(one)
    records = _records(task, one, most)
    if not records:
        return Text(f"{one.name}: all predictions are equally good on all of {n}.")
    caption = f"{one.name}: the {len(records)} examples with the worst predictions, of {n}."
    if compared:
        changed = int(np.count_nonzero(change))
        caption = (
            f"{one.name}: the {len(records)} examples that change most, of {changed:,} that "
            f"change, of {n}."
        )
    return Table(caption, records, ("lr" if compared else "l").ljust(9, "l"), _notes(entry, [one]))


def _notes(entry: Entry, sets: Sequence[SetPredictions]) -> list[str]:
    showing = task_type(entry.study.task).showing
    of_seeds = (
        "are means over seeds"
        if showing.is_amount
        else "of several seeds: the most frequent one, and in how many of them it is"
    )
    notes = [f"Change: {showing.change}. Predictions {of_seeds}."]
    if not all(one.texts for one in sets):
        notes.append("The texts of this set were not recorded when it was evaluated.")
    return notes


def file_links(data: ReportData, one: SetPredictions) -> dict[str, Links]:
    """Return links to the predictions files by condition, named by seed.

    A report of several studies has that of the first seed: the others are in like places.
    """
    return {
        condition: Links(
            data.link(path, str(seed))
            for seed, path in list(of.items())[: None if data.single else 1]
        )
        for condition, of in one.files.items()
    }


def _predicted(task: Task, one: SetPredictions, i: int) -> dict[str, str]:
    """Return the label of an example and its predictions by condition."""
    gold = one.gold[i]
    of_runs = {
        condition: [predictions[i] for predictions in of.values()]
        for condition, of in one.runs.items()
    }
    showing = task_type(task).showing
    if showing.is_amount:
        return {"label": f"{gold:.2f}"} | {
            condition: f"{np.mean(values):.2f}" for condition, values in of_runs.items()
        }
    if showing.has_words:
        return _tags(one.texts.get(one.ids[i], ()), gold, of_runs)
    label = " / ".join(gold) if isinstance(gold, list) else str(gold)
    return {"label": label or "(none)"} | {
        condition: _majority(list(map(showing.shown, values)))
        for condition, values in of_runs.items()
    }


def _majority(values: Sequence[Any]) -> str:
    (value, count), *_ = Counter(values).most_common(1)
    share = f" ({count} of {len(values)})" if len(values) > 1 else ""
    return f"{_short(str(value)) or '(none)'}{share}"


def _tags(
    words: Sequence[str], gold: Sequence[str | None], of_runs: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, str]:
    """Return the tags of the words that some run tags wrongly."""
    runs = list(itertools.chain.from_iterable(of_runs.values()))
    places = [
        place
        for place, tag in enumerate(gold)
        if tag is not None and any(tags[place] != tag for tags in runs)
    ]

    def named(place: int, tag: str) -> str:
        word = words[place] if place < len(words) else f"word {place + 1}"
        return f"{_short(word)}: {tag}"

    return {"label": "; ".join(named(place, str(gold[place])) for place in places)} | {
        condition: "; ".join(
            named(place, _majority([tags[place] for tags in of])) for place in places
        )
        for condition, of in of_runs.items()
    }


def _text(task: Task, parts: Sequence[str]) -> str:
    separator = " " if task_type(task).showing.has_words else " \N{DOUBLE VERTICAL LINE} "
    return _short(separator.join(" ".join(part.split()) for part in parts))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"
