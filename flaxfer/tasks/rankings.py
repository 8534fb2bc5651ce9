"""Scores of rankings of candidates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

RANKED = 20
"""Candidates of a ranking that count, as in XTREME-R (Ruder et al. 2021)."""


def average_precision(relevant: Collection[Hashable], ranking: Sequence[Hashable], k: int) -> float:
    """Return the average precision of the first `k` candidates of a ranking, at most 1.

    It is the sum of the precision at the rank of each relevant candidate, divided by how many of
    them the first `k` ranks can hold. A candidate that is listed again takes a rank, but does not
    count again. With one relevant candidate it is the reciprocal rank. The mean over queries is
    mAP@k of LAReQA (Roy et al. 2020) and XTREME-R (Ruder et al. 2021).

    Args:
      relevant: The relevant candidates, at least one.
      ranking: Candidates, the best first.
      k: Number of candidates that count.
    """
    left, size, total = {*relevant}, len({*relevant}), 0.0
    for rank, candidate in enumerate(ranking[:k], 1):
        if candidate in left:
            left.remove(candidate)
            total += (size - len(left)) / rank
    return total / min(size, k)


def reciprocal_rank(relevant: Collection[Hashable], ranking: Sequence[Hashable], k: int) -> float:
    """Return 1 / r for the rank r of the first relevant candidate; 0 if it is above `k`."""
    found = (1 / rank for rank, each in enumerate(ranking[:k], 1) if each in relevant)
    return next(found, 0.0)


METRICS: Mapping[str, Callable[[Collection[Hashable], Sequence[Hashable]], float]] = {
    "map_at_20": lambda relevant, ranking: average_precision(relevant, ranking, RANKED),
    "mrr_at_20": lambda relevant, ranking: reciprocal_rank(relevant, ranking, RANKED),
    "accuracy_at_1": lambda relevant, ranking: reciprocal_rank(relevant, ranking, 1),
}
"""Functions of the relevant candidates of a query and a ranking, whose means over queries are the
metrics: mean average precision, mean reciprocal rank, and how often the first is relevant."""
