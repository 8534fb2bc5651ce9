"""How well features suit labels before anything is trained on them, and whether that was right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

NEIGHBOURS = 5
"""Puigcerver et al. 2021 ask the nearest one alone; the mean score of one neighbour is noise."""

_BOUND = 1e10
"""How far t of `logme` may be from the largest squared singular value, as a factor."""


def logme(feature_nD: np.ndarray, label_n: np.ndarray) -> float:
    """LogME: the largest log evidence, an example, of labels as linear functions of the features.

    The labels y are normal with precision beta around F w, and w normal with precision alpha around
    0. The evidence p(y | F) is maximised over both by the fixed-point iteration of You et al. 2022
    (Ranking and Tuning Pre-trained Models, JMLR 23) on t = alpha / beta; LogME itself is of You et
    al. 2021 (ICML). Of classes, the mean over those that occur, each against the others. There is
    no intercept and nothing is scaled, as published.

    Args:
      feature_nD: (n, D).
      label_n: (n,), integer classes or float scores.

    Returns:
      Larger is better; NaN if the labels are all the same.
    """
    values = np.unique(label_n)
    if len(values) < 2:
        return math.nan
    label = np.asarray(label_n)
    classes = np.issubdtype(label.dtype, np.integer)
    y_nC = (label[:, None] == values).astype(float) if classes else label[:, None].astype(float)
    feature = np.asarray(feature_nD, np.float64)
    u_nr, singular_r, _ = np.linalg.svd(feature, full_matrices=False)
    # Features were computed in float32: below its precision there is no information.
    known = singular_r > singular_r[0] * max(feature.shape) * np.finfo(np.float32).eps
    squared_r, z2_rC = singular_r[known] ** 2, (u_nr[:, known].T @ y_nC) ** 2
    # What no direction of the features reaches; rounding could make it negative.
    rest_C = np.maximum((y_nC**2).sum(axis=0) - z2_rC.sum(axis=0), 0.0)
    n = len(label)
    return float(
        np.mean(
            [_evidence(squared_r, z2, rest, n) for z2, rest in zip(z2_rC.T, rest_C, strict=True)]
        )
    )


def _evidence(squared_r: np.ndarray, z2_r: np.ndarray, rest: float, n: int) -> float:
    """The largest log evidence of one column of labels, an example.

    Args:
      squared_r: squared singular values of the features, positive.
      z2_r: squared coordinates of the labels along the left singular vectors.
      rest: squared length of the labels beyond these.
      n: examples.
    """
    if not len(squared_r):
        return -0.5 * (math.log(2 * math.pi * rest / n) + 1)
    low, high = squared_r.max() / _BOUND, squared_r.max() * _BOUND
    t = float(np.clip(1.0, low, high))
    for _ in range(1000):
        gamma = (squared_r / (squared_r + t)).sum()  # The number of directions that count.
        weight = (squared_r * z2_r / (squared_r + t) ** 2).sum()  # Squared length of w.
        error = (z2_r * (t / (squared_r + t)) ** 2).sum() + rest
        last, divisor = t, weight * (n - gamma)
        t = float(np.clip(gamma * error / divisor, low, high)) if divisor > 0 else high
        if abs(math.log(t / last)) < 1e-6:
            break
    # beta is then the inverse of this variance, which leaves a function of t alone.
    variance = ((z2_r * t / (squared_r + t)).sum() + rest) / n
    determinant = np.log1p(squared_r / t).sum()
    return float(-0.5 * (math.log(2 * math.pi * variance) + 1 + determinant / n))


def knn_score(feature_nD: np.ndarray, label_n: np.ndarray, k: int = NEIGHBOURS) -> float:
    """How well the nearest others tell an example's label: leave-one-out over n examples.

    By cosine similarity; a zero vector is equally far from all. Classes are chosen by the votes of
    the k neighbours, of equally many the first; scores are the neighbours' mean (Puigcerver et al.
    2021, Scalable Transfer Learning with Expert Models, with k = 1 and classes).

    Args:
      feature_nD: (n, D).
      label_n: (n,), integer classes or float scores.
      k: neighbours; of fewer examples, all the others.

    Returns:
      Accuracy, or Pearson's correlation with the scores; NaN if it is not defined.
    """
    feature, label = np.asarray(feature_nD, np.float64), np.asarray(label_n)
    n = len(feature)
    k = min(k, n - 1)
    if k < 1:
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
        values, own = np.unique(label, return_inverse=True)
        votes = (own[neighbour_nk][:, :, None] == np.arange(len(values))).sum(axis=1)
        return float((votes.argmax(axis=1) == own).mean())
    return _correlation(label[neighbour_nk].mean(axis=1), label)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What it costs to choose a start by its score instead of by training from each.

    Attributes:
      chosen: the starts with the largest scores, k of them.
      best: the start with the best outcome.
      regret: best outcome minus the best of those chosen; 0 if the best start is among them.
      relative_regret: the same as a share of the best outcome; NaN if that is 0.
      rank_correlation: Spearman's, of scores and outcomes; NaN if one of them is constant.
    """

    chosen: tuple[str, ...]
    best: str
    regret: float
    relative_regret: float
    rank_correlation: float


def selection(
    scores: Mapping[str, float],
    outcomes: Mapping[str, float],
    *,
    k: int = 1,
    larger_is_better: bool = True,
) -> Selection:
    """Compares a ranking made beforehand with what came out.

    The regret is regret@k of Renggli et al. 2022 (CVPR) and Poth et al. 2021 (EMNLP), whose
    percentage is `relative_regret`.

    Args:
      scores: of each start, such as `none` and the intermediate tasks; larger promises more.
      outcomes: the target's metric after training from it; of the same starts.
      k: how many starts one can afford to train from. Of equal scores the first named is chosen.
      larger_is_better: of the outcomes.

    Raises:
      ValueError: not the same starts, fewer than two, or a value is not finite.
    """
    values = [*scores.values(), *outcomes.values()]
    if scores.keys() != outcomes.keys() or len(scores) < 2 or not np.isfinite(values).all():
        raise ValueError(f"scores {dict(scores)} and outcomes {dict(outcomes)} do not compare")
    sign = 1 if larger_is_better else -1
    gains = {start: sign * outcomes[start] for start in scores}
    chosen = sorted(scores, key=lambda start: -scores[start])[:k]
    best = max(gains, key=lambda start: gains[start])
    regret = gains[best] - max(gains[start] for start in chosen)
    scale = abs(outcomes[best])
    ranks = (_ranks(np.array([given[s] for s in scores])) for given in (scores, gains))
    return Selection(
        chosen=tuple(chosen),
        best=best,
        regret=regret,
        relative_regret=regret / scale if scale else math.nan,
        rank_correlation=_correlation(*ranks),
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on; equal values share the mean of theirs."""
    below = (values[:, None] > values).sum(axis=1)
    return below + ((values[:, None] == values).sum(axis=1) + 1) / 2


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, NaN if either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
