"""Interface of predictions."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized

Scores = dict[str, float]
"""Metrics by name."""


class Predictions(abc.ABC):
    """Predictions for a data set of n examples.

    Args:
      task: The predicted task.
      data: The data set.
      outputs: float32 logits in the order of the data set, (sequences, C) or (tokens, C).
    """

    def __init__(self, task: Task, data: Tokenized, outputs: np.ndarray):
        self.task, self.data, self._outputs = task, data, outputs

    @abc.abstractmethod
    def scores(self, chosen: np.ndarray) -> Scores:
        """Return all metrics over the examples selected by `chosen`, (n,) bool."""

    @abc.abstractmethod
    def record(self, i: int) -> dict[str, Any]:
        """Return the JSON record of example i: `prediction`, the label, and details."""

    def places(self, i: int) -> dict[str, Any]:
        """Return where the prediction for example i lies in its text, for `flaxfer predict`."""
        return {}
