"""Which package may import which, and which files may use which library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flaxfer

ROOT = Path(flaxfer.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TOP = {"__init__.py", "__main__.py", "main.py", "subcommands.py", "api.py", "errors.py"}
PACKAGES = (
    *("study", "report", "statistics", "aot", "xtreme", "interop", "training", "evaluation"),
    *("tasks", "models", "data", "config", "demo", "runtime"),
)
"""A package imports those after it, and `errors`."""

USERS = {
    "clu": ("tasks/metrics.py",),
    "jax": (
        "study/",
        "aot/",
        "interop/",
        "training/",
        "evaluation/",
        "tasks/",
        "models/",
        "runtime/",
        "data/loader.py",
    ),
    "orbax": ("training/checkpoints.py",),
    "pickle": (),
    "torch": ("interop/convert.py",),
    "transformers": (
        *("data/tokenizer.py", "data/encode.py", "data/tokenize.py", "data/task_types.py"),
        "tasks/",
    ),
}
"""Libraries that few files may import, with the beginnings of those files' paths."""


def imported(file: str) -> Iterator[str]:
    """Dotted names that a file imports, at the top or within a function."""
    for node in ast.walk(ast.parse(FILES[file].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_else_lies_at_the_top_level() -> None:
    assert {file.split("/")[0] for file in FILES} <= TOP | set(PACKAGES)


@pytest.mark.parametrize("file", sorted(set(FILES) - TOP))
def test_imports_point_down(file: str) -> None:
    allowed = {"errors", "__version__", *PACKAGES[PACKAGES.index(file.split("/")[0]) :]}
    used = {name.split(".")[1] for name in imported(file) if name.startswith("flaxfer.")}
    assert used <= allowed


@pytest.mark.parametrize("library", USERS)
def test_a_library_is_used_where_it_may_be(library: str) -> None:
    users = [file for file in FILES if library in {name.split(".")[0] for name in imported(file)}]
    assert [file for file in users if not file.startswith(USERS[library])] == []
