"""Retrieval of nearest neighbours by cosine similarity, and its accuracy."""

from __future__ import annotations

import numpy as np

from flaxfer.errors import DataError


def nearest(query_nD: np.ndarray, passage_mD: np.ndarray, *, block: int = 2048) -> np.ndarray:
    """Return for each query the row of the most similar passage, int64 (n,).

    Of equal passages it is the first. Similarities are float32, and at most `block` times `block`
    of them are in memory at a time.

    Args:
      query_nD: (n, D) embeddings.
      passage_mD: (m, D) embeddings, m > 0.
      block: Number of queries and passages that are compared at a time.

    Raises:
      DataError: If an embedding is zero or not finite.
    """
    query, passage = _unit(query_nD, "query"), _unit(passage_mD, "passage")
    nearest_n = np.zeros(len(query), np.int64)
    for begin in range(0, len(query), block):
        rows = query[begin : begin + block]
        best = np.full(len(rows), -np.inf, np.float32)
        for offset in range(0, len(passage), block):
            similarity = rows @ passage[offset : offset + block].T
            place = similarity.argmax(axis=1)
            value = similarity[np.arange(len(rows)), place]
            better = value > best
            best[better] = value[better]
            nearest_n[begin : begin + block][better] = place[better] + offset
    return _first_equal(passage)[nearest_n]


def retrieval_accuracy(query_nD: np.ndarray, passage_nD: np.ndarray) -> float:
    """Return the share of queries whose nearest passage has their row, NaN without queries.

    The direction matters. The published code of XTREME (Hu et al. 2020), for Tatoeba (Artetxe &
    Schwenk 2019), has English queries and passages in the other language.

    Args:
      query_nD: (n, D) embeddings.
      passage_nD: (n, D) embeddings; row i is correct for query i.

    Raises:
      DataError: As `nearest`.
    """
    if not len(query_nD):
        return float("nan")
    nearest_n = nearest(query_nD, passage_nD)
    return float((nearest_n == np.arange(len(nearest_n))).mean())


def _unit(vectors: np.ndarray, what: str) -> np.ndarray:
    """Return the rows scaled to length 1, float32."""
    vectors = vectors.astype(np.result_type(vectors, np.float32), copy=False)
    # Divided by the largest component first, so that no square overflows or underflows in float32.
    largest = np.abs(vectors).max(axis=1, initial=0)
    bad = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
    if bad.size:
        raise DataError(
            f"{bad.size} {what} embeddings are zero or not finite, the first in row {bad[0]}",
            where="scoring",
        )
    scaled = (vectors / largest[:, None]).astype(np.float32, copy=False)
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def _first_equal(rows: np.ndarray) -> np.ndarray:
    """Return for each row the index of the first equal row.

    Needed because a matmul may give equal rows results that differ in their last bits, depending
    on their position in a block.
    """
    # Adding zero turns -0 into 0, whose bytes differ. `np.unique(axis=0)` compares field by field,
    # which is slow.
    raw = np.ascontiguousarray(rows + 0).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    _, first, group = np.unique(raw[:, 0], return_index=True, return_inverse=True)
    return first[group]
