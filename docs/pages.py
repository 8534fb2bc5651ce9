"""Text of pages that stands elsewhere: in the code, or in documents of the repository."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic.fields import FieldInfo

from flaxfer import config, main
from flaxfer.config.fields import LARGEST
from flaxfer.config.grids import Grid, Target
from flaxfer.config.seeds import Looks
from flaxfer.subcommands import SUBCOMMANDS

ROOT = Path(__file__).parents[1]

SECTIONS: Mapping[type, str] = {
    config.Config: "a study",
    Grid: "a grid, in place of `model`, `intermediate` and `target`",
    config.Common: "a study or a grid",
    config.Model: "`model`, and each of `models`",
    config.Stage: "`intermediate` and `target`, and each of `intermediates`",
    Target: "each of `targets`, beside the settings of a stage",
    config.Task: "`task` of a stage",
    config.Data: "`data` of a stage",
    config.Source: "each of `data.train`, `data.dev` and `data.test`, and of `evaluate`",
    config.Optimizer: "`optimizer` of all stages, or of one",
    config.Train: "`train` of all stages, or of one",
    config.Lora: "`lora` of a stage",
    config.Mesh: "`mesh`",
    config.Wandb: "`wandb`",
    Looks: "`seeds`",
}
"""Dataclasses of the configuration, and where their settings stand."""

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def commands() -> str:
    """Return the help of `flaxfer` and of its subcommands, as it is printed."""
    parts = [f"\n```text\n{main.usage()}\n```\n"]
    for name in SUBCOMMANDS:
        parts += [f"\n(command-{name})=\n## flaxfer {name}\n"]
        parts += [f"```text\n{one.format_help()}```\n" for one in parsers(main.load(name)[1])]
    return "\n".join(parts)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from parsers(nested)


def configuration() -> str:
    """Return the settings of each section, as the docstrings of the schema describe them."""
    parts = []
    for section, where in SECTIONS.items():
        name = section.__name__
        summary, described = documentation(section)
        parts.append(f"\n(settings-{name.lower()})=\n## {name}: {where}\n\n{summary}\n")
        hints = typing.get_type_hints(section, include_extras=True)
        own = inspect.get_annotations(section)  # Without those that it inherits.
        for field in (field for field in dataclasses.fields(section) if field.name in own):
            meaning = described.get(field.name, "")
            text = f"- `{field.name}`: {shown(hints[field.name])}{default(field)}"
            parts.append(f"{text}. {meaning}".rstrip())
    return "\n".join(parts)


def documentation(section: type) -> tuple[str, dict[str, str]]:
    """Return the docstring of a dataclass without its attributes, and the text about each."""
    summary, _, text = (inspect.getdoc(section) or "").partition("\nAttributes:\n")
    described = {}
    for entry in re.split(r"(?m)^  (?=[a-z])", text)[1:]:
        names, _, meaning = entry.partition(": ")
        described |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return summary, described


def default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a setting in words; empty if it must be set or is a section."""
    if field.default is dataclasses.MISSING:
        return ", by default empty" if callable(field.default_factory) else ""
    if dataclasses.is_dataclass(field.default) or field.default is None:
        return ""
    if field.default in ("", ()):
        return ", by default empty"
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    words = (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return ", by default " + ", ".join(f"`{word}`" for word in words)


def either(words: Iterable[str]) -> str:
    """Return alternatives in a line."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def shown(annotation: Any, count: int = 1) -> str:
    """Return the type of a setting in words, in the plural unless `count` is 1."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return " ".join([shown(arguments[0], count), *bounds(arguments[1:])])
    if origin is Literal:
        return either(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return either(shown(one, count) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"{'list' if count == 1 else 'lists'} of {shown(arguments[0], 2)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {shown(arguments[0], 2)} to {shown(arguments[1], 2)}"
    if dataclasses.is_dataclass(annotation):
        name = annotation.__name__
        return f"[{name}](#settings-{name.lower()})"
    if annotation is bool:
        return "`true` or `false`"
    word = {str: "text", int: "integer", float: "number"}.get(annotation, "value")
    return word if count == 1 else f"{word}s"


def bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    """Yield the bounds of a number in words, if it has any."""
    constraints = [one for part in metadata if isinstance(part, FieldInfo) for one in part.metadata]
    found = [
        f"{words} {value}"
        for constraint in constraints
        for name, words in BOUNDS.items()
        if (value := getattr(constraint, name, None)) is not None and abs(value) != LARGEST
    ]
    if found:
        yield " and ".join(found)


def benchmarks() -> str:
    """Return BENCHMARKS.md, whose figures are in this folder."""
    return read("BENCHMARKS.md").replace("](docs/", "](")


def launching() -> str:
    """Return launch/README.md as sections of a page."""
    text = read("launch/README.md").replace(
        "(../README.md#exit-codes)", "(../reference/commands.md)"
    )
    return "\n" + re.sub(r"(?m)^#", "##", text)


def read(name: str) -> str:
    """Return the text of a document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


GENERATED: Mapping[str, Callable[[], str]] = {
    "benchmarks": benchmarks,
    "changelog": lambda: read("CHANGELOG.md"),
    "guides/tpu": launching,
    "reference/commands": commands,
    "reference/configuration": configuration,
}
"""What is appended to a page."""
