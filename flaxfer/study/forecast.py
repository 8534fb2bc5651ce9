"""Forecast of a study or grid: state, remaining steps and remaining time of its stages."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flaxfer.config import seeds
from flaxfer.errors import CheckpointError
from flaxfer.runtime import sealed
from flaxfer.runtime.progress import say
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import DONE, StageRecord
from flaxfer.training.stage import StageSpec


@dataclasses.dataclass(frozen=True)
class Entry:
    """A stage in the forecast.

    Attributes:
      spec: One of the specs with its identity.
      studies: Names of the studies that it belongs to.
      state: `done`, `failed`, `to do`, or `running on` its owner.
      steps_left: Optimizer updates without early stopping.
      seconds: Estimated time left; None if the speed of the model is unknown.
    """

    spec: StageSpec
    studies: tuple[str, ...]
    state: str
    steps_left: int
    seconds: float | None


def entries(plans: Sequence[StudyPlan], claims: Claims) -> list[Entry]:
    """Return all stages of some studies, each once, in the order of a single process."""
    studies: dict[Path, dict[str, None]] = {}
    specs: dict[Path, StageSpec] = {}
    for plan in plans:
        for spec in plan.stages:
            studies.setdefault(spec.folder, {})[plan.config.name] = None
            specs.setdefault(spec.folder, spec)
    speed_of = functools.cache(tokens_per_s)
    result = []
    for folder, spec in specs.items():
        speed, owner = speed_of(spec.store, spec.hashes["model"]), claims.owner(folder)
        left = 0
        if not spec.is_settled() and not spec.record.is_trained():
            newest = spec.checkpoints.newest()
            left = spec.total_steps - (newest.step if newest else 0)
        seconds = None if speed is None else left / spec.total_steps * spec.tokens / speed
        state = "done" if spec.is_complete() else "failed" if spec.failure() else "to do"
        state = f"running on {owner.name}" if owner else state
        result.append(Entry(spec, tuple(studies[folder]), state, left, seconds if left else 0.0))
    return result


def show(plans: Sequence[StudyPlan], claims: Claims, in_brief: bool = False) -> None:
    """Print all stages, or their number by state, and the time that one process may need."""
    stages = entries(plans, claims)
    title = f"{len(stages)} stages of {len(plans)} studies"
    if in_brief:
        states = Counter(entry.state.partition(" on ")[0] for entry in stages)
        counts = ", ".join(f"{number:,} {state}" for state, number in states.items())
        say(f"{title}: {counts} (flaxfer plan lists them)")
    else:
        _show_table(title, stages)
    known = [entry.seconds for entry in stages if entry.seconds is not None]
    unknown = len(stages) - len(known)
    total = _duration(sum(known)) if known else "unknown"
    if known and unknown:
        total = f"{total}, and {unknown} stages of models without a finished stage"
    if looks := {seeds.describe(plan.config.seeds) for plan in plans if plan.config.looks}:
        say(f"seeds: {', '.join(looks)}, and these are the stages up to the last look")
    say(f"time left for one process, by the speed of finished stages of the same model: {total}")


def _show_table(title: str, stages: Sequence[Entry]) -> None:
    """Print the stages, below the name of each and the studies that it belongs to."""
    groups: dict[str, list[Entry]] = {}
    for entry in stages:
        name = f"{entry.spec.condition}/{entry.spec.name}"
        groups.setdefault(f"{name} of {', '.join(entry.studies)}", []).append(entry)
    say(title)
    # The state comes last: the name of a process has any length.
    say(f"  {'identity':<16}  {'seed':>6}  {'steps':>9}  {'time left':>10}  state")
    for heading, members in groups.items():
        say(heading)
        for entry in members:
            numbers = f"{entry.spec.seed:>6}  {entry.spec.total_steps:>9,}"
            left = _duration(entry.seconds)
            say(f"  {entry.spec.folder.name}  {numbers}  {left:>10}  {entry.state}")


def tokens_per_s(store: Path, model: str) -> float | None:
    """Return the median speed of a model's finished stages, including compilation and evaluation.

    Tokens are counted because the texts of tasks differ in length. None if no stage is finished.
    """
    speeds = []
    for file in store.glob(f"*/{DONE}"):
        record = StageRecord(file.parent)
        try:
            identity, done = record.identity(), record.done()
        except (CheckpointError, *sealed.UNREADABLE):
            continue  # Damaged: named and made again by the study that it belongs to.
        if identity["model"] == model and done["examples_per_s"] and done["seconds"]:
            examples = done["steps"] * identity["train"]["batch_size"]
            tokens = examples * done["useful_tokens_per_s"] / done["examples_per_s"]
            speeds.append(tokens / done["seconds"])
    return statistics.median(speeds) if speeds else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return str(datetime.timedelta(seconds=round(seconds)))
