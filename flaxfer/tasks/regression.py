"""Regression of a score for texts and pairs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.config import Source, Stage, Task
from flaxfer.config.findings import Finding
from flaxfer.data.labels import Labels, read_single_labels
from flaxfer.data.tables import Column
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.values import score, score_fault
from flaxfer.tasks import resampling
from flaxfer.tasks.base import CORRELATION, Predictions, Scores, TaskType
from flaxfer.tasks.resampling import Resampled
from flaxfer.tasks.showing import Amounts

if TYPE_CHECKING:
    import jax

    from flaxfer.tasks.losses import Arrays, Sum
    from flaxfer.tasks.metrics import DeviceMetrics

CONSTANT_SD = 0.01


class _Outputs(Predictions):
    """Scores of examples."""

    def scores(self, chosen: np.ndarray) -> Scores:
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.evaluate_scores(self._outputs[chosen], self.data.label[chosen])

    def record(self, i: int) -> dict[str, Any]:
        return {"prediction": float(self._outputs[i, 0]), "score": float(self.data.label[i])}


class Regression(TaskType):
    """A score within `Task.score_range` per example; the loss is the squared error."""

    name = "regression"
    metrics = ("pearson", "spearman", "mse")
    ranges = MappingProxyType({"pearson": CORRELATION, "spearman": CORRELATION})
    smaller_is_better = ("mse",)
    settings = frozenset({"output_bias", "score_range"})
    single_label = True
    label_dtype = np.float32
    gold_key = "score"
    learning_metric = "pearson"
    predictions = _Outputs
    pipeline_tag = "text-classification"
    problem_type = "regression"
    showing = Amounts()

    def check_task(self, at: str, task: Task) -> Iterator[Finding]:
        """Yield every error in the settings of a task."""
        yield from super().check_task(at, task)
        if not task.score_range[0] < task.score_range[1]:
            yield (
                (f"{at}.score_range", f"{at}.type"),
                f"{at}.score_range: is empty: {task.score_range}",
            )

    def label_names(self, task: Task, named: Collection[str]) -> tuple[str, ...] | None:
        """Return (): scores have no names."""
        return ()

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the score of each record."""
        return read_single_labels(
            columns["label"],
            source,
            records,
            lambda value: score(value, task.score_range),
            lambda value: score_fault(value, task.score_range),
        )

    def start_head(self, settings: Stage, data: Tokenized, head: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a new head, whose bias may start as the mean score."""
        if settings.train.output_bias != "mean":
            return head
        bias = np.full(1, data.label.mean(dtype=np.float32), np.float32)
        return {**head, "output": {**head["output"], "bias": bias}}

    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the squared errors, and the number of examples."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.score_loss(logits, batch)

    def device_metrics(self, task: Task) -> DeviceMetrics:
        """Return all metrics but Spearman's correlation, which needs the ranks."""
        from flaxfer.tasks import metrics  # Imports JAX.

        return metrics.ScoreMetrics.empty()

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the predicted scores."""
        score_n, output_nR = np.array(gold, np.float64), np.array(predictions, np.float64).T
        if metric == "mse":
            return resampling.mean((output_nR - score_n[:, None]) ** 2)
        measures = {"pearson": resampling.pearson, "spearman": resampling.Spearman}
        return measures[metric](output_nR, score_n)

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return which is no finite number; empty if both are."""
        for value in (gold, prediction):
            if type(value) not in (int, float) or not abs(value) < math.inf:
                return f"{value!r} is no finite number"
        return ""

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        """Return why the predicted scores of a run count as constant; empty if they do not."""
        sd, gold_sd = np.std(prediction), np.std(gold)
        if sd < CONSTANT_SD * gold_sd:
            return f"predictions have a standard deviation of {sd:.2g}, the scores of {gold_sd:.2g}"
        return ""

    def undefined(self, metric: str, gold: Sequence[Any]) -> bool:
        """Return whether a correlation is undefined because all scores are the same."""
        return metric in ("pearson", "spearman") and min(gold) == max(gold)

    def exported_labels(self, task: Task) -> tuple[str, ...]:
        """Return a name for the only output."""
        return ("score",)

    def describe(self, task: Task) -> str:
        """Name the range of the scores."""
        low, high = task.score_range
        return f"a score; the scores it was trained on range from {low:g} to {high:g}"
