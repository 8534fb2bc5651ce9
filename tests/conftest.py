"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when JAX starts: eight simulated devices, for the tests that split arrays.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data sets and models beside the repository; not part of it."""
    folder = Path(__file__).parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data sets and models in {folder}, which are not there")
    return folder.resolve()


@pytest.fixture(scope="module")
def plain_code() -> Iterator[None]:
    """Machine code that is not optimised: for tests of what the host does between many programs."""
    from flaxfer.runtime import platform

    platform.choose_compiler_options({"xla_backend_optimization_level": 0})
    yield
    platform.choose_compiler_options({})
