"""Running a study or a grid: plan all stages, then train and measure until all are settled.

Any number of processes may run the same command. They agree through claims on the folders of the
store (`flaxfer.study.claims`): each process takes stages that no other holds, and ends when all are
settled. It holds data and weights of one study at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, Stage, grids
from flaxfer.config.grids import Grid
from flaxfer.errors import ClaimLostError, DataError, DivergedError
from flaxfer.evaluation.step import cast_for_eval, make_eval_step
from flaxfer.interop.embedding import make_embed_step
from flaxfer.report import writing
from flaxfer.runtime import host, platform, sharding
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.study import forecast, scoring, summary, transferability, workdirs
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan, plan_study
from flaxfer.study.starts import Starts
from flaxfer.training import loop
from flaxfer.training.data import read_study_data
from flaxfer.training.record import FAILED, IDENTITY, ORIGIN, VOCABULARY
from flaxfer.training.run import Run
from flaxfer.training.stage import StageSpec
from flaxfer.training.step import make_train_step

POLL = 1.0
"""Seconds between two looks at other processes' work, when there is nothing else to do."""

Confirm = Callable[[], None]
Failed = list[dict[str, Any]]


def run(config: Config | Grid, command: str) -> Path:
    """Run the unfinished stages of a study or grid, and return its report.

    Args:
      config: Config from `loading.load_any`.
      command: Command that this process was started with, for the report.

    Raises:
      FlaxferError: By kind of problem; finished stages are kept. DivergedError comes last, when all
        other stages are finished and the report is written.
    """
    platform.keep_memory()
    workdirs.prepare(config, command)
    began = time.monotonic()
    facts: dict[str, dict[str, Any]] = {}
    places = grids.cell_keys(config) if isinstance(config, Grid) else {}

    def summarise(plan: StudyPlan) -> Failed:
        seconds = {"seconds": time.monotonic() - began}
        return summary.write_summary(plan, facts[plan.config.name] | seconds)

    with Claims() as claims:
        studies, plans = Studies(config), []
        for name, cell in grids.cells(config).items():
            workdirs.prepare(cell, command)
            # No variable holds an opened study: the next one replaces it in memory.
            facts[name] = summary.study_facts(studies.open(cell).data, command, places.get(name))
            plans.append(studies.open(cell).plan)
            studies.open(cell).complete_records(claims)
        if len(plans) > 1:
            forecast.show(plans, claims)
        else:
            studies.open(plans[0].config).introduce()
        _drain(plans, studies, claims, summarise)
    failed = [
        f"{plan.config.name}: {fail['condition']}/{fail['stage']} seed {fail['seed']}: "
        f"{fail['error']}"
        for plan in plans
        for fail in summarise(plan)
    ]
    folders = [Path(plan.config.workdir) for plan in plans]
    html = writing.write_report(*folders, output=Path(config.workdir))[0]
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
    plans: Sequence[StudyPlan],
    studies: Studies,
    claims: Claims,
    summarise: Callable[[StudyPlan], Failed],
) -> None:
    """Train and measure until all stages are settled, by this process or by others."""
    waiting = False
    while pending := [plan for plan in plans if not plan.is_settled()]:
        worked = False
        for plan in pending:
            if any(_ready(group, claims) for group in plan.groups):
                worked |= studies.open(plan.config).advance(plan, claims)
                if plan.is_settled():  # A record of finished studies, while others run.
                    summarise(plan)
        if not worked:
            if not waiting:
                specs = (spec for plan in pending for spec in plan.stages if not spec.is_settled())
                number = len({spec.folder for spec in specs})
                say(
                    f"waiting for {number} stages held by other processes (or for their "
                    "prerequisites)"
                )
            time.sleep(POLL)
        waiting = not worked


def show(config: Config | Grid) -> None:
    """Print the state of all stages, and how long the unfinished ones may take.

    Raises:
      FlaxferError: By kind of problem.
    """
    studies = Studies(config)
    plans = [studies.open(cell).plan for cell in grids.cells(config).values()]
    forecast.show(plans, Claims())


def forget_programs() -> None:
    """Free all compiled steps, which are cached for stages with equal specs."""
    for make in (make_train_step, make_eval_step, cast_for_eval, make_embed_step):
        make.cache_clear()


class Studies:
    """The studies of a grid; only the last opened one is held in memory."""

    def __init__(self, config: Config | Grid):
        platform.choose_compiler_options(config.compiler_options)
        self._cache = host.cache_dir(config.cache)
        platform.use_compilation_cache(self._cache)
        self._opened: OpenStudy | None = None

    def open(self, config: Config) -> OpenStudy:
        """Return the study of a config, after reading its data unless it was opened last."""
        if self._opened is None or self._opened.data.config != config:
            if self._opened is not None and self._opened.data.config.model != config.model:
                forget_programs()
            self._opened = None
            gc.collect()  # Data, weights and programs are held in reference cycles.
            self._opened = OpenStudy(config, self._cache)
        return self._opened


class OpenStudy:
    """A study with its data in memory.

    Attributes:
      data: Data of its stages.
      mesh: Mesh of the devices.
      plan: Its stages.
      starts: Parameters of its stages.
    """

    def __init__(self, config: Config, cache: Path):
        self.mesh = sharding.make_mesh(*config.mesh.sizes)
        self.data = read_study_data(config, cache)
        self.plan = plan_study(self.data)
        self.starts = Starts(self.data, self.mesh)
        self._introduced = False
        self._start_scores: dict[str, dict[str, Any]] = {}

    def introduce(self) -> None:
        """Print model, devices, data and steps, once."""
        if not self._introduced:
            self._introduced = True
            summary.introduce(self.data, self.mesh)

    def advance(self, plan: StudyPlan, claims: Claims) -> bool:
        """Train and measure stages that no other process holds; return whether there were any.

        Raises:
          DataError: If the data or the model have changed since `plan` was made.
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
        """Train and measure a group's unfinished stages unless others do; return whether it did."""
        left = _ready(group, claims)
        if not left:
            return False
        with claims.taking([spec.folder for spec in left]) as taken:
            # Other processes may have settled some of it just before it was claimed.
            mine = [
                (spec, claim.confirm)
                for spec, claim in zip(left, taken, strict=False)
                if not spec.is_settled()
            ]
            try:
                self._train([self._prepare(spec, confirm) for spec, confirm in mine])
                for spec, confirm in mine:
                    if spec.record.is_trained():
                        scoring.measure(self.starts, spec, confirm)
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

    def _prepare(self, spec: StageSpec, confirm: Confirm) -> Run:
        """Write the description of a stage, and score its start."""
        self._describe(spec)
        start = functools.partial(self.starts.params, spec)
        file = spec.folder / spec.start_scores
        if spec.start_scores and not file.exists() and not spec.record.is_trained():
            key = spec.parent.folder.name if spec.parent else "pretrained"
            if key not in self._start_scores:  # Seeds share the pretrained start.
                say(f"{spec.title}  scores its start")
                train = self.data.stage(spec.name, spec.parent is not None).train
                examples = self.data.config.transferability
                self._start_scores[key] = transferability.score(
                    self.data.encoder, start(), train, examples, self.mesh
                )
            confirm()
            write_atomically(file, json.dumps(self._start_scores[key]))
        return Run(spec, start, confirm)

    def _train(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        spec = runs[0].spec
        data = self.data.stage(spec.name, spec.parent is not None)
        try:
            loop.train(runs, data, self.mesh, self.data.config.trackers)
        except DivergedError as error:  # Noted in the folders; the other stages go on.
            say(f"diverged: {error}")

    def _describe(self, spec: StageSpec) -> None:
        """Write the identity of a stage, and what an export needs without training again."""
        spec.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(spec.folder / IDENTITY, json.dumps(spec.identity, indent=1))
        file = spec.folder / ORIGIN
        if not spec.record.is_trained():
            versions = platform.versions()
        else:  # They may have changed since it was trained.
            versions = spec.record.origin()["versions"] if file.exists() else {}
        stage = self.data.stage(spec.name, spec.parent is not None)
        names = _source_names(stage.settings)
        model = dataclasses.asdict(self.data.config.model)
        origin = {
            "stage": spec.name,
            "model": model | {"folder": str(self.data.folder.absolute())},
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
    """Return the unsettled stages of a group, if all of them can start now."""
    left = [spec for spec in group if not spec.is_settled()]
    return left if all(_can_start(spec, claims) for spec in left) else []


def _can_start(spec: StageSpec, claims: Claims) -> bool:
    """Return whether the parent stage is finished, and nobody works on either."""
    if claims.owner(spec.folder) is not None:
        return False
    if spec.parent is None:
        return True
    # A trained stage is still tidied up and measured by its owner.
    return spec.parent.record.is_trained() and claims.owner(spec.parent.folder) is None


def _source_names(settings: Stage) -> dict[str, list[str]]:
    """Return the names of the files or hub data sets that each split is read from."""
    splits = {split: getattr(settings.data, split) for split in ("train", "dev", "test")}
    splits |= {name: (source,) for name, source in settings.evaluate.items()}
    return {
        split: [source.hub or Path(source.path).name for source in sources]
        for split, sources in splits.items()
    }
