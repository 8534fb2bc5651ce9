"""Metrics over resampled examples, for many resamples and all runs of a set at once.

Every metric but Spearman's correlation is a formula of sums over examples, so that a resample is a
product of a matrix: numbers of times that each example was drawn, times what each adds to the sums.
Axes: n examples, R runs, B resamples.

A correlation with a constant is undefined elsewhere and 0 here: a resample, or a run that predicts
one value for all, has no association then, and a run must not fall out of a comparison for it.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

CONSTANT_SHARE = 0.99
CONSTANT_SD = 0.01

_CELLS = 2**21
"""Numbers in a block of resamples."""


@dataclasses.dataclass(frozen=True)
class Learning:
    """Evidence of a run's learning on a set.

    Attributes:
      name: Name of the score.
      score: Score that is 0 by chance, and at most 1.
      constant: Why its predictions count as constant; empty if they do not.
    """

    name: str
    score: float
    constant: str


class Resampled(abc.ABC):
    """A metric of R runs, each with predictions of the same n examples."""

    n: int

    @abc.abstractmethod
    def values(self, weights_Bn: np.ndarray) -> np.ndarray:
        """(B, R) float64, the metric with example i counted `weights_Bn[:, i]` times; the weights
        of a resample add up to n.
        """

    @abc.abstractmethod
    def swapped(
        self, swap_Bn: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """(B, P), the metric of the P runs `second` minus that of the runs `first`, after each pair
        has exchanged the predictions of the examples that `swap_Bn`, 0 or 1, selects.
        """

    def observed(self) -> np.ndarray:
        """(R,), the metric over the examples as they are."""
        return self.values(np.ones((1, self.n)))[0]


class Sums(Resampled):
    """A metric that is a formula of sums over examples.

    Args:
      features_nRk: what each example adds to the k sums of each run.
      formula: from sums (..., k) and n to the metric (...).
    """

    def __init__(self, features_nRk: np.ndarray, formula: Callable[[np.ndarray, int], np.ndarray]):
        self.n, self._runs, self._k = features_nRk.shape
        self._features = features_nRk
        self._single = features_nRk.astype(np.float32)
        self._formula = formula

    def values(self, weights_Bn: np.ndarray) -> np.ndarray:
        """As the base."""
        exact = weights_Bn.dtype == np.float64
        features = self._features if exact else self._single
        sums = weights_Bn @ features.reshape(self.n, -1)
        return self._of(sums.reshape(-1, self._runs, self._k))

    def swapped(
        self, swap_Bn: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """As the base."""
        a, b = self._single[:, first], self._single[:, second]
        moved = (swap_Bn @ (b - a).reshape(self.n, -1)).reshape(-1, len(first), self._k)
        first_sums = self._features[:, first].sum(axis=0)
        second_sums = self._features[:, second].sum(axis=0)
        return self._of(second_sums - moved) - self._of(first_sums + moved)

    def _of(self, sums: np.ndarray) -> np.ndarray:
        return self._formula(sums.astype(np.float64), self.n)


class Spearman(Resampled):
    """Spearman's correlation, with ranks taken anew in every resample.

    Exchanged predictions are those of the ranks over the whole set, standardised: the scales of
    two runs need not be the same.

    Args:
      outputs_nR, score_n: what is correlated.
    """

    def __init__(self, outputs_nR: np.ndarray, score_n: np.ndarray):
        self.n = len(score_n)
        self._columns = [_Order(column) for column in outputs_nR.T]
        self._score = _Order(score_n)
        whole = np.ones((self.n, 1))
        ranks = np.concatenate([order.ranks(whole) for order in self._columns], axis=1)
        self._ranked = pearson(ranks, self._score.ranks(whole)[:, 0])

    def values(self, weights_Bn: np.ndarray) -> np.ndarray:
        """As the base."""
        weights_nB = np.ascontiguousarray(weights_Bn.T)
        # Ranks within a resample have the mean (n + 1) / 2, as the weights add up to n.
        middle = weights_nB.dtype.type((self.n + 1) / 2)
        y = self._score.ranks(weights_nB) - middle
        yw = y * weights_nB
        yy = (y * yw).sum(axis=0)
        made = []
        for order in self._columns:
            x = order.ranks(weights_nB) - middle
            xy = (x * yw).sum(axis=0)
            x *= x
            x *= weights_nB
            made.append(_ratio(xy, np.sqrt(x.sum(axis=0)) * np.sqrt(yy)))
        return np.stack(made, axis=1).astype(np.float64)

    def swapped(
        self, swap_Bn: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """As the base."""
        return self._ranked.swapped(swap_Bn, first, second)


class _Order:
    """The order of n values, from which their ranks in a resample follow."""

    def __init__(self, values: np.ndarray):
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        new = np.append(True, ordered[1:] != ordered[:-1])
        first = np.flatnonzero(new)
        group = np.cumsum(new) - 1
        # By example: places in the order before its equals, and after them.
        self._before, self._after = np.empty((2, len(values)), np.int64)
        self._before[self._order] = first[group]
        self._after[self._order] = np.append(first[1:], len(values))[group]

    def ranks(self, weights_nB: np.ndarray) -> np.ndarray:
        """(n, B), the mean rank that copies of each example share with their equals."""
        # Examples lead, so that what is moved about is whole rows.
        below = np.zeros((len(weights_nB) + 1, weights_nB.shape[1]), weights_nB.dtype)
        np.cumsum(weights_nB[self._order], axis=0, out=below[1:])
        ranks = below[self._before]
        ranks += below[self._after]
        ranks += 1
        ranks /= 2
        return ranks


def mean(values_nR: np.ndarray) -> Sums:
    """The mean of what every example has by itself: accuracy, squared error, exact match."""
    return Sums(values_nR[..., None].astype(np.float64), lambda sums, n: sums[..., 0] / n)


def pearson(outputs_nR: np.ndarray, score_n: np.ndarray) -> Sums:
    """Pearson's correlation of outputs and scores, both standardised first."""
    x = _standardised(outputs_nR.astype(np.float64))
    y = np.broadcast_to(_standardised(score_n.astype(np.float64)[:, None]), x.shape)
    return Sums(np.stack([x, y, x * x, y * y, x * y], axis=2), _pearson)


def class_metric(name: str, predicted_nR: np.ndarray, label_n: np.ndarray, classes: int) -> Sums:
    """`macro_f1` or `mcc` of predicted classes, as `flaxfer.tasks.metrics` defines them."""
    each = np.arange(classes)
    predicted = predicted_nR[..., None] == each
    gold = np.broadcast_to(label_n[:, None, None] == each, predicted.shape)
    features = np.concatenate([predicted & gold, predicted, gold], axis=2).astype(np.float64)
    return Sums(features, {"macro_f1": _macro_f1, "mcc": _mcc}[name])


def entity_metric(name: str, counts_nR5: np.ndarray) -> Sums:
    """`f1`, `precision`, `recall` or `accuracy` of `flaxfer.tasks.entities.sentence_counts`."""
    top, *bottom = {
        "f1": (0, 1, 2), "precision": (0, 1), "recall": (0, 2), "accuracy": (3, 4),
    }[name]  # fmt: skip

    def formula(sums: np.ndarray, n: int) -> np.ndarray:
        return _ratio(len(bottom) * sums[..., top], sums[..., bottom].sum(axis=-1))

    return Sums(counts_nR5.astype(np.float64), formula)


def measure_classes(
    metric: str,
    names: Sequence[Any],
    gold: Sequence[Any],
    predictions: Sequence[Sequence[Any]],
) -> tuple[Resampled, list[Learning]]:
    """Return a metric of R runs that predict one of the classes `names`, and their learning.

    Raises:
      ValueError: If a class is not among `names`.
    """
    number = {name: i for i, name in enumerate(names)}
    if not number.keys() >= set(gold).union(*predictions):
        raise ValueError(f"a class is none of {', '.join(map(str, names))}")
    label_n = np.array([number[name] for name in gold])
    predicted_nR = np.array([[number[name] for name in run] for run in predictions]).T
    mcc = class_metric("mcc", predicted_nR, label_n, len(number))
    measure = mcc
    if metric == "accuracy":
        measure = mean(predicted_nR == label_n[:, None])
    elif metric != "mcc":
        measure = class_metric(metric, predicted_nR, label_n, len(number))
    constant = [constant_classes(column, label_n) for column in predicted_nR.T]
    return measure, learning("mcc", mcc, constant)


def learning(name: str, measure: Resampled, constant: Sequence[str]) -> list[Learning]:
    """Return the learning of each run from the measure `name` and why its outputs are constant."""
    values = measure.observed().tolist()
    return [Learning(name, value, why) for value, why in zip(values, constant, strict=True)]


def constant_classes(predicted_n: np.ndarray, label_n: np.ndarray) -> str:
    """Return why predictions of any comparable type count as constant; empty if they do not."""
    share, majority = (_largest_share(values) for values in (predicted_n, label_n))
    if share >= CONSTANT_SHARE > majority:
        return f"one prediction for {share:.1%} of the examples"
    return ""


def constant_outputs(output_n: np.ndarray, score_n: np.ndarray) -> str:
    """Return why predicted scores count as constant; empty if they do not."""
    sd, gold_sd = (float(values.std(dtype=np.float64)) for values in (output_n, score_n))
    if sd < CONSTANT_SD * gold_sd:
        return f"predictions have a standard deviation of {sd:.2g}, the scores of {gold_sd:.2g}"
    return ""


def resamples(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks (B, n) float32 of the numbers of times that each example is drawn, n draws a row."""
    for size in _blocks(n, draws):
        drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=size * n)
        yield counts.reshape(size, n).astype(np.float32)


def exchanges(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks (B, n) float32 of 0 and 1 with even chance."""
    for size in _blocks(n, draws):
        yield rng.integers(0, 2, (size, n), dtype=np.uint8).astype(np.float32)


def _blocks(n: int, draws: int) -> Iterator[int]:
    step = max(1, _CELLS // n)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _largest_share(values: np.ndarray) -> float:
    return float(np.max(np.unique(values, return_counts=True)[1]) / len(values))


def _standardised(x_nR: np.ndarray) -> np.ndarray:
    centred = x_nR - x_nR.mean(axis=0)
    # What rounding leaves of a constant must not be blown up.
    constant = np.ptp(x_nR, axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, centred.std(axis=0)))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """0 where the bottom is 0."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0.0)


def _pearson(sums: np.ndarray, n: int) -> np.ndarray:
    x, y, xx, yy, xy = np.moveaxis(sums / n, -1, 0)
    # A resample can hold one value alone; in float32 its variance is not quite 0.
    spread_x, spread_y = (np.where(v > 1e-6, v, 0) for v in (xx - x * x, yy - y * y))
    return _ratio(xy - x * y, np.sqrt(spread_x * spread_y))


def _macro_f1(sums: np.ndarray, n: int) -> np.ndarray:
    hit, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = _ratio(2 * hit, predicted + gold)
    return _ratio(f1.sum(axis=-1), (predicted + gold > 0).sum(axis=-1))


def _mcc(sums: np.ndarray, n: int) -> np.ndarray:
    hit, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    covariance = n * hit.sum(axis=-1) - (predicted * gold).sum(axis=-1)
    spread = [n * n - (marginal**2).sum(axis=-1) for marginal in (predicted, gold)]
    return _ratio(covariance, np.sqrt(spread[0] * spread[1]))
