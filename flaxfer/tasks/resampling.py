"""Metrics over resampled examples, for many resamples and all runs of a set at once.

Every metric but Spearman's correlation is a function of sums over examples, so resampling is a
matmul: how often each unit was drawn, times what its examples add to the sums. A **unit** is what
is drawn: an example, or several that belong together. Axes: n examples, U units, R runs, B
resamples.

A correlation with a constant is 0 here instead of undefined: a resample, or a run that predicts the
same value for all examples, has no association, and should not be excluded from a comparison.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

WORD_METRICS = ("accuracy", "macro_f1", "mcc")
"""Metrics of tags that mark no entities."""

_CELLS = 2**21
"""Maximum number of elements of a block of resamples."""


@dataclasses.dataclass(frozen=True)
class Learning:
    """Evidence of a run's learning on a set.

    Attributes:
      name: Name of the score.
      score: Score that is 0 by chance, and at most 1.
      constant: Why its predictions count as constant; empty if they do not.
      classes: Effective number of classes, see `effective_classes`; 2 for scores without classes.
    """

    name: str
    score: float
    constant: str
    classes: float = 2.0


class Resampled(abc.ABC):
    """A metric of R runs, each with predictions of the same n examples in U units."""

    n: int
    units: int

    @abc.abstractmethod
    def grouped(self, unit_n: np.ndarray, units: int) -> Resampled:
        """Return the metric with other units than its examples.

        Args:
          unit_n: Unit of each example, (n,) integers from 0 to `units` - 1.
          units: Number of units, of which some may have no example.
        """

    @abc.abstractmethod
    def values(self, weights_BU: np.ndarray) -> np.ndarray:
        """Return the metric of each resample, (B, R) float64.

        All examples of unit u count `weights_BU[:, u]` times; every resample needs an example.
        """

    @abc.abstractmethod
    def swapped(
        self, swap_BU: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """Return the metric of the P runs `second` minus that of the runs `first`, (B, P).

        Before, each pair has exchanged its predictions of the units where `swap_BU` is 1.
        """

    def observed(self) -> np.ndarray:
        """Return the metric over the examples themselves, (R,)."""
        return self.values(np.ones((1, self.units)))[0]


class Sums(Resampled):
    """A metric that is a function of sums over examples.

    Args:
      features_nRk: Contribution of each example to the k sums of each run.
      formula: Function from sums (B, R, k) and numbers of examples (B, 1) to the metric (B, R).
    """

    def __init__(
        self,
        features_nRk: np.ndarray,
        formula: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ):
        self.n, self._runs, self._k = features_nRk.shape
        self._formula = formula
        self._set(features_nRk, np.ones((self.n, 1)))

    def _set(self, features_URk: np.ndarray, sizes_U1: np.ndarray) -> None:
        self.units = len(features_URk)
        self._features, self._single = features_URk, features_URk.astype(np.float32)
        self._sizes = sizes_U1.astype(np.float32)

    def grouped(self, unit_n: np.ndarray, units: int) -> Sums:
        """See the base class."""
        grouped = copy.copy(self)
        sizes = np.bincount(unit_n, minlength=units)[:, None]
        grouped._set(_sums(self._features, unit_n, units), sizes)
        return grouped

    def values(self, weights_BU: np.ndarray) -> np.ndarray:
        """See the base class."""
        exact = weights_BU.dtype == np.float64
        features = self._features if exact else self._single
        sums = weights_BU @ features.reshape(self.units, -1)
        return self._of(sums.reshape(-1, self._runs, self._k), weights_BU @ self._sizes)

    def swapped(
        self, swap_BU: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """See the base class."""
        a, b = self._single[:, first], self._single[:, second]
        changes = (b - a).reshape(self.units, len(first) * self._k)
        moved = (swap_BU @ changes).reshape(len(swap_BU), len(first), self._k)
        first_sums = self._features[:, first].sum(axis=0)
        second_sums = self._features[:, second].sum(axis=0)
        n = np.array([[self.n]])
        return self._of(second_sums - moved, n) - self._of(first_sums + moved, n)

    def _of(self, sums: np.ndarray, n_B1: np.ndarray) -> np.ndarray:
        return self._formula(sums.astype(np.float64), n_B1.astype(np.float64))


class Spearman(Resampled):
    """Spearman's correlation, with ranks recomputed in every resample.

    For exchanges, predictions are replaced by their standardised ranks over the whole set, because
    two runs may have different scales.

    Args:
      outputs_nR: Outputs of the runs.
      score_n: True scores.
    """

    def __init__(self, outputs_nR: np.ndarray, score_n: np.ndarray):
        self.n = self.units = len(score_n)
        self._unit: np.ndarray | None = None
        self._columns = [_Order(column) for column in outputs_nR.T]
        self._score = _Order(score_n)
        whole = np.ones((self.n, 1))
        ranks = np.concatenate([order.ranks(whole) for order in self._columns], axis=1)
        self._ranked = pearson(ranks, self._score.ranks(whole)[:, 0])

    def grouped(self, unit_n: np.ndarray, units: int) -> Spearman:
        """See the base class."""
        grouped = copy.copy(self)
        grouped.units, grouped._unit = units, unit_n
        grouped._ranked = self._ranked.grouped(unit_n, units)
        return grouped

    def values(self, weights_BU: np.ndarray) -> np.ndarray:
        """See the base class."""
        weights_nB = np.ascontiguousarray(weights_BU.T)
        if self._unit is not None:
            weights_nB = weights_nB[self._unit]
        # Ranks within a resample of m examples have the mean (m + 1) / 2.
        middle = (weights_nB.sum(axis=0) + 1) / 2
        y = self._score.ranks(weights_nB) - middle
        yw = y * weights_nB
        yy = (y * yw).sum(axis=0)
        columns = []
        for order in self._columns:
            x = order.ranks(weights_nB) - middle
            xy = (x * yw).sum(axis=0)
            x *= x
            x *= weights_nB
            columns.append(_ratio(xy, np.sqrt(x.sum(axis=0)) * np.sqrt(yy)))
        return np.stack(columns, axis=1).astype(np.float64)

    def swapped(
        self, swap_BU: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """See the base class."""
        return self._ranked.swapped(swap_BU, first, second)


class _Order:
    """The order of n values, which determines their ranks in a resample."""

    def __init__(self, values: np.ndarray):
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        new = np.append(True, ordered[1:] != ordered[:-1])
        first = np.flatnonzero(new)
        group = np.cumsum(new) - 1
        # By example: positions in the order before its equals, and after them.
        self._before, self._after = np.empty((2, len(values)), np.int64)
        self._before[self._order] = first[group]
        self._after[self._order] = np.append(first[1:], len(values))[group]

    def ranks(self, weights_nB: np.ndarray) -> np.ndarray:
        """Return the mean rank that copies of each example share with their equals, (n, B)."""
        # Examples are the leading axis, so that whole rows are moved.
        below = np.zeros((len(weights_nB) + 1, weights_nB.shape[1]), weights_nB.dtype)
        np.cumsum(weights_nB[self._order], axis=0, out=below[1:])
        ranks = below[self._before]
        ranks += below[self._after]
        ranks += 1
        ranks /= 2
        return ranks


def mean(values_nR: np.ndarray) -> Sums:
    """Return the mean of a value per example: accuracy, squared error, exact match."""
    return Sums(values_nR[..., None].astype(np.float64), lambda sums, n_B1: sums[..., 0] / n_B1)


def pearson(outputs_nR: np.ndarray, score_n: np.ndarray) -> Sums:
    """Return Pearson's correlation of outputs and scores, which are standardised first."""
    x = _standardised(outputs_nR.astype(np.float64))
    y = np.broadcast_to(_standardised(score_n.astype(np.float64)[:, None]), x.shape)
    return Sums(np.stack([x, y, x * x, y * y, x * y], axis=2), _pearson)


def class_metric(
    name: str, names: Sequence[Any], gold: Sequence[Any], predictions: Sequence[Sequence[Any]]
) -> Sums:
    """Return accuracy, macro F1 or MCC of R runs, as defined in `flaxfer.tasks.metrics`.

    Args:
      name: `accuracy`, `macro_f1` or `mcc`.
      names: The classes.
      gold: True class of each example.
      predictions: Predicted class of each example, for each run.

    Raises:
      ValueError: If a class is not among `names`.
    """
    number = {each: i for i, each in enumerate(names)}
    if not number.keys() >= set(gold).union(*predictions):
        raise ValueError(f"a class is none of {', '.join(map(str, names))}")
    label_n1 = np.array([[number[each]] for each in gold])
    predicted_nR = np.array([[number[each] for each in run] for run in predictions]).T
    if name == "accuracy":
        return mean(predicted_nR == label_n1)
    class_C = np.arange(len(names))
    predicted = predicted_nR[..., None] == class_C
    actual = np.broadcast_to(label_n1[..., None] == class_C, predicted.shape)
    features = np.concatenate([predicted & actual, predicted, actual], axis=2)
    return Sums(features.astype(np.float64), {"macro_f1": _macro_f1, "mcc": _mcc}[name])


def effective_classes(labels: Sequence[Any]) -> float:
    """Return the number of equally frequent classes for which MCC varies as much by chance.

    Matthews' correlation of K classes (Gorodkin 2004) is the covariance of the indicator vectors
    of label and prediction over their standard deviations. If the two are independent, with
    covariance matrices S and T of their indicators, its variance is tr(S T) / (n tr(S) tr(T)). With
    the labels' frequencies in S and T, that is 1 / (n (K - 1)) if all classes are equally frequent
    or if there are two. Rare classes count for less: the number returned is 1 + tr(S)^2 / tr(S S).
    It is 2 for a single class.
    """
    share = np.array([*Counter(labels).values()]) / len(labels)
    trace = 1 - (share**2).sum()
    square = (share**2).sum() - 2 * (share**3).sum() + (share**2).sum() ** 2
    return float(1 + trace**2 / square) if len(share) > 1 else 2.0


def word_metric(
    name: str,
    names: Sequence[str],
    gold: Sequence[Sequence[str | None]],
    predictions: Sequence[Sequence[Sequence[str]]],
) -> Sums:
    """Return one of `WORD_METRICS` of R runs over all words, for resampling sentences.

    Args:
      name: The metric.
      names: The tags.
      gold: Sentences with a tag per word; words with None do not count.
      predictions: Sentences with as many tags, for each run.

    Raises:
      ValueError: If a tag is not among `names`, or numbers of sentences or words differ.
    """
    number = {each: i for i, each in enumerate(names)}
    shape = len(gold), len(names)
    features = []
    for run in predictions:
        sentence, label, predicted = [], [], []
        for i, tags in enumerate(zip(gold, run, strict=True)):
            for true, guess in zip(*tags, strict=True):
                if true is not None:
                    if not {true, guess} <= number.keys():
                        raise ValueError(f"a tag is none of {', '.join(names)}")
                    sentence.append(i)
                    label.append(number[true])
                    predicted.append(number[guess])
        row, true_w, guess_w = (np.array(x, np.int64) for x in (sentence, label, predicted))
        counts = [np.zeros(shape) for _ in range(3)]
        right = true_w == guess_w
        np.add.at(counts[0], (row[right], true_w[right]), 1)
        np.add.at(counts[1], (row, guess_w), 1)
        np.add.at(counts[2], (row, true_w), 1)
        features.append(np.concatenate(counts, axis=1))
    formulas = {"accuracy": _word_accuracy, "macro_f1": _macro_f1, "mcc": _mcc}
    return Sums(np.stack(features, axis=1), formulas[name])


def entity_metric(name: str, counts_nR5: np.ndarray) -> Sums:
    """Return `f1`, `precision`, `recall` or `accuracy` from `entities.sentence_counts`."""
    columns = {"f1": (0, 1, 2), "precision": (0, 1), "recall": (0, 2), "accuracy": (3, 4)}
    top, *bottom = columns[name]

    def formula(sums: np.ndarray, n_B1: np.ndarray) -> np.ndarray:
        return _ratio(len(bottom) * sums[..., top], sums[..., bottom].sum(axis=-1))

    return Sums(counts_nR5.astype(np.float64), formula)


def resamples(units: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks (B, U) float32 of how often each unit is drawn, with U draws per row."""
    for size in _blocks(units, draws):
        drawn = rng.integers(0, units, (size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units)
        yield counts.reshape(size, units).astype(np.float32)


def exchanges(units: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks (B, U) float32 of 0 and 1 with equal probability."""
    for size in _blocks(units, draws):
        yield rng.integers(0, 2, (size, units), dtype=np.uint8).astype(np.float32)


def _blocks(units: int, draws: int) -> Iterator[int]:
    step = max(1, _CELLS // units)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _sums(values_n: np.ndarray, unit_n: np.ndarray, units: int) -> np.ndarray:
    """Return the sums of the values by unit along the first axis."""
    order = np.argsort(unit_n, kind="stable")
    present, first = np.unique(unit_n[order], return_index=True)
    sums = np.zeros((units, *values_n.shape[1:]))
    sums[present] = np.add.reduceat(values_n[order], first, axis=0)
    return sums


def _standardised(x_nR: np.ndarray) -> np.ndarray:
    centred = x_nR - x_nR.mean(axis=0)
    # The rounding error of a constant must not be scaled up.
    constant = np.ptp(x_nR, axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, centred.std(axis=0)))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the ratio, 0 where the denominator is 0."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0.0)


def _pearson(sums: np.ndarray, n_B1: np.ndarray) -> np.ndarray:
    x, y, xx, yy, xy = np.moveaxis(sums / n_B1[..., None], -1, 0)
    # A resample may contain a single value, whose variance in float32 is not exactly 0.
    spread_x, spread_y = (np.where(v > 1e-6, v, 0) for v in (xx - x * x, yy - y * y))
    return _ratio(xy - x * y, np.sqrt(spread_x * spread_y))


def _macro_f1(sums: np.ndarray, n_B1: np.ndarray) -> np.ndarray:
    hit, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = _ratio(2 * hit, predicted + gold)
    return _ratio(f1.sum(axis=-1), (predicted + gold > 0).sum(axis=-1))


def _word_accuracy(sums: np.ndarray, n_B1: np.ndarray) -> np.ndarray:
    hit, _, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    return _ratio(hit.sum(axis=-1), gold.sum(axis=-1))


def _mcc(sums: np.ndarray, n_B1: np.ndarray) -> np.ndarray:
    hit, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    total = gold.sum(axis=-1)  # Words in word metrics, where `n_B1` counts sentences.
    covariance = total * hit.sum(axis=-1) - (predicted * gold).sum(axis=-1)
    spread = [total**2 - (marginal**2).sum(axis=-1) for marginal in (predicted, gold)]
    return _ratio(covariance, np.sqrt(spread[0] * spread[1]))
