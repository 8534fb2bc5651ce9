"""Retrieval of nearest neighbours by cosine similarity, and its accuracy."""

from __future__ import annotations

import numpy as np

from flaxfer.errors import DataError
from flaxfer.tasks.search import top_k


def nearest(query_nD: np.ndarray, passage_mD: np.ndarray) -> np.ndarray:
    """Return for each query the row of the most similar passage, int64 (n,).

    Of equally similar passages it is the first.

    Args:
      query_nD: (n, D) embeddings.
      passage_mD: (m, D) embeddings, m > 0.

    Raises:
      DataError: If an embedding is zero or not finite.
    """
    row_n1, _ = top_k(_unit(query_nD, "query"), _unit(passage_mD, "passage"), 1)
    return row_n1[:, 0]


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
