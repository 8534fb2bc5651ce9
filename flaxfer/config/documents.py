"""Config files in YAML and TOML, whose errors name the line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from flaxfer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A safe loader with the plain values of YAML 1.2, which refuses keys that stand twice.

    YAML 1.1, PyYAML's own, reads the language code `no` as false, and 2e-5 as a text.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; keys of a merged one (`<<`) may stand there again."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in seen:
                        what = f"the key {key.value!r} is given twice"
                        raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                    seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",  # Not 010, which some read as eight: it stays a text.
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
    )


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        raise _Fault(what, mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise _Fault(str(error), 0) from error


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$| \(at end of document\)$", str(error))
        line = int(place[1]) if place and place[1] else len(text.splitlines())
        raise _Fault(str(error)[: place.start()] if place else str(error), line) from error


class _Fault(Exception):
    """An error in a document, with the number of its line; 0 if that is unknown."""

    def __init__(self, what: str, line: int):
        super().__init__(what)
        self.what, self.line = what, line


READERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    ".toml": ("TOML", _toml),
    ".yaml": ("YAML", _yaml),
    ".yml": ("YAML", _yaml),
}
"""Name and reader of a format, by the ending of the file."""


def read_document(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML or TOML file.

    Raises:
      ConfigError: If the file is not what its ending says, names a key twice, or holds no mapping.
    """
    name, read = READERS[path.suffix.lower()]
    try:
        settings = read(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        what = f"the file is not in UTF-8: {error}"
        raise ConfigError(what, where=str(path), hint="write it in UTF-8.") from error
    except _Fault as fault:
        where = f"{path}:{fault.line}" if fault.line else str(path)
        raise ConfigError(f"the file is no {name}: {fault.what}", where=where) from fault
    if not isinstance(settings, dict):
        what = "is empty" if settings is None else f"holds {settings!r:.80}, no settings by name"
        hint = "write a section for each of model and target; see flaxfer init."
        raise ConfigError(f"the file {what}", where=str(path), hint=hint)
    return settings


def key_lines(path: Path) -> dict[str, int]:
    """Return the line of each dotted key of a file that `read_document` has read."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".toml":
        return dict(_node_lines(yaml.compose(text, _Loader), ""))
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[+([^\]=]+)\]+\s*(#.*)?$", line):
            table = match[1].strip()
            lines.setdefault(table, number)
        elif match := re.match(r"\s*([\w.-]+|\"[^\"]*\")\s*=", line):
            key = match[1].strip('"')
            lines.setdefault(f"{table}.{key}" if table else key, number)
    return lines


def _node_lines(node: Any, at: str) -> Iterator[tuple[str, int]]:
    """Yield the keys within a node of YAML, with their lines; items of a list have their index."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(i), value, value) for i, value in enumerate(node.value)]
    for name, key, value in pairs:
        inner = f"{at}.{name}" if at else name
        yield inner, key.start_mark.line + 1
        yield from _node_lines(value, inner)
