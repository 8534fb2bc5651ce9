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
    """One device, and a compilation cache that is the module's own."""
    with on_one_device(), restored_compilation_cache():
        compilation_cache.reset_cache()  # JAX stays with the folder that it used first.
        yield
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def exact_vocabulary() -> Iterator[None]:
    """Embeddings without the rows that fill them up, so that tokens are missing from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "MULTIPLE", 1)
        yield
