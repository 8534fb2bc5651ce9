"""Transferability scores: how well frozen features fit labels, and how good such a choice was."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

NEIGHBOURS = 5
"""Puigcerver et al. 2021 use only the nearest one, but the score of one neighbour is noisy."""

_BOUND = 1e10
"""Bound on t in `logme`, as a factor relative to the largest squared singular value."""


def logme(feature_nD: np.ndarray, label_n: np.ndarray) -> float:
    """Return LogME: the maximum log evidence per example of labels linear in the features.

    The labels y are normal with precision beta around F w, and w is normal with precision alpha
    around 0. The evidence p(y | F) is maximised over both by the fixed-point iteration of You et
    al. 2022 (Ranking and Tuning Pre-trained Models, JMLR 23) on t = alpha / beta; LogME is from You
    et al. 2021 (ICML). For classes it is the mean over all that occur, each against the others.
    There is no intercept and no scaling, as published.

    Args:
      feature_nD: (n, D) features.
      label_n: (n,), integer classes or float scores.

    Returns:
      Larger is better; NaN if all labels are the same, or features are not finite.
    """
    values = np.unique(label_n)
    if len(values) < 2 or not np.isfinite(feature_nD).all():
        return math.nan
    label = np.asarray(label_n)
    classes = np.issubdtype(label.dtype, np.integer)
    y_nC = (label[:, None] == values).astype(float) if classes else label[:, None].astype(float)
    feature = np.asarray(feature_nD, np.float64)
    u_nr, singular_r, _ = np.linalg.svd(feature, full_matrices=False)
    # Features were computed in float32, so there is no information below its precision.
    known = singular_r > singular_r[0] * max(feature.shape) * np.finfo(np.float32).eps
    squared_r, z2_rC = singular_r[known] ** 2, (u_nr[:, known].T @ y_nC) ** 2
    # Residual outside the span of the features; rounding could make it negative.
    rest_C = np.maximum((y_nC**2).sum(axis=0) - z2_rC.sum(axis=0), 0.0)
    n = len(label)
    columns = zip(z2_rC.T, rest_C, strict=True)
    return float(np.mean([_evidence(squared_r, z2_r, rest, n) for z2_r, rest in columns]))


def _evidence(squared_r: np.ndarray, z2_r: np.ndarray, rest: float, n: int) -> float:
    """Return the maximum log evidence per example of one column of labels.

    Args:
      squared_r: Squared singular values of the features, positive.
      z2_r: Squared coordinates of the labels along the left singular vectors.
      rest: Squared length of the residual.
      n: Number of examples.
    """
    if not len(squared_r):
        return -0.5 * (math.log(2 * math.pi * rest / n) + 1)
    low, high = squared_r.max() / _BOUND, squared_r.max() * _BOUND
    t = float(np.clip(1.0, low, high))
    for _ in range(1000):
        gamma = (squared_r / (squared_r + t)).sum()  # Effective number of dimensions.
        weight = (squared_r * z2_r / (squared_r + t) ** 2).sum()  # Squared length of w.
        error = (z2_r * (t / (squared_r + t)) ** 2).sum() + rest
        last, divisor = t, weight * (n - gamma)
        t = float(np.clip(gamma * error / divisor, low, high)) if divisor > 0 else high
        if abs(math.log(t / last)) < 1e-6:
            break
    # beta is the inverse of this variance, so the evidence is a function of t only.
    variance = ((z2_r * t / (squared_r + t)).sum() + rest) / n
    determinant = np.log1p(squared_r / t).sum()
    return float(-0.5 * (math.log(2 * math.pi * variance) + 1 + determinant / n))


def knn_score(feature_nD: np.ndarray, label_n: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Return the leave-one-out score of predictions by the nearest neighbours.

    Neighbours are by cosine similarity; a zero vector is equally far from all. Classes are chosen
    by majority, the first one in case of a tie; scores are the mean of the neighbours' (Puigcerver
    et al. 2021, Scalable Transfer Learning with Expert Models, with k = 1 and classes).

    Args:
      feature_nD: (n, D) features.
      label_n: (n,), integer classes or float scores.
      k: Number of neighbours; at most n - 1 are used.

    Returns:
      Accuracy, or Pearson's correlation with the scores; NaN if undefined.
    """
    feature, label = np.asarray(feature_nD, np.float64), np.asarray(label_n)
    n = len(feature)
    k = min(k, n - 1)
    if k < 1 or not np.isfinite(feature).all():
        return math.nan
    length = np.linalg.norm(feature, axis=1, keepdims=True)
    unit = feature / np.where(length > 0, length, 1.0)
    neighbour_nk = np.zeros((n, k), np.int64)
    for start in range(0, n, 1024):
        similarity = unit[start : start + 1024] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        neighbour_nk[start : start + 1024] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    if np.issubdtype(label.dtype, np.integer):
        values, class_n = np.unique(label, return_inverse=True)
        votes = (class_n[neighbour_nk][:, :, None] == np.arange(len(values))).sum(axis=1)
        return float((votes.argmax(axis=1) == class_n).mean())
    return _correlation(label[neighbour_nk].mean(axis=1), label)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Quality of a choice of a start by its score instead of by training from each.

    Attributes:
      chosen: The start with the largest score; the first one in case of a tie.
      best: The start with the best outcome.
      regret: Best outcome minus the outcome of the chosen start.
      relative_regret: Regret relative to the best outcome; NaN if that is 0.
      rank_correlation: Spearman's correlation of scores and outcomes; NaN if one is constant.
    """

    chosen: str
    best: str
    regret: float
    relative_regret: float
    rank_correlation: float


def selection(
    scores: Mapping[str, float], outcomes: Mapping[str, float], *, larger_is_better: bool = True
) -> Selection:
    """Compare a ranking of starts by scores with the outcomes of training.

    The regret is regret@1 of Renggli et al. 2022 (CVPR) and Poth et al. 2021 (EMNLP), who report
    `relative_regret` as a percentage.

    Args:
      scores: Finite scores by start, such as the intermediate tasks; larger promises more.
      outcomes: The target's metric after training from the same starts, finite.
      larger_is_better: Direction of the outcomes.
    """
    sign = 1 if larger_is_better else -1
    gains = {start: sign * outcomes[start] for start in scores}
    chosen, best = (max(values, key=values.__getitem__) for values in (scores, gains))
    regret, scale = gains[best] - gains[chosen], abs(outcomes[best])
    ranks = (_ranks(np.asarray(list(values.values()))) for values in (scores, gains))
    return Selection(
        chosen=chosen,
        best=best,
        regret=regret,
        relative_regret=regret / scale if scale else math.nan,
        rank_correlation=_correlation(*ranks),
    )


def _ranks(value_n: np.ndarray) -> np.ndarray:
    """Return ranks from 1 on, float64 (n,); equal values share their mean rank.

    `scipy.stats.rankdata` is the same, but takes a second to import.
    """
    _, position_n, count = np.unique(value_n, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[position_n]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's correlation, NaN if either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
