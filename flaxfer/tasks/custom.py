"""Metrics that are defined outside of the package.

A task uses one by naming it as its `metric`. A package declares it as an entry point in the group
`flaxfer.metrics`, named like the metric, so that every process finds it; `register_metric` adds one
to this process alone.

    def within_one(gold, predictions):
        return np.abs(np.subtract(gold, predictions)) <= 1

    flaxfer.register_metric(
        flaxfer.Metric("within_one", "regression", within_one, range=(0.0, 1.0))
    )
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxfer.config.findings import suggestion
from flaxfer.errors import ConfigError
from flaxfer.runtime import plugins
from flaxfer.tasks.resampling import Sums

GROUP = "flaxfer.metrics"
"""Group of the entry points."""

_REGISTERED: dict[tuple[str, str], Metric] = {}


def average(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the mean over examples of one feature."""
    mean: np.ndarray = sums[..., 0] / n
    return mean


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that is a function of sums over examples.

    The statistics resample examples thousands of times. They need the metric in this form, in which
    a resample costs one product of matrices. Identities of stages hold the name alone, so give a
    changed metric another name.

    Attributes:
      name: Name, none of the task type's own metrics.
      task_type: Name of the task type whose predictions it takes.
      features: Function from the true labels and the predictions of n examples, two lists as they
        stand in the files of predictions, to what each example adds to the k sums: (n, k), or (n,)
        for one sum.
      formula: NumPy function from the sums, (..., k), and the numbers of examples, (...), to the
        metric, (...). It must give a number for all sums of at least one example. By default, the
        mean of the first feature.
      range: Smallest and largest possible value.
      larger_is_better: Whether larger values are better.
    """

    name: str
    task_type: str
    features: Callable[[Sequence[Any], Sequence[Any]], np.ndarray]
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray] = average
    range: tuple[float, float] = (-math.inf, math.inf)
    larger_is_better: bool = True

    def score(self, gold: Sequence[Any], predictions: Sequence[Any]) -> float:
        """Return the metric of some examples.

        Raises:
          ConfigError: It fails, or its value is not within its range.
        """
        features_nk = self._features(gold, predictions)
        value = float(self._call(self.formula, features_nk.sum(axis=0), np.float64(len(gold))))
        if not self.range[0] <= value <= self.range[1]:
            raise self._error(f"its value {value} is not within its range {self.range}")
        return value

    def resampled(self, gold: Sequence[Any], predictions: Sequence[Sequence[Any]]) -> Sums:
        """Return the metric of several runs for resampling.

        Raises:
          ConfigError: It fails.
        """
        features = [self._features(gold, run) for run in predictions]
        return Sums(np.stack(features, axis=1), self.formula)

    def _features(self, gold: Sequence[Any], predictions: Sequence[Any]) -> np.ndarray:
        features = np.asarray(self._call(self.features, gold, predictions), np.float64)
        features_nk = features[:, None] if features.ndim == 1 else features
        if features_nk.ndim != 2 or len(features_nk) != len(gold):
            shape = f"({len(gold)},) or ({len(gold)}, k)"
            raise self._error(f"features returns the shape {features.shape} instead of {shape}")
        if not np.isfinite(features_nk).all():
            raise self._error("features returns values that are not finite")
        return features_nk

    def _call(self, function: Callable[..., Any], *values: Any) -> Any:
        try:
            return function(*values)
        # It is the user's program: whatever it raises is reported with its place.
        except Exception as error:
            raise self._error(f"it failed: {type(error).__name__}: {error}") from error

    def _error(self, what: str) -> ConfigError:
        hint = "correct the function that it is made of."
        return ConfigError(what, where=f"metric {self.name!r} of {self.task_type}", hint=hint)


def register_metric(metric: Metric) -> None:
    """Add a metric to this process, or replace the one of the same name.

    Raises:
      ConfigError: There is no such task type, or it has a metric of this name.
    """
    from flaxfer.tasks import TASK_TYPES  # Imports this module.

    if metric.task_type not in TASK_TYPES:
        hint = suggestion(metric.task_type, TASK_TYPES)
        what = f"{metric.task_type!r} is not a task type"
        raise ConfigError(what, where=f"metric {metric.name!r}", hint=hint)
    if metric.name in TASK_TYPES[metric.task_type].metrics:
        what = f"{metric.task_type} has a metric of this name"
        raise ConfigError(what, where=f"metric {metric.name!r}", hint="choose another name.")
    _REGISTERED[metric.task_type, metric.name] = metric


def find(task_type: str, name: str) -> Metric | None:
    """Return the custom metric of a task type by name; None if there is none.

    Raises:
      ConfigError: The entry point of this name cannot be used.
    """
    return _REGISTERED.get((task_type, name)) or _declared(task_type, name)


@functools.cache
def _declared(task_type: str, name: str) -> Metric | None:
    if name not in plugins.names(GROUP):
        return None
    metric = plugins.load(GROUP, name)
    if not isinstance(metric, Metric) or metric.name != name:
        raise ConfigError(
            f"it is {metric!r}, not a flaxfer.Metric of this name",
            where=f"entry point {name!r} of {GROUP}",
            hint="correct the package that declares it.",
        )
    return metric if metric.task_type == task_type else None
