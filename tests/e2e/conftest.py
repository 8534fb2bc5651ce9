"""Fixtures of whole studies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxfer.runtime import platform, sharding
from flaxfer.training import vocabulary
from tests.conftest import PROGRAMS
from tests.helpers import restored_compilation_cache


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Run studies on the first of the simulated devices, for which programs compile faster.

    Compiled programs are not kept in the studies' own folders, which no other test would read.
    """
    make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", make_mesh)
        patch.setattr(platform, "use_compilation_cache", lambda folder: None)
        yield


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
