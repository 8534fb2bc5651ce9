"""Fixtures for tests of reports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flaxfer.report import plots


@pytest.fixture(scope="module", autouse=True)
def quick_fonts() -> Iterator[None]:
    """Fonts of Type 3, which are embedded in half the time that a report takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plots.STYLE, "pdf.fonttype", 3)
        yield
