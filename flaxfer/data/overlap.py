"""Overlap between the splits of a study: training texts in evaluation sets, and repeated texts.

Hashes of texts in a normal form (`normal_form.py`) are compared. A **text** is shared if it occurs
anywhere in the other split, such as in another pair; an **example** is shared if all its texts
occur in one example there, in any order. Only what is too long to be a coincidence counts, see
`TELLING` there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Literal

import numpy as np

from flaxfer.config import Task
from flaxfer.data.examples import Examples
from flaxfer.data.normal_form import TELLING, hashed
from flaxfer.errors import DataError

logger = logging.getLogger("flaxfer.data")

Mode = Literal["report", "remove", "forbid"]
Between = Literal["train and evaluation", "train and train", "within"]

COLUMNS = ("texts of", "in", "texts", "pairs", "same label", "short", "share", "removed")
"""Header of `rows`."""

_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplication by it is invertible; from the golden ratio, as in Knuth's hashing."""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Overlap of two splits, counted in examples of `b`, or repetition within one split.

    Attributes:
      between: Type of comparison; `within` compares a split with itself.
      a, b: Stage and split, such as `target/train`.
      examples: Number of examples of `b`.
      texts: Examples with at least one telling text that occurs in `a`; within a split, in an
        earlier example.
      pairs: Examples whose texts all occur in one example of `a`, in any order; None if both
        splits hold single texts.
      short: Like `pairs`, or like `texts` for single texts, but too short to be counted there.
      share: Share of the examples counted in `pairs`, or in `texts` for single texts.
      same_label: Number of those whose label in `a` is the same; None if the tasks differ, or
        their labels are neither classes, scores nor choices.
      removed: Examples of `a` that were removed because of `b`. An example may occur in several
        sets; the record of `a` with itself counts all that were removed.
      seed: The seed whose splits were compared; None if all seeds have the same counts.
    """

    between: Between
    a: str
    b: str
    examples: int
    texts: int
    pairs: int | None
    short: int
    share: float
    same_label: int | None
    removed: int = 0
    seed: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Keys:
    """Hashes of examples and of their texts, and whether they are long enough, see `TELLING`.

    Arrays of texts have a row for each example. Whole examples are hashed whatever the order of
    their texts, without and with their labels, which are comparable if `question` is equal: the
    task type, and names or range of labels; None if they are neither classes, scores nor choices.
    """

    text: np.ndarray
    whole: np.ndarray
    labelled: np.ndarray
    telling_text: np.ndarray
    telling: np.ndarray
    question: tuple[object, ...] | None

    @functools.cached_property
    def ordered(self) -> dict[str, np.ndarray]:
        """Hashes in ascending order: sorted once, however many sets they are compared with."""
        names = ("text", "whole", "labelled")
        return {name: np.sort(getattr(self, name), axis=None) for name in names}


def examine(
    stages: Mapping[str, Mapping[str, Examples]],
    tasks: Mapping[str, Task],
    mode: Mode,
    known: MutableMapping[tuple[str, Examples], Keys] | None = None,
) -> tuple[dict[str, dict[str, Examples]], list[Overlap]]:
    """Count, and optionally remove, the overlap between the splits of a study.

    Every training split is compared with the evaluation sets of all stages, including dev, and
    with the other training split. With `remove`, the target's training split loses its examples
    that occur in the target's own sets, so that it does not depend on the intermediate stage; the
    intermediate stage's loses those in its own sets and in the target's. Examples that share only
    one of several texts are kept.

    Args:
      stages: Splits by stage; all but `train` are evaluated on.
      tasks: Tasks by stage.
      mode: `report` counts, `remove` removes, `forbid` is an error if `remove` would remove any.
      known: Hashes by stage and split from earlier calls for the same tasks; new ones are added.

    Returns:
      The stages, with their training splits after removal, and the counts before it.

    Raises:
      DataError: If overlap is forbidden, or nothing is left to train on.
    """
    known = {} if known is None else known
    keys = {}
    for stage, splits in stages.items():
        for split, examples in splits.items():
            if (stage, examples) not in known:
                known[stage, examples] = _keys(examples, tasks[stage])
            keys[f"{stage}/{split}"] = known[stage, examples]
    trains = [name for name in keys if name.endswith("/train")]
    evaluated = [name for name in keys if name not in trains]
    records = [_compare(*pair, keys) for pair in itertools.combinations(trains, 2)]
    records += [_compare(name, name, keys) for name in evaluated]
    left = {name: dict(splits) for name, splits in stages.items()}
    for train in trains:
        stage = train.removesuffix("/train")
        leaked = np.zeros(len(keys[train].whole), bool)
        for name in evaluated:
            shared = _isin(keys[train].whole, keys[name].ordered["whole"]) & keys[train].telling
            shared &= name.startswith((f"{stage}/", "target/"))
            leaked |= shared
            records.append(_compare(train, name, keys, shared if mode == "remove" else None))
        records.append(_compare(train, train, keys, leaked if mode == "remove" else None))
        if leaked.any() and mode != "report":
            left[stage]["train"] = _without(stages[stage]["train"], leaked, train, mode)
    order = list(keys)
    return left, sorted(records, key=lambda each: (order.index(each.a), order.index(each.b)))


def rows(records: Sequence[Overlap]) -> Iterator[list[object]]:
    """Yield the overlap with and the repetition in training splits as rows of `COLUMNS`."""
    for record in records:
        if record.a.endswith("/train") and (record.texts or record.pairs or record.short):
            b = "itself" if record.a == record.b else record.b
            pairs = "" if record.pairs is None else f"{record.pairs:,}"
            same = "" if record.same_label is None else f"{record.same_label:,}"
            share = f"{record.share:.1%}"
            a = record.a if record.seed is None else f"{record.a}, seed {record.seed}"
            yield [a, b, record.texts, pairs, same, record.short, share, record.removed]


def _keys(examples: Examples, task: Task) -> Keys:
    parts = list(examples.texts())
    texts = list(itertools.chain.from_iterable(parts))
    known = {text: hashed(text) for text in set(texts)}
    hashes, lengths = zip(*map(known.__getitem__, texts), strict=True)
    text = np.array(hashes, np.uint64).reshape(len(parts), -1)
    length = np.array(lengths, np.int64).reshape(len(parts), -1)
    ordered = np.sort(text, axis=1)
    whole = ordered[:, 0]
    for column in ordered.T[1:]:
        whole = whole * _MIX + column  # Wraps around, as it is to.
    labelled, question = whole, None
    if isinstance(examples.label, np.ndarray):
        label = examples.label.astype(np.float64).view(np.uint64)
        if examples.choices > 1:  # The correct choice, wherever it stands among the others.
            label = text[np.arange(len(text)), 1 + examples.label]
        labelled = whole * _MIX + label
        scores = examples.label.dtype == np.float32
        question = (task.type, task.score_range if scores else task.labels)
    telling = length.sum(axis=1) >= TELLING
    return Keys(text, whole, labelled, length >= TELLING, telling, question)


def _compare(
    a: str, b: str, keys: Mapping[str, Keys], removed: np.ndarray | None = None
) -> Overlap:
    """Compare two splits, or one with itself; `removed` examples of `a` are removed for `b`."""
    first, second = keys[a], keys[b]
    if a == b:
        between: Between = "within"
        n, size = first.text.shape
        _, place, group = np.unique(first.text, return_index=True, return_inverse=True)
        text = place[group].reshape(n, size) // size < np.arange(n)[:, None]
        whole, same = _repeated(first.whole), _repeated(first.labelled)
    else:
        between = "train and train" if b.endswith("/train") else "train and evaluation"
        text = _isin(second.text, first.ordered["text"])
        whole = _isin(second.whole, first.ordered["whole"])
        same = _isin(second.labelled, first.ordered["labelled"])
    counted = whole & second.telling
    comparable = first.question is not None and first.question == second.question
    return Overlap(
        between=between,
        a=a,
        b=b,
        examples=len(whole),
        texts=int((text & second.telling_text).any(axis=1).sum()),
        pairs=None if first.text.shape[1] == second.text.shape[1] == 1 else int(counted.sum()),
        short=int((whole & ~second.telling).sum()),
        share=float(counted.mean()),
        same_label=int((counted & same).sum()) if comparable else None,
        removed=0 if removed is None else int(removed.sum()),
    )


def _isin(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return which of the values are among those in ascending order, bool."""
    place = np.searchsorted(ordered, values)
    return np.append(ordered, ordered[-1:])[place] == values


def _repeated(values: np.ndarray) -> np.ndarray:
    """Return which of the values are repetitions of an earlier one, bool."""
    repeated = np.ones(len(values), bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated


def _without(examples: Examples, leaked: np.ndarray, name: str, mode: Mode) -> Examples:
    what = "examples stand in the sets that are evaluated on"
    if mode == "forbid":
        raise DataError(
            f"{leaked.sum()} of {len(leaked)} {what}",
            where=name,
            hint="set overlap='remove' to leave them out, or 'report' to count them only.",
            details=[examples.id[i] for i in np.flatnonzero(leaked)],
        )
    if leaked.all():
        raise DataError(
            f"all {len(leaked)} {what}",
            where=name,
            hint="train on other data, or set overlap='report' to train on these nevertheless.",
        )
    logger.info("%s: %d of %d examples are left out", name, leaked.sum(), len(leaked))
    return examples.take(np.flatnonzero(~leaked))
