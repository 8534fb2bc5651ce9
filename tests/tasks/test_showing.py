"""Quality of single predictions, and types of entities."""

from __future__ import annotations

from typing import Any

import pytest

from flaxfer.config import Task
from flaxfer.tasks import task_type

CLASSES = Task("c", "classification", "accuracy", labels=("A", "B"))
CHOICES = Task("c", "multiple_choice", "accuracy")
SCORES = Task("s", "regression", "pearson")
TAGS = Task("t", "tagging", "accuracy", labels=("A", "B"))
ANSWERS = Task("q", "question_answering", "f1")


@pytest.mark.parametrize(
    ("task", "gold", "prediction", "quality"),
    [
        (CLASSES, "A", "A", 1.0),
        (CLASSES, "A", "B", 0.0),
        (CHOICES, 0, 1, 0.0),
        (SCORES, 3.0, 2.5, -0.5),
        (SCORES, 2.0, 2.5, -0.5),
        (TAGS, ["A", None, "B"], ["A", "B", "A"], 0.5),
        (TAGS, [None], ["A"], 1.0),
        (ANSWERS, ["a red cat", "dog"], "the cat", 2 / 3),
        (ANSWERS, ["dog"], "cat", 0.0),
    ],
)
def test_the_quality_of_a_prediction(
    task: Task, gold: Any, prediction: Any, quality: float
) -> None:
    showing = task_type(task).showing
    assert showing.quality(task, "en", gold, prediction) == pytest.approx(quality, abs=1e-12)
    assert (quality <= 0) if showing.is_amount else (0 <= quality <= 1)


@pytest.mark.parametrize(
    ("labels", "settings", "has_types"),
    [
        (("O", "B-X", "I-X", "B-Y", "I-Y"), {}, True),
        (("O", "NOUN"), {}, False),
        (("NOUN", "VERB"), {"tag_scheme": "chunks"}, False),
    ],
)
def test_types_of_entities(
    labels: tuple[str, ...], settings: dict[str, Any], has_types: bool
) -> None:
    task = Task("t", "tagging", "accuracy", labels=labels, **settings)
    assert (task_type(task).showing.scheme(task) is not None) == has_types
