"""ARCHITECTURE.md names files and objects that exist, and the axes that array names use."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import flaxfer

PACKAGE = Path(flaxfer.__file__).parent
TEXT = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_named_files_exist() -> None:
    named = set()
    for line in TEXT.splitlines():
        row = re.match(r"\| `(\w+/)`", line)  # A row of the table of packages.
        package = row[1] if row else ""
        rest = line.removeprefix(f"| `{package}`")
        named |= {package + name for name in re.findall(r"`([\w/]+(?:\.py|/))`", rest)}
    missing = {n for n in named if not any((top / n).exists() for top in (PACKAGE, PACKAGE.parent))}
    assert len(named) > 40 and not missing


def test_named_objects_exist() -> None:
    packages = "|".join(path.name for path in PACKAGE.iterdir() if path.is_dir())
    named = re.findall(rf"`((?:{packages})(?:\.\w+)+)`", TEXT)
    for name in {name for name in named if not name.endswith(".json")}:
        pkgutil.resolve_name(f"flaxfer.{name}")
    assert len(named) > 15


def test_the_legend_has_exactly_the_axes_in_use() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    names = re.findall(r"\b[a-z][a-z0-9_]*_([A-Zn]{1,6})\b", code)
    legend = TEXT.partition("## Axes in array names\n")[2].partition(". In statistics")[0]
    assert set(re.findall(r"(?:^|· )(\w) ", legend)) == set("".join(names))
