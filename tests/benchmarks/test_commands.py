"""Every script of the benchmarks runs as a module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import benchmarks

SCRIPTS = sorted(
    path
    for path in Path(benchmarks.__path__[0]).rglob("*.py")
    if "def main(" in path.read_text("utf-8")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_calls_its_main_function(path: Path) -> None:
    last = ast.unparse(ast.parse(path.read_text("utf-8")).body[-1])
    calls = ("common.guarded(main)", "sys.exit(main())")
    assert last in [f"if __name__ == '__main__':\n    {call}" for call in calls]
