"""From the outputs of a model to predictions, their scores, and the lines of a predictions file.

Outputs are float32 logits in the order of the data set: (n, C) for classes and scores, (s, 1) a
sequence for multiple choice, (tokens, C) a token for tags and answers.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.tasks import answers, entities, metrics

Scores = dict[str, float]


class Predictions(abc.ABC):
    """The predictions of a data set of n examples.

    Attributes:
      task: what is predicted.
      data: the data set.
    """

    def __init__(self, task: Task, data: Tokenized, outputs: np.ndarray):
        self.task, self.data, self._outputs = task, data, outputs

    @abc.abstractmethod
    def scores(self, chosen: np.ndarray) -> Scores:
        """Every metric of the task over the examples that `chosen`, (n,) bool, selects."""

    @abc.abstractmethod
    def record(self, i: int) -> dict[str, Any]:
        """Prediction and label of example i, for JSON."""


def predictions_of(task: Task, data: Tokenized, outputs: np.ndarray) -> Predictions:
    """The predictions that a model's outputs stand for."""
    return KINDS[task.kind](task, data, outputs)


class _Scored(Predictions):
    """Scores of examples: regression."""

    def scores(self, chosen: np.ndarray) -> Scores:
        return metrics.evaluate(
            self.task.kind, self._outputs.shape[1], self._outputs[chosen], self.data.label[chosen]
        )

    def record(self, i: int) -> dict[str, Any]:
        return {"prediction": float(self._outputs[i, 0]), "score": float(self.data.label[i])}


class _Classified(_Scored):
    """Classes of examples."""

    def record(self, i: int) -> dict[str, Any]:
        names = self.task.labels
        return {
            "prediction": names[int(self._outputs[i].argmax())],
            "label": names[int(self.data.label[i])],
            "probabilities": dict(zip(names, _softmax(self._outputs[i]), strict=True)),
        }


class _Chosen(Predictions):
    """The best of the choices of each example."""

    def __init__(self, task: Task, data: Tokenized, outputs: np.ndarray):
        super().__init__(task, data, outputs.reshape(-1, data.choices))

    def scores(self, chosen: np.ndarray) -> Scores:
        right = self._outputs[chosen].argmax(axis=1) == self.data.label[chosen]
        return {"accuracy": float(right.mean()) if len(right) else np.nan}

    def record(self, i: int) -> dict[str, Any]:
        return {
            "prediction": int(self._outputs[i].argmax()),
            "label": int(self.data.label[i]),
            "probabilities": _softmax(self._outputs[i]),
        }


class _Tagged(Predictions):
    """A tag for every word, decided at its first piece."""

    @functools.cached_property
    def _tags(self) -> list[list[str]]:
        data = self.data
        first = np.flatnonzero(data.span[:, 0] >= 0)
        example = data.example[np.searchsorted(data.offset, first, side="right") - 1]
        ends = np.cumsum([len(tags) for tags in data.reference])
        best = np.empty(ends[-1] if len(ends) else 0, np.int64)
        best[data.span[first, 0] + (ends - [len(tags) for tags in data.reference])[example]] = (
            self._outputs[first].argmax(axis=1)
        )
        return [[self.task.labels[tag] for tag in part] for part in np.split(best, ends[:-1])]

    def _gold(self, i: int) -> list[str | None]:
        return [None if tag < 0 else self.task.labels[tag] for tag in self.data.reference[i]]

    def scores(self, chosen: np.ndarray) -> Scores:
        examples = np.flatnonzero(chosen).tolist()
        gold = [self._gold(i) for i in examples]
        return entities.entity_scores(gold, [self._tags[i] for i in examples])

    def record(self, i: int) -> dict[str, Any]:
        return {"prediction": self._tags[i], "label": self._gold(i)}


class _Answered(Predictions):
    """A span of the context for every question."""

    @functools.cached_property
    def _answers(self) -> list[list[answers.Answer]]:
        data, task = self.data, self.task
        bounds = np.searchsorted(data.example, np.arange(len(data.id) + 1))
        return [
            answers.best_answers(
                [self._window(s) for s in range(bounds[i], bounds[i + 1])],
                data.reference[i][0],
                n_best=task.n_best,
                max_answer_tokens=task.max_answer_tokens,
                no_answer=task.no_answer,
            )
            for i in range(len(data.id))
        ]

    def _window(self, sequence: int) -> answers.Window:
        start, stop = self.data.offset[sequence : sequence + 2]
        return answers.Window(
            start_t=self._outputs[start:stop, 0],
            end_t=self._outputs[start:stop, 1],
            span_t2=self.data.span[start:stop],
            cls=int(self.data.cls[sequence]),
        )

    def _gold(self, i: int) -> Sequence[str]:
        return [text for text, _ in self.data.reference[i][1]]

    def scores(self, chosen: np.ndarray) -> Scores:
        examples = np.flatnonzero(chosen).tolist()
        return answers.answer_scores(
            [self._answers[i][0].text for i in examples],
            [self._gold(i) for i in examples],
            [self.data.language[i] for i in examples],
            style=self.task.answer_style,
        )

    def record(self, i: int) -> dict[str, Any]:
        best = self._answers[i]
        return {
            "prediction": best[0].text,
            "answers": self._gold(i),
            "n_best": [{"text": a.text, "probability": a.probability} for a in best],
        }


KINDS: dict[str, type[Predictions]] = {
    "classification": _Classified,
    "regression": _Scored,
    "multiple_choice": _Chosen,
    "tagging": _Tagged,
    "question_answering": _Answered,
}
"""By the kind of task."""


def _softmax(logits: np.ndarray) -> list[float]:
    shifted = np.exp(logits - logits.max())
    return (shifted / shifted.sum()).tolist()
