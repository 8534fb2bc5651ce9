"""Sequential seeds: up to which look the studies of a command are trained.

All studies of a grid have a look at the same number of seeds, as the correction for multiple
testing needs the p values of all of them. Those with a verdict stop, the others go on to the next
look. A look depends on the runs of its seeds alone, so any process finds the same, after a kill,
too; study.json keeps it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, loading
from flaxfer.errors import DataError
from flaxfer.evaluation.records import Look, Study, read_study
from flaxfer.runtime.progress import say
from flaxfer.statistics import looks
from flaxfer.study import workdirs
from flaxfer.study.plan import StudyPlan


class Stopping:
    """The looks of the studies of a command.

    Args:
      plans: The studies, each up to its last look.

    Attributes:
      plans: The studies, each up to its current look.
    """

    def __init__(self, plans: Sequence[StudyPlan]):
        self._whole = {plan.config.name: plan for plan in plans}
        self._changes: dict[str, list[str]] = {}
        self._stored: dict[str, list[Look]] = {}
        self._looked: dict[str, list[Look]] = {name: [] for name in self._whole}
        self._stopped = {name for name, plan in self._whole.items() if not _is_judged(plan.config)}
        self.plans: list[StudyPlan] = []
        for name, plan in self._whole.items():
            record = _record(plan)
            changes = _changes(plan.config, record)
            notes = _notes(changes, record)
            self._changes[name] = [*(record.design_changes if record else ()), *notes]
            self._stored[name] = _looks_of(plan.config, record)
            start = 0
            if record and changes.keys() - {"seeds"}:  # Its looks are had again, the last one only.
                start = max((look.seeds for look in record.looked), default=0)
            self.plans.append(plan if name in self._stopped else self._next(plan, start))

    def facts(self, plan: StudyPlan) -> dict[str, Any]:
        """Return what the looks have shown, for study.json."""
        name = plan.config.name
        looked = [dataclasses.asdict(look) for look in self._looked[name]]
        return {"looked": looked, "design_changes": self._changes[name]}

    def is_current(self, plan: StudyPlan) -> bool:
        """Return whether no other process has added to a study, or is at a later look."""
        record, whole = _record(plan), self._whole[plan.config.name]
        later = record and any(look.seeds > len(plan.seeds) for look in record.looked)
        return not later and workdirs.is_current(whole)

    def go_on(self, summarise: Callable[[StudyPlan], Any]) -> bool:
        """Judge the studies at a look, after their training; return whether any goes on.

        Args:
          summarise: Writes study.json of a plan.
        """
        active = [plan for plan in self.plans if plan.config.name not in self._stopped]
        if not active:
            return False
        for plan in active:
            self._look(plan, summarise)
        newest = {name: looked[-1] for name, looked in self._looked.items() if looked}
        decided = looks.decided(newest)
        for plan in active:
            name, at = plan.config.name, len(plan.seeds)
            looked = self._looked[name]
            looked[-1] = dataclasses.replace(looked[-1], decided=name in decided)
            if name in decided or at == plan.config.looks[-1]:
                self._stopped.add(name)
            verdict = "decided, it stops" if name in decided else "undecided"
            say(f"{name}: look at {at} seeds: {verdict}")
            if self.is_current(plan):
                summarise(plan)
        self.plans = [
            plan if plan.config.name in self._stopped else self._next(plan, len(plan.seeds) + 1)
            for plan in self.plans
        ]
        return len(self._stopped) < len(self.plans)

    def _look(self, plan: StudyPlan, summarise: Callable[[StudyPlan], Any]) -> None:
        """Take a look, unless study.json has it."""
        name, at = plan.config.name, len(plan.seeds)
        looked = self._looked[name]
        stored = [*self._stored[name], *_looks_of(plan.config, _record(plan))]
        # An earlier version of the config may have had other looks.
        for one in stored:
            if (looked[-1].seeds if looked else 0) < one.seeds <= at:
                looked.append(one)
        if not looked or looked[-1].seeds < at:
            if self.is_current(plan):
                summarise(plan)
            workdir, last = Path(plan.config.workdir), plan.config.looks[-1]
            # A slower process may just have written its record of an earlier look.
            while len((record := read_study(workdir)).seeds) < at:
                summarise(plan)
            looked.append(looks.take_look(record, workdir, at, last, looked))

    def _next(self, plan: StudyPlan, seeds: int) -> StudyPlan:
        """Return the plan up to the next look at a number of seeds or more, or the last look."""
        at = next((look for look in plan.config.looks if look >= seeds), plan.config.looks[-1])
        return self._whole[plan.config.name].until(at)


def _is_judged(config: Config) -> bool:
    """Return whether a study has looks; in a grid, some may have nothing to compare."""
    return bool(config.looks) and {"direct", "staged"} <= {*config.conditions}


def _record(plan: StudyPlan) -> Study | None:
    """Return the record of a study; None if there is none that can be read."""
    try:
        return read_study(Path(plan.config.workdir))
    except DataError:
        return None


def _changes(config: Config, record: Study | None) -> dict[str, tuple[Any, Any]]:
    """Return the settings of the design that are not those of the record, before and after."""
    if record is None or not record.config:
        return {}
    before, after = _design(record.config), _design(loading.to_dict(config))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _looks_of(config: Config, record: Study | None) -> list[Look]:
    """Return the looks of a record; none if the comparison was of another kind."""
    return record.looked if record and _changes(config, record).keys() <= {"seeds"} else []


def _notes(changes: Mapping[str, tuple[Any, Any]], record: Study | None) -> list[str]:
    """Return a sentence for each change of the design, if there were results before it."""
    targets = [run for run in record.runs if run.stage == "target"] if record else []
    if not {"direct", "staged"} <= {run.condition for run in targets}:
        return []
    number = len({run.seed for run in targets})
    date = datetime.datetime.now(datetime.UTC).date()
    return [
        f"{date}, after results of {number} seeds: {key} {_shown(before)} became {_shown(after)}."
        for key, (before, after) in changes.items()
    ]


def _design(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, as study.json has them, that must be chosen before there are results."""
    return {
        "seeds": config.get("seeds"),
        "margin": config.get("margin") or None,
        "analysis": "paired" if config.get("paired") else "unpaired",
        "evaluated sets": sorted(config.get("target", {}).get("evaluate", ())),
    }


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value or "none")
