"""Documents name files, objects, axes and exit codes as they are in the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import flaxfer
from flaxfer import errors, main
from flaxfer.config import Common, Config
from flaxfer.config.grids import Grid
from flaxfer.report import writing
from flaxfer.subcommands import SUBCOMMANDS

PACKAGE = Path(flaxfer.__file__).parent
ENTRY_POINTS = {"flaxfer.metrics", "flaxfer.task_types", "flaxfer.trackers"}
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
    "pattern",
    [
        "*.md",
        "launch/*",
        "tools/*",
        "flaxfer/*/command.py",
        "flaxfer/*.py",
        "docs/*.md",
        "docs/guides/*.md",
    ],
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


def pages() -> ModuleType:
    """The module that generates pages of the documentation."""
    spec = importlib.util.spec_from_file_location("pages", PACKAGE.parent / "docs" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections_of(annotation: Any) -> Iterator[type]:
    """Dataclasses of the configuration that a type consists of."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
        for hint in typing.get_type_hints(annotation, include_extras=True).values():
            yield from sections_of(hint)
    for argument in typing.get_args(annotation):
        yield from sections_of(argument)


def test_the_configuration_page_has_every_setting_with_its_default() -> None:
    module = pages()
    text = module.configuration()
    sections = {*sections_of(Config), *sections_of(Grid)}
    assert len(sections) > 10
    assert sections <= module.SECTIONS.keys() <= {*sections, Common}
    for section in sections:
        for field in dataclasses.fields(section):
            assert f"- `{field.name}`: " in text, field.name
    assert "- `batch_size`: integer at least 1, by default `32`. Examples per step, over" in text
    assert "- `train`: list of [Source](#settings-source). Sources of each split. If" in text
    assert ": value" not in text


def test_the_page_of_the_command_line_has_all_help() -> None:
    text = pages().commands()
    for name in SUBCOMMANDS:
        assert main.load(name)[1].format_help() in text
    assert "usage: flaxfer embed sts " in text


def test_the_other_pages_have_the_whole_documents() -> None:
    for name, generate in pages().GENERATED.items():
        assert (PACKAGE.parent / "docs" / f"{name}.md").is_file()
        assert len(generate()) > 1000


def test_the_guide_to_reports_names_sections_of_reports() -> None:
    text = (PACKAGE.parent / "docs" / "guides" / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\*\*(.+?)\*\*", text))
    assert len(named) > 10 and named <= writing.SECTIONS.keys()


def test_the_guide_to_statistics_cites_the_sources_that_it_lists() -> None:
    text = (PACKAGE.parent / "docs" / "guides" / "statistics.md").read_text(encoding="utf-8")
    cited, _, listed = text.partition("\n## Sources\n")
    sources = re.findall(r"(?m)^- (\w\S+)(?:,| &| et al\.)? .*?\((\d{4})\)\.", listed)
    assert len(sources) > 15
    for name, year in sources:
        assert re.search(rf"{name.rstrip(',')}.{{0,40}}{year}", cited.replace("(", "")), name


def test_modules_and_objects_that_documents_name_exist() -> None:
    top = PACKAGE.parent
    named = set()
    for document in (top / "README.md", top / "CONTRIBUTING.md", *(top / "docs").glob("*/*.md")):
        text = document.read_text(encoding="utf-8")
        matches = re.findall(r"`(flaxfer(?:\.\w+)+)[`(]|automodule:: (\S+)", text)
        named |= {one or other for one, other in matches}
    assert len(named) > 20
    for name in named - ENTRY_POINTS:
        pkgutil.resolve_name(name)
