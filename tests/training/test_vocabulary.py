"""Embeddings cut to the tokens in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxfer.data.tokenize import Tokenized
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.vocabulary import MULTIPLE, Vocabulary

SIZE, PAD = 1000, 3


def tokenized(token: np.ndarray) -> Tokenized:
    """A data set of one example."""
    return Tokenized(
        token=token.astype(np.int32),
        type=np.zeros(len(token), np.uint8),
        offset=np.array([0, len(token)]),
        cls=np.zeros(1, np.int32),
        label=np.zeros(1, np.int32),
        id=("0",),
        language=("en",),
        domain=("",),
        truncated=0,
        fingerprint="f",
        task_type=TASK_TYPES["classification"],
    )


@pytest.fixture
def sets() -> list[Tokenized]:
    rng = np.random.default_rng(0)
    return [tokenized(rng.integers(PAD, SIZE, n)) for n in (90, 70)]


def test_a_token_finds_the_row_it_had(sets: list[Tokenized]) -> None:
    vocabulary = Vocabulary.used(sets, SIZE, PAD)
    embedding = np.random.default_rng(1).normal(size=(SIZE, 4))
    for data in sets:
        cut = vocabulary.cut(data)
        np.testing.assert_array_equal(
            embedding[vocabulary.ids][cut.token], embedding[data.token], strict=True
        )
        assert cut.token.dtype == np.int32
        assert cut.token.max() < len(vocabulary)
        for field in ("type", "offset", "cls", "label", "id", "language", "fingerprint"):
            assert getattr(cut, field) is getattr(data, field)


@pytest.mark.parametrize("others", [0, 100, MULTIPLE - PAD, MULTIPLE - 1, MULTIPLE])
def test_ids_up_to_the_padding_keep_their_numbers(others: int) -> None:
    vocabulary = Vocabulary.used([tokenized(np.arange(500, 500 + others))], SIZE, PAD)
    low = tokenized(np.arange(PAD + 1))
    np.testing.assert_array_equal(vocabulary.ids[: PAD + 1], low.token)
    np.testing.assert_array_equal(vocabulary.cut(low).token, low.token)


def test_the_rows_are_a_multiple_and_hardly_more_than_in_use(sets: list[Tokenized]) -> None:
    in_use = np.union1d(np.concatenate([data.token for data in sets]), np.arange(PAD + 1))
    vocabulary = Vocabulary.used(sets, SIZE, PAD)
    assert len(vocabulary) == -(-len(in_use) // MULTIPLE) * MULTIPLE == 256
    assert np.isin(in_use, vocabulary.ids).all()
    assert (np.diff(vocabulary.ids) > 0).all()
    assert vocabulary.ids.max() < SIZE
    # As many as the multiple already: none is added.
    full = tokenized(np.arange(MULTIPLE))
    assert len(Vocabulary.used([full], SIZE, PAD)) == MULTIPLE


def test_a_model_smaller_than_the_multiple_is_taken_whole() -> None:
    few = tokenized(np.array([5, 50]))
    np.testing.assert_array_equal(Vocabulary.used([few], 100, PAD).ids, np.arange(100))


def test_whole_changes_nothing(sets: list[Tokenized]) -> None:
    vocabulary = Vocabulary.whole(SIZE)
    assert len(vocabulary) == SIZE
    np.testing.assert_array_equal(vocabulary.ids, np.arange(SIZE))
    np.testing.assert_array_equal(vocabulary.cut(sets[0]).token, sets[0].token, strict=True)


def test_the_fingerprint_is_of_the_ids(sets: list[Tokenized]) -> None:
    fingerprint = Vocabulary.used(sets, SIZE, PAD).fingerprint
    assert Vocabulary.used(sets[::-1], SIZE, PAD).fingerprint == fingerprint
    other = [*sets, tokenized(np.arange(300, 500))]
    assert Vocabulary.used(other, SIZE, PAD).fingerprint != fingerprint
    assert Vocabulary.whole(SIZE).fingerprint != Vocabulary.whole(SIZE + 1).fingerprint


def test_what_is_saved_is_loaded(sets: list[Tokenized], tmp_path: Path) -> None:
    vocabulary = Vocabulary.used(sets, SIZE, PAD)
    for each in (Vocabulary.whole(SIZE), vocabulary):  # The second takes the place of the first.
        each.save(tmp_path / "vocabulary.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.npy"]
    loaded = Vocabulary.load(tmp_path / "vocabulary.npy")
    np.testing.assert_array_equal(loaded.ids, vocabulary.ids, strict=True)
    assert loaded.fingerprint == vocabulary.fingerprint
