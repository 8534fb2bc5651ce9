"""Fixtures for tests of the demo."""

from __future__ import annotations

import pytest

from tests.demo.helpers import TinyFile, tiny_file


@pytest.fixture
def tiny() -> TinyFile:
    return tiny_file()
