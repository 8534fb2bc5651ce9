"""Judgement of single predictions, and how a report shows them, by the kind of label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.tasks import answers
from flaxfer.tasks.rankings import METRICS
from flaxfer.tasks.schemes import CHUNKS, Scheme, scheme_of


class Names:
    """Labels are names, such as classes or choices; a prediction is right or wrong.

    Attributes:
      has_words: Whether an example is a list of words with a label each.
      is_amount: Whether labels are numbers, so that errors have a size.
      can_be_confused: Whether each label belongs to a few names, so that confusions are counted.
      change: What the change of an example is, for a note under a table.
    """

    has_words = False
    is_amount = False
    can_be_confused = True
    change = "share of the seeds that are right, staged minus direct"

    def quality(self, task: Task, language: str, gold: Any, prediction: Any) -> float:
        """Return how good a prediction is: 1 if it is right, and less otherwise.

        Args:
          task: The predicted task.
          language: Language of the example.
          gold: True label, as in the files of predictions.
          prediction: What was predicted.
        """
        return float(gold == prediction)

    def shown(self, prediction: Any) -> str:
        """Return a prediction as a text."""
        return str(prediction)

    def scheme(self, task: Task) -> Scheme | None:
        """Return the scheme of labels that mark entities of several types; None for others."""
        return None


class Amounts(Names):
    """Labels are numbers; the quality of a prediction is minus its absolute error, at most 0."""

    is_amount = True
    can_be_confused = False
    change = "by how much the absolute error becomes smaller, mean over seeds"

    def quality(self, task: Task, language: str, gold: Any, prediction: Any) -> float:
        """Return minus the absolute error."""
        return -abs(prediction - gold)


class WordTags(Names):
    """A label for each word, or None for a word that does not count."""

    has_words = True
    change = (
        "share of the right tags, staged minus direct, mean over seeds. Words that some run tags "
        "wrongly are shown"
    )

    def quality(
        self, task: Task, language: str, gold: Sequence[str | None], prediction: Sequence[str]
    ) -> float:
        """Return the share of the words with the right tag; 1 without words that count."""
        pairs = zip(gold, prediction, strict=True)
        right = [true == tag for true, tag in pairs if true is not None]
        return float(np.mean(right)) if right else 1.0

    def scheme(self, task: Task) -> Scheme | None:
        """Return the scheme; None for chunks, which have no types."""
        scheme = scheme_of(task)
        return scheme if scheme is not None and scheme.name != CHUNKS else None


class Answers(Names):
    """A label is a list of right answers, as texts."""

    can_be_confused = False
    change = "F1, staged minus direct, mean over seeds"

    def quality(self, task: Task, language: str, gold: Sequence[str], prediction: str) -> float:
        """Return F1 of the words, of the answer that is closest."""
        return answers.METRICS["f1"](prediction, gold, language, task.answer_style)


class Rankings(Names):
    """A label is a list of right candidates, and a prediction a ranking, both by name."""

    can_be_confused = False
    change = "average precision of the first 20, staged minus direct, mean over seeds"

    def quality(
        self, task: Task, language: str, gold: Sequence[str], prediction: Sequence[str]
    ) -> float:
        """Return the average precision."""
        return METRICS["map_at_20"](gold, prediction)

    def shown(self, prediction: Sequence[str]) -> str:
        """Return the first candidate."""
        return prediction[0]
