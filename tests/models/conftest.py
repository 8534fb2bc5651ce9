"""Fixtures for tests of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.folders import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a BERT, its pooler and a classifier."""
    write_folder(tmp_path, "bert", "sequence")
    return tmp_path
