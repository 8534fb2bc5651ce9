"""Shared sections of nested settings, and settings that no stage reads.

The top-level sections `optimizer` and `train` are copied into every stage; the stage's own settings
take precedence.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

from flaxfer.config.findings import Finding, finding
from flaxfer.config.schema import Train

Tree: TypeAlias = dict[str, Any]
"""Nested settings."""

SHARED = ("optimizer", "train")

STAGE_KEY = re.compile(
    r"\b(?:intermediate|target|(?:intermediates|targets)\.[^.]+)\.(?=(?:optimizer|train)\b)"
)
"""The stage in a key whose value may come from a shared section."""


def stages(tree: Tree) -> dict[str, Any]:
    """Return the stages by dotted key; a stage that is no section is left out."""
    found = {name: tree.get(name) for name in ("intermediate", "target")}
    for group in ("intermediates", "targets"):
        found |= {f"{group}.{name}": stage for name, stage in section(tree.get(group)).items()}
    return {key: stage for key, stage in found.items() if isinstance(stage, dict)}


def section(value: Any) -> dict[str, Any]:
    """Return a value if it is a section, else an empty one."""
    return value if isinstance(value, dict) else {}


def with_shared_sections(tree: Tree) -> Tree:
    """Copy `tree` with the shared sections moved into the stages."""
    tree = copy.deepcopy(tree)
    shared = {name: section(tree.pop(name, None)) for name in SHARED}
    for stage in stages(tree).values():
        for name, settings in shared.items():
            if isinstance(stage.get(name), dict | None):
                stage[name] = settings | section(stage.get(name))
    return tree


def in_shared_section(keys: tuple[str, ...], text: str, tree: Tree) -> str:
    """Remove the stage from `text` if all values that it is about come from a shared section."""
    if all(STAGE_KEY.match(key) and not _contains(tree, key) for key in keys):
        return STAGE_KEY.sub("", text)
    return text


def check(tree: Tree, overridden: Collection[str], file: Tree) -> Iterator[Finding]:
    """Yield the settings that no stage reads, because others take precedence.

    Args:
      tree: Nested settings.
      overridden: Dotted keys of overrides. What they replace in the file may be there.
      file: The settings without overrides.
    """
    for name in SHARED:
        for key in section(tree.get(name)):
            at = f"{name}.{key}"
            all_stages = stages(tree if _within(at, overridden) else file)
            own = [f"{stage}.{at}" for stage in all_stages if _contains(all_stages[stage], at)]
            if own and len(own) == len(all_stages):
                message = f"has no effect, because every stage sets its own: {', '.join(own)}"
                yield finding(message, at)
    default = _default(Train, "epochs")
    for at, stage in stages(with_shared_sections(tree)).items():
        train = section(stage.get("train"))
        if train.get("max_steps") and train.get("epochs", default) != default:
            epochs, steps = (
                any(
                    _within(key, overridden) and _contains(tree, key)
                    for key in (f"{at}.train.{name}", f"train.{name}")
                )
                for name in ("epochs", "max_steps")
            )
            if epochs or not steps:
                message = "has no effect, because max_steps is set; leave one of them out"
                yield finding(message, f"{at}.train.epochs", f"{at}.train.max_steps")
    yield from _check_intermediate(tree, overridden)
    targets = section(tree.get("targets")).values()
    used = {str(name) for t in targets for name in _listed(section(t).get("intermediates"))}
    targets = section(file.get("targets")).values()
    used |= {str(name) for t in targets for name in _listed(section(t).get("intermediates"))}
    for name in section(tree.get("intermediates")):
        if name not in used and targets:
            message = "has no effect, as no target names it in its intermediates; leave it out"
            yield finding(message, f"intermediates.{name}", "targets")


def is_shortened(keys: Collection[str], overridden: Collection[str]) -> bool:
    """Return whether a finding is only about a run that overrides make shorter.

    Args:
      keys: Dotted keys of the finding.
      overridden: Dotted keys of overrides.
    """
    first, *others = (STAGE_KEY.sub("", key) for key in keys)
    changed = [STAGE_KEY.sub("", key) for key in overridden]
    return first in ("train.patience", "batched_seeds", "paired") and (
        not _within(first, changed) and any(_within(key, changed) for key in others)
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_intermediate(tree: Tree, overridden: Collection[str]) -> Iterator[Finding]:
    """Yield intermediate stages of a file without the condition `staged`.

    An override of the conditions may leave them out, if it is not contradicted by others.
    """
    conditions = tree.get("conditions", "staged")
    listed = isinstance(conditions, list) and "staged" not in conditions
    if not listed and (not isinstance(conditions, str) or conditions == "staged"):
        return
    for key in ("intermediate", "intermediates"):
        changed = any(f"{other}.".startswith(f"{key}.") for other in overridden)
        if tree.get(key) and (changed or "conditions" not in overridden):
            message = "has no effect without the condition 'staged'; leave it out"
            yield finding(message, key, "conditions")


def _default(section_type: type, name: str) -> Any:
    return next(f.default for f in dataclasses.fields(section_type) if f.name == name)


def _within(key: str, others: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{other}.") for other in others)


def _contains(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, dict):
            return True  # An item of a tuple.
        if part not in tree:
            return False
        tree = tree[part]
    return True
