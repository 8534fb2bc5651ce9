"""The search for the best candidates against all products of NumPy, sorted."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flaxfer.errors import DataError
from flaxfer.tasks import search
from flaxfer.tasks.search import GROUP, device_bytes, top_k


def embeddings(n: int, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def expected(query: np.ndarray, candidate: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort all products in float64; of equal ones the first comes first."""
    score = np.einsum("nD,mD->nm", query.astype(np.float64), candidate.astype(np.float64))
    row = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return row, np.take_along_axis(score, row, axis=1)


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize(("n", "m", "k"), [(5, 1000, 20), (70, 2500, 1), (3, 7, 7), (1, 1, 1)])
def test_the_best_are_those_of_numpy(n: int, m: int, k: int, devices: int) -> None:
    query, candidate = embeddings(n), embeddings(m, seed=1)
    row, score = top_k(query, candidate, k, block=2 * GROUP, devices=jax.devices()[:devices])
    wanted_row, wanted_score = expected(query, candidate, k)
    np.testing.assert_array_equal(row, wanted_row)
    np.testing.assert_allclose(score, wanted_score, rtol=0, atol=1e-13)
    assert row.dtype == np.int64 and score.dtype == np.float64


def test_several_parts_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "QUERIES", 16)
    monkeypatch.setattr(search, "KEPT", 500)
    monkeypatch.setattr(search, "RESCORED", 1000)
    query, candidate = embeddings(40), embeddings(600, seed=1)
    row, _ = top_k(query, candidate, 5, block=GROUP)
    np.testing.assert_array_equal(row, expected(query, candidate, 5)[0])


def test_equal_candidates_come_by_row() -> None:
    """More of them than are kept in the first pass, in groups and blocks of their own."""
    rng = np.random.default_rng(2)
    query, candidate = embeddings(6), embeddings(1500, seed=3)
    best = expected(query, candidate, 1)[0][0, 0]
    copies = np.sort(rng.choice(1500, 400, replace=False))
    candidate[copies] = candidate[best]
    for devices in (1, 8):
        row, score = top_k(query, candidate, 30, block=GROUP, devices=jax.devices()[:devices])
        np.testing.assert_array_equal(row, expected(query, candidate, 30)[0])
        assert set(row[0]) <= {*copies, best} and np.ptp(score[0]) == 0


def test_products_that_float32_cannot_tell_apart() -> None:
    """A large common component hides the differences from float32, not from float64."""
    candidate = embeddings(900, seed=4) * np.float32(1e-3)
    candidate[:, 0] = 3000.0
    query = embeddings(9, seed=5)
    query[:, 0] = 1000.0
    product = query @ candidate.T
    row, _ = top_k(query, candidate, 10, block=2 * GROUP)
    wanted = expected(query, candidate, 10)[0]
    assert (np.argsort(-product, axis=1, kind="stable")[:, :10] != wanted).mean() > 0.5
    np.testing.assert_array_equal(row, wanted)


@pytest.mark.parity
def test_the_best_are_those_of_faiss() -> None:
    import faiss

    query, candidate = embeddings(40, width=96), embeddings(20_000, width=96, seed=1)
    index = faiss.IndexFlatIP(96)
    index.add(candidate)
    score, row = index.search(query, 20)
    found_row, found_score = top_k(query, candidate, 20)
    np.testing.assert_array_equal(found_row, row)
    np.testing.assert_allclose(found_score, score, rtol=0, atol=1e-4)


def test_zeros_and_negative_products() -> None:
    candidate = -np.abs(embeddings(300, seed=6))
    candidate[[7, 290]] = 0
    query = np.abs(embeddings(4))
    row, score = top_k(query, candidate, 3, block=GROUP)
    np.testing.assert_array_equal(row, expected(query, candidate, 3)[0])
    assert (row[:, :2] == [7, 290]).all() and (score[:, 2] < 0).all()


def test_no_query_has_no_result() -> None:
    row, score = top_k(embeddings(0), embeddings(5), 2)
    assert row.shape == score.shape == (0, 2)


def test_memory_does_not_grow_with_the_candidates() -> None:
    # A thousand queries and a million candidates of width 1,024: less than 700 MiB.
    million = device_bytes(1000, 1_000_000, 1024, 20)
    assert million == device_bytes(1000, 50_000_000, 1024, 20) < 700 << 20
    assert device_bytes(1000, 1000, 384, 20) < device_bytes(1000, 1_000_000, 384, 20)
    assert device_bytes(10**7, 10**6, 384, 20) == device_bytes(10**8, 10**6, 384, 20)


@pytest.mark.parametrize(
    ("query", "candidate", "k", "match"),
    [
        ([[1, 2]], [[1, 2]], 2, "the best 2 of 1 candidates cannot be found"),
        ([[1, 2]], [[1, 2]], 0, "the best 0 of 1"),
        ([[1, 2], [np.nan, 1]], [[1, 2]], 1, "1 query embeddings are not finite, .* in row 1"),
        ([[1, 2]], [[1, np.inf], [2, 1], [np.nan, 1]], 1, "2 candidate .* in row 0"),
    ],
)
def test_bad_input_is_an_error(query: list, candidate: list, k: int, match: str) -> None:
    with pytest.raises(DataError, match=match):
        top_k(np.array(query, np.float32), np.array(candidate, np.float32), k)
