"""Forecast of a study or grid: what is done, what is left, and how long that may take."""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from flaxfer.runtime.progress import say, table
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import DONE, IDENTITY
from flaxfer.training.stage import StageSpec


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder of the store in the forecast.

    Attributes:
      spec: one of the stages with this identity.
      studies: names of the studies that it is part of.
      state: `done`, `failed`, `to do`, or `running on` its owner.
      steps_left: optimizer updates without early stopping.
      seconds: estimate of the time left; None if the speed of the model is unknown.
    """

    spec: StageSpec
    studies: tuple[str, ...]
    state: str
    steps_left: int
    seconds: float | None


def entries(plans: Sequence[StudyPlan], claims: Claims) -> list[Entry]:
    """Return all stages of some studies, each once, in the order of a single process."""
    users: dict[Path, list[str]] = {}
    specs: dict[Path, StageSpec] = {}
    for plan in plans:
        for spec in plan.stages:
            names = users.setdefault(spec.folder, [])
            names += [] if plan.config.name in names else [plan.config.name]
            specs.setdefault(spec.folder, spec)
    speeds: dict[tuple[Path, str], float | None] = {}
    result = []
    for folder, spec in specs.items():
        key = (spec.store, spec.hashes["model"])
        speed = speeds[key] = speeds[key] if key in speeds else tokens_per_s(*key)
        owner, trained = claims.owner(folder), spec.record.is_trained()
        left = 0 if spec.is_settled() or trained else spec.total_steps - _steps_taken(spec)
        seconds = None if speed is None else left / spec.total_steps * spec.tokens / speed
        state = "done" if spec.is_complete() else "failed" if spec.failure() else "to do"
        state = f"running on {owner}" if owner else state
        result.append(Entry(spec, tuple(users[folder]), state, left, seconds if left else 0.0))
    return result


def show(plans: Sequence[StudyPlan], claims: Claims) -> None:
    """Print all stages, and the time that one process may need for the rest."""
    stages = entries(plans, claims)
    rows = [
        [
            entry.spec.folder.name,
            f"{entry.spec.condition}/{entry.spec.name}",
            entry.spec.seed,
            entry.state,
            entry.spec.total_steps,
            _duration(entry.seconds),
            ", ".join(entry.studies),
        ]
        for entry in stages
    ]
    header = ["identity", "stage", "seed", "state", "steps", "time left", "of the studies"]
    table(f"{len(stages)} stages of {len(plans)} studies", header, rows)
    known = [entry.seconds for entry in stages if entry.seconds is not None]
    unknown = len(stages) - len(known)
    total = _duration(sum(known)) if known else "unknown"
    if known and unknown:
        total = f"{total}, and {unknown} stages of models without a finished stage"
    say(f"time left for one process, by the speed of finished stages of the same model: {total}")


def tokens_per_s(store: Path, model: str) -> float | None:
    """Return the median speed of a model's finished stages, compilation and evaluation included.

    In tokens, as one task's texts may be longer than another's. None if no stage is finished.
    """
    speeds = []
    for file in store.glob(f"*/{DONE}"):
        identity = json.loads((file.parent / IDENTITY).read_text(encoding="utf-8"))
        done = json.loads(file.read_text(encoding="utf-8"))
        if identity["model"] == model and done["examples_per_s"] and done["seconds"]:
            examples = done["steps"] * identity["train"]["batch_size"]
            tokens = examples * done["useful_tokens_per_s"] / done["examples_per_s"]
            speeds.append(tokens / done["seconds"])
    return statistics.median(speeds) if speeds else None


def _steps_taken(spec: StageSpec) -> int:
    """Return the steps up to the newest checkpoint of an unfinished stage."""
    newest = spec.checkpoints.newest()
    return newest.step if newest else 0


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return str(datetime.timedelta(seconds=round(seconds)))
