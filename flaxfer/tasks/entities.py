"""Precision, recall and F1 of whole entities in tagged sentences, as in conlleval and seqeval.

Every rule is that of seqeval's default mode (`seqeval.metrics`, version 1.2.2), which follows
conlleval: tags are B, I, E or S with a type, or O; sequences that fit no scheme have entities, too,
as an I after an O or a change of type starts one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# The first letter of a tag, as bits, so that one operation tests for any of several letters.
_B, _I, _E, _S, _O, _DOT, _OTHER = (1 << bit for bit in range(7))
_LETTERS = {"B": _B, "I": _I, "E": _E, "S": _S, "O": _O, ".": _DOT}


def sentence_counts(
    gold: Sequence[Sequence[str | None]], predicted: Sequence[Sequence[str]]
) -> np.ndarray:
    """Count the entities and words of each sentence, see `entity_scores` for the arguments.

    Returns:
      (n, 5) int: correct, predicted and true entities; correctly tagged words, and words.

    Raises:
      ValueError: If numbers of sentences or words differ.
    """
    pairs = [
        [pair for pair in zip(*tags, strict=True) if pair[0] is not None]
        for tags in zip(gold, predicted, strict=True)
    ]
    words = np.array([len(each) for each in pairs])
    # With an O after each sentence, where an entity at its end ends.
    sentence = np.repeat(np.arange(len(gold)), words + 1)
    flat: list[Any] = [tag for each in pairs for pair in (*each, ("O", "O")) for tag in pair]
    number = {tag: i for i, tag in enumerate(dict.fromkeys(flat))}
    letter, type_id = _letters_and_types(number)
    ids = np.array([number[tag] for tag in flat]).reshape(-1, 2).T
    (ended, *entity), (ended_p, *entity_p) = (_chunks(letter[each], type_id[each]) for each in ids)
    correct = ended & ended_p & np.equal(entity, entity_p).all(axis=0)
    counted = (correct, ended_p, ended, ids[0] == ids[1])
    columns = [np.bincount(sentence[each], minlength=len(gold)) for each in counted]
    columns[3] -= 1  # The O after a sentence is equal in both, and is no word.
    return np.stack([*columns, words], axis=1)


def entity_scores(
    gold: Sequence[Sequence[str | None]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return micro-averaged F1, precision and recall of entities, and accuracy of tags.

    They equal `f1_score`, `precision_score`, `recall_score` and `accuracy_score` of
    `seqeval.metrics` with their defaults, for any tags: XTREME (Hu et al. 2020) reports this F1 for
    parts of speech, too. A ratio with denominator 0 is 0.

    Args:
      gold: Sentences with one tag per word; words without a tag (None) are skipped, so that their
        neighbours are adjacent. At least one has a tag.
      predicted: Sentences with as many tags; those of words without a true tag are ignored.

    Returns:
      "f1", "precision", "recall" and "accuracy", fractions.
    """
    return scores_of_counts(sentence_counts(gold, predicted))


def scores_of_counts(counts_n5: np.ndarray) -> dict[str, float]:
    """Return the scores of `entity_scores` from counts; accuracy is NaN without words."""
    correct, guessed, true, right, words = counts_n5.reshape(-1, 5).sum(axis=0).tolist()
    precision = correct / guessed if guessed else 0.0
    recall = correct / true if true else 0.0
    return {
        "f1": 2 * precision * recall / (precision + recall) if correct else 0.0,
        "precision": precision,
        "recall": recall,
        "accuracy": right / words if words else math.nan,
    }


def entities_of(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the first word, the one after the last, and the type of each entity of a sentence."""
    tags = [*tags, "O"]
    ended, first, _ = _chunks(*_letters_and_types(tags))
    return [(int(first[i]), i, _type(tags[i - 1])) for i in np.flatnonzero(ended).tolist()]


def _letters_and_types(tags: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first letter (as a bit) and the type (as a number) of each tag."""
    letters = np.array([_LETTERS.get(tag[:1], _OTHER) for tag in tags], np.uint8)
    types = [_type(tag) for tag in tags]
    return letters, np.unique(types, return_inverse=True)[1]


def _type(tag: str) -> str:
    return tag[1:].split("-", maxsplit=1)[-1] or "_"


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
