"""Average precision of rankings, and its means by the languages of queries and candidates.

LAReQA (Roy et al. 2020, arXiv 2004.05484) asks whether right candidates of all languages come
before wrong ones of the query's language; its score has all candidates in the pool. Smaller pools
show where a model fails: one of a single language only needs that pair of languages to be aligned,
and one with a single right candidate among wrong ones of all languages needs a model that prefers
no language.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxfer.errors import DataError

_BLOCK = 1024
"""Queries whose similarities are in memory at a time."""


class PoolScores(NamedTuple):
    """Mean average precision at k, over the queries that have a right candidate in the pool.

    Attributes:
      all: By language of the queries; the pool has all candidates.
      pairs: By languages of queries and candidates; the pool has the candidates of one language.
      one_target: By the same; the pool has the right candidates of one language, and the wrong ones
        of all languages.
    """

    all: dict[str, float]
    pairs: dict[tuple[str, str], float]
    one_target: dict[tuple[str, str], float]

    def monolingual(self) -> float:
        """Return the mean of `pairs` over languages, with the candidates of the same language."""
        return _mean([score for (one, other), score in self.pairs.items() if one == other])

    def crosslingual(self) -> float:
        """Return the mean of `pairs` over pairs of different languages."""
        return _mean([score for (one, other), score in self.pairs.items() if one != other])


def pool_scores(
    query_nD: np.ndarray,
    candidate_nD: np.ndarray,
    query_languages: Sequence[str],
    candidate_languages: Sequence[str],
    relevant: Sequence[Sequence[int]],
    k: int = 20,
) -> PoolScores:
    """Return the scores of each pool by the dot products of embeddings.

    Of equal candidates, the first comes first.

    Args:
      query_nD: Embeddings of the queries.
      candidate_nD: Embeddings of the candidates, of another number n.
      query_languages: Language of each query.
      candidate_languages: Language of each candidate.
      relevant: Rows of the right candidates of each query, at least one.
      k: Number of candidates that count.

    Raises:
      DataError: If a query has no right candidate, or an embedding is not finite.
    """
    if not all(map(len, relevant)):
        row = next(i for i, rows in enumerate(relevant) if not len(rows))
        raise DataError(
            "a query has no right candidate",
            where=f"query {row}",
            hint="leave out queries whose answer lies in no sentence, as LAReQA does.",
        )
    if not (np.isfinite(query_nD).all() and np.isfinite(candidate_nD).all()):
        hint = "score a model whose training has not diverged."
        raise DataError("an embedding is not finite", where="scoring", hint=hint)
    codes = list(dict.fromkeys(candidate_languages))
    number_n = np.array([codes.index(code) for code in candidate_languages])
    pools: tuple[dict, dict, dict] = ({}, {}, {})
    for begin in range(0, len(query_nD), _BLOCK):
        similarity = query_nD[begin : begin + _BLOCK] @ candidate_nD.T
        for i, row_n in enumerate(similarity, begin):
            right = np.unique(np.asarray(relevant[i]))
            language = query_languages[i]
            ahead = _ahead(row_n, right, number_n, len(codes))
            pools[0].setdefault(language, []).append(_precision(1 + ahead.sum(axis=1), k))
            among = _ahead(row_n[right], np.arange(len(right)), number_n[right], len(codes))
            for target in np.unique(number_n[right]):
                here = number_n[right] == target
                pair = (language, codes[target])
                ranks = 1 + ahead[here, target]
                pools[1].setdefault(pair, []).append(_precision(ranks, k))
                removed = among[here].sum(axis=1) - among[here, target]
                ranks = 1 + ahead[here].sum(axis=1) - removed
                pools[2].setdefault(pair, []).append(_precision(ranks, k))
    return PoolScores(*({key: _mean(values) for key, values in pool.items()} for pool in pools))


def _ahead(
    row_n: np.ndarray, right: np.ndarray, number_n: np.ndarray, languages: int
) -> np.ndarray:
    """Return how many candidates of each language precede each right one: (right, language)."""
    own = row_n[right][:, None]
    earlier = np.arange(len(row_n)) < right[:, None]
    before = (row_n > own) | ((row_n == own) & earlier)
    return np.stack([np.bincount(number_n[each], minlength=languages) for each in before])


def _precision(ranks: np.ndarray, k: int) -> float:
    """Return the average precision at k of the right candidates with these ranks."""
    counted = np.sort(ranks)[:k]
    hits = np.arange(1, len(counted) + 1) / counted
    return float(hits[counted <= k].sum() / len(counted))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
