"""Classification of texts and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data.labels import Labels, read_classes
from flaxfer.data.tables import Column
from flaxfer.data.tokenize import Tokenized
from flaxfer.tasks import resampling
from flaxfer.tasks.base import Predictions, Scores, TaskType
from flaxfer.tasks.resampling import Learning, Resampled

if TYPE_CHECKING:
    import jax

    from flaxfer.tasks.metrics import DeviceMetrics


class Classification(TaskType):
    """One of `Task.labels` per example; the loss is the cross-entropy."""

    name = "classification"
    metrics = ("accuracy", "macro_f1", "mcc")
    settings = frozenset({"labels", "label_smoothing"})
    single_label = True
    learning_metric = "mcc"
    pipeline_tag = "text-classification"
    problem_type = "single_label_classification"

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the index of each record's class."""
        return read_classes(columns["label"], source, task.labels, records)

    def loss(
        self, logits: jax.Array, batch: Mapping[str, jax.Array], label_smoothing: float
    ) -> tuple[jax.Array, jax.Array]:
        """Return the sum of the cross-entropies, and the number of examples."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.class_loss(logits, batch, label_smoothing)

    def device_metrics(self, task: Task) -> type[DeviceMetrics]:
        """Return all metrics of the type."""
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.classification(len(task.labels))

    def accumulate(
        self, state: DeviceMetrics, logits: jax.Array, batch: Mapping[str, jax.Array]
    ) -> DeviceMetrics:
        """Return the metrics with those of a batch merged in."""
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.accumulate(state, logits, batch)

    def predictions(self, task: Task, data: Tokenized, outputs: np.ndarray) -> Predictions:
        """Return the most probable class of each example."""
        return _Classes(task, data, outputs)

    def measure(
        self,
        task: Task,
        metric: str,
        language: str,
        gold: Sequence[Any],
        predictions: Sequence[Sequence[Any]],
    ) -> tuple[Resampled, list[Learning]]:
        """Return a metric of the predicted classes."""
        return resampling.measure_classes(metric, task.labels, gold, predictions)

    def describe(self, task: Task) -> str:
        """Name the classes."""
        return f"one of the classes {', '.join(task.labels)}, in the order of the logits"


class _Classes(Predictions):
    """Classes of examples."""

    def scores(self, chosen: np.ndarray) -> Scores:
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.evaluate_classes(self._outputs[chosen], self.data.label[chosen])

    def record(self, i: int) -> dict[str, Any]:
        names = self.task.labels
        return {
            "prediction": names[int(self._outputs[i].argmax())],
            "label": names[int(self.data.label[i])],
            "probabilities": dict(zip(names, softmax(self._outputs[i]), strict=True)),
        }


def softmax(logits: np.ndarray) -> list[float]:
    """Return the softmax of a row of logits."""
    shifted = np.exp(logits - logits.max())
    return (shifted / shifted.sum()).tolist()
