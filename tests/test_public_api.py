"""`import flaxfer` costs nothing, and its names are there when they are used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flaxfer
from tests.test_main import HEAVY, ROOT, run

LIMIT = 0.3
"""Seconds that the import may take; it takes about 0.01."""


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, where warnings are errors."""
    words = [sys.executable, "-W", "error", *options, "-c", code]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)


def test_the_import_is_quick_and_imports_nothing_heavy() -> None:
    done = python("import flaxfer, sys; print(*sys.modules)", "-X", "importtime")
    assert not {*HEAVY, "numpy", "pandas", "pydantic"} & {*done.stdout.split()}
    (line,) = re.findall(r"\| +(\d+) \| flaxfer$", done.stderr, re.MULTILINE)
    assert int(line) / 1e6 < LIMIT


def test_reading_studies_needs_no_jax(tmp_path: Path) -> None:
    code = """
import sys, flaxfer
try:
    flaxfer.load(sys.argv[0])
except flaxfer.FlaxferError as error:
    print(error.exit_code)
flaxfer.Config, flaxfer.Callbacks, flaxfer.Metric
print("jax" in sys.modules)
"""
    assert python(code).stdout.split() == ["3", "False"]


def test_listing_needs_no_jax(tmp_path: Path) -> None:
    done = run("list", str(tmp_path))
    assert (done.code, done.out) == (0, f"there are no studies in {tmp_path}\n")
    assert not done.imported & {"jax", "pandas", "transformers"}


def test_every_name_is_there_and_listed() -> None:
    assert sorted(flaxfer.__all__) == flaxfer.__all__
    assert {*flaxfer.__all__} <= {*dir(flaxfer)}
    for name in flaxfer.__all__:
        value = getattr(flaxfer, name)
        assert name == "__version__" or value.__module__.startswith("flaxfer.")
    with pytest.raises(AttributeError, match="module 'flaxfer' has no attribute 'rnu'"):
        flaxfer.rnu  # noqa: B018
