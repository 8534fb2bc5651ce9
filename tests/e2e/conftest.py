"""Fixtures of whole studies."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxfer.study import runner
from flaxfer.training import vocabulary
from tests.conftest import PROGRAMS
from tests.e2e.helpers import on_one_device
from tests.helpers import restored_compilation_cache


@pytest.fixture(scope="module", autouse=True)
def one_device() -> Iterator[None]:
    with on_one_device():
        yield


@pytest.fixture(scope="module")
def shared_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled programs in a folder that this process and its workers share."""
    if PROGRAMS:
        yield
        return
    with pytest.MonkeyPatch.context() as patch, restored_compilation_cache():
        for name, value in (
            ("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs"))),
            ("jax_persistent_cache_min_compile_time_secs", 0.2),
        ):
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX stays with the folder that it used first.
        yield
        compilation_cache.reset_cache()


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
