"""Fixtures for tests of whole studies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxfer.config import Config
from tests.e2e.helpers import one_device, run_study, study_config, write_sets
from tests.helpers import tiny_model


@pytest.fixture(scope="module", autouse=True)
def on_one_device() -> Iterator[None]:
    with one_device():
        yield


@pytest.fixture(scope="module")
def finished(on_one_device: None, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study, whose model has more rows in its embedding than the data needs."""
    folder = tmp_path_factory.mktemp("study")
    tiny_model(folder / "model", vocab_size=300, layers=1)
    write_sets(folder)
    config = study_config(folder)
    run_study(config)
    return config
