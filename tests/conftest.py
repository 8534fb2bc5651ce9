"""Settings and fixtures for all tests."""

from __future__ import annotations

import atexit
import dataclasses
import gc
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flaxfer.config import Config

# JAX reads these when it is imported. Eight simulated devices, for the tests that split arrays.
FLAGS = ["--xla_force_host_platform_device_count=8", os.environ.get("XLA_FLAGS", "")]
# Each worker has one core: code that is generated in several threads takes a tenth more of it.
if "xla_cpu_parallel_codegen_split_count" not in FLAGS[-1]:
    FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
# Programs are compiled once and run for milliseconds: without optimization, compiling takes half
# the time. `make parity` sets the level of users.
if "xla_backend_optimization_level" not in FLAGS[-1]:
    FLAGS.append("--xla_backend_optimization_level=0")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Tracing makes many objects that stay: with Python's threshold of 2,000, a sixth of the time goes
# into looking for cycles among them.
gc.set_threshold(50_000)

# Compiled programs in a folder that the workers of a test run share, and the processes that tests
# start. Several runs share the one that FLAXFER_TEST_PROGRAMS names; if that is empty, nothing is
# kept. JAX locks it only if its size is limited, and without a lock a worker may read what another
# is still writing.
if "FLAXFER_TEST_PROGRAMS" not in os.environ:
    os.environ["FLAXFER_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="flaxfer-programs-")
    atexit.register(shutil.rmtree, os.environ["FLAXFER_TEST_PROGRAMS"], ignore_errors=True)
if programs := os.environ["FLAXFER_TEST_PROGRAMS"]:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**32)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

LONGEST = ("e2e", "training", "interop", "benchmarks", "parity")
"""Packages with the longest files, which workers start with, so that they finish together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the packages with the longest files first."""

    def place(item: pytest.Item) -> int:
        package = item.path.parent.name
        return LONGEST.index(package) if package in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data sets and models beside the repository; not part of it."""
    folder = Path(__file__).parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data sets and models in {folder}, which are not there")
    return folder.resolve()


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Restore the log level, which the command line sets: tests count what is logged."""
    logger = logging.getLogger("flaxfer")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """The default handlers of stops, which nohup and background jobs of a shell ignore."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def x64() -> Iterator[None]:
    """Doubles, so that a wrong formula is not taken for rounding."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study of the conditions direct and staged, not to be changed."""
    from tests.e2e.helpers import finished_study

    return finished_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def copied(small_study: Config, tmp_path: Path) -> Config:
    """A copy of the small study, to be damaged or changed."""
    shutil.copytree(small_study.workdir, tmp_path / "work")
    return dataclasses.replace(small_study, workdir=str(tmp_path / "work"))
