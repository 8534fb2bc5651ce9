"""Fixtures of whole studies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxfer.runtime import sharding
from flaxfer.training import vocabulary
from tests.helpers import restored_compilation_cache


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Run studies on the first of the simulated devices, for which programs compile faster."""
    make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", make_mesh)
        yield


@pytest.fixture(scope="module", autouse=True)
def one_device() -> Iterator[None]:
    """One device, and no compiled programs on disk, which pay only for several processes."""
    with on_one_device(), restored_compilation_cache(), jax.enable_compilation_cache(False):
        yield


@pytest.fixture(scope="module")
def programs_on_disk(one_device: None) -> Iterator[None]:
    """Compiled programs in the cache of the studies, where other processes find them."""
    with jax.enable_compilation_cache(True):
        compilation_cache.reset_cache()  # JAX stays with the folder that it used first.
        yield
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def exact_vocabulary() -> Iterator[None]:
    """Embeddings without the rows that fill them up, so that tokens are missing from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "MULTIPLE", 1)
        yield
