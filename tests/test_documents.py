"""Documents name files, objects, axes and exit codes as they are in the code."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import flaxfer
from flaxfer import errors, main

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


TABLE = re.compile(r"^\| (\d+) \| (?:`(\w+)`)? *\|", re.MULTILINE)
SPOKEN = re.compile(r"(?:exit |with )codes?(?: is)? (\d+)(?: or (\d+))?|\bexit (\d+)\b")


def exit_codes() -> dict[int, str]:
    """The README's table: error class by exit code, empty if there is none."""
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    table = text.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    return {int(code): name for code, name in TABLE.findall(table)}


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    table = exit_codes()
    classes = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.FlaxferError)
    ]
    for error in classes:
        assert error.exit_code in table, f"{error.__name__} ends with {error.exit_code}"
    for code, name in table.items():
        # Ctrl-C has a code of its own in an instance of the class.
        if name and code != 130:
            assert getattr(errors, name).exit_code == code, name
    # Those of the programs that are no error of a class.
    assert {code for code, name in table.items() if not name} == {0, 1, 74}


@pytest.mark.parametrize(
    "pattern", ["*.md", "launch/*", "tools/*", "flaxfer/*/command.py", "flaxfer/*.py", "docs/*.md"]
)
def test_documents_and_scripts_name_only_exit_codes_of_the_table(pattern: str) -> None:
    for path in PACKAGE.parent.glob(pattern):
        text = path.read_text(encoding="utf-8")
        named = {int(code) for match in SPOKEN.finditer(text) for code in match.groups() if code}
        assert named <= exit_codes().keys(), path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["check", "--config", "none.py"], 2),
        (["report", "no such folder"], 3),
        (["convert", "no such folder", "OUT", "--allow-torch"], None),
    ],
)
def test_a_command_ends_with_a_code_of_the_table(
    words: list[str], code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = main.main(words)
    assert done in exit_codes() and (code is None or done == code)
