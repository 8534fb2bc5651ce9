"""Metrics over resampled examples, for many resamples and all runs of a set at once.

Every metric but Spearman's correlation is a function of sums over examples, so resampling is a
matmul: how often each example was drawn, times what it adds to the sums. Axes: n examples, R runs,
B resamples.

A correlation with a constant is 0 here instead of undefined: a resample, or a run that predicts the
same value for all examples, has no association, and should not be excluded from a comparison.
"""

from __future__ import annotations

import abc
import dataclasses
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
    """

    name: str
    score: float
    constant: str


class Resampled(abc.ABC):
    """A metric of R runs, each with predictions of the same n examples."""

    n: int

    @abc.abstractmethod
    def values(self, weights_Bn: np.ndarray) -> np.ndarray:
        """Return the metric of each resample, (B, R) float64.

        Example i counts `weights_Bn[:, i]` times; the weights of a resample add up to n.
        """

    @abc.abstractmethod
    def swapped(
        self, swap_Bn: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """Return the metric of the P runs `second` minus that of the runs `first`, (B, P).

        Before, each pair has exchanged its predictions of the examples where `swap_Bn` is 1.
        """

    def observed(self) -> np.ndarray:
        """Return the metric over the examples themselves, (R,)."""
        return self.values(np.ones((1, self.n)))[0]


class Sums(Resampled):
    """A metric that is a function of sums over examples.

    Args:
      features_nRk: Contribution of each example to the k sums of each run.
      formula: Function from sums (..., k) and n to the metric (...).
    """

    def __init__(self, features_nRk: np.ndarray, formula: Callable[[np.ndarray, int], np.ndarray]):
        self.n, self._runs, self._k = features_nRk.shape
        self._features = features_nRk
        self._single = features_nRk.astype(np.float32)
        self._formula = formula

    def values(self, weights_Bn: np.ndarray) -> np.ndarray:
        """See the base class."""
        exact = weights_Bn.dtype == np.float64
        features = self._features if exact else self._single
        sums = weights_Bn @ features.reshape(self.n, -1)
        return self._of(sums.reshape(-1, self._runs, self._k))

    def swapped(
        self, swap_Bn: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """See the base class."""
        a, b = self._single[:, first], self._single[:, second]
        moved = (swap_Bn @ (b - a).reshape(self.n, -1)).reshape(-1, len(first), self._k)
        first_sums = self._features[:, first].sum(axis=0)
        second_sums = self._features[:, second].sum(axis=0)
        return self._of(second_sums - moved) - self._of(first_sums + moved)

    def _of(self, sums: np.ndarray) -> np.ndarray:
        return self._formula(sums.astype(np.float64), self.n)


class Spearman(Resampled):
    """Spearman's correlation, with ranks recomputed in every resample.

    For exchanges, predictions are replaced by their standardised ranks over the whole set, because
    two runs may have different scales.

    Args:
      outputs_nR: Outputs of the runs.
      score_n: True scores.
    """

    def __init__(self, outputs_nR: np.ndarray, score_n: np.ndarray):
        self.n = len(score_n)
        self._columns = [_Order(column) for column in outputs_nR.T]
        self._score = _Order(score_n)
        whole = np.ones((self.n, 1))
        ranks = np.concatenate([order.ranks(whole) for order in self._columns], axis=1)
        self._ranked = pearson(ranks, self._score.ranks(whole)[:, 0])

    def values(self, weights_Bn: np.ndarray) -> np.ndarray:
        """See the base class."""
        weights_nB = np.ascontiguousarray(weights_Bn.T)
        # Ranks within a resample have the mean (n + 1) / 2, because the weights add up to n.
        middle = weights_nB.dtype.type((self.n + 1) / 2)
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
        self, swap_Bn: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> np.ndarray:
        """See the base class."""
        return self._ranked.swapped(swap_Bn, first, second)


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
    return Sums(values_nR[..., None].astype(np.float64), lambda sums, n: sums[..., 0] / n)


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

    def formula(sums: np.ndarray, n: int) -> np.ndarray:
        return _ratio(len(bottom) * sums[..., top], sums[..., bottom].sum(axis=-1))

    return Sums(counts_nR5.astype(np.float64), formula)


def resamples(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks (B, n) float32 of how often each example is drawn, with n draws per row."""
    for size in _blocks(n, draws):
        drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=size * n)
        yield counts.reshape(size, n).astype(np.float32)


def exchanges(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks (B, n) float32 of 0 and 1 with equal probability."""
    for size in _blocks(n, draws):
        yield rng.integers(0, 2, (size, n), dtype=np.uint8).astype(np.float32)


def _blocks(n: int, draws: int) -> Iterator[int]:
    step = max(1, _CELLS // n)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _standardised(x_nR: np.ndarray) -> np.ndarray:
    centred = x_nR - x_nR.mean(axis=0)
    # The rounding error of a constant must not be scaled up.
    constant = np.ptp(x_nR, axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, centred.std(axis=0)))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the ratio, 0 where the denominator is 0."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0.0)


def _pearson(sums: np.ndarray, n: int) -> np.ndarray:
    x, y, xx, yy, xy = np.moveaxis(sums / n, -1, 0)
    # A resample may contain a single value, whose variance in float32 is not exactly 0.
    spread_x, spread_y = (np.where(v > 1e-6, v, 0) for v in (xx - x * x, yy - y * y))
    return _ratio(xy - x * y, np.sqrt(spread_x * spread_y))


def _macro_f1(sums: np.ndarray, n: int) -> np.ndarray:
    hit, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = _ratio(2 * hit, predicted + gold)
    return _ratio(f1.sum(axis=-1), (predicted + gold > 0).sum(axis=-1))


def _word_accuracy(sums: np.ndarray, n: int) -> np.ndarray:
    hit, _, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    return _ratio(hit.sum(axis=-1), gold.sum(axis=-1))


def _mcc(sums: np.ndarray, n: int) -> np.ndarray:
    hit, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    total = gold.sum(axis=-1)  # Words in word metrics, where `n` counts sentences.
    covariance = total * hit.sum(axis=-1) - (predicted * gold).sum(axis=-1)
    spread = [total**2 - (marginal**2).sum(axis=-1) for marginal in (predicted, gold)]
    return _ratio(covariance, np.sqrt(spread[0] * spread[1]))
