"""Comparison of a study with the one that a work directory was made for."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from flaxfer.config import Config, loading
from flaxfer.config.findings import shown
from flaxfer.runtime import sealed
from flaxfer.study import claims
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import DONE, ORIGIN, StageRecord
from flaxfer.training.stage import SAVING, StageSpec

RECORD = "study.json"

NAMES = {
    "train_data": "content of the training data",
    "dev_data": "content of the dev data",
    "model": "weights and config of the model",
    "vocabulary": "",
    "start": "",
    "version": "version of the stage store, which this version of flaxfer has raised",
}
"""What keys of an identity are; those without a name follow from others."""

PLACES = frozenset(
    {
        "workdir",
        "store",
        "data_dir",
        "cache",
        "trackers",
        "wandb",
        "batched_seeds",
        "mesh",
        "compiler_options",
    }
)
"""Settings of where and how fast a study runs."""

MAX_LINES = 10
"""Differences of one kind that are listed."""


class Recorded:
    """The stages of a study as its work directory lists them.

    Attributes:
      store: Folder of the stages.
      stages: Condition, stage name, seed and measurements by identity.
    """

    def __init__(self, content: Mapping[str, Any], workdir: Path = Path()):
        self.store = workdir / content.get("store", "stages")
        self.stages: dict[str, dict[str, Any]] = content.get("stages", {})

    def beyond(self, plan: StudyPlan) -> set[tuple[str, str]]:
        """Return the stages and measurements, by identity and name, that a plan lacks."""
        return _parts(self.stages) - _parts(recorded(plan)["stages"])


def _parts(stages: Mapping[str, Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(i, name) for i, stage in stages.items() for name in ("", *stage["measurements"])}


def recorded(plan: StudyPlan) -> dict[str, Any]:
    """Return the stages of a plan as the work directory lists them."""
    stages = {
        spec.folder.name: {
            "condition": spec.condition,
            "stage": spec.name,
            "seed": spec.seed,
            "measurements": sorted(map(_kept, (one.file for one in spec.measurements))),
        }
        for spec in plan.stages
    }
    # Relative, as a work directory may be moved together with its stages.
    return {"store": os.path.relpath(plan.config.stages, plan.config.workdir), "stages": stages}


def _kept(file: str) -> str:
    """Return the name of a measurement that must not get lost.

    Files of notes are named by all evaluated sets, to which others may be added.
    """
    return re.sub(r"-[0-9a-f]{12}\.json$", "", file) if file.startswith("notes/") else file


def origin(workdir: Path) -> dict[str, Any] | None:
    """Return the origin of a work directory; None if it has none or it is damaged."""
    try:
        content = sealed.read(workdir / ORIGIN)
    except sealed.UNREADABLE:
        return None
    return content if isinstance(content.get("stages", {}), dict) else None


def earlier(workdir: Path) -> Recorded | None:
    """Return the stages that a work directory lists, or else those of its study.json."""
    content = origin(workdir)
    if content is not None and "stages" in content:
        return Recorded(content, workdir)
    try:
        runs = sealed.read_json(workdir / RECORD)["runs"]
        stages = {
            run["id"]: {key: run[key] for key in ("condition", "stage", "seed")}
            | {"measurements": []}
            for run in runs
        }
        store = str(Path(runs[0]["dir"]).parent) if runs else "stages"
    except (*sealed.UNREADABLE, KeyError, TypeError):
        return None
    return Recorded({"store": store, "stages": stages}, workdir)


def has_results(workdir: Path) -> bool:
    """Return whether a work directory has a study.json, or stages with checkpoints."""
    if (workdir / RECORD).exists():
        return True
    before = earlier(workdir)
    return before is not None and any(_trained(before.store / name) for name in before.stages)


def _trained(folder: Path) -> bool:
    return (folder / DONE).exists() or any(folder.glob("checkpoints/*/manifest.json"))


def differences(plan: StudyPlan) -> Iterator[str]:
    """Yield what a study lacks of the results in its work directory, a line for each stage."""
    before = earlier(Path(plan.config.workdir))
    if before is None:
        return
    specs = {spec.folder.name: spec for spec in plan.stages}
    places = {(spec.condition, spec.name, spec.seed): spec for spec in plan.stages}
    for identity, stage in before.stages.items():
        folder = before.store / identity
        # A stage in training may have no checkpoint yet.
        if not _trained(folder) and not claims.looks_held(folder, time.time()):
            continue
        if identity in specs:
            kept = {_kept(one.file) for one in specs[identity].measurements}
            for name in set(stage["measurements"]) - kept:
                if (folder / name).exists() or name.startswith("notes/"):
                    yield f"{stage['stage']}: {_lost(name, kept)}"
        elif spec := places.get((stage["condition"], stage["stage"], stage["seed"])):
            yield from _changes(StageRecord(folder), spec)
        else:
            yield f"{stage['condition']} seed {stage['seed']} would be dropped"


def _lost(name: str, kept: Collection[str]) -> str:
    """Return what becomes of a measurement that a plan lacks; `kept` are those that it has."""
    folder, _, stem = name.removesuffix(".json").partition("/")
    what = re.sub(r"-[0-9a-f]{12}$", "", stem)  # The name of a set, without the hash of its data.
    if any(other.startswith(f"{folder}/{what}-") for other in kept):
        return f"the content of the evaluated set {what!r} has changed"
    return f"the scores of {what!r} would be dropped"


def _changes(record: StageRecord, spec: StageSpec) -> Iterator[str]:
    """Yield the differences between a stage and the one in its place."""
    try:
        have, want = _flat(record.identity()), _flat(json.loads(json.dumps(spec.identity)))
    except sealed.UNREADABLE:
        yield f"{spec.name}: the settings of its stage {record.folder.name} cannot be read"
        return
    for key in sorted(have.keys() | want.keys()):
        old, new = have.get(key), want.get(key)
        if old == new or not (name := NAMES.get(key, key)):
            continue
        if key in NAMES and key != "version":
            yield f"{spec.name}: the {name} has changed"
        else:
            yield f"{spec.name}.{name}: {shown(old)} -> {shown(new)}"


def changed_settings(plan: StudyPlan) -> list[str]:
    """Return the settings of a study that are not those of its study.json, as `key: old -> new`.

    Settings that only say where and how fast it runs are left out. Without a study.json that can
    be read, nothing has changed.
    """
    try:
        before = sealed.read(Path(plan.config.workdir) / RECORD).get("config")
    except sealed.UNREADABLE:
        return []
    if not before:
        return []
    # Records of earlier versions may lack settings, which then had their defaults.
    with contextlib.suppress(pydantic.ValidationError):
        before = loading.to_dict(pydantic.TypeAdapter(Config).validate_python(before))
    old, new = (_compared(settings) for settings in (before, loading.to_dict(plan.config)))
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if key in old and key in new:
            if old[key] != new[key]:
                lines.append(f"{key}: {shown(old[key])} -> {shown(new[key])}")
        elif key in new:
            lines += _only_in(old, key, "added", f"none -> {shown(new[key])}")
        else:
            lines += _only_in(new, key, "removed", f"{shown(old[key])} -> none")
    return list(dict.fromkeys(lines))


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that results and reports depend on, by dotted key, but none that is None.

    A section or list without content is a value.
    """
    return {
        key: value
        for key, value in _flat(settings).items()
        if value is not None and key.split(".")[0] not in PLACES
        if key.rpartition(".")[2] not in SAVING
    }


def _only_in(there: Mapping[str, Any], key: str, section: str, leaf: str) -> Iterator[str]:
    """Yield a line about a key that `there` lacks, or about the section around it.

    Args:
      there: Settings by dotted key.
      key: The key.
      section: What has happened to a whole section.
      leaf: What has happened to a value.
    """
    parts = key.split(".")
    for i in range(1, len(parts) + 1):
        part = ".".join(parts[:i])
        if not any(f"{other}.".startswith(f"{part}.") for other in there):
            yield f"{part}: {leaf if part == key else section}"
            return


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values in nested dicts, and in lists of dicts, by dotted key."""
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat


def listed(lines: Sequence[str]) -> list[str]:
    """Return each line once, with the number of stages that it is true of; few in all."""
    counts = collections.Counter(lines)
    texts = [text if n == 1 else f"{text} (in {n} stages)" for text, n in counts.items()]
    more = len(texts) - MAX_LINES
    return [*texts[:MAX_LINES], *([f"and {more} more"] if more > 0 else [])]
