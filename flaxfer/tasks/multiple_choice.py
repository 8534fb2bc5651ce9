"""Multiple choice: the best of several continuations of a text."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data.examples import Texts
from flaxfer.data.labels import Labels, read_classes
from flaxfer.data.packing import Batch, Layout
from flaxfer.data.tables import Column, Problems
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.values import text_fault, written
from flaxfer.tasks.base import SHARE, Predictions, Scores, TaskType
from flaxfer.tasks.resampling import Resampled, class_metric, effective_classes

if TYPE_CHECKING:
    import jax

    from flaxfer.tasks.losses import Arrays, Sum

CHOICE = re.compile(r"choice_([1-9]\d?)", re.ASCII)


class _Choices(Predictions):
    """Choices of examples: those with the largest score, the first one in case of a tie."""

    def __init__(self, task: Task, data: Tokenized, outputs: np.ndarray):
        super().__init__(task, data, outputs.reshape(-1, data.choices))

    def scores(self, chosen: np.ndarray) -> Scores:
        correct = self._outputs[chosen].argmax(axis=1) == self.data.label[chosen]
        return {"accuracy": float(correct.mean()) if correct.size else math.nan}

    def record(self, i: int) -> dict[str, Any]:
        from scipy.special import softmax  # Slow to import.

        return {
            "prediction": int(self._outputs[i].argmax()),
            "label": int(self.data.label[i]),
            "probabilities": softmax(self._outputs[i]).tolist(),
        }


class MultipleChoice(TaskType):
    """One of the choices of each example; the loss is the cross-entropy over their scores.

    An example has a sequence for each choice. An optional question is appended to its text.
    """

    name = "multiple_choice"
    metrics = ("accuracy",)
    ranges = MappingProxyType({"accuracy": SHARE})
    roles = ("text_a", "choice_1", "choice_2", "label", "question")
    optional_roles = ("question",)
    item = "a text and the list of its choices"
    head = "choice"
    learning_metric = "mcc"
    predictions = _Choices
    pipeline_tag = "multiple-choice"
    architecture = "ForMultipleChoice"

    def has_role(self, role: str) -> bool:
        """Return whether columns may have this role; there may be many choices."""
        return bool(role in self.roles or CHOICE.fullmatch(role))

    def required_roles(self, named: Collection[str]) -> list[str]:
        """Return the required roles, with all choices up to the last one."""
        last = max((int(match[1]) for match in map(CHOICE.fullmatch, named) if match), default=0)
        return super().required_roles(named) + [f"choice_{i}" for i in range(3, last + 1)]

    def label_names(self, task: Task, named: Collection[str]) -> tuple[str, ...] | None:
        """Return the indices of the choices; None if there are none."""
        return tuple(map(str, range(len(_choices(named))))) or None

    def read_texts(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> tuple[Texts, Texts | None]:
        """Return the texts, followed by their questions, and the tuples of choices."""
        text_a = columns["text_a"].texts(records)
        if "question" in columns:
            asked = (source.questions.get(q, q) for q in columns["question"].texts(records))
            text_a = tuple(map(" ".join, zip(text_a, asked, strict=True)))
        choices = [columns[role].texts(records) for role in _choices(columns)]
        return text_a, tuple(zip(*choices, strict=True))

    def text_problems(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> Problems:
        """Return the problems of the texts, choices and questions."""
        problems = super().text_problems(columns, source, records)
        for role in _choices(columns):
            problems += columns[role].problems(records, text_fault)
        if "question" in columns:
            asked = source.questions
            hint = f"has no entry in questions; there are {', '.join(asked)}"
            fault = text_fault if not asked else lambda v: "" if written(v) in asked else hint
            problems += columns["question"].problems(records, fault)
        return problems

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the index of each record's correct choice."""
        names = self.label_names(task, columns) or ()
        return read_classes(columns["label"], source, names, records)

    def fields_of(self, item: Any) -> dict[str, Any]:
        """Return the text, and each choice."""
        text, choices = item
        if isinstance(choices, str) or len(choices) < 2:
            raise ValueError("its choices are no list of several texts")
        return {"text_a": text} | {f"choice_{i}": each for i, each in enumerate(choices, start=1)}

    def targets(self, data: Tokenized, layout: Layout) -> Batch:
        """Return `label_BE`, float32 1 for the correct choice, and `unit_BE`.

        `unit_BE` is the int32 number of the example within the batch.
        """
        example = data.example[layout.sequence]
        correct = data.label[example] == layout.sequence % data.choices
        unit = np.unique(example, return_inverse=True)[1]
        return {"label_BE": layout.slots(correct, dtype=np.float32), "unit_BE": layout.slots(unit)}

    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the cross-entropies, and the number of examples."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.choice_loss(logits[..., 0], batch)

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the predicted choices."""
        return class_metric(metric, sorted(set(gold).union(*predictions)), gold, predictions)

    def effective_classes(self, labels: Sequence[Any]) -> float:
        """Return the effective number of choices of MCC."""
        return effective_classes(labels)

    def learning_score(self, dev: Mapping[str, float], choices: int) -> tuple[str, float]:
        """Return the accuracy, scaled so that chance is 0."""
        return "accuracy beyond chance", (dev["accuracy"] * choices - 1) / (choices - 1)

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return which is no index of a choice; empty if both are."""
        for value in (gold, prediction):
            if type(value) is not int or value < 0:
                return f"{value!r} is no index of a choice"
        return ""

    def describe(self, task: Task) -> str:
        """Describe a choice."""
        return "which of several choices is the right one"


def _choices(roles: Collection[str]) -> list[str]:
    """Return the roles of choices in order."""
    return sorted(filter(CHOICE.fullmatch, roles), key=lambda role: int(role.split("_")[1]))
