"""Fixtures of whole studies."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxfer.config import Config
from flaxfer.runtime import platform, sharding
from flaxfer.study import runner
from flaxfer.training import vocabulary
from tests.conftest import PROGRAMS
from tests.e2e.helpers import config_of, with_train, write_sets
from tests.helpers import restored_compilation_cache, tiny_model


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


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study of the conditions direct and staged, not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    tiny_model(folder / "model", "bert", vocab_size=300, layers=1)
    write_sets(folder)
    config = dataclasses.replace(config_of(folder), conditions=("direct", "staged"))
    for name in ("intermediate", "target"):
        config = with_train(config, name, max_steps=4, eval_every=2, compute_dtype="float32")
    with on_one_device():
        runner.run(config, "the command")
    return config


@pytest.fixture
def copied(small_study: Config, tmp_path: Path) -> Config:
    """A copy of the small study, to be damaged or changed."""
    shutil.copytree(small_study.workdir, tmp_path / "work")
    return dataclasses.replace(small_study, workdir=str(tmp_path / "work"))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process look at the work of others without a pause."""
    monkeypatch.setattr(runner, "POLL", 0.01)
