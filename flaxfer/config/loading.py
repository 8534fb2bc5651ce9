"""Load a config from a file or a mapping, with overrides, or report every error at once.

No JAX is imported here, so a wrong configuration is refused before devices, data or models are
touched. Pydantic checks each field; the checks in `validation` and `grids` compare fields.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import pydantic

from flaxfer.config import Config, grids, overrides, sections, validation
from flaxfer.config.fields import SECTION, TUPLE
from flaxfer.config.files import config_lines, plain, read_config_file
from flaxfer.config.findings import Finding, nearest, placeholders, shown, suggestion
from flaxfer.config.grids import Grid
from flaxfer.config.overrides import Override
from flaxfer.config.sections import SHARED, Tree
from flaxfer.config.task_types import TaskTypes
from flaxfer.errors import ConfigError

AnyConfig = TypeVar("AnyConfig", bound=Config | Grid)
Location: TypeAlias = tuple[Any, ...]
"""Names and indices of a place in nested settings."""

RENAMED = {
    "accumulation": "gradient_accumulation_steps",
    "decay_share": "decay_fraction",
    "keep": "remat",
    "kind": "type",
    "l2_start": "l2_sp",
    "max_programs": "max_bucket_sizes",
    "paths": "conditions",
    "rehearse": "rehearsal_examples",
    "restarts": "max_restarts",
    "retained": "evaluate_retention",
    "rows": "num_records",
    "seeds_at_once": "batched_seeds",
    "wise": "wise_ft_alphas",
}
"""Earlier names of fields, for error messages."""

RENAMED_VALUES = {"remat": {"all": "none", "products": "matmuls", "inputs": "full"}}
"""Earlier values, by field."""


Settings: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""A config file (FILE or FILE:PRESET), or nested settings."""
Changes: TypeAlias = Sequence[Override] | Mapping[str, Any]
"""Overrides: pairs of a dotted key and a text as on the command line, or values by dotted key."""


def load(source: Settings, task_types: TaskTypes, changes: Changes = ()) -> Config:
    """Load the config of a single study, see `load_any`; a grid is a `ConfigError`."""
    config = load_any(source, task_types, changes)
    if isinstance(config, Grid):
        raise ConfigError(
            f"the config describes a grid of {len(grids.cells(config))} studies instead of one",
            where=os.fspath(source) if isinstance(source, str | os.PathLike) else None,
            hint="use a config with one model, one target and at most one intermediate task.",
        )
    return config


def load_any(
    source: Settings, task_types: TaskTypes, changes: Changes = (), unfinished: bool = False
) -> Config | Grid:
    """Load the config of a study or grid from a file or from nested settings, see `build`.

    Args:
      source: A Python, YAML or TOML file, by its ending, with `:PRESET` for a Python file that has
        presets; or a mapping such as a dict or ConfigDict.
      task_types: Task types by name, `flaxfer.tasks.TASK_TYPES`.
      changes: Overrides, which win over `source`. Values by dotted key may be of any type.
      unfinished: Whether placeholders may be left, see `findings.placeholders`.

    Raises:
      ConfigError: As `files.read_config_file` and `build`.
    """
    if isinstance(changes, Mapping):
        changes = [(key, repr(plain(value))) for key, value in changes.items()]
    if not isinstance(source, str | os.PathLike):
        return build(source, task_types, changes, unfinished=unfinished)
    file = os.fspath(source)
    settings, lines = read_config_file(file), config_lines(file)
    return build(settings, task_types, changes, file, unfinished, lines)


def build(
    settings: Mapping[str, Any],
    task_types: TaskTypes,
    changes: Sequence[Override] = (),
    where: str = "",
    unfinished: bool = False,
    lines: Mapping[str, int] | None = None,
) -> Config | Grid:
    """Build a config from nested settings.

    Args:
      settings: Nested settings.
      task_types: Task types by name, `flaxfer.tasks.TASK_TYPES`.
      changes: Overrides.
      where: File of the settings, for error messages.
      unfinished: Whether placeholders may be left, see `findings.placeholders`.
      lines: Lines of the file by dotted key, for error messages.

    Raises:
      ConfigError: With every unknown key, wrong value, contradiction, setting without effect and
        placeholder.
    """
    file = plain(settings)
    tree, details = overrides.apply(file, changes, _error_locations, _is_tuple)
    config, invalid, findings = _validate(tree)
    check: Any = grids.check if isinstance(config, Grid) else validation.check
    # A check that reads an invalid value would only repeat its error in other words.
    keys = [key for key, _ in changes]
    checked = [*check(config, task_types), *sections.check(tree, keys, file)]
    checked = [each for each in checked if not sections.is_shortened(each[0], keys)]
    checked += [] if unfinished else placeholders(tree)
    findings += [finding for finding in checked if not _within(finding[0], invalid)]
    # An error in a shared section occurs in every stage: report it once, for the shared section.
    details += [
        sections.in_shared_section(*finding, tree)
        + ("" if _within(finding[0][:1], keys) else _line(finding[0][0], lines or {}))
        for finding in findings
    ]
    if details := list(dict.fromkeys(details)):
        raise ConfigError(
            f"{len(details)} error(s) in the configuration",
            where=where or None,
            hint="change the config file, or pass --config.KEY=VALUE.",
            details=details,
        )
    return _placed(config)


def validated(
    config: AnyConfig, task_types: TaskTypes, changes: Sequence[Override] = ()
) -> AnyConfig:
    """Return a config that Python code made, completed and checked like one from a file.

    Args:
      config: The config; paths may be strings or `Path` objects.
      task_types: Task types by name, `flaxfer.tasks.TASK_TYPES`.
      changes: Overrides; those of a shared section apply to all stages.

    Raises:
      ConfigError: As `build`, except that settings may be there that other settings replace.
    """
    tree = plain(config)
    if str(config.workdir) == f"runs/{config.name}":  # The name may be overridden.
        tree["workdir"] = ""
    tree, details = overrides.apply(tree, [*_in_stages(changes, tree)], _error_locations, _is_tuple)
    valid, invalid, findings = _validate(tree)
    check: Any = grids.check if isinstance(config, Grid) else validation.check
    findings += [f for f in check(valid, task_types) if not _within(f[0], invalid)]
    if details := [*details, *(text for _, text in findings)]:
        raise ConfigError(
            f"{len(details)} error(s) in the configuration",
            where=config.name or None,
            hint="change the Config, or the settings that replace its own.",
            details=list(dict.fromkeys(details)),
        )
    return cast(AnyConfig, _placed(valid))


def _in_stages(changes: Sequence[Override], tree: Tree) -> Iterator[Override]:
    """Yield overrides, with those of a shared section for each stage without one of its own."""
    own = {key for key, _ in changes}
    for key, text in changes:
        if key.split(".")[0] in SHARED:
            keys = [f"{stage}.{key}" for stage in sections.stages(tree)]
            yield from ((each, text) for each in keys if each not in own)
        else:
            yield key, text


def to_dict(config: Config | Grid) -> dict[str, Any]:
    """Return the config as JSON-compatible values."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def _line(key: str, lines: Mapping[str, int]) -> str:
    """Return where a key is set, or the innermost section of it that is in the file."""
    for name in (key, sections.STAGE_KEY.sub("", key)):
        # A single source need not be in a list.
        for spelling in (name, re.sub(r"(\.data\.\w+)\.0\b", r"\1", name)):
            if spelling in lines:
                return f" (line {lines[spelling]})"
    return _line(key.rpartition(".")[0], lines) if "." in key else ""


def _placed(config: Config | Grid) -> Config | Grid:
    """Return the config with the default of `workdir`, and its home folder for `~`."""
    workdir = config.folder
    expand = os.path.expanduser
    return dataclasses.replace(config, workdir=expand(workdir), store=expand(config.store))


@functools.cache
def _adapter(config_type: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(config_type)


def _config_type(tree: Tree) -> type:
    return Grid if grids.KEYS & tree.keys() else Config


def _try_to_build(config_type: type, tree: Tree) -> tuple[Any, list[Any]]:
    """Return the config of a tree without shared sections, or pydantic's errors."""
    try:
        return _adapter(config_type).validate_python(tree), []
    except pydantic.ValidationError as error:
        return None, error.errors(include_url=False)


def _error_locations(tree: Tree) -> set[tuple[Any, ...]]:
    """Return the locations of errors, without indices of tuples."""
    _, errors = _try_to_build(_config_type(tree), sections.with_shared_sections(tree))
    locations = {tuple(part for part in error["loc"] if isinstance(part, str)) for error in errors}
    return locations | {(name,) for name in _shared_values(tree)}


def _shared_values(tree: Tree) -> dict[str, str]:
    """Return a message for each shared section that is a value instead."""
    shared = {name: tree.get(name) for name in SHARED}
    return {n: _not_a_section(v) for n, v in shared.items() if not isinstance(v, dict | None)}


def _is_tuple(tree: Tree, key: str) -> bool:
    """Return whether the field at a dotted key is a tuple; keys may be of a shared section."""
    parts = key.split(".")
    if parts[0] in SHARED:
        stage = next(iter(sections.stages(tree)), "target")
        parts = [*stage.split("."), *parts]
    location = tuple(int(part) if part.isdecimal() else part for part in parts)
    try:
        return typing.get_origin(_type_at(_config_type(tree), location)) is tuple
    except (KeyError, IndexError):  # An unknown key, which is reported as such.
        return False


def _validate(tree: Tree) -> tuple[Config | Grid, set[str], list[Finding]]:
    """Build a config, with a default or stand-in for each invalid value.

    Returns:
      The config, the keys of the invalid values and of the tuples and mappings that lose them, and
      an error for each invalid value.
    """
    invalid: set[str] = set()
    messages = _shared_values(tree)
    config_type, tree = _config_type(tree), sections.with_shared_sections(tree)
    config, errors = _try_to_build(config_type, tree)
    first_round = True  # Later errors are about the contents of stand-ins.
    while errors:
        for error in errors:
            missing = error["type"] == "missing"
            location = tuple(part for part in error["loc"] if part not in (TUPLE, SECTION))
            if location[-1] == "[key]" or _type_at(config_type, location[:-1]) is None:
                location = location[:-1]  # Without a tag for a mapping's key or a union's type.
            if first_round:
                text = _message(tree, config_type, location, error)
                # Of the errors of a union, one about the range says more than one about the type.
                if error["type"].endswith("_equal"):
                    messages[_dotted(location)] = text
                messages.setdefault(_dotted(location), text)
            _repair(tree, location, _stand_in(config_type, location) if missing else None)
            invalid.add(_dotted(location))
            while not dataclasses.is_dataclass(_type_at(config_type, location[:-1])):
                location = location[:-1]
                invalid.add(_dotted(location))
        config, errors = _try_to_build(config_type, tree)
        first_round = False
    return config, invalid, [((key,), f"{key}: {text}") for key, text in messages.items()]


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _stand_in(config_type: type, location: Location) -> Any:
    """Return a value for a missing field, so that the other fields can be checked."""
    field_type = _type_at(config_type, location)
    if field_type is None:
        return "_"
    if dataclasses.is_dataclass(field_type):
        return {}
    is_section = dataclasses.is_dataclass(typing.get_args(field_type)[0])
    return [{}] if is_section else [2, 3]  # Numbers are those of looks.


def _repair(tree: Tree, location: Location, stand_in: Any) -> None:
    """Remove an invalid value, or insert a stand-in for a missing one."""
    owner, name, node = tree, location[0], cast(Any, tree)
    for part in location:
        if isinstance(node, dict):
            if part == 0:
                continue  # A single source need not be in a list.
            owner, name, node = node, part, node.get(part)
        elif isinstance(node, list) and part < len(node):
            node = node[part]
    if stand_in is not None and name == location[-1]:
        owner[name] = stand_in
    else:  # Pydantic's location of a key that is not a string may be a string.
        for key in [key for key in owner if str(key) == str(name)]:
            del owner[key]


def _message(tree: Tree, config_type: type, location: Location, error: Mapping[str, Any]) -> str:
    name, value = location[-1], error["input"]
    match error["type"]:
        case "missing":
            return f"is missing{_near_missing(tree, config_type, location)}"
        case "unexpected_keyword_argument":
            names = _field_names(config_type, location[:-1])
            if (new := RENAMED.get(name)) in names:
                return f"renamed to {_dotted((*location[:-1], new))}"
            return f"unknown key; {suggestion(str(name), names)}"
        case "dataclass_type" | "dict_type":
            return _not_a_section(value)
    if isinstance(value, str) and (new := RENAMED_VALUES.get(name, {}).get(value)):
        return f"{value!r} is renamed to {new!r}"
    text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{text[0].lower()}{text[1:]}; is {shown(value)}"


def _near_missing(tree: Tree, config_type: type, location: Location) -> str:
    """Return a hint at a key that was probably meant to be, or be within, the missing one."""
    owner: Any = tree
    for i, part in enumerate(location[:-1]):
        if isinstance(owner, dict) and typing.get_origin(_type_at(config_type, location[:i])) is (
            Mapping
        ):
            others = [str(key) for key in owner if key != part]
            if near := nearest(str(part), others):  # An override made a section of its own.
                return f"; is {_dotted((*location[:i], near))} meant?"
        if isinstance(owner, dict):
            owner = owner if part == 0 else owner.get(part)
        elif isinstance(owner, list) and isinstance(part, int) and part < len(owner):
            owner = owner[part]
    others = [key for key in sections.section(owner) if isinstance(key, str)]
    if others:
        known = _field_names(config_type, location[:-1])
        others = [key for key in others if key not in known]
    near = nearest(str(location[-1]), others)
    return f"; there is {near!r} instead" if near else ""


def _not_a_section(value: Any) -> str:
    return f"should be a section with keys; is {shown(value)}"


def _field_names(config_type: type, location: Location) -> list[str]:
    """Return the names of the fields in the section at a location."""
    names = [field.name for field in dataclasses.fields(_type_at(config_type, location, True))]
    return names if location else [*names, *SHARED]


def _type_at(config_type: Any, location: Location, section: bool = False) -> Any:
    """Return the type of the section, tuple or mapping at a location; None if a value is there.

    A field that is a tuple or a section is a tuple, unless the location goes on with a name, or a
    section is asked for.
    """
    for i, part in enumerate(location, 1):
        if dataclasses.is_dataclass(config_type):
            config_type = typing.get_type_hints(config_type)[part]
        else:
            config_type = typing.get_args(config_type)[
                0 if typing.get_origin(config_type) is tuple else -1
            ]
        members = typing.get_args(config_type)
        sections_of = [member for member in members if dataclasses.is_dataclass(member)]
        if type(None) in members:
            config_type = members[0]
        elif typing.get_origin(config_type) is typing.Union and sections_of:
            named = isinstance(location[i], str) if location[i:] else section
            config_type = sections_of[0] if named else members[0]
    collection = typing.get_origin(config_type) in (tuple, Mapping)
    return config_type if collection or dataclasses.is_dataclass(config_type) else None


def _within(keys: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether any key is equal to or within any of the others."""
    return any(f"{a}.".startswith(f"{b}.") for a in keys for b in others)
