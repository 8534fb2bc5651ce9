"""Overrides: settings on the command line, as pairs of a dotted key and a text."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flaxfer.config.files import plain
from flaxfer.config.sections import Tree, stages

Override: TypeAlias = tuple[str, str]
"""A dotted key, and the text of its value."""

CONSTANTS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None}

SPLITS = ("train", "dev", "test")


def split_overrides(words: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Split command-line words into overrides (`--config.KEY=TEXT`) and other words.

    Words after `--` are arguments, even if they look like overrides.
    """
    end = list(words).index("--") if "--" in words else len(words)
    overrides, rest = [], []
    for word in words[:end]:
        key, equals, text = word.removeprefix("--config.").partition("=")
        if word.startswith("--config.") and equals:
            overrides.append((key, text))
        else:
            rest.append(word)
    return overrides, rest + list(words[end:])


def apply(
    tree: Tree,
    overrides: Sequence[Override],
    locations: Callable[[Tree], set[tuple[Any, ...]]],
    is_tuple: Callable[[Tree, str], bool],
) -> tuple[Tree, list[str]]:
    """Return settings after overrides, and the errors of the overrides themselves.

    Args:
      tree: Nested settings.
      overrides: Overrides in the order of the command line.
      locations: Function that returns the places of errors in settings, to choose between
        possible values of a text.
      is_tuple: Function that returns whether the field at a dotted key is a tuple.
    """
    errors = _conflicts(overrides)
    candidates: dict[str, list[Any]] = {}
    for key, text in dict(overrides).items():
        candidates[key] = _candidates(text)
        try:
            tree = _with_value(tree, key, candidates[key][0])
        except ValueError as error:
            errors.append(f"{key}: {error}")
            del candidates[key]
    tree = _without_origin(_without_max_steps(tree, list(candidates)), list(candidates))
    tree = _choose_candidates(tree, candidates, locations)
    for key, (first, *_) in candidates.items():
        value = _value(tree, key)
        if value == first and isinstance(value, str) and "," in value and is_tuple(tree, key):
            words = [word.strip() for word in value.split(",")]
            form = f"--config.{key}="
            errors.append(
                f"{key}: is it one item with a comma, or several? Write {form}{words!r} or "
                f"{form}{[value]!r}, in quotes for the shell"
            )
    return tree, errors


def given(overrides: Sequence[Override], *names: str) -> bool:
    """Return whether an override sets a setting with one of the names, or a part of it."""
    return any(set(names) & set(key.split(".")) for key, _ in overrides)


def _conflicts(overrides: Sequence[Override]) -> list[str]:
    """Return an error for each override that has no effect because of a later one."""
    errors = []
    keys = [_canonical(key) for key, _ in overrides]
    for i, (key, _) in enumerate(overrides):
        for later, (other, _) in zip(keys[i + 1 :], overrides[i + 1 :], strict=True):
            if keys[i] == later:
                errors.append(f"{key}: is given twice; leave one of --config.{key} out")
            elif keys[i].startswith(f"{later}."):
                errors.append(f"{key}: has no effect before --config.{other}; give it after that")
    return list(dict.fromkeys(errors))


def _canonical(key: str) -> str:
    """Return a key without the index of a single source, which is optional."""
    parts = key.split(".")
    return ".".join(
        part
        for i, part in enumerate(parts)
        if not (part == "0" and "data" in parts[1:3] and parts[i - 1] in SPLITS)
    )


def _candidates(text: str) -> list[Any]:
    """Return possible values of an override: a Python literal, the text, and a list of words."""
    if text.lower() in CONSTANTS:
        return [CONSTANTS[text.lower()], text]
    try:
        return [plain(ast.literal_eval(text)), text]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    return [text, [word.strip() for word in text.split(",")]] if "," in text else [text]


def _choose_candidates(
    tree: Tree,
    candidates: Mapping[str, list[Any]],
    locations: Callable[[Tree], set[tuple[Any, ...]]],
) -> Tree:
    """Replace the first candidate of each override by another one that avoids errors."""
    errors = locations(tree)
    for key, (_, *others) in candidates.items():
        for value in others if errors else ():
            trial = _with_value(tree, key, value)
            if (remaining := locations(trial)) < errors:
                tree, errors = trial, remaining
    return tree


def _with_value(tree: Tree, key: str, value: Any) -> Tree:
    """Copy `tree` with `value` at a dotted key; missing sections are created."""
    tree = copy.deepcopy(tree)
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        if part == "0" and "data" in parents[1:3] and isinstance(node, dict):
            continue  # A single source need not be in a list.
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise ValueError(f"there is no item {part!r} here")
            node = node[int(part)]
        else:
            node[part] = {} if node.get(part) is None else node[part]
            node = node[part]
        if not isinstance(node, dict | list):
            raise ValueError(f"{part!r} is a value, not a section")
    if isinstance(node, list):
        if last.isdecimal() or any(isinstance(item, dict) for item in node):
            raise ValueError("set the whole tuple, or one field of one of its items")
        # Some settings are a tuple of values or a section, such as `seeds`.
        return _with_value(tree, ".".join(parents), {last: value})
    node[last] = value
    return tree


def _value(tree: Tree, key: str) -> Any:
    """Return the value at a dotted key; None if there is none."""
    node: Any = tree
    for part in key.split("."):
        if isinstance(node, list):
            node = node[int(part)]
        elif isinstance(node, dict) and not (part == "0" and part not in node):
            node = node.get(part)
    return node


def _without_max_steps(tree: Tree, keys: Sequence[str]) -> Tree:
    """Copy settings without a number of steps that an override replaces by a number of epochs."""
    tree = copy.deepcopy(tree)
    for key in keys:
        section, _, name = key.rpartition(".")
        if name != "epochs" or section.rpartition(".")[2] != "train":
            continue
        places = [section]
        if section == "train":  # A stage's own number of steps would take precedence over it.
            places += [f"{stage}.train" for stage in stages(tree)]
        for place in places:
            train = _value(tree, place)
            if isinstance(train, dict) and f"{place}.max_steps" not in keys:
                train.pop("max_steps", None)
    return tree


def _without_origin(tree: Tree, keys: Sequence[str]) -> Tree:
    """Copy settings without the hub id that an override replaces by a path, or the reverse."""
    tree = copy.deepcopy(tree)
    for key in keys:
        section, _, name = key.rpartition(".")
        node = _value(tree, section) if name in ("path", "hub") and section else None
        if not isinstance(node, dict) or not node[name]:
            continue
        replaced = ("hub", "subset", "split", "revision") if name == "path" else ("path", "format")
        for other in replaced:
            if f"{section}.{other}" not in keys:
                node.pop(other, None)
    return tree
