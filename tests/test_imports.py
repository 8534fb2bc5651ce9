"""The direction of imports: who may know whom."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flaxfer

ROOT = Path(flaxfer.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
WEIGHTS = {"flaxfer.config", "flaxfer.hub", "safetensors", "huggingface_hub"}
CONFIG = {f"flaxfer.config{name}" for name in ("", "_checks", "_grid", "_sources")}
LIGHT = {*CONFIG, "flaxfer.errors", "pydantic"}
MODELS = {"jax", "flax", "numpy", "flaxfer.models", "flaxfer.errors"}
STATISTICS = {"numpy", "flaxfer.config", "flaxfer.errors", "flaxfer.results", "flaxfer.scoring"}
ONLY = {  # By the beginning of the file's path, the longest that fits: what it may import.
    "errors.py": set[str](),
    "config": LIGHT,
    "models/": MODELS,
    "models/pretrained.py": MODELS | WEIGHTS,
    "models/weights.py": MODELS | WEIGHTS,
    "scoring/": {"numpy", "flaxfer.errors", "flaxfer.scoring"},
    "statistics/": STATISTICS | {"flaxfer.statistics"},
}
USERS = {  # By what is used: the only files that may.
    "jax.jit": {"step.py", "state.py", "metrics.py", "platform.py"},
    "orbax": {"checkpoint.py"},
    "pickle": set[str](),
    "torch": {"convert.py"},
    "flaxfer.main": set[str](),
}


def uses(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at the top or within, and `jax.x` that it reads."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("jax", "nnx"):
            yield f"jax.{node.attr}"


def within(name: str, packages: set[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_what_it_may(file: str) -> None:
    names = set(uses(FILES[file])) - {"__future__.annotations"}
    outside = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    rules = [start for start in ONLY if file.startswith(start)]
    if rules:
        assert {name for name in outside if not within(name, ONLY[max(rules, key=len)])} == set()
    if file.startswith(("data/", "demo/")) and file != "data/loader.py":
        assert {name for name in names if within(name, {"jax", "flax", "optax"})} == set()
    for used, users in USERS.items():
        assert file in users or not any(within(name, {used}) for name in names), used


def test_the_rules_are_about_files_that_exist() -> None:
    assert all(any(file.startswith(start) for file in FILES) for start in ONLY)
    for used, users in USERS.items():
        for user in users:
            assert any(within(name, {used}) for name in uses(FILES[user])), f"{user}: {used}"


def test_imports_run_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for file, path in FILES.items():
        names = set(uses(path))
        graph[file] = {f for f in FILES if any(within(n, {module(f)}) for n in names)} - {file}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    chain = ["errors.py", "step.py", "stage.py", "study.py", "studies.py", "main.py"]
    assert sorted(chain, key=order.index) == chain


def module(file: str) -> str:
    return f"flaxfer.{file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"
