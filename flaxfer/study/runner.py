"""Running a study or a grid of studies: plan all, then train and measure until all is settled.

Any number of processes may run the same command. They agree by claims on the folders of the store
(`flaxfer.study.claims`): each does what nobody else does, comes back for the rest, and ends when
everything is settled. Data and weights of one study at a time are held.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from flaxfer.config import Config, Stage, grids
from flaxfer.config.grids import Grid
from flaxfer.errors import ClaimLostError, DataError, DivergedError
from flaxfer.evaluation.step import make_eval_step
from flaxfer.report import writing
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.study import forecast, summary, transferability, workdirs
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan, plan_study
from flaxfer.study.scoring import Scorer
from flaxfer.study.starts import Starts
from flaxfer.training import loop
from flaxfer.training.data import StudyData, read_study_data
from flaxfer.training.record import FAILED, IDENTITY, ORIGIN, VOCABULARY
from flaxfer.training.run import Run
from flaxfer.training.stage import StageSpec
from flaxfer.training.step import make_train_step

POLL = 1.0
"""Seconds between two looks at other processes' work, when there is nothing else to do."""


def run(config: Config | Grid, command: str) -> Path:
    """Do what is left of a study or grid, and return its report.

    Args:
      config: from `loading.load_any`.
      command: how it was started, for the report.

    Raises:
      FlaxferError: by kind of problem; what was finished before is kept. DivergedError comes last,
        when everything else is finished and the report is written.
    """
    platform.keep_memory()
    workdirs.prepare(config, command)
    summaries = Summaries(config, command, time.monotonic())
    with Claims() as claims:
        studies, plans = Studies(config), []
        for study_config in grids.cells(config).values():
            workdirs.prepare(study_config, command)
            # No variable holds an opened study: the next one replaces it in memory.
            summaries.facts[study_config.name] = studies.open(study_config).facts()
            plans.append(studies.open(study_config).plan)
            studies.open(study_config).complete_records(claims)
        if len(plans) > 1:
            forecast.show(plans, claims)
        else:
            studies.open(plans[0].config).introduce()
        _drain(plans, studies, claims, summaries)
    failed = [
        f"{plan.config.name}: {fail['condition']}/{fail['stage']} seed {fail['seed']}: "
        f"{fail['error']}"
        for plan in plans
        for fail in summaries.write(plan)
    ]
    study_workdirs = [Path(plan.config.workdir) for plan in plans]
    html = writing.write_report(*study_workdirs, output=Path(config.workdir))[0]
    say(f"report: {html.absolute()}")
    if failed:
        number = sum(len(group) for plan in plans for group in plan.groups)
        raise DivergedError(
            f"{len(failed)} of {number} stages have diverged, or start from one that has",
            where=str(html.absolute()),
            hint="lower optimizer.learning_rate, lengthen the warm-up, or compute in float32; "
            f"without its file {FAILED} a stage is tried again as it is.",
            details=failed,
        )
    return html


def _drain(
    plans: Sequence[StudyPlan], studies: Studies, claims: Claims, summaries: Summaries
) -> None:
    """Train and measure until all stages are settled, by this process or by others."""
    waiting = False
    while pending := [plan for plan in plans if not plan.is_settled()]:
        worked = False
        for plan in pending:
            if any(_ready(group, claims) for group in plan.groups):
                worked |= studies.open(plan.config).advance(plan, claims)
                if plan.is_settled():  # A record of what is finished, while others run.
                    summaries.write(plan)
        if not worked:
            if not waiting:
                _say_waiting(pending)
            time.sleep(POLL)
        waiting = not worked


def show(config: Config | Grid) -> None:
    """Print what `run` would do, what is done, and how long the rest may take.

    Raises:
      FlaxferError: by kind of problem.
    """
    studies = Studies(config)
    plans = [studies.open(study_config).plan for study_config in grids.cells(config).values()]
    forecast.show(plans, Claims())


def forget_programs() -> None:
    """Free all compiled steps, which are cached for stages with equal specs."""
    make_train_step.cache_clear()
    make_eval_step.cache_clear()


@dataclasses.dataclass
class Summaries:
    """Writer of the studies' records.

    Attributes:
      config: of the study or grid.
      command: how it was started.
      began: when, by the monotonic clock.
      facts: what each record says beside its runs, by name of the study.
    """

    config: Config | Grid
    command: str
    began: float
    facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def write(self, plan: StudyPlan) -> list[dict[str, Any]]:
        """Write study.json of a settled study, and return the stages that failed."""
        name = plan.config.name
        places = grids.cell_keys(self.config) if isinstance(self.config, Grid) else {}
        more = {"command": self.command, "seconds": time.monotonic() - self.began}
        return summary.write_summary(plan, self.facts[name] | more, places.get(name))


class Studies:
    """The studies of a grid, of which the one opened last is held in memory."""

    def __init__(self, config: Config | Grid):
        platform.choose_compiler_options(config.compiler_options)
        self._cache = platform.cache_dir(config.cache)
        platform.use_compilation_cache(self._cache)
        self._opened: OpenStudy | None = None

    def open(self, config: Config) -> OpenStudy:
        """Return the study of a config, after reading its data unless it was opened last."""
        previous = self._opened
        if previous is None or previous.data.config != config:
            if previous is not None and previous.data.config.model != config.model:
                forget_programs()
            self._opened = previous = None
            gc.collect()  # Data, weights and programs are held in reference cycles.
            self._opened = OpenStudy.read(config, self._cache)
        assert self._opened is not None
        return self._opened


@dataclasses.dataclass
class OpenStudy:
    """A study with its data in memory.

    Attributes:
      data: of its stages.
      plan: its stages.
      mesh: of the devices.
      starts: parameters of its stages.
      scorer: measures its stages.
    """

    data: StudyData
    plan: StudyPlan
    mesh: jax.sharding.Mesh
    starts: Starts
    scorer: Scorer
    _introduced: bool = False
    _start_scores: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, config: Config, cache: Path) -> OpenStudy:
        """Read the data of a study and plan it."""
        mesh = sharding.make_mesh(*config.mesh.sizes)
        data = read_study_data(config, cache)
        starts = Starts(data, mesh)
        return cls(data, plan_study(data), mesh, starts, Scorer(data, starts, mesh))

    def introduce(self) -> None:
        """Print what will be done, once."""
        if not self._introduced:
            self._introduced = True
            summary.introduce(self.data, self.mesh)

    def facts(self) -> dict[str, Any]:
        """Return what study.json says beside the runs."""
        return summary.study_facts(self.data)

    def advance(self, plan: StudyPlan, claims: Claims) -> bool:
        """Train and measure what others do not; return whether there was anything.

        Raises:
          DataError: the data or the model have changed since `plan` was made.
        """
        if self.plan != plan:
            raise DataError(
                "the data or the model have changed since this command was started",
                where=plan.config.name,
                hint="start it again; what is finished and has not changed is not repeated.",
            )
        self.introduce()
        # A list: every group gets its turn.
        return any([self.advance_group(group, claims) for group in plan.groups])

    def advance_group(self, group: Sequence[StageSpec], claims: Claims) -> bool:
        """Train and measure what is left of a group, unless others do; return whether it did."""
        left = _ready(group, claims)
        if not left:
            return False
        with claims.taking([spec.folder for spec in left]) as taken:
            # Other processes may have settled some of it just before it was claimed.
            confirms = {
                spec.seed: claim.confirm
                for spec, claim in zip(left, taken, strict=False)
                if not spec.is_settled()
            }
            mine = [spec for spec in left if spec.seed in confirms]
            try:
                self._train([self._prepare(spec, confirms[spec.seed]) for spec in mine])
                for spec in mine:
                    if spec.record.is_trained():
                        self.scorer.measure(spec, confirms[spec.seed])
            except ClaimLostError as error:
                say(f"{group[0].condition}/{group[0].name}: {error}")
                return False
        return bool(mine)

    def complete_records(self, claims: Claims) -> None:
        """Complete the files of finished stages that a kill or an older version left incomplete."""
        for spec in self.plan.stages:
            if spec.record.is_trained():
                self._describe(spec)
                if any(spec.folder.glob("checkpoints/*/opt_state")):
                    with claims.taking([spec.folder]) as taken:
                        if taken:
                            spec.checkpoints.finish()

    def _prepare(self, spec: StageSpec, confirm: Any) -> Run:
        """Write what describes a stage, and score its start."""
        self._describe(spec)
        start = functools.partial(self.starts.params, spec)
        file = spec.folder / spec.start_scores
        if spec.start_scores and not file.exists() and not spec.record.is_trained():
            key = spec.parent.folder.name if spec.parent else "pretrained"
            if key not in self._start_scores:  # Seeds share the pretrained start.
                say(f"{spec.title}  scores its start")
                self._start_scores[key] = transferability.score(
                    self.data.encoder,
                    start(),
                    self.data.stage(spec.name, spec.parent is not None).train,
                    self.data.config.transferability,
                    self.mesh,
                )
            confirm()
            write_atomically(file, json.dumps(self._start_scores[key]))
        return Run(spec, start, confirm)

    def _train(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        spec = runs[0].spec
        data = self.data.stage(spec.name, after_intermediate=spec.parent is not None)
        try:
            loop.train(runs, data, self.mesh, self.data.config.trackers)
        except DivergedError as error:  # Noted in the folders; the other stages go on.
            say(f"diverged: {error}")

    def _describe(self, spec: StageSpec) -> None:
        """Write the identity of a stage, and what an export needs without training again."""
        spec.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(spec.folder / IDENTITY, json.dumps(spec.identity, indent=1))
        file = spec.folder / ORIGIN
        versions: Mapping[str, str] = platform.versions()
        if spec.record.is_trained():  # They may have changed since it was trained.
            versions = spec.record.origin()["versions"] if file.exists() else {}
        stage = self.data.stage(spec.name, after_intermediate=spec.parent is not None)
        names = _source_names(stage.settings)
        origin = {
            "stage": spec.name,
            "model": dataclasses.asdict(self.data.config.model)
            | {"folder": str(self.data.folder.absolute())},
            "tokenizer": self.data.tokenizer,
            "data": [
                {"stage": spec.name, **entry, "sources": names.get(entry["split"], [])}
                for entry in self.data.stages[spec.name].summary()
            ],
            "versions": versions,
        }
        stage.vocabulary.save(spec.folder / VOCABULARY)
        write_atomically(file, json.dumps(origin, indent=1))


def _ready(group: Sequence[StageSpec], claims: Claims) -> list[StageSpec]:
    """Return what is left of a group, if all of it can start now."""
    left = [spec for spec in group if not spec.is_settled()]
    return left if all(_can_start(spec, claims) for spec in left) else []


def _can_start(spec: StageSpec, claims: Claims) -> bool:
    """Return whether the stage before is finished, and nobody works on either."""
    if claims.owner(spec.folder) is not None:
        return False
    if spec.parent is None:
        return True
    # A trained stage is still tidied up and measured by its owner.
    return spec.parent.record.is_trained() and claims.owner(spec.parent.folder) is None


def _say_waiting(plans: Sequence[StudyPlan]) -> None:
    folders = {spec.folder for plan in plans for spec in plan.stages if not spec.is_settled()}
    say(f"waiting for {len(folders)} stages held by other processes (or for their prerequisites)")


def _source_names(settings: Stage) -> dict[str, list[str]]:
    """Return the names of the files or hub data sets that each split is read from."""
    data = settings.data
    splits = {"train": data.train, "dev": data.dev, "test": data.test}
    splits |= {name: (source,) for name, source in settings.evaluate.items()}
    return {
        split: [source.hub or Path(source.path).name for source in sources]
        for split, sources in splits.items()
    }
