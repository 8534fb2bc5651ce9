"""Fixtures of whole studies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flaxfer.study import runner
from flaxfer.training import vocabulary
from tests.e2e.helpers import quickly


@pytest.fixture(scope="module", autouse=True)
def quick_studies() -> Iterator[None]:
    with quickly():
        yield


@pytest.fixture(scope="module")
def exact_vocabulary() -> Iterator[None]:
    """Embeddings without the rows that fill them up, so that tokens are missing from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "MULTIPLE", 1)
        yield


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process look at the work of others without a pause."""
    monkeypatch.setattr(runner, "POLL", 0.01)
