"""Precision, recall and F1 of whole entities in tagged sentences, as conlleval and seqeval count.

Every rule is seqeval's default mode (`seqeval.metrics`, version 1.2.2), which follows conlleval:
tags are B, I, E, S and a type, or O; a sequence that fits no scheme still has entities, as an I
after an O or a change of the type starts one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from flaxfer.errors import DataError

Span = tuple[str, int, int]
Tag = str | Literal[-1] | None

# The first letter of a tag, as bits, so that one operation asks for any of several letters.
_B, _I, _E, _S, _O, _DOT, _OTHER = (1 << bit for bit in range(7))
_LETTERS = {"B": _B, "I": _I, "E": _E, "S": _S, "O": _O, ".": _DOT}
_BIO = re.compile(r"O|[BIES](-.+)?")


class Counts(NamedTuple):
    """Numbers of entities: found rightly (type, first and last word), predicted, and true."""

    correct: int
    predicted: int
    gold: int

    @property
    def precision(self) -> float:
        """Share of the predicted entities that are right; 0 without any."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the true entities that are found; 0 without any."""
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if both are 0."""
        precision, recall = self.precision, self.recall
        return 2 * precision * recall / (precision + recall) if self.correct else 0.0


def is_bio(labels: Iterable[str]) -> bool:
    """Whether a set of tags marks entities: only O and B, I, E or S with a type, B or I among them.

    Parts of speech, and schemes with other letters (BILOU, BMES), are none.
    """
    labels = tuple(labels)
    return all(map(_BIO.fullmatch, labels)) and any(label[0] in "BI" for label in labels)


def entity_spans(tags: Sequence[str]) -> list[Span]:
    """Entities of one sentence, as `seqeval.metrics.sequence_labeling.get_entities`.

    Args:
      tags: one a word.

    Returns:
      (type, first word, last word), in the order of the words; the type of a tag that names none
      is "_".

    Raises:
      DataError: a tag is not text, or is empty.
    """
    letter, kind, types = _table([*tags, "O"])
    ended, begin, of = _chunks(letter, kind)
    place = ended.nonzero()[0]
    return [
        (types[t], int(first), int(last))
        for t, first, last in zip(of[place], begin[place], place - 1, strict=True)
    ]


def entity_counts(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> dict[str, Counts]:
    """Numbers of entities by type, in alphabetical order.

    Args, and errors raised, as `entity_scores`.
    """
    return _counts(*_ids(gold, predicted))


def sentence_counts(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> np.ndarray:
    """What the scores of `entity_scores` are made of, by sentence.

    Args, and errors raised, as `entity_scores`.

    Returns:
      (n, 5) int: entities found rightly, predicted and true; words tagged rightly, and words.
    """
    gold_id, predicted_id, tags = _ids(gold, predicted)
    words = np.array([sum(tag not in (None, -1) for tag in tags) for tags in gold], np.int64)
    # With the O that ends a sentence, where an entity at its end is found to have ended.
    sentence = np.repeat(np.arange(len(gold)), words + 1)
    ends = *_found(gold_id, predicted_id, tags)[:3], gold_id == predicted_id
    columns = [np.bincount(sentence[each], minlength=len(gold)) for each in ends]
    columns[3] -= 1
    return np.stack([*columns, words], axis=1)


def entity_scores(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> dict[str, float]:
    """Micro-averaged F1, precision and recall of the entities, and accuracy of the tags.

    As `seqeval.metrics.f1_score`, `precision_score`, `recall_score` and `accuracy_score` with
    their defaults, for tags of any kind: XTREME (Hu et al. 2020) reports this f1 of parts of
    speech, too. All are fractions. A share of no entities is 0; without a tagged word all four are
    NaN.

    Args:
      gold: sentences of tags, one a word; a word without a tag (None or -1) counts nowhere, and
        its neighbours are then next to each other.
      predicted: sentences of as many tags; what stands at words without a true tag is not read.

    Returns:
      "f1", "precision", "recall" and "accuracy".

    Raises:
      DataError: numbers of sentences or words differ, or a tag is not text, or is empty.
    """
    gold_id, predicted_id, tags = _ids(gold, predicted)
    words = len(gold_id) - len(gold)
    if words == 0:
        return dict.fromkeys(("f1", "precision", "recall", "accuracy"), float("nan"))
    total = Counts(0, 0, 0)
    for each in _counts(gold_id, predicted_id, tags).values():
        total = Counts(*map(sum, zip(total, each, strict=True)))
    # The O that ends a sentence is equal in both, and is no word.
    right = int((gold_id == predicted_id).sum()) - len(gold)
    return {
        "f1": total.f1,
        "precision": total.precision,
        "recall": total.recall,
        "accuracy": right / words,
    }


def _ids(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> tuple[np.ndarray, np.ndarray, list[Tag]]:
    """All tags as numbers, sentences end to end with an O after each, and the tags by number."""
    if len(gold) != len(predicted):
        raise DataError(
            f"{len(gold)} tagged sentences have {len(predicted)} predictions", where="scoring"
        )
    flat: tuple[list[Tag], list[Tag]] = ([], [])
    for number, pair in enumerate(zip(gold, predicted, strict=True)):
        if len(pair[0]) != len(pair[1]):
            raise DataError(
                f"sentence {number} has {len(pair[0])} words and {len(pair[1])} predicted tags",
                where="scoring",
            )
        for side, tags in zip(flat, pair, strict=True):
            side += tags
            side.append("O")
    numbers: dict[Tag, int] = {tag: i for i, tag in enumerate(dict.fromkeys(flat[0] + flat[1]))}
    ids = [np.fromiter(map(numbers.__getitem__, side), np.int64, len(side)) for side in flat]
    without = [numbers[tag] for tag in (None, -1) if tag in numbers]
    counted = ~np.isin(ids[0], without)
    return ids[0][counted], ids[1][counted], list(numbers)


def _counts(gold_id: np.ndarray, predicted_id: np.ndarray, tags: list[Tag]) -> dict[str, Counts]:
    correct, ended_p, ended, of_p, of, types = _found(gold_id, predicted_id, tags)
    numbers = (
        np.bincount(each, minlength=len(types)).tolist()
        for each in (of[correct], of_p[ended_p], of[ended])
    )
    found = zip(types, map(Counts, *numbers), strict=True)
    return {name: counts for name, counts in sorted(found) if any(counts)}


def _found(
    gold_id: np.ndarray, predicted_id: np.ndarray, tags: list[Tag]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Where entities found rightly, predicted and true end, and the types of the last two."""
    used, place = np.unique(np.stack([gold_id, predicted_id]), return_inverse=True)
    letter, kind, types = _table([tags[i] for i in used])
    ended, begin, of = _chunks(letter[place[0]], kind[place[0]])
    ended_p, begin_p, of_p = _chunks(letter[place[1]], kind[place[1]])
    correct = ended & ended_p & (begin == begin_p) & (of == of_p)
    return correct, ended_p, ended, of_p, of, types


def _table(tags: Sequence[Tag]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """First letter (as a bit) and type (as a number) of every tag, and the types by number."""
    numbers: dict[str, int] = {}
    letter, kind = np.empty(len(tags), np.uint8), np.empty(len(tags), np.int64)
    for i, tag in enumerate(tags):
        if not isinstance(tag, str) or not tag:
            raise DataError(f"a word has {tag!r} in the place of a tag", where="scoring")
        letter[i] = _LETTERS.get(tag[0], _OTHER)
        name = tag[1:].split("-", maxsplit=1)[-1] or "_"
        kind[i] = numbers.setdefault(name, len(numbers))
    return letter, kind, list(numbers)


def _chunks(letter: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the place before a tag ends an entity, and that entity's first place and type.

    Sentences lie end to end, an O after each: tags that are neither entities nor O, like parts of
    speech, can reach back over it to an earlier start, and seqeval lets them.
    """
    before, kind_before = np.append(_O, letter)[:-1], np.append(-1, kind)[:-1]
    changed = kind != kind_before

    def any_of(x: np.ndarray, letters: int) -> np.ndarray:
        return (x & letters) != 0

    ended = (
        any_of(before, _E | _S)
        | (any_of(before, _B | _I) & any_of(letter, _B | _S | _O))
        | (~any_of(before, _O | _DOT) & changed)
    )
    started = (
        any_of(letter, _B | _S)
        | (any_of(before, _E | _S | _O) & any_of(letter, _E | _I))
        | (~any_of(letter, _O | _DOT) & changed)
    )
    latest = np.maximum.accumulate(np.where(started, np.arange(len(letter)), 0))
    return ended, np.append(0, latest)[:-1], kind_before
