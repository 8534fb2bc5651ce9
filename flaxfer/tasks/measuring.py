"""Metrics of several runs for resampling, and how much each run has learned."""

from __future__ import annotations

from typing import Any

from flaxfer.config import Task
from flaxfer.tasks import task_type
from flaxfer.tasks.resampling import Learning, Resampled


def measure(
    task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
) -> tuple[Resampled, list[Learning]]:
    """Return a metric of R runs for resampling, and how much each run has learned.

    Args:
      task: The predicted task.
      metric: One of its metrics.
      language: Language of the examples.
      gold: True label of each example, as in the records of predictions.
      predictions: Prediction of each example, for each run.

    Raises:
      ValueError: If a label does not belong to the task.
    """
    form = task_type(task)
    name = form.learning_metric_of(task)
    if own := form.custom_metric(metric):
        measured: Resampled = own.resampled(gold, predictions)
    else:
        measured = form.resampled(task, metric, language, gold, predictions)
    learned = measured
    if metric != name:
        learned = form.resampled(task, name, language, gold, predictions)
    scores = zip(learned.observed().tolist(), predictions, strict=True)
    classes = form.effective_classes(gold)
    return measured, [
        Learning(name, value, form.constant(run, gold), classes) for value, run in scores
    ]
