"""Precision, recall and F1 of whole entities in tagged sentences, as in conlleval and seqeval.

Every rule is that of seqeval's default mode (`seqeval.metrics`, version 1.2.2), which follows
conlleval: tags are B, I, E or S with a type, or O; sequences that fit no scheme have entities, too,
as an I after an O or a change of type starts one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from flaxfer.errors import DataError

Tag = str | Literal[-1] | None

# The first letter of a tag, as bits, so that one operation tests for any of several letters.
_B, _I, _E, _S, _O, _DOT, _OTHER = (1 << bit for bit in range(7))
_LETTERS = {"B": _B, "I": _I, "E": _E, "S": _S, "O": _O, ".": _DOT}


def sentence_counts(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> np.ndarray:
    """Count the entities and words of each sentence, see `entity_scores` for the arguments.

    Returns:
      (n, 5) int: correct, predicted and true entities; correctly tagged words, and words.
    """
    gold_id, predicted_id, tags = _ids(gold, predicted)
    words = np.array([sum(tag not in (None, -1) for tag in tags) for tags in gold], np.int64)
    # With the O after a sentence, where an entity at its end ends.
    sentence = np.repeat(np.arange(len(gold)), words + 1)
    ends = *_entity_ends(gold_id, predicted_id, tags), gold_id == predicted_id
    columns = [np.bincount(sentence[each], minlength=len(gold)) for each in ends]
    columns[3] -= 1  # The O after a sentence is equal in both, and is no word.
    return np.stack([*columns, words], axis=1)


def entity_scores(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> dict[str, float]:
    """Return micro-averaged F1, precision and recall of entities, and accuracy of tags.

    They equal `f1_score`, `precision_score`, `recall_score` and `accuracy_score` of
    `seqeval.metrics` with their defaults, for any tags: XTREME (Hu et al. 2020) reports this F1 for
    parts of speech, too. A ratio with denominator 0 is 0; without a tagged word all are NaN.

    Args:
      gold: Sentences with one tag per word; words without a tag (None or -1) are skipped, so that
        their neighbours are adjacent.
      predicted: Sentences with as many tags; those of words without a true tag are ignored.

    Returns:
      "f1", "precision", "recall" and "accuracy", fractions.

    Raises:
      DataError: If numbers of sentences or words differ, or a tag is not text, or is empty.
    """
    correct, guessed, true, right, words = sentence_counts(gold, predicted).sum(axis=0).tolist()
    if words == 0:
        return dict.fromkeys(("f1", "precision", "recall", "accuracy"), float("nan"))
    precision = correct / guessed if guessed else 0.0
    recall = correct / true if true else 0.0
    return {
        "f1": 2 * precision * recall / (precision + recall) if correct else 0.0,
        "precision": precision,
        "recall": recall,
        "accuracy": right / words,
    }


def _ids(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[str | None]]
) -> tuple[np.ndarray, np.ndarray, list[Tag]]:
    """Return all tags as numbers, with an O after each sentence, and the tags by number."""
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


def _entity_ends(
    gold_id: np.ndarray, predicted_id: np.ndarray, tags: list[Tag]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions after correct, predicted and true entities, as bool arrays."""
    used, place = np.unique(np.stack([gold_id, predicted_id]), return_inverse=True)
    letter, type_id = _letters_and_types([tags[i] for i in used])
    ended, begin, of = _chunks(letter[place[0]], type_id[place[0]])
    ended_p, begin_p, of_p = _chunks(letter[place[1]], type_id[place[1]])
    return ended & ended_p & (begin == begin_p) & (of == of_p), ended_p, ended


def _letters_and_types(tags: Sequence[Tag]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first letter (as a bit) and the type (as a number) of each tag."""
    numbers: dict[str, int] = {}
    letter, type_id = np.empty(len(tags), np.uint8), np.empty(len(tags), np.int64)
    for i, tag in enumerate(tags):
        if not isinstance(tag, str) or not tag:
            raise DataError(f"a word has {tag!r} in the place of a tag", where="scoring")
        letter[i] = _LETTERS.get(tag[0], _OTHER)
        type_id[i] = numbers.setdefault(tag[1:].split("-", maxsplit=1)[-1] or "_", len(numbers))
    return letter, type_id


def _chunks(letter: np.ndarray, type_id: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where an entity ends before a tag, and that entity's first position and type.

    Sentences are concatenated with an O after each: tags that are neither entities nor O, like
    parts of speech, can reach back over it to an earlier start, as in seqeval.
    """
    before, type_before = np.append(_O, letter)[:-1], np.append(-1, type_id)[:-1]
    changed = type_id != type_before

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
    return ended, np.append(0, latest)[:-1], type_before
