"""From a config file and the command line to a `Config`, or one error that lists all that is wrong.

Nothing here touches devices, data or models.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import json
import runpy
import traceback
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from flaxfer.config import Config
from flaxfer.config_checks import check
from flaxfer.errors import ConfigError

SHARED_SECTIONS = ("optimizer", "train")
STAGES = ("intermediate", "target")


@dataclasses.dataclass(frozen=True)
class Override:
    """The text behind `--config.key=`, not yet of the type of its field."""

    text: str

    def candidates(self) -> list[Any]:
        """What the text may mean: a Python literal first, then itself."""
        named = {"true": True, "false": False, "none": None}
        if self.text.lower() in named:
            return [named[self.text.lower()], self.text]
        try:
            return [ast.literal_eval(self.text), self.text]
        except (ValueError, SyntaxError):
            return [self.text]


def load(file: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Builds the config of `file` (a path, or `path:preset`) with `overrides` (`a.b.c`, text).

    Raises:
      ConfigError: with every unknown key, wrong type and contradiction found.
    """
    raw = _run_config_file(file)
    errors: list[str] = []
    for key, text in overrides:
        _place(raw, key, Override(text), errors)
    for stage in STAGES:
        if isinstance(raw.get(stage), Mapping):
            for section in SHARED_SECTIONS:
                raw[stage] = dict(raw[stage])
                own = raw[stage].get(section) or {}
                shared = raw.get(section) or {}
                if isinstance(own, Mapping) and isinstance(shared, Mapping):
                    raw[stage][section] = {**shared, **own}
    for section in SHARED_SECTIONS:
        raw.pop(section, None)
    bad: set[str] = set()
    config = _build(Config, raw, "", errors, bad)
    if config is not None:
        if not config.workdir:
            config = dataclasses.replace(config, workdir=f"runs/{config.name}")
        # A check that reads a field already reported would only repeat it in other words.
        errors += [text for keys, text in check(config) if not any(k in bad for k in keys)]
    if errors:
        # An error in a shared section stands in both stages; say it once.
        raise ConfigError(
            f"{len(set(errors))} error(s) in the configuration",
            where=file,
            mend="change the config file, or pass --config.KEY=VALUE.",
            details=list(dict.fromkeys(errors)),
        )
    assert config is not None
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain, JSON-ready values."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def _run_config_file(file: str) -> dict[str, Any]:
    path, _, preset = file.partition(":")
    if not Path(path).is_file():
        raise ConfigError(
            "there is no such config file",
            where=str(Path(path).absolute()),
            mend="pass --config FILE or --config FILE:PRESET; examples lie in configs/.",
        )
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise ConfigError("the file defines no function get_config(preset)", where=path)
        raw = get_config(preset) if preset else get_config()
    except ConfigError:
        raise
    # A config file is a program of the user's: whatever it raises is reported with its line.
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"the config file fails: {type(error).__name__}: {error}",
            where=f"{line.filename}:{line.lineno}",
        ) from error
    return typing.cast(dict[str, Any], _plain(raw))


def _plain(value: Any) -> Any:
    """ConfigDicts and mappings as dicts, all the way down."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value


def _place(raw: dict[str, Any], key: str, value: Override, errors: list[str]) -> None:
    """Puts `value` at the dotted `key`, making sections on the way; tuple items go by number."""
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        index: Any = int(part) if isinstance(node, list) and part.isdigit() else part
        try:
            child = node[index]
        except KeyError:
            child = {}
        except (IndexError, TypeError):
            errors.append(f"{key}: there is no item {part!r} here")
            return
        child = dict(child) if isinstance(child, Mapping) else child
        child = list(child) if isinstance(child, tuple) else child
        if child is None:
            child = {}
        if not isinstance(child, dict | list):
            errors.append(f"{key}: {part!r} is a value, not a section")
            return
        node[index] = child
        node = child
    if isinstance(node, list):
        errors.append(f"{key}: set the whole tuple, or one field of an item of it")
    else:
        node[last] = value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _build(cls: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> Any:
    """A `cls`, its wrong fields left at their defaults; None if one of them has no default."""
    if not isinstance(raw, Mapping):
        bad.add(at)
        errors.append(f"{at}: should be a section with keys, is {raw!r}")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = list(fields) + (list(SHARED_SECTIONS) if not at else [])
    for key in raw.keys() - fields.keys():
        near = difflib.get_close_matches(str(key), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
        errors.append(f"{_join(at, key)}: unknown key{hint}")
    values: dict[str, Any] = {}
    complete = True
    for name, field in fields.items():
        here = _join(at, name)
        required = field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        )
        if name in raw:
            before = len(errors)
            value = _value(_hints(cls)[name], raw[name], here, errors, bad)
            if len(errors) == before or value is not None:
                values[name] = value
            elif required:
                complete = False
        elif required:
            complete = False
            bad.add(here)
            errors.append(f"{here}: is missing")
    return cls(**values) if complete else None


def _value(kind: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        sections = [a for a in arguments if dataclasses.is_dataclass(a)]
        if sections:
            return None if raw is None else _build(sections[0], raw, at, errors, bad)
    elif dataclasses.is_dataclass(kind):
        return _build(kind, raw, at, errors, bad)
    elif origin is tuple and dataclasses.is_dataclass(arguments[0]):
        if not isinstance(raw, list | tuple):
            raw = (raw,)  # One source need not be wrapped.
        items = [_build(arguments[0], r, f"{at}.{i}", errors, bad) for i, r in enumerate(raw)]
        return tuple(item for item in items if item is not None)
    elif _is_mapping(kind) and dataclasses.is_dataclass(arguments[1]):
        if not isinstance(raw, Mapping):
            errors.append(f"{at}: should be a section with keys, is {raw!r}")
            return None
        built = {k: _build(arguments[1], v, _join(at, k), errors, bad) for k, v in raw.items()}
        return {k: v for k, v in built.items() if v is not None}
    return _leaf(kind, raw, at, errors, bad)


def _leaf(kind: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> Any:
    problem = ""
    for candidate in raw.candidates() if isinstance(raw, Override) else [raw]:
        try:
            return _adapter(kind).validate_python(_tuples(kind, candidate), strict=True)
        except pydantic.ValidationError as error:
            problem = problem or error.errors()[0]["msg"].lower()
    bad.add(at)
    shown = repr(raw.text if isinstance(raw, Override) else raw)
    errors.append(f"{at}: {problem}; is {shown}")
    return None


def _tuples(kind: Any, value: Any) -> Any:
    """Wraps what a tuple field may leave out: `keep={'lang': 'de'}` for `{'lang': ('de',)}`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if isinstance(value, list):
            return tuple(value)
        if len(arguments) == 2 and arguments[1] is ... and not isinstance(value, tuple):
            return (value,)
    if _is_mapping(kind) and isinstance(value, Mapping):
        return {key: _tuples(arguments[1], item) for key, item in value.items()}
    return value


def _is_mapping(kind: Any) -> bool:
    return typing.get_origin(kind) is Mapping


def _join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)
