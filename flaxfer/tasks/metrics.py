"""Accuracy, macro F1, MCC, Pearson, Spearman and mean squared error, computed on the device.

Values equal scikit-learn's and scipy's to 1e-6 in float32, however the examples are split into
batches: floating-point sums are pairs of float32, a sum and the part it lost to rounding. A metric
that is undefined is NaN: every metric without examples, a correlation with a constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from flaxfer.errors import DataError

DeviceMetrics: TypeAlias = clu_metrics.Collection
Pair = tuple[jax.Array, jax.Array]

_SMALLEST_SIZE = 64
_ORDER = ("accuracy", "macro_f1", "mcc", "pearson", "spearman", "mse")

NO_METRICS = clu_metrics.Collection.create()
"""Collection of the task types whose metrics do not accumulate."""


@functools.cache
def classification(num_classes: int) -> type[DeviceMetrics]:
    """Return the metrics of a classification into `num_classes`; always the same class."""

    def sized(metric: type[Confusion]) -> type[Confusion]:
        return flax.struct.dataclass(type(metric.__name__, (metric,), {"num_classes": num_classes}))

    return clu_metrics.Collection.create(
        accuracy=sized(Accuracy), macro_f1=sized(MacroF1), mcc=sized(MCC)
    )


@functools.cache
def regression() -> type[DeviceMetrics]:
    """Return the metrics of a regression that accumulate: all but Spearman's correlation."""
    return clu_metrics.Collection.create(pearson=Pearson, mse=MeanSquaredError)


def accumulate(
    state: DeviceMetrics, logits: jax.Array, batch: Mapping[str, jax.Array]
) -> DeviceMetrics:
    """Return an accumulated collection with the metrics of a packed batch merged in."""
    return state.merge(
        type(state).single_from_model_output(
            logits=logits, label=batch["label_BE"], mask=batch["mask_BE"]
        )
    )


def scores(state: DeviceMetrics) -> dict[str, float]:
    """Return the values of an accumulated collection, on the host."""
    return _on_host(_compute(state))


def evaluate_classes(
    logits_nC: np.ndarray, label_n: np.ndarray, mask_n: np.ndarray | None = None
) -> dict[str, float]:
    """Return accuracy, macro F1 and MCC over whole arrays.

    Args:
      logits_nC: (n, C) float.
      label_n: (n,) class indices.
      mask_n: (n,) nonzero for the examples that count; None for all.

    Raises:
      DataError: If shapes do not match, or a label is not one of the classes.
    """
    classes = logits_nC.shape[-1]
    valid = label_n if mask_n is None or len(mask_n) != len(label_n) else label_n[mask_n > 0]
    if not ((valid >= 0) & (valid < classes)).all():
        raise DataError(
            f"labels from {valid.min()} to {valid.max()} are not among {classes} classes",
            where="metrics",
        )
    return _evaluate(_class_values, logits_nC, label_n.astype(np.int32), mask_n)


def evaluate_scores(
    output_n1: np.ndarray, score_n: np.ndarray, mask_n: np.ndarray | None = None
) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation and the mean squared error over whole arrays.

    Args:
      output_n1: (n, 1) float.
      score_n: (n,) true scores.
      mask_n: (n,) nonzero for the examples that count; None for all.

    Raises:
      DataError: If shapes do not match.
    """
    return _evaluate(_score_values, output_n1, score_n.astype(np.float32), mask_n)


def _evaluate(
    compute: Callable[..., dict[str, jax.Array]],
    logits_nC: np.ndarray,
    label_n: np.ndarray,
    mask_n: np.ndarray | None,
) -> dict[str, float]:
    n = len(label_n)
    mask_n = np.ones(n, bool) if mask_n is None else np.asarray(mask_n) > 0
    if logits_nC.ndim != 2 or len(logits_nC) != n or label_n.shape != mask_n.shape:
        raise DataError(
            f"logits {logits_nC.shape}, labels {label_n.shape}, mask {mask_n.shape} do not match",
            where="metrics",
        )
    # Padded to powers of two, so that sets of all sizes share a few programs.
    size = max(_SMALLEST_SIZE, 1 << max(n - 1, 0).bit_length())
    arrays = [
        np.pad(array, [(0, size - n), *[(0, 0)] * (array.ndim - 1)])
        for array in (logits_nC.astype(np.float32), label_n, mask_n)
    ]
    return _on_host(compute(*jax.device_put(arrays)))


@jax.jit
def _class_values(
    logits_nC: jax.Array, label_n: jax.Array, mask_n: jax.Array
) -> dict[str, jax.Array]:
    state = classification(logits_nC.shape[-1]).single_from_model_output(
        logits=logits_nC, label=label_n, mask=mask_n
    )
    return state.compute()


@jax.jit
def _score_values(
    output_n1: jax.Array, score_n: jax.Array, mask_n: jax.Array
) -> dict[str, jax.Array]:
    output = {"logits": output_n1, "label": score_n, "mask": mask_n}
    values = regression().single_from_model_output(**output).compute()
    return values | {"spearman": spearman(**output)}


@flax.struct.dataclass
class Confusion(clu_metrics.Metric):
    """Base of the metrics that are functions of the confusion matrix.

    Attributes:
      matrix: (C, C) int32, examples by label (rows) and predicted class.
    """

    matrix: jax.Array
    num_classes: ClassVar[int]

    @classmethod
    def empty(cls) -> Self:
        """Without examples."""
        return cls(jnp.zeros((cls.num_classes, cls.num_classes), jnp.int32))

    @classmethod
    def from_model_output(
        cls, *, logits: jax.Array, label: jax.Array, mask: jax.Array | None = None, **_: Any
    ) -> Self:
        """From logits (..., C), class indices (...) and mask (...), 0 where no example is."""
        classes = logits.shape[-1]
        counted = jnp.ones(label.shape, bool) if mask is None else mask > 0
        matrix = jnp.zeros((classes, classes), jnp.int32)
        return cls(matrix.at[label, logits.argmax(axis=-1)].add(counted.astype(jnp.int32)))

    def merge(self, other: Self) -> Self:
        """Of the examples of both."""
        return type(self)(self.matrix + other.matrix)

    def counts(self) -> tuple[jax.Array, ...]:
        """True positives, false positives, false negatives, true negatives: each (C,) float32."""
        matrix = self.matrix
        hit = matrix.diagonal()
        false_positive, false_negative = matrix.sum(axis=0) - hit, matrix.sum(axis=1) - hit
        rest = matrix.sum() - hit - false_positive - false_negative
        return tuple(x.astype(jnp.float32) for x in (hit, false_positive, false_negative, rest))


@flax.struct.dataclass
class Accuracy(Confusion):
    """Share of examples whose largest logit is the label's."""

    def compute(self) -> jax.Array:
        """() float32."""
        return self.matrix.trace() / self.matrix.sum()


@flax.struct.dataclass
class MacroF1(Confusion):
    """Mean F1 of the classes that are a label or a prediction of any example.

    As `sklearn.metrics.f1_score(average="macro", zero_division=0)`.
    """

    def compute(self) -> jax.Array:
        """() float32."""
        tp, fp, fn, _ = self.counts()
        present = tp + fp + fn > 0
        f1 = jnp.where(present, 2 * tp / jnp.where(present, 2 * tp + fp + fn, 1), 0)
        return f1.sum() / present.sum()


@flax.struct.dataclass
class MCC(Confusion):
    """Matthews correlation of any number of classes, R_K of Gorodkin (2004).

    As `sklearn.metrics.matthews_corrcoef`: 0 if all labels or all predictions are one class.
    """

    def compute(self) -> jax.Array:
        """() float32."""
        tp, fp, fn, tn = self.counts()
        # The textbook's n * trace - sum(...) loses all digits with rare classes; these are the
        # same sums without its large terms that cancel.
        covariance = (tp * tn - fp * fn).sum()
        predicted = ((tp + fp) * (fn + tn)).sum()
        labelled = ((tp + fn) * (fp + tn)).sum()
        norm = jnp.sqrt(predicted) * jnp.sqrt(labelled)
        value = jnp.where(norm > 0, covariance / jnp.where(norm > 0, norm, 1), 0.0)
        return jnp.where(self.matrix.sum() > 0, value, jnp.nan)


@flax.struct.dataclass
class MeanSquaredError(clu_metrics.Metric):
    """Mean of the squared differences between output and score.

    Attributes:
      count: () int32.
      total: pair of () float32.
    """

    count: jax.Array
    total: Pair

    @classmethod
    def empty(cls) -> Self:
        """Without examples."""
        return cls(jnp.zeros((), jnp.int32), (jnp.zeros(()), jnp.zeros(())))

    @classmethod
    def from_model_output(
        cls, *, logits: jax.Array, label: jax.Array, mask: jax.Array | None = None, **_: Any
    ) -> Self:
        """From outputs (..., 1), scores (...) and mask (...), 0 where no example is."""
        x, y, counted = _flat(logits, label, mask)
        return cls(counted.sum(dtype=jnp.int32), _sum((x - y) ** 2))

    def merge(self, other: Self) -> Self:
        """Of the examples of both."""
        return type(self)(self.count + other.count, _add(self.total, other.total))

    def compute(self) -> jax.Array:
        """() float32."""
        return self.total[0] / self.count


@flax.struct.dataclass
class Pearson(clu_metrics.Metric):
    """Pearson correlation between output and score; NaN if either is constant.

    Means and co-moments are merged as by Chan, Golub & LeVeque (1983, Am. Stat. 37).

    Attributes:
      count: () int32.
      mean: pair of (2,) float32, of outputs and scores.
      moment: pair of (3,) float32, sums of the products of the deviations from the means: outputs
        with themselves, scores with themselves, outputs with scores.
    """

    count: jax.Array
    mean: Pair
    moment: Pair

    @classmethod
    def empty(cls) -> Self:
        """Without examples."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, (jnp.zeros(2), jnp.zeros(2)), (jnp.zeros(3), jnp.zeros(3)))

    @classmethod
    def from_model_output(
        cls, *, logits: jax.Array, label: jax.Array, mask: jax.Array | None = None, **_: Any
    ) -> Self:
        """From outputs (..., 1), scores (...) and mask (...), 0 where no example is."""
        x, y, counted = _flat(logits, label, mask)
        count = counted.sum(dtype=jnp.int32)
        values = jnp.stack([x, y])
        # Distances from one of the values are exact where the values are close, and 0 where they
        # are equal; distances from a rounded mean would be neither.
        origin = values[:, counted.argmax()]
        distance = jnp.where(counted, values - origin[:, None], 0)
        offset = _sum(distance)[0] / jnp.maximum(count, 1)
        dx, dy = jnp.where(counted, distance - offset[:, None], 0)
        mean = _add((origin, jnp.zeros(2)), (offset, jnp.zeros(2)))
        return cls(count, mean, _sum(jnp.stack([dx * dx, dy * dy, dx * dy])))

    def merge(self, other: Self) -> Self:
        """Of the examples of both."""
        count = self.count + other.count
        share = other.count / jnp.maximum(count, 1)
        step = _add(other.mean, (-self.mean[0], -self.mean[1]))
        mean = _add(self.mean, (step[0] * share, step[1] * share))
        dx, dy = step[0]
        between = jnp.stack([dx * dx, dy * dy, dx * dy]) * (self.count * share)
        moment = _add(_add(self.moment, other.moment), (between, jnp.zeros(3)))
        return type(self)(count, mean, moment)

    def compute(self) -> jax.Array:
        """() float32."""
        xx, yy, xy = self.moment[0]
        norm = jnp.sqrt(xx) * jnp.sqrt(yy)
        value = jnp.clip(xy / jnp.where(norm == 0, 1, norm), -1, 1)
        return jnp.where(norm == 0, jnp.nan, value)


def spearman(logits: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Spearman correlation: Pearson's of the ranks, where equal values share their mean rank.

    Args:
      logits: (..., 1) float32 outputs.
      label: (...) float32 scores.
      mask: (...), 0 where no example is.

    Returns:
      () float32, NaN if outputs or scores are constant.
    """
    x, y, counted = _flat(logits, label, mask)
    ranks = _ranks(x, counted), _ranks(y, counted)
    return Pearson.from_model_output(
        logits=ranks[0][:, None], label=ranks[1], mask=counted
    ).compute()


def _ranks(x: jax.Array, counted: jax.Array) -> jax.Array:
    ordered = jnp.sort(jnp.where(counted, x, jnp.inf))
    first = jnp.searchsorted(ordered, x, side="left")
    # An infinite value would also count the slots without an example.
    last = jnp.minimum(jnp.searchsorted(ordered, x, side="right"), counted.sum())
    return jnp.where(jnp.isnan(x), jnp.nan, (first + last + 1) / 2)


def _flat(
    logits: jax.Array, label: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Outputs and scores, flat, 0 where no example is, and where examples are."""
    counted = jnp.ones(label.size, bool) if mask is None else mask.reshape(-1) > 0
    x, y = (z.astype(jnp.float32).reshape(-1) for z in (logits[..., 0], label))
    return jnp.where(counted, x, 0), jnp.where(counted, y, 0), counted


def _add(a: Pair, b: Pair) -> Pair:
    """Sum of two pairs: Knuth's two-sum, then the lost parts."""
    high = a[0] + b[0]
    part = high - a[0]
    lost = (a[0] - (high - part)) + (b[0] - part) + (a[1] + b[1])
    total = high + lost
    return total, lost - (total - high)


def _sum(x: jax.Array) -> Pair:
    """Sum over the last axis."""
    zero = jnp.zeros((), x.dtype)
    return jax.lax.reduce((x, jnp.zeros_like(x)), (zero, zero), _add, (x.ndim - 1,))


@jax.jit
def _compute(state: DeviceMetrics) -> dict[str, jax.Array]:
    return state.compute()


def _on_host(values: dict[str, jax.Array]) -> dict[str, float]:
    values = jax.device_get(values)
    return {name: float(values[name]) for name in _ORDER if name in values}
