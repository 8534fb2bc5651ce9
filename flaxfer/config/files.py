"""Config files: reading or running them, and what in them nobody reads."""

from __future__ import annotations

import ast
import dataclasses
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxfer.config.documents import READERS, key_lines, read_document
from flaxfer.config.findings import nearest
from flaxfer.errors import ConfigError, FlaxferError

FUNCTION = "get_config"


def read_config_file(file: str) -> dict[str, Any]:
    """Return the settings of FILE or FILE:PRESET as nested dicts and lists.

    A file is in YAML or TOML by its ending, otherwise a Python file that defines `get_config`.

    Raises:
      ConfigError: If there is no such file, it fails, or something in it has no effect: a preset
        for a config without presets, a name that is not read, or a key that is given twice.
    """
    path, colon, preset = file.partition(":")
    if not Path(path).is_file():
        raise ConfigError(
            "the config file does not exist",
            where=str(Path(path).absolute()),
            hint="pass --config FILE or --config FILE:PRESET; examples are in configs/.",
        )
    if colon and not preset:
        hint = "name a preset after the colon, or leave the colon out."
        raise ConfigError("the preset is empty", where=file, hint=hint)
    if (suffix := Path(path).suffix.lower()) in READERS:
        if colon:
            what = f"a {READERS[suffix][0]} file has no presets, so {preset!r} has no effect"
            hint = "leave the colon out; only Python files choose by a preset."
            raise ConfigError(what, where=file, hint=hint)
        return read_document(Path(path))
    return _run_config_file(path, preset)


def config_lines(file: str) -> dict[str, int]:
    """Return the line of each dotted key of a YAML or TOML file; nothing of a Python file."""
    path = Path(file)
    return key_lines(path) if path.suffix.lower() in READERS else {}


def _run_config_file(path: str, preset: str) -> dict[str, Any]:
    """Return the settings that a Python file's `get_config` returns."""
    folder = str(Path(path).absolute().parent)
    sys.path.append(folder)  # Like a script, a config may import modules in its folder.
    try:
        names = runpy.run_path(path)
        get_config = names.get(FUNCTION)
        if not callable(get_config):
            near = nearest(FUNCTION, [name for name in names if not name.startswith("_")])
            hint = f"rename {near} to {FUNCTION}." if near else "examples are in configs/."
            what = f"the file does not define {FUNCTION}(preset)"
            raise ConfigError(what, where=path, hint=hint)
        settings = plain(get_config(preset) if preset else get_config())
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
        raise ConfigError(f"{FUNCTION} returned {settings!r}, not a ConfigDict", where=path)
    if unread := list(_unread(ast.parse(Path(path).read_bytes()), preset)):
        raise ConfigError(
            f"{len(unread)} thing(s) in the config file have no effect",
            where=path,
            hint="correct them, or leave them out.",
            details=[f"{path}:{line}: {text}" for line, text in sorted(unread)],
        )
    return settings


def plain(value: Any) -> Any:
    """Copy nested settings as dicts, lists and scalars of Python.

    ConfigDicts, dataclasses and other mappings become dicts, paths become text, and arrays and
    scalars of NumPy become lists and numbers.
    """
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _line(error: Exception, path: str) -> str:
    """Return `path:line` of the innermost line of the config file in the traceback."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f"{path}:{lines[-1]}" if lines else path


def _unread(module: ast.Module, preset: str) -> Iterator[tuple[int, str]]:
    """Yield the line and a description of everything in a config file that has no effect."""
    nodes = list(ast.walk(module))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and _is_read(node)}
    for statement in module.body:
        for name in _defined(statement):
            if name not in read | {FUNCTION} and not name.startswith("_"):
                yield statement.lineno, f"nothing reads {name}"
        if isinstance(statement, ast.FunctionDef) and statement.name == FUNCTION and preset:
            parameters = [parameter.arg for parameter in statement.args.args[:1]]
            inside = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
            if parameters and parameters[0] not in inside:
                yield statement.lineno, f"the config has no presets, so {preset!r} has no effect"
    for node in nodes:
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
                yield node.lineno, f"the key {key!r} is given twice: only the last has an effect"


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at the top level of a file defines, except by imports."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [node.id for node in targets if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
