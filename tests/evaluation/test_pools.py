"""Pools of multilingual retrieval against scikit-learn and rankings made one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from flaxfer.errors import DataError
from flaxfer.evaluation.pools import pool_scores
from flaxfer.tasks.rankings import average_precision

CODES = ("de", "en", "sw")


def example(
    seed: int, ties: bool
) -> tuple[np.ndarray, np.ndarray, list[str], list[str], list[list[int]]]:
    """Queries and candidates of three languages, with one or two right candidates in each."""
    rng = np.random.default_rng(seed)
    candidate_nD = rng.normal(size=(60, 5)).astype(np.float32)
    query_nD = rng.normal(size=(12, 5)).astype(np.float32)
    if ties:
        candidate_nD, query_nD = candidate_nD.round(), query_nD.round()
    languages = [CODES[i % 3] for i in range(60)]
    relevant = [[i, i + 1, i + 2, i + 30][: 3 + i % 2] for i in range(12)]
    return query_nD, candidate_nD, [CODES[i % 3] for i in range(12)], languages, relevant


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [2, 20])
def test_pools_are_those_of_rankings_made_one_by_one(k: int, ties: bool) -> None:
    query_nD, candidate_nD, asked, languages, relevant = example(0, ties)
    scores = pool_scores(query_nD, candidate_nD, asked, languages, relevant, k)

    def expected(language: str, pool_of) -> float:
        values = []
        for query, one, right in zip(query_nD, asked, relevant, strict=True):
            if one == language:
                pool, right = pool_of(set(right))
                order = sorted(pool, key=lambda row: (-np.float32(query @ candidate_nD[row]), row))
                values.append(average_precision(right, order, k))
        return float(np.mean(values))

    for language in CODES:
        assert scores.all[language] == pytest.approx(expected(language, lambda r: (range(60), r)))
        for code in CODES:
            own = {row for row in range(60) if languages[row] == code}
            pair = (language, code)
            of_pair = expected(language, lambda r, own=own: (own, r & own))
            of_one = expected(language, lambda r, own=own: ({*range(60)} - (r - own), r & own))
            assert scores.pairs[pair] == pytest.approx(of_pair)
            assert scores.one_target[pair] == pytest.approx(of_one)
    same = [scores.pairs[code, code] for code in CODES]
    assert scores.monolingual() == pytest.approx(np.mean(same))
    rest = [score for (one, other), score in scores.pairs.items() if one != other]
    assert len(rest) == 6 and scores.crosslingual() == pytest.approx(np.mean(rest))


def test_without_a_limit_it_is_the_average_precision_of_scikit_learn() -> None:
    query_nD, candidate_nD, asked, languages, relevant = example(1, ties=False)
    scores = pool_scores(query_nD, candidate_nD, asked, languages, relevant, k=60)
    by_language: dict[str, list[float]] = {}
    for query, one, right in zip(query_nD, asked, relevant, strict=True):
        truth = np.isin(np.arange(60), right)
        score = average_precision_score(truth, candidate_nD @ query)
        by_language.setdefault(one, []).append(score)
    assert scores.all == pytest.approx({code: np.mean(v) for code, v in by_language.items()})


def test_what_has_no_score_is_refused() -> None:
    query_nD, candidate_nD, asked, languages, relevant = example(2, ties=False)
    with pytest.raises(DataError, match="query 3: a query has no right candidate"):
        pool_scores(query_nD, candidate_nD, asked, languages, [*relevant[:3], [], *relevant[4:]])
    query_nD[0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        pool_scores(query_nD, candidate_nD, asked, languages, relevant)
