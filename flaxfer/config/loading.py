"""Load a config file and command-line overrides, or report every error at once.

No JAX is imported here, so a wrong configuration is refused before devices, data or models are
touched. Pydantic checks each field; the checks in `validation` and `grids` compare fields.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import json
import re
import runpy
import sys
import traceback
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pydantic

from flaxfer.config import Config, grids, validation
from flaxfer.config.findings import Finding, suggestion
from flaxfer.config.grids import Grid
from flaxfer.config.task_types import TaskTypes
from flaxfer.errors import ConfigError, FlaxferError

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

SHARED_SECTIONS = ("optimizer", "train")

STAGE_KEY = re.compile(
    r"\b(?:intermediate|target|(?:intermediates|targets)\.[^.]+)\.(?=(?:optimizer|train)\b)"
)
"""The stage in a key whose value may come from a shared section."""


def load(file: str, task_types: TaskTypes, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Load the config of a single study, see `build`; a grid is a `ConfigError`."""
    config = load_any(file, task_types, overrides)
    if isinstance(config, Grid):
        raise ConfigError(
            f"the config describes a grid of {len(grids.cells(config))} studies instead of one",
            where=file,
            hint="use a config with one model, one target and at most one intermediate task.",
        )
    return config


def load_any(
    file: str, task_types: TaskTypes, overrides: Sequence[tuple[str, str]] = ()
) -> Config | Grid:
    """Load the config in `file` (FILE or FILE:PRESET), see `build`."""
    return build(_run_config_file(file), task_types, overrides, where=file)


def build(
    settings: Mapping[str, Any],
    task_types: TaskTypes,
    overrides: Sequence[tuple[str, str]] = (),
    where: str = "",
) -> Config | Grid:
    """Build a config from nested settings.

    Args:
      settings: Nested settings.
      task_types: Task types by name, `flaxfer.tasks.TASK_TYPES`.
      overrides: Pairs of a dotted key and a text.
      where: File of the settings, for error messages.

    Raises:
      ConfigError: With every unknown key, wrong value and contradiction.
    """
    tree = _plain(settings)
    texts: dict[str, list[Any]] = {}
    details: list[str] = []
    for key, text in overrides:
        texts.pop(key, None)  # The last override of a key is used, in its own position.
        texts[key] = _candidates(text)
        try:
            tree = _with_value(tree, key, texts[key][0])
        except ValueError as error:
            details.append(f"{key}: {error}")
            del texts[key]
    tree = _choose_candidates(tree, texts)
    config, invalid, findings = _validate(tree)
    check: Any = grids.check if isinstance(config, Grid) else validation.check
    # A check that reads an invalid value would only repeat its error in other words.
    checked = check(config, task_types)
    findings += [finding for finding in checked if not _within(finding[0], invalid)]
    # An error in a shared section occurs in every stage: report it once, for the shared section.
    details += dict.fromkeys(_in_shared_section(*finding, tree) for finding in findings)
    if details:
        raise ConfigError(
            f"{len(details)} error(s) in the configuration",
            where=where or None,
            hint="change the config file, or pass --config.KEY=VALUE.",
            details=details,
        )
    return dataclasses.replace(config, workdir=config.workdir or f"runs/{config.name}")


def split_overrides(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Split command-line words into overrides (`--config.KEY=TEXT`) and other words."""
    overrides, rest = [], []
    for word in words:
        key, equals, text = word.removeprefix("--config.").partition("=")
        if word.startswith("--config.") and equals:
            overrides.append((key, text))
        else:
            rest.append(word)
    return overrides, rest


def to_dict(config: Config | Grid) -> dict[str, Any]:
    """Return the config as JSON-compatible values."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def _run_config_file(file: str) -> dict[str, Any]:
    path, _, preset = file.partition(":")
    if not Path(path).is_file():
        raise ConfigError(
            "the config file does not exist",
            where=str(Path(path).absolute()),
            hint="pass --config FILE or --config FILE:PRESET; examples are in configs/.",
        )
    folder = str(Path(path).absolute().parent)
    sys.path.append(folder)  # Like a script, a config may import modules in its folder.
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise ConfigError("the file does not define get_config(preset)", where=path)
        settings = _plain(get_config(preset) if preset else get_config())
    except FlaxferError:
        raise
    # A config file is the user's program: whatever it raises is reported with its line.
    except Exception as error:
        raise ConfigError(
            f"the config file failed: {type(error).__name__}: {error}", where=_line(error, path)
        ) from error
    finally:
        sys.path.remove(folder)
    if not isinstance(settings, dict):
        raise ConfigError(f"get_config returned {settings!r}, not a ConfigDict", where=path)
    return settings


def _line(error: Exception, path: str) -> str:
    """Return `path:line` of the innermost line of the config file in the traceback."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f"{path}:{lines[-1]}" if lines else path


def _plain(value: Any) -> Any:
    """Copy nested ConfigDicts, mappings and sequences as dicts and lists."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _candidates(text: str) -> list[Any]:
    """Return possible values of an override: a Python literal, the text, and a list of words."""
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return [constants[text.lower()], text]
    try:
        return [_plain(ast.literal_eval(text)), text]
    except (ValueError, SyntaxError):
        return [text, text.split(",")] if "," in text else [text]


def _choose_candidates(tree: dict[str, Any], candidates: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Replace the first candidate of each override by another one that avoids errors."""
    errors = _error_locations(tree)
    for key, (_, *others) in candidates.items():
        for value in others if errors else ():
            trial = _with_value(tree, key, value)
            if (remaining := _error_locations(trial)) < errors:
                tree, errors = trial, remaining
    return tree


def _with_value(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Copy `tree` with `value` at a dotted key; missing sections are created."""
    tree = copy.deepcopy(tree)
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        if part == "0" and "data" in parents[1:3] and isinstance(node, dict):
            continue  # A single source need not be in a list.
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(f"there is no item {part!r} here")
            node = node[int(part)]
        else:
            node[part] = {} if node.get(part) is None else node[part]
            node = node[part]
        if not isinstance(node, dict | list):
            raise ValueError(f"{part!r} is a value, not a section")
    if isinstance(node, list):
        raise ValueError("set the whole tuple, or one field of one of its items")
    node[last] = value
    return tree


def _with_shared_sections(tree: dict[str, Any]) -> dict[str, Any]:
    """Copy `tree` with the shared sections moved into the stages."""
    tree = copy.deepcopy(tree)
    shared = {name: _section(tree.pop(name, None)) for name in SHARED_SECTIONS}
    stages: list[Any] = [tree.get(name) for name in ("intermediate", "target")]
    for name in ("intermediates", "targets"):
        stages += _section(tree.get(name)).values()
    for stage in stages:
        for name, settings in shared.items() if isinstance(stage, dict) else ():
            if isinstance(stage.get(name), dict | None):
                stage[name] = settings | _section(stage.get(name))
    return tree


def _section(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@functools.cache
def _adapter(config_type: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(config_type)


def _config_type(tree: dict[str, Any]) -> type:
    return Grid if grids.KEYS & tree.keys() else Config


def _try_to_build(config_type: type, tree: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return the config of a tree without shared sections, or pydantic's errors."""
    try:
        return _adapter(config_type).validate_python(tree), []
    except pydantic.ValidationError as error:
        return None, error.errors(include_url=False)


def _error_locations(tree: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Return the locations of errors, without indices of tuples."""
    _, errors = _try_to_build(_config_type(tree), _with_shared_sections(tree))
    locations = {tuple(part for part in error["loc"] if isinstance(part, str)) for error in errors}
    return locations | {(name,) for name in _shared_values(tree)}


def _shared_values(tree: dict[str, Any]) -> dict[str, str]:
    """Return a message for each shared section that is a value instead."""
    sections = {name: tree.get(name) for name in SHARED_SECTIONS}
    return {n: _not_a_section(v) for n, v in sections.items() if not isinstance(v, dict | None)}


def _validate(tree: dict[str, Any]) -> tuple[Config | Grid, set[str], list[Finding]]:
    """Build a config, with a default or stand-in for each invalid value.

    Returns:
      The config, the keys of the invalid values and of the tuples and mappings that lose them, and
      an error for each invalid value.
    """
    invalid: set[str] = set()
    messages = _shared_values(tree)
    config_type, tree = _config_type(tree), _with_shared_sections(tree)
    config, errors = _try_to_build(config_type, tree)
    first_round = True  # Later errors are about the contents of stand-ins.
    while errors:
        for error in errors:
            location, missing = error["loc"], error["type"] == "missing"
            if location[-1] == "[key]" or _type_at(config_type, location[:-1]) is None:
                location = location[:-1]  # Without a tag for a mapping's key or a union's type.
            if first_round:
                messages.setdefault(_dotted(location), _message(config_type, location, error))
            _repair(tree, location, _stand_in(config_type, location) if missing else None)
            invalid.add(_dotted(location))
            while not dataclasses.is_dataclass(_type_at(config_type, location[:-1])):
                location = location[:-1]
                invalid.add(_dotted(location))
        config, errors = _try_to_build(config_type, tree)
        first_round = False
    return config, invalid, [((key,), f"{key}: {text}") for key, text in messages.items()]


def _dotted(location: tuple[Any, ...]) -> str:
    return ".".join(map(str, location))


def _stand_in(config_type: type, location: tuple[Any, ...]) -> Any:
    """Return a value for a missing field, so that the other fields can be checked."""
    field_type = _type_at(config_type, location)
    if field_type is None:
        return "-"
    return {} if dataclasses.is_dataclass(field_type) else [{}]


def _repair(tree: dict[str, Any], location: tuple[Any, ...], stand_in: Any) -> None:
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


def _message(config_type: type, location: tuple[Any, ...], error: Mapping[str, Any]) -> str:
    name, value = location[-1], error["input"]
    match error["type"]:
        case "missing":
            return "is missing"
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
    return f"{text[0].lower()}{text[1:]}; is {value!r}"


def _not_a_section(value: Any) -> str:
    return f"should be a section with keys; is {value!r}"


def _field_names(config_type: type, location: tuple[Any, ...]) -> list[str]:
    """Return the names of the fields in the section at a location."""
    names = [field.name for field in dataclasses.fields(_type_at(config_type, location))]
    return names if location else [*names, *SHARED_SECTIONS]


def _type_at(config_type: Any, location: tuple[Any, ...]) -> Any:
    """Return the type of the section, tuple or mapping at a location; None if a value is there."""
    for part in location:
        if dataclasses.is_dataclass(config_type):
            config_type = typing.get_type_hints(config_type)[part]
        else:
            config_type = typing.get_args(config_type)[
                0 if typing.get_origin(config_type) is tuple else -1
            ]
        if type(None) in typing.get_args(config_type):
            config_type = typing.get_args(config_type)[0]
    collection = typing.get_origin(config_type) in (tuple, Mapping)
    return config_type if collection or dataclasses.is_dataclass(config_type) else None


def _in_shared_section(keys: tuple[str, ...], text: str, tree: dict[str, Any]) -> str:
    """Remove the stage from `text` if all values that it is about come from a shared section."""
    if all(STAGE_KEY.match(key) and not _contains(tree, key) for key in keys):
        return STAGE_KEY.sub("", text)
    return text


def _contains(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, dict):
            return True  # An item of a tuple.
        if part not in tree:
            return False
        tree = tree[part]
    return True


def _within(keys: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether any key is equal to or within any of the others."""
    return any(f"{a}.".startswith(f"{b}.") for a in keys for b in others)
