"""From a config file and the command line to a `Config`, or one error that lists all that is wrong.

Nothing here touches devices, data or models.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import json
import re
import runpy
import sys
import traceback
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from flaxfer.config import Config, grids, validation
from flaxfer.config.grids import Grid
from flaxfer.config.sources import Finding
from flaxfer.config.task_types import TaskTypes
from flaxfer.errors import ConfigError, FlaxferError

SHARED_SECTIONS = ("optimizer", "train")
STAGES = ("intermediate", "target")
SECTIONS_OF_STAGES = ("intermediates", "targets")
STAGE_KEY = re.compile(
    rf"(?:{'|'.join(STAGES)}|(?:{'|'.join(SECTIONS_OF_STAGES)})\.[^.]+)"
    rf"\.(?=(?:{'|'.join(SHARED_SECTIONS)})\.)"
)
"""What is before the key in a shared section that a stage has been filled from."""


@dataclasses.dataclass(frozen=True)
class Override:
    """The text behind `--config.key=`, not yet of the type of its field."""

    text: str

    def candidates(self) -> list[Any]:
        """What the text may mean: a Python literal first, then itself, then a list of words."""
        named = {"true": True, "false": False, "none": None}
        if self.text.lower() in named:
            return [named[self.text.lower()], self.text]
        try:
            return [ast.literal_eval(self.text), self.text]
        except (ValueError, SyntaxError):
            words = [tuple(self.text.split(","))] if "," in self.text else []
            return [self.text, *words]


def load(file: str, task_types: TaskTypes, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Builds the config of a single study, see `load_any`.

    Raises:
      ConfigError: it is wrong, or describes a grid.
    """
    config = load_any(file, task_types, overrides)
    if isinstance(config, Grid):
        raise ConfigError(
            f"this is a grid of {len(grids.cells(config))} studies, and one is needed",
            where=file,
            hint="name a config with one model, one target and at most one intermediate task.",
        )
    return config


def load_any(
    file: str, task_types: TaskTypes, overrides: Sequence[tuple[str, str]] = ()
) -> Config | Grid:
    """Builds the config of `file` (a path, or `path:preset`) with `overrides` (`a.b.c`, text).

    Raises:
      ConfigError: with every unknown key, wrong type and contradiction found.
    """
    raw = _run_config_file(file)
    errors: list[str] = []
    for key, text in overrides:
        _place(raw, key, Override(text), errors)
    own = _fill_stages(raw, errors)
    bad: set[str] = set()
    of_grid = bool(grids.KEYS & raw.keys())
    check: Any = grids.check if of_grid else validation.check
    config = _build(Grid if of_grid else Config, raw, "", errors, bad)
    if not config.workdir:
        config = dataclasses.replace(config, workdir=f"runs/{config.name}")
    findings: list[Finding] = [((text.partition(":")[0],), text) for text in errors]
    # A check that reads a field already reported would only repeat it in other words.
    findings += [
        found for found in check(config, task_types) if not any(_within(k, bad) for k in found[0])
    ]
    if findings:
        # An error in a shared section stands in every stage; say it once, and where it was made.
        details = list(dict.fromkeys(_at_its_section(*found, own) for found in findings))
        raise ConfigError(
            f"{len(details)} error(s) in the configuration",
            where=file,
            hint="change the config file, or pass --config.KEY=VALUE.",
            details=details,
        )
    return typing.cast(Config | Grid, config)


def split_overrides(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The overrides of a command line, `--config.KEY=TEXT`, and the words that are none."""
    overrides, rest = [], []
    for word in words:
        key, equals, text = word.removeprefix("--config.").partition("=")
        if word.startswith("--config.") and equals:
            overrides.append((key, text))
        else:
            rest.append(word)
    return overrides, rest


def to_dict(config: Config | Grid) -> dict[str, Any]:
    """The config as plain, JSON-ready values."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def _run_config_file(file: str) -> dict[str, Any]:
    path, _, preset = file.partition(":")
    if not Path(path).is_file():
        raise ConfigError(
            "there is no such config file",
            where=str(Path(path).absolute()),
            hint="pass --config FILE or --config FILE:PRESET; examples lie in configs/.",
        )
    folder = str(Path(path).absolute().parent)
    sys.path.append(folder)  # As a script, a config may import what lies beside it.
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise ConfigError("the file defines no function get_config(preset)", where=path)
        raw = _plain(get_config(preset) if preset else get_config())
    except FlaxferError:
        raise
    # A config file is a program of the user's: whatever it raises is reported with its line.
    except Exception as error:
        raise ConfigError(
            f"the config file fails: {type(error).__name__}: {error}", where=_line(error, path)
        ) from error
    finally:
        sys.path.remove(folder)
    if not isinstance(raw, dict):
        raise ConfigError(f"get_config returns {raw!r}, not a ConfigDict", where=path)
    return raw


def _line(error: Exception, path: str) -> str:
    """`path:line` of the config file's own line that failed, in whatever library it ended."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f"{path}:{lines[-1]}" if lines else path


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
        if part == "0" and "data" in parents[1:3] and isinstance(node, dict):
            continue  # One source need not be wrapped.
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
        literal = value.candidates()[0]
        node[last] = literal if isinstance(literal, Mapping) else value


def _fill_stages(raw: dict[str, Any], errors: list[str]) -> set[str]:
    """Moves the shared sections into the stages; gives the keys that a stage sets itself."""
    own: set[str] = set()
    places = [("", raw, name) for name in STAGES]
    for name in SECTIONS_OF_STAGES:
        if isinstance(raw.get(name), Mapping):
            raw[name] = dict(raw[name])
            places += [(f"{name}.", raw[name], key) for key in raw[name]]
    for section in SHARED_SECTIONS:
        shared = raw.pop(section, None)
        if shared is not None and not isinstance(shared, Mapping):
            errors.append(_no_section(section, shared))
            shared = None
        for at, parent, name in places:
            stage = parent.get(name)
            settings = stage.get(section) if isinstance(stage, Mapping) else None
            if isinstance(stage, Mapping) and (settings is None or isinstance(settings, Mapping)):
                own |= {f"{at}{name}.{section}.{key}" for key in settings or {}}
                parent[name] = {**stage, section: {**(shared or {}), **(settings or {})}}
    return own


def _at_its_section(keys: tuple[str, ...], text: str, own: set[str]) -> str:
    """`text` without the stage that it begins with, if what it is about came from a shared one."""
    if all(STAGE_KEY.match(key) and key not in own for key in keys):
        return STAGE_KEY.sub("", text, count=1)
    return text


def _within(key: str, bad: set[str]) -> bool:
    return any(key == wrong or key.startswith(f"{wrong}.") for wrong in bad)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind, config={"allow_inf_nan": False})


def _build(cls: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> Any:
    """A `cls`; what is wrong or missing is left at its default or a stand-in, its key in `bad`."""
    if not isinstance(raw, Mapping):
        bad.add(at)
        errors.append(_no_section(at, raw))
        raw, errors, bad = {}, [], set()
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = list(fields) + (list(SHARED_SECTIONS) if not at else [])
    for key in [key for key in raw if key not in fields]:
        near = difflib.get_close_matches(str(key), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
        errors.append(f"{_join(at, key)}: unknown key{hint}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        here, kind = _join(at, name), _hints(cls)[name]
        required = field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        )
        if name in raw:
            value = _value(kind, raw[name], here, errors, bad)
            if here not in bad:
                values[name] = value
        elif required:
            bad.add(here)
            errors.append(f"{here}: is missing")
        if required and name not in values:
            values[name] = _stand_in(kind)
    return cls(**values)


def _stand_in(kind: Any) -> Any:
    """Something of the kind, so that the rest can be checked; never part of a valid config."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, {}, "", [], set())
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    return arguments[0] if origin is Literal else (origin or kind)()


def _value(kind: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if _is_mapping(kind):
        return _mapping(arguments[1], raw, at, errors, bad)
    classes = (a for a in (kind, *arguments) if isinstance(a, type))
    section = next((a for a in classes if dataclasses.is_dataclass(a)), None)
    if section is None:
        return _leaf(kind, raw, at, errors, bad)
    if isinstance(raw, Override):
        raw = raw.candidates()[0]
    if origin is tuple:
        items = raw if isinstance(raw, list | tuple) else (raw,)  # One source need not be wrapped.
        return tuple(_build(section, r, f"{at}.{i}", errors, bad) for i, r in enumerate(items))
    if raw is None and type(None) in arguments:
        return None
    return _build(section, raw, at, errors, bad)


def _mapping(kind: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> dict[str, Any]:
    """The values of `raw`, each of the kind; keys are text."""
    if not isinstance(raw, Mapping):
        bad.add(at)
        errors.append(_no_section(at, raw))
        return {}
    built = {}
    for key, item in raw.items():
        here = _join(at, key)
        if isinstance(key, str):
            built[key] = _value(kind, item, here, errors, bad)
        else:
            bad.add(here)
            errors.append(f"{here}: a key is text, this one is {key!r}")
    if not dataclasses.is_dataclass(kind) and any(_join(at, key) in bad for key in raw):
        bad.add(at)
    return built


def _leaf(kind: Any, raw: Any, at: str, errors: list[str], bad: set[str]) -> Any:
    problem = ""
    for candidate in raw.candidates() if isinstance(raw, Override) else [raw]:
        try:
            return _adapter(kind).validate_python(_tuples(kind, candidate), strict=True)
        except pydantic.ValidationError as error:
            problem = problem or error.errors()[0]["msg"].lower()
    bad.add(at)
    errors.append(f"{at}: {problem}; is {_shown(raw)}")
    return None


def _tuples(kind: Any, value: Any) -> Any:
    """Wraps what a tuple field may leave out: `seeds=3` for `seeds=(3,)`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if isinstance(value, list):
            return tuple(value)
        if len(arguments) == 2 and arguments[1] is ... and not isinstance(value, tuple):
            return (value,)
    return value


def _is_mapping(kind: Any) -> bool:
    return typing.get_origin(kind) is Mapping


def _no_section(at: str, raw: Any) -> str:
    return f"{at}: should be a section with keys, is {_shown(raw)}"


def _shown(raw: Any) -> str:
    return repr(raw.text if isinstance(raw, Override) else raw)


def _join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)
