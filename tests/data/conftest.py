"""Fixtures for tests of data."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the hub; the dict receives the arguments of each call, and gives the data set."""
    import datasets
    import huggingface_hub.constants

    seen: dict[str, Any] = {}

    def load_dataset(path: str, **kwargs: Any) -> Any:
        seen.update(kwargs, path=path)
        return seen["dataset"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return seen
