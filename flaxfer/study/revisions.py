"""Comparison of a study with the one that a work directory was made for."""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.runtime import sealed
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import DONE, ORIGIN, StageRecord
from flaxfer.training.stage import StageSpec

NAMES = {
    "train_data": "content of the training data",
    "dev_data": "content of the dev data",
    "model": "weights and config of the model",
    "vocabulary": "",
    "start": "",
    "version": "version of the stage store, which this version of flaxfer has raised",
}
"""What keys of an identity are; those without a name follow from others."""

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
        runs = sealed.read_json(workdir / "study.json")["runs"]
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
    if (workdir / "study.json").exists():
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
        if not _trained(folder):
            continue
        if identity in specs:
            kept = {_kept(one.file) for one in specs[identity].measurements}
            for name in set(stage["measurements"]) - kept:
                if (folder / name).exists() or name.startswith("notes/"):
                    yield f"{stage['stage']}: have scores of {_set_of(name)}, want none"
        elif spec := places.get((stage["condition"], stage["stage"], stage["seed"])):
            yield from _changes(StageRecord(folder), spec)
        else:
            yield f"seeds and conditions: have {stage['condition']} seed {stage['seed']}, want none"


def _set_of(name: str) -> str:
    """Return what a measurement is of: the name of an evaluated set, with the hash of its data."""
    return name.partition("/")[2].removesuffix(".json")


def _changes(record: StageRecord, spec: StageSpec) -> Iterator[str]:
    """Yield the differences between a stage and the one in its place."""
    try:
        have, want = _flat(record.identity()), _flat(json.loads(json.dumps(spec.identity)))
    except sealed.UNREADABLE:
        yield f"{spec.name}: have a stage of unknown settings, {record.folder.name}"
        return
    for key in sorted(have.keys() | want.keys()):
        if have.get(key) == want.get(key) or not (name := NAMES.get(key, key)):
            continue
        if key in NAMES and key != "version":
            yield f"{spec.name}: the {name} has changed"
        else:
            yield f"{spec.name}: {name}: have {have.get(key)!r}, want {want.get(key)!r}"


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values in nested dicts by dotted key."""
    if not isinstance(tree, dict):
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
