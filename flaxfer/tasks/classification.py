"""Classification of texts and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data.labels import Labels, read_classes
from flaxfer.data.tables import Column
from flaxfer.tasks.base import CORRELATION, SHARE, Predictions, Scores, TaskType
from flaxfer.tasks.resampling import Resampled, class_metric, effective_classes

if TYPE_CHECKING:
    import jax

    from flaxfer.tasks.losses import Arrays, Sum
    from flaxfer.tasks.metrics import DeviceMetrics


class _Classes(Predictions):
    """Classes of examples: those with the largest logit."""

    def scores(self, chosen: np.ndarray) -> Scores:
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.evaluate_classes(self._outputs[chosen], self.data.label[chosen])

    def record(self, i: int) -> dict[str, Any]:
        from scipy.special import softmax  # Slow to import.

        names, logits_C = self.task.labels, self._outputs[i]
        return {
            "prediction": names[int(logits_C.argmax())],
            "label": names[int(self.data.label[i])],
            "probabilities": dict(zip(names, softmax(logits_C).tolist(), strict=True)),
        }


class Classification(TaskType):
    """One of `Task.labels` per example; the loss is the cross-entropy."""

    name = "classification"
    metrics = ("accuracy", "macro_f1", "mcc")
    ranges = MappingProxyType({"accuracy": SHARE, "macro_f1": SHARE, "mcc": CORRELATION})
    settings = frozenset({"labels", "label_smoothing"})
    single_label = True
    learning_metric = "mcc"
    predictions = _Classes
    pipeline_tag = "text-classification"
    problem_type = "single_label_classification"

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the index of each record's class."""
        return read_classes(columns["label"], source, task.labels, records)

    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the cross-entropies, and the number of examples."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.class_loss(logits, batch, label_smoothing)

    def device_metrics(self, task: Task) -> DeviceMetrics:
        """Return all metrics of the type."""
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.ClassMetrics.empty(len(task.labels))

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the predicted classes."""
        return class_metric(metric, task.labels, gold, predictions)

    def effective_classes(self, labels: Sequence[Any]) -> float:
        """Return the effective number of classes of MCC."""
        return effective_classes(labels)

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return which is no name of a class; empty if both are."""
        return next((f"{x!r} is no text" for x in (gold, prediction) if not isinstance(x, str)), "")

    def describe(self, task: Task) -> str:
        """Name the classes."""
        return f"one of the classes {', '.join(task.labels)}, in the order of the logits"
