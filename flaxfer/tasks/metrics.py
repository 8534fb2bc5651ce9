"""Accuracy, macro F1, MCC, Pearson, Spearman and mean squared error, computed on the device.

Values equal scikit-learn's and SciPy's to 1e-6 in float32, however the examples are split into
batches: floating-point sums are pairs of float32, a sum and its rounding error. The correlation
with a constant is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeAlias

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from flaxfer.tasks.losses import Arrays

DeviceMetrics: TypeAlias = clu_metrics.Metric
Pair = tuple[jax.Array, jax.Array]

_SMALLEST_SIZE = 64
_ORDER = ("accuracy", "macro_f1", "mcc", "pearson", "spearman", "mse")


def accumulate(
    state: DeviceMetrics | None, logits: jax.Array, batch: Arrays
) -> DeviceMetrics | None:
    """Return accumulated metrics with those of a packed batch merged in; None if there are none."""
    if state is None:
        return None
    return state.merge(type(state).from_model_output(logits, batch["label_BE"], batch["mask_BE"]))


def scores(state: DeviceMetrics | None) -> dict[str, float]:
    """Return the values of accumulated metrics, on the host."""
    return {} if state is None else _on_host(_compute(state))


def evaluate_classes(logits_nC: np.ndarray, label_n: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro F1 and MCC over whole arrays of logits and class indices."""
    return _evaluate(_class_values, logits_nC, label_n)


def evaluate_scores(output_n1: np.ndarray, score_n: np.ndarray) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation and the mean squared error of whole arrays."""
    return _evaluate(_score_values, output_n1, score_n)


def _evaluate(
    compute: Callable[..., dict[str, jax.Array]], logits_nC: np.ndarray, label_n: np.ndarray
) -> dict[str, float]:
    n = len(label_n)
    # Padded to powers of two, so that sets of all sizes share a few programs.
    size = max(_SMALLEST_SIZE, 1 << (n - 1).bit_length())
    arrays = [
        np.pad(array, [(0, size - n), *[(0, 0)] * (array.ndim - 1)])
        for array in (logits_nC, label_n, np.ones(n, bool))
    ]
    return _on_host(compute(*jax.device_put(arrays)))


@flax.struct.dataclass
class ClassMetrics(clu_metrics.Metric):
    """Accuracy, macro F1 and MCC of classes, functions of the confusion matrix.

    Macro F1 is the mean F1 of the classes that occur as a label or a prediction, as
    `sklearn.metrics.f1_score(average="macro", zero_division=0)`. MCC is the Matthews correlation of
    any number of classes, R_K of Gorodkin (2004), as `sklearn.metrics.matthews_corrcoef`: 0 if all
    labels or all predictions are one class.

    Attributes:
      matrix: (C, C) int32, examples by label (rows) and predicted class.
    """

    matrix: jax.Array

    @classmethod
    def empty(cls, classes: int) -> Self:
        """Return the metrics without examples."""
        return cls(jnp.zeros((classes, classes), jnp.int32))

    @classmethod
    def from_model_output(cls, logits: jax.Array, label: jax.Array, mask: jax.Array) -> Self:
        """Return the metrics of logits (..., C) and classes (...) where the mask (...) is not 0."""
        counted = (mask > 0).astype(jnp.int32)
        matrix = cls.empty(logits.shape[-1]).matrix
        return cls(matrix.at[label, logits.argmax(axis=-1)].add(counted))

    def merge(self, other: Self) -> Self:
        """Return the metrics of the examples of both."""
        return type(self)(self.matrix + other.matrix)

    def compute(self) -> dict[str, jax.Array]:
        """Return the values by name, each () float32."""
        matrix = self.matrix
        hit = matrix.diagonal()
        false_positive, false_negative = matrix.sum(axis=0) - hit, matrix.sum(axis=1) - hit
        rest = matrix.sum() - hit - false_positive - false_negative
        counts = (hit, false_positive, false_negative, rest)
        tp, fp, fn, tn = (x.astype(jnp.float32) for x in counts)
        f1 = 2 * tp / jnp.maximum(2 * tp + fp + fn, 1)
        # The textbook formula n * trace - sum(...) loses all digits with rare classes; these are
        # the same sums without the large terms that cancel.
        covariance = (tp * tn - fp * fn).sum()
        predicted = ((tp + fp) * (fn + tn)).sum()
        labelled = ((tp + fn) * (fp + tn)).sum()
        norm = jnp.sqrt(predicted) * jnp.sqrt(labelled)
        return {
            "accuracy": matrix.trace() / matrix.sum(),
            "macro_f1": f1.sum() / (tp + fp + fn > 0).sum(),
            "mcc": covariance / jnp.where(norm > 0, norm, 1),
        }


@flax.struct.dataclass
class ScoreMetrics(clu_metrics.Metric):
    """Pearson correlation and mean squared error of scores.

    Means and co-moments are merged as in Chan, Golub & LeVeque (1983, Am. Stat. 37).

    Attributes:
      count: () int32, number of examples.
      mean: Pair of (2,) float32, means of outputs and scores.
      moment: Pair of (3,) float32, sums of the squared deviations of outputs and of scores, and of
        the products of both.
      error: Pair of () float32, sum of the squared differences between output and score.
    """

    count: jax.Array
    mean: Pair
    moment: Pair
    error: Pair

    @classmethod
    def empty(cls) -> Self:
        """Return the metrics without examples."""
        pairs = [(jnp.zeros(shape), jnp.zeros(shape)) for shape in (2, 3, ())]
        return cls(jnp.zeros((), jnp.int32), *pairs)

    @classmethod
    def from_model_output(cls, logits: jax.Array, label: jax.Array, mask: jax.Array) -> Self:
        """Return the metrics of outputs (..., 1) and scores (...) where the mask (...) is not 0."""
        x, y, counted = _flat(logits, label, mask)
        count = counted.sum(dtype=jnp.int32)
        values = jnp.stack([x, y])
        # Distances from one of the values are exact if values are close, and 0 if they are equal,
        # unlike distances from a rounded mean.
        origin = values[:, counted.argmax()]
        distance = jnp.where(counted, values - origin[:, None], 0)
        offset = _sum(distance)[0] / jnp.maximum(count, 1)
        dx, dy = jnp.where(counted, distance - offset[:, None], 0)
        mean = _add((origin, jnp.zeros(2)), (offset, jnp.zeros(2)))
        return cls(count, mean, _sum(jnp.stack([dx * dx, dy * dy, dx * dy])), _sum((x - y) ** 2))

    def merge(self, other: Self) -> Self:
        """Return the metrics of the examples of both."""
        count = self.count + other.count
        share = other.count / jnp.maximum(count, 1)
        step = _add(other.mean, (-self.mean[0], -self.mean[1]))
        mean = _add(self.mean, (step[0] * share, step[1] * share))
        dx, dy = step[0]
        between = jnp.stack([dx * dx, dy * dy, dx * dy]) * (self.count * share)
        moment = _add(_add(self.moment, other.moment), (between, jnp.zeros(3)))
        return type(self)(count, mean, moment, _add(self.error, other.error))

    def compute(self) -> dict[str, jax.Array]:
        """Return the values by name, each () float32."""
        xx, yy, xy = self.moment[0]
        norm = jnp.sqrt(xx) * jnp.sqrt(yy)
        pearson = jnp.clip(xy / jnp.where(norm == 0, jnp.nan, norm), -1, 1)
        return {"pearson": pearson, "mse": self.error[0] / self.count}


_compute = jax.jit(lambda state: state.compute())
_class_values = jax.jit(lambda *arrays: ClassMetrics.from_model_output(*arrays).compute())


@jax.jit
def _score_values(
    output_n1: jax.Array, score_n: jax.Array, mask_n: jax.Array
) -> dict[str, jax.Array]:
    x, y, counted = _flat(output_n1, score_n, mask_n)
    # Spearman's correlation is Pearson's of the ranks.
    ranks = _ranks(x, counted)[:, None], _ranks(y, counted)
    spearman = ScoreMetrics.from_model_output(*ranks, counted).compute()["pearson"]
    values = ScoreMetrics.from_model_output(output_n1, score_n, mask_n).compute()
    return values | {"spearman": spearman}


def _ranks(x: jax.Array, counted: jax.Array) -> jax.Array:
    """Return the ranks of the counted values; equal values share their mean rank."""
    ordered = jnp.sort(jnp.where(counted, x, jnp.inf))
    first = jnp.searchsorted(ordered, x, side="left")
    # An infinite value would also count slots without an example.
    last = jnp.minimum(jnp.searchsorted(ordered, x, side="right"), counted.sum())
    return jnp.where(jnp.isnan(x), jnp.nan, (first + last + 1) / 2)


def _flat(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return flat outputs and scores, 0 where there is no example, and a mask of the examples."""
    counted = mask.ravel() > 0
    x, y = (z.astype(jnp.float32).ravel() for z in (logits[..., 0], label))
    return jnp.where(counted, x, 0), jnp.where(counted, y, 0), counted


def _add(a: Pair, b: Pair) -> Pair:
    """Return the sum of two pairs: Knuth's two-sum, plus the rounding errors."""
    high = a[0] + b[0]
    part = high - a[0]
    lost = (a[0] - (high - part)) + (b[0] - part) + (a[1] + b[1])
    total = high + lost
    return total, lost - (total - high)


def _sum(x: jax.Array) -> Pair:
    """Return the sum over the last axis."""
    zero = jnp.zeros((), x.dtype)
    return jax.lax.reduce((x, jnp.zeros_like(x)), (zero, zero), _add, (x.ndim - 1,))


def _on_host(values: dict[str, jax.Array]) -> dict[str, float]:
    values = jax.device_get(values)
    return {name: float(values[name]) for name in _ORDER if name in values}
