"""Nearest neighbours against scikit-learn's similarities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from flaxfer.errors import DataError
from flaxfer.evaluation.retrieval import nearest, retrieval_accuracy


def embeddings(*rows: int, width: int = 24, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    # Lengths of rows and columns vary, so that a dot product or a distance is not enough.
    scale = np.exp(rng.normal(size=(1, width)))
    return [rng.normal(size=(n, width)) * scale * np.exp(rng.normal(size=(n, 1))) for n in rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_nearest_is_scikit_learns(dtype):
    query, passage = (x.astype(dtype) for x in embeddings(70, 150))
    expected = cosine_similarity(query.astype(np.float64), passage.astype(np.float64)).argmax(1)
    found = nearest(query, passage)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


def test_of_equal_passages_the_first_is_found():
    """Wherever they stand: a matrix product alone gives most of these cases another answer."""
    for seed in range(30):
        (passage,) = (x.astype(np.float32) for x in embeddings(203, width=61, seed=seed))
        rng = np.random.default_rng(seed)
        order = rng.permutation(203)
        copies = order[:100].reshape(20, 5)
        passage[copies] = passage[copies[:, :1]]
        passage[:, ::9] = np.copysign(0, rng.normal(size=(203, 7)))  # 0 and -0 are equal.
        query = 3 * passage[copies[:, 0]]
        np.testing.assert_array_equal(nearest(query, passage), copies.min(axis=1))


def test_of_equal_similarities_the_first_is_found():
    passage = np.array([[1.0, -2], [1, 2], [2, 1], [2, -1], [-2, 1]])
    found = nearest(np.array([[1.0, 0], [0, 1]]), passage)
    np.testing.assert_array_equal(found, [2, 1])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lengths_beyond_the_squares_of_float32(scale):
    query, passage = (x.astype(np.float32) for x in embeddings(40, 60))
    expected = cosine_similarity(query, passage).argmax(1)
    for factors in ((scale, 1), (1, scale), (scale, scale)):
        pair = (x * np.float32(factor) for x, factor in zip((query, passage), factors, strict=True))
        np.testing.assert_array_equal(nearest(*pair), expected)
    np.testing.assert_array_equal(nearest(query.astype(np.float64) * 1e200, passage), expected)


def test_the_arrays_given_stay_as_they_are():
    query, passage = (x.astype(np.float32) for x in embeddings(5, 6))
    before = query.copy(), passage.copy()
    nearest(query, passage)
    np.testing.assert_array_equal((*query, *passage), (*before[0], *before[1]))


def test_accuracy_looks_for_each_query_among_the_passages():
    query, passage = (
        np.stack([np.cos(x), np.sin(x)], axis=1) for x in np.radians([[0, 20, 90], [15, 24, 90]])
    )
    np.testing.assert_array_equal(nearest(query, passage), [0, 1, 2])
    np.testing.assert_array_equal(nearest(passage, query), [1, 1, 2])
    assert retrieval_accuracy(query, passage) == 1
    assert retrieval_accuracy(passage, query) == pytest.approx(2 / 3)


def test_translations_are_found():
    (sentence,) = embeddings(120)
    other = sentence + np.random.default_rng(1).normal(size=sentence.shape) * 0.01
    order = np.random.default_rng(2).permutation(120)
    np.testing.assert_array_equal(nearest(sentence, other[order]), order.argsort())
    assert retrieval_accuracy(sentence, other) == 1
    assert retrieval_accuracy(sentence, other[order]) == (order == np.arange(120)).mean()


def test_no_query_is_undefined():
    assert nearest(np.ones((0, 3)), np.ones((2, 3))).shape == (0,)
    assert math.isnan(retrieval_accuracy(np.ones((0, 3)), np.ones((0, 3))))


@pytest.mark.parametrize(
    ("query", "passage", "match"),
    [
        ([[1, 2], [0, 0]], [[1, 2]], "1 query embeddings are zero or not finite, the first in row"),
        ([[1, 2]], [[1, 2], [3, math.nan], [math.inf, 1]], "2 passage .* in row 1"),
        ([[-math.inf, 2]], [[1, 2]], "1 query"),
    ],
)
def test_what_has_no_cosine_is_an_error(query, passage, match):
    with pytest.raises(DataError, match=match):
        nearest(np.array(query), np.array(passage))
