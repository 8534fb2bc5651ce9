"""Errors of the runs: confusions, scores by label or entity type, overlap of errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Folded, Table
from flaxfer.report.examples import example_blocks, examples_per_set, file_links
from flaxfer.report.formatting import DASH, plural
from flaxfer.report.predictions import SetPredictions, read_predictions
from flaxfer.tasks import task_type
from flaxfer.tasks.schemes import Scheme

MOST_LABELS = 12
"""Labels of a confusion matrix; with more, the most frequent confusions are listed."""


def error_blocks(data: ReportData) -> list[Block]:
    """Return, for each study, its errors over all sets, and the most changed examples of each."""
    sets = sum(len(entry.scores.rows) for entry in data.entries)
    return data.by_study(lambda entry: _study_blocks(data, entry, examples_per_set(sets)))


def _study_blocks(data: ReportData, entry: Entry, most: int) -> list[Block]:
    sets = read_predictions(entry)
    if not sets:
        return []
    task = entry.study.task
    blocks = [_overlap_table(data, task, sets), *_label_blocks(task, sets)]
    if data.single and len(sets) > 1 and task_type(task).showing.can_be_confused:
        for one in sets:
            blocks.append(
                Folded(f"Labels of {one.name}", _label_blocks(task, [one]), one.row.language)
            )
    return [*blocks, *(example_blocks(data, entry, sets, most) if data.examples else ())]


def _overlap_table(data: ReportData, task: Task, sets: Sequence[SetPredictions]) -> Table:
    """Return how far the conditions err on the same examples, and the predictions files."""
    records = []
    for one in sets:
        shares = _overlaps(one.qualities(), task)
        links = {f"{name}, by seed": files for name, files in file_links(data, one).items()}
        records.append({"language": one.row.language, "set": one.row.set} | shares | links)
    if task_type(task).showing.is_amount:
        notes = [
            "Errors: mean absolute difference from the true score. Shared errors: correlation of "
            "the absolute errors of two runs, mean over pairs of runs."
        ]
    else:
        notes = [
            "Right: all words of a sentence, an answer with F1 1, or all right passages before any "
            "other, in tagging, question answering and retrieval. Shares of examples, mean over "
            "the seeds of both conditions.",
            "Shared errors: of the examples that one of two runs gets wrong, the share that both "
            "do, mean over pairs of runs. Runs of one condition show what another seed changes.",
        ]
    notes.append("The last columns link to files of predictions, by seed.")
    return Table("Overlap of errors by language.", records, "ll", notes)


def _overlaps(qualities: Mapping[str, Mapping[int, np.ndarray]], task: Task) -> dict[str, str]:
    direct, staged = qualities.get("direct", {}), qualities.get("staged", {})
    seeds = [seed for seed in direct if seed in staged]
    shown: dict[str, str] = {}
    if task_type(task).showing.is_amount:
        # The quality is minus the absolute error.
        for name, of in qualities.items():
            shown[f"error, {name}"] = f"{-np.mean(list(of.values())):.3f}"
    else:
        right = {
            name: {seed: quality == 1 for seed, quality in of.items()}
            for name, of in qualities.items()
        }
        pairs = [(right["direct"][seed], right["staged"][seed]) for seed in seeds]
        for name, cell in (
            ("both right", lambda d, s: d & s), ("only direct", lambda d, s: d & ~s),
            ("only staged", lambda d, s: ~d & s), ("both wrong", lambda d, s: ~d & ~s),
        ):  # fmt: skip
            if pairs:
                shown[name] = f"{np.mean([cell(d, s) for d, s in pairs]):.1%}"
    between = [(direct[seed], staged[seed]) for seed in seeds]
    shown["shared errors, direct and staged"] = _shared(between, task)
    for name, of in (("direct", direct), ("staged", staged)):
        shown[f"shared errors, two seeds of {name}"] = _shared(
            list(itertools.combinations(of.values(), 2)), task
        )
    return shown


def _shared(pairs: Sequence[tuple[np.ndarray, np.ndarray]], task: Task) -> str:
    """Return the mean over pairs of runs of how much of their errors they share."""
    if not pairs:
        return DASH
    if task_type(task).showing.is_amount:
        values = [np.corrcoef(a, b)[0, 1] for a, b in pairs if a.std() and b.std()]
        return f"{np.mean(values):+.2f}" if values else DASH
    unions = [((a < 1) & (b < 1), (a < 1) | (b < 1)) for a, b in pairs]
    shares = [float(both.sum()) / float(either.sum()) for both, either in unions if either.any()]
    return f"{np.mean(shares):.1%}" if shares else DASH


def _label_blocks(task: Task, sets: Sequence[SetPredictions]) -> list[Block]:
    """Return scores by label or entity type, and confusions of labels, over some sets."""
    showing = task_type(task).showing
    if (scheme := showing.scheme(task)) is not None:
        types = sorted({type_ for _, type_ in scheme.tags.values() if type_})
        counts = _by_seed(
            sets, lambda gold, predicted: entity_counts(scheme, types, gold, predicted)
        )
        return [_score_table("entity type", types, counts, sets)]
    if not showing.can_be_confused:
        return []
    found = {label for one in sets for label in _all_labels(one)}
    labels = [*task.labels, *sorted(found.difference(task.labels))]
    matrices = _by_seed(sets, lambda gold, predicted: confusion(labels, gold, predicted))
    counts = {
        condition: [
            np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)], axis=1)
            for matrix in of
        ]
        for condition, of in matrices.items()
    }
    names = list(map(str, labels))
    means = {condition: np.mean(of, axis=0) for condition, of in matrices.items()}
    return [_score_table("label", names, counts, sets), *_confusions(names, means, sets)]


def _all_labels(one: SetPredictions) -> Iterator[Any]:
    """Yield all labels of examples or words, true and predicted ones."""
    for of in (one.gold, *(run for runs in one.runs.values() for run in runs.values())):
        for item in of:
            yield from (
                (tag for tag in item if tag is not None) if isinstance(item, list) else (item,)
            )


def _by_seed(
    sets: Sequence[SetPredictions], count: Callable[[Sequence[Any], Sequence[Any]], np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Return the sum over sets of what `count` returns, for each run of each condition."""
    return {
        condition: [_sum(count(one.gold, one.runs[condition][seed]) for one in sets) for seed in of]
        for condition, of in sets[0].runs.items()
    }


def _sum(arrays: Iterable[np.ndarray]) -> np.ndarray:
    total: np.ndarray = np.sum(list(arrays), axis=0)
    return total


def confusion(labels: Sequence[Any], gold: Sequence[Any], predicted: Sequence[Any]) -> np.ndarray:
    """Return (labels, labels) int, how often the label of the row is predicted as the column's.

    Items are labels, or lists of the labels of words; words without a true label do not count.
    """
    number = {label: place for place, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    for true, guess in zip(gold, predicted, strict=True):
        pairs = zip(true, guess, strict=True) if isinstance(true, list) else [(true, guess)]
        for one, other in pairs:
            if one is not None:
                matrix[number[one], number[other]] += 1
    return matrix


def entity_counts(
    scheme: Scheme,
    types: Sequence[str],
    gold: Sequence[Sequence[str | None]],
    predicted: Sequence[Sequence[str]],
) -> np.ndarray:
    """Return (types, 3) int: correct, predicted and true entities of each type.

    They are those of the sentences with the tags of all other types replaced by O, so that the sums
    over types are the counts behind the F1 of all entities.
    """
    outside = "O"
    counts = []
    for type_ in types:
        kept = {tag for tag, (_, of) in scheme.tags.items() if of == type_}

        def only(tags: Sequence[str | None], kept: set[str] = kept) -> list[Any]:
            return [tag if tag is None or tag in kept else outside for tag in tags]

        counted = scheme.counts([*map(only, gold)], [*map(only, predicted)])
        counts.append(counted[:, :3].sum(axis=0))
    return np.array(counts)


def _score_table(
    kind: str,
    names: Sequence[str],
    counts: Mapping[str, Sequence[np.ndarray]],
    sets: Sequence[SetPredictions],
) -> Table:
    """Return precision, recall and F1 of each label, means over seeds.

    Args:
      kind: What the names are of.
      names: The labels or types.
      counts: By condition, the counts of each run: right, predicted and true ones, (names, 3).
      sets: The sets that are counted.
    """
    scores = {
        condition: np.mean([prf(of) for of in runs], axis=0) for condition, runs in counts.items()
    }
    true = next(iter(counts.values()))[0][:, 2]
    records = []
    for place, name in enumerate(names):
        record: dict[str, Any] = {kind: name, "n": int(true[place])}
        for condition, of in scores.items():
            for title, value in zip(("precision", "recall", "F1"), of[place], strict=True):
                record[f"{title}, {condition}"] = f"{value:.3f}"
        if {"direct", "staged"} <= scores.keys():
            change = scores["staged"][place, 2] - scores["direct"][place, 2]
            record["F1, staged minus direct"] = f"{change:+.3f}"
        records.append(record)
    return Table(f"Scores by {kind}{_over(sets)}; means over seeds.", records, "l")


def prf(counts: np.ndarray) -> np.ndarray:
    """Return precision, recall and F1 from right, predicted and true counts, (names, 3).

    A ratio with the denominator 0 is 0.
    """
    right, predicted, true = counts.T.astype(np.float64)
    ratios = [
        np.divide(number, of, out=np.zeros_like(number), where=of > 0)
        for number, of in ((right, predicted), (right, true), (2 * right, predicted + true))
    ]
    return np.stack(ratios, axis=1)


def _confusions(
    names: Sequence[str], means: Mapping[str, np.ndarray], sets: Sequence[SetPredictions]
) -> list[Block]:
    """Return the confusion matrices, or the most frequent confusions of many labels."""
    if len(names) <= MOST_LABELS:
        records = [
            {"true label": name, "condition": condition}
            | {
                f"predicted {other}": f"{matrix[row, column]:.1f}"
                for column, other in enumerate(names)
            }
            for row, name in enumerate(names)
            for condition, matrix in means.items()
        ]
        caption = f"Confusion matrices{_over(sets)}: examples, means over seeds."
        return [Table(caption, records, "ll")]
    wrong = _sum(matrix * (1 - np.eye(len(names))) for matrix in means.values())
    order = np.argsort(-wrong, axis=None, kind="stable")[: 2 * MOST_LABELS]
    places = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    records = [
        {"true label": names[row], "predicted": names[column]}
        | {condition: f"{matrix[row, column]:.1f}" for condition, matrix in means.items()}
        for row, column in places
    ]
    caption = f"Most frequent confusions{_over(sets)}: examples, means over seeds."
    return [Table(caption, records, "ll")] if records else []


def _over(sets: Sequence[SetPredictions]) -> str:
    if len(sets) == 1:
        return f", {sets[0].name}"
    return f" over all {plural(len(sets), 'set')}"
