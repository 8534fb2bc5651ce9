"""Running a study or a grid: plan all stages, then train and measure until all are settled.

Any number of processes may run the same command. They agree through claims on the folders of the
store (`flaxfer.study.claims`): each process takes stages that no other holds, and ends when all are
settled. It holds data and weights of one study at a time.
"""

from __future__ import annotations

import functools
import gc
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from flaxfer.config import Config, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.errors import CheckpointError, ClaimLostError, DataError, DivergedError
from flaxfer.evaluation.step import cast_for_eval, make_eval_step
from flaxfer.interop.embedding import make_embed_step
from flaxfer.runtime import bars, files, host, platform, sharding, signals
from flaxfer.runtime.bars import doing
from flaxfer.runtime.files import StorageError
from flaxfer.runtime.progress import say, warn
from flaxfer.study import (
    forecast,
    listing,
    origins,
    repair,
    scoring,
    summary,
    transferability,
    troubles,
    workdirs,
)
from flaxfer.study.claims import Claims
from flaxfer.study.pace import Pace
from flaxfer.study.plan import StudyPlan, plan_study, stage_data
from flaxfer.study.starts import Starts
from flaxfer.study.stopping import Stopping
from flaxfer.study.troubles import Troubles
from flaxfer.tasks import TASK_TYPES
from flaxfer.training import loop
from flaxfer.training.callbacks import Callbacks, Calls, check_callbacks
from flaxfer.training.data import read_study_data
from flaxfer.training.run import Run, info
from flaxfer.training.stage import StageSpec
from flaxfer.training.step import make_train_step
from flaxfer.training.tracking import Tracking

REMINDER = 600.0
"""Seconds between two messages of what this process waits for."""

POLL = 1.0
"""Seconds between two looks at other processes' work, when there is nothing else to do."""

Confirm = Callable[[], None]
Working = Callable[[Sequence[StageSpec]], AbstractContextManager[Any]]
Failed = list[dict[str, Any]]


def run(
    config: Config | Grid,
    command: str,
    replace: bool = False,
    callbacks: Sequence[Callbacks] = (),
) -> Path:
    """Run the unfinished stages of a study or grid, and return its report.

    Args:
      config: Config from `loading.load_any`, or made in Python.
      command: Command that this process was started with, for the report.
      replace: Whether to move the records of another configuration in the work directory away.
      callbacks: What is called while stages are trained.

    Raises:
      FlaxferError: By kind of problem; finished stages are kept. Stages that have diverged or
        whose checkpoints are damaged raise last, when all other stages are finished and the report
        is written.
    """
    config = loading.validated(config, TASK_TYPES)
    check_callbacks(callbacks)
    workdirs.prepare(config)
    platform.keep_memory()
    began = time.monotonic()
    facts: dict[str, dict[str, Any]] = {}
    places = grids.cell_keys(config) if isinstance(config, Grid) else {}
    studies, plans = Studies(config, callbacks), list[StudyPlan]()

    def summarise(plan: StudyPlan) -> Failed:
        now = {"seconds": time.monotonic() - began, **stopping.facts(plan)}
        return summary.write_summary(plan, facts[plan.config.name] | now, studies.troubles.of)

    with Claims() as claims:
        for name, cell in grids.cells(config).items():
            # No variable holds an opened study: the next one replaces it in memory.
            facts[name] = summary.study_facts(studies.open(cell).data, command, places.get(name))
            plans.append(studies.open(cell).plan)
            with doing(f"checking the records of {name}"):
                studies.open(cell).complete_records(claims)
        workdirs.check(config, plans, replace)
        stopping = Stopping(plans)
        workdirs.adopt(config, command, plans)
        if len(plans) > 1:
            forecast.show(plans, claims, in_brief=True)
        else:
            studies.open(plans[0].config).introduce()
        # Steps run meanwhile. An error is raised again where the module is used.
        threading.Thread(target=_import_report).start()
        pace = Pace(lambda: stopping.plans, studies.troubles.settled)
        if pace.done and len(plans) == 1:
            left = pace.total - pace.done
            rest = f"{left:,} left" if left else "nothing is left to train"
            say(f"{pace.done:,} of {pace.total:,} stages are finished, {rest}")
        with bars.study(pace.state):
            _drain(stopping, studies, claims, pace, summarise)
            while _go_on(stopping, summarise):
                pace.count()
                _drain(stopping, studies, claims, pace, summarise)
    output = Path(config.workdir)
    if not all(map(stopping.is_current, stopping.plans)):
        say(f"{output}: another process has added to this study since, and writes its report")
        return output / "report.html"
    failed = [
        f"{plan.config.name}: {fail['condition']}/{fail['stage']} seed {fail['seed']}: "
        f"{fail['error']}"
        for plan in stopping.plans
        for fail in summarise(plan)
    ]
    folders = [Path(plan.config.workdir) for plan in plans]
    html = write_report(folders, output)
    if config.trackers and (listed := listing.look(output)) and listed.verdicts:
        Tracking.of(config).announce(config.name, listed.verdicts)
    if failed:
        number = sum(len(group) for plan in stopping.plans for group in plan.groups)
        raise troubles.failure(failed, number, html, studies.troubles.errors())
    return html


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """Write the report of studies into a folder, print its result, and return its page."""
    with doing("comparing the conditions and writing the report"):
        from flaxfer.report import data, terminal, writing

        content = data.read_report_data(folders, output)
        paths = writing.write(content)
    terminal.show_result(content)
    terminal.show_paths(paths)
    return paths[0]


def _import_report() -> None:
    """Import the report, with pandas and matplotlib, which takes two seconds."""
    from flaxfer.report import terminal, writing  # noqa: F401


def _go_on(stopping: Stopping, summarise: Callable[[StudyPlan], Failed]) -> bool:
    """Judge the studies at a look, if they have looks; return whether any goes on."""
    with doing("judging the studies at this look"):
        return stopping.go_on(summarise)


def _drain(
    stopping: Stopping,
    studies: Studies,
    claims: Claims,
    pace: Pace,
    summarise: Callable[[StudyPlan], Failed],
) -> None:
    """Train and measure up to the current look of each study, by this process or by others."""
    reminded, settled = -math.inf, studies.troubles.settled
    while pending := [plan for plan in stopping.plans if not all(map(settled, plan.stages))]:
        worked = False
        for plan in pending:
            if any(_ready(group, claims, studies.troubles) for group in plan.groups):
                worked |= studies.open(plan.config).advance(plan, claims, pace.working)
                if all(map(settled, plan.stages)) and stopping.is_current(plan):
                    summarise(plan)  # A record of finished studies, while others run.
        if not worked:
            if time.monotonic() - reminded > REMINDER:
                reminded = time.monotonic()
                say(troubles.waiting(pending, claims))
            signals.check()
            with doing("waiting for other processes"):
                time.sleep(POLL)
        else:
            reminded = -math.inf


def show(config: Config | Grid) -> None:
    """Print the state of all stages, and how long the unfinished ones may take.

    Raises:
      FlaxferError: By kind of problem.
    """
    config = loading.validated(config, TASK_TYPES)
    studies = Studies(config)
    plans = [studies.open(cell).plan for cell in grids.cells(config).values()]
    forecast.show(plans, Claims())


def forget_programs() -> None:
    """Free all compiled steps, which are cached for stages with equal specs."""
    for make in (make_train_step, make_eval_step, cast_for_eval, make_embed_step):
        make.cache_clear()


class Studies:
    """The studies of a grid; only the last opened one is held in memory.

    Attributes:
      troubles: Stages of all of them that this process cannot train.
    """

    def __init__(self, config: Config | Grid, callbacks: Sequence[Callbacks] = ()):
        platform.choose_compiler_options(config.compiler_options)
        self._cache = host.cache_dir(config.cache)
        platform.use_compilation_cache(self._cache)
        self._opened: OpenStudy | None = None
        self._callbacks = callbacks
        self.troubles = Troubles()

    def open(self, config: Config) -> OpenStudy:
        """Return the study of a config, after reading its data unless it was opened last."""
        if self._opened is None or self._opened.data.config != config:
            if self._opened is not None and self._opened.data.config.model != config.model:
                forget_programs()
            self._opened = None
            gc.collect()  # Data, weights and programs are held in reference cycles.
            calls = Calls(self._callbacks, config.name)
            self._opened = OpenStudy(config, self._cache, self.troubles, calls)
        return self._opened


class OpenStudy:
    """A study with its data in memory.

    Attributes:
      data: Data of its stages.
      mesh: Mesh of the devices.
      plan: Its stages.
      starts: Parameters of its stages.
      troubles: Stages that this process cannot train.
      calls: Callbacks of the study.
      tracking: Its trackers.
    """

    def __init__(
        self,
        config: Config,
        cache: Path,
        troubles: Troubles | None = None,
        calls: Calls | None = None,
    ):
        self.mesh = sharding.make_mesh(*config.mesh.sizes)
        with doing(f"reading the data of {config.name}"):
            self.data = read_study_data(config, cache)
        with doing("hashing the weights"):
            self.plan = plan_study(self.data)
        self.starts = Starts(self.data, self.mesh)
        self.troubles = Troubles() if troubles is None else troubles
        self.calls = calls or Calls()
        self.tracking = Tracking.of(config)
        self._introduced = False
        self._start_scores: dict[str, dict[str, Any]] = {}

    def introduce(self) -> None:
        """Print model, devices, data and steps, once."""
        if not self._introduced:
            self._introduced = True
            summary.introduce(self.data, self.mesh)

    def advance(self, plan: StudyPlan, claims: Claims, working: Working = nullcontext) -> bool:
        """Train and measure stages that no other process holds; return whether there were any.

        Args:
          plan: The study up to its current look.
          claims: Claims of this process.
          working: Measures the work on a group of stages within a `with` block.

        Raises:
          DataError: If the data or the model have changed since `plan` was made.
        """
        if self.plan.until(len(plan.seeds)) != plan:
            raise DataError(
                "the data or the model have changed since this command was started",
                where=plan.config.name,
                hint="start it again; what is finished and has not changed is not repeated.",
            )
        self.introduce()
        parts = [part for group in plan.groups for part in self.troubles.apart(group)]
        # A list: every group gets its turn.
        return any([self.advance_group(part, claims, working) for part in parts])

    def advance_group(
        self, group: Sequence[StageSpec], claims: Claims, working: Working = nullcontext
    ) -> bool:
        """Train and measure a group's unfinished stages unless others do; return whether it did.

        Damage of a stage is set aside or noted as its trouble, so that the others can go on.

        Raises:
          StorageError: The disk is full, read-only or failing.
        """
        left = _ready(group, claims, self.troubles)
        if not left:
            return False
        try:
            with files.storage_errors(left[0].store):
                return self._advance(left, claims, working)
        except StorageError:
            raise
        except (CheckpointError, OSError) as error:
            self._note(left, error)
        # The claims are released, so that each stage can be claimed for its repair.
        for stage in {stage.folder: stage for spec in left for stage in spec.lineage}.values():
            self._repair(stage, claims, every_byte=True)
        return True

    def _advance(self, left: Sequence[StageSpec], claims: Claims, working: Working) -> bool:
        with claims.taking([spec.folder for spec in left]) as taken:
            # Other processes may have settled some of it just before it was claimed.
            mine = [
                (spec, claim.confirm)
                for spec, claim in zip(left, taken, strict=False)
                if not spec.is_settled()
            ]
            if not mine:
                return False
            try:
                with working([spec for spec, _ in mine]):
                    self._train_and_measure(mine)
            except ClaimLostError as error:
                warn(f"{left[0].condition}/{left[0].name}: {error}")
                return False
        return True

    def _train_and_measure(self, claimed: Sequence[tuple[StageSpec, Confirm]]) -> None:
        self._train([self._prepare(spec, confirm) for spec, confirm in claimed])
        for spec, confirm in claimed:
            if spec.record.is_trained():
                scoring.measure(self.starts, spec, confirm)
            if spec.is_settled() and (self.calls.callbacks or self.tracking.names):
                record = summary.entry(spec, Path(self.data.config.workdir))
                stage = info(spec, self.calls.study)
                self.tracking.report(spec, stage, record)
                self.calls("on_stage_end", stage, record)

    def _note(self, specs: Sequence[StageSpec], error: CheckpointError | OSError) -> None:
        """Say and note what is wrong with stages."""
        if isinstance(error, OSError):
            error = CheckpointError(
                f"a file of the stage cannot be read or written: {error.strerror or error}",
                where=str(error.filename or specs[0].folder),
                hint="make it a file or folder that this user can read and write.",
            )
        warn(f"{specs[0].title}: {error}")
        self.troubles.note(specs, error)

    def _repair(self, spec: StageSpec, claims: Claims, every_byte: bool = False) -> None:
        try:
            repair.repair(spec, claims, every_byte)
        except (CheckpointError, OSError) as error:
            self._note([spec], error)

    def complete_records(self, claims: Claims) -> None:
        """Set aside damaged files of stages, and complete what a kill has left incomplete."""
        for spec in self.plan.stages:
            self._repair(spec, claims)
            if not spec.record.is_trained():
                continue
            try:
                origins.describe(self.data, spec)
                if any(spec.folder.glob("checkpoints/*/opt_state")):
                    with claims.taking([spec.folder]) as taken:
                        for claim in taken:
                            spec.record.tidy(spec.settings.task, claim.confirm)
            except (CheckpointError, OSError) as error:
                self._note([spec], error)
                self._repair(spec, claims, every_byte=True)

    def _prepare(self, spec: StageSpec, confirm: Confirm) -> Run:
        """Write the description of a stage, and score its start."""
        origins.describe(self.data, spec)
        start = functools.partial(self.starts.params, spec)
        file = spec.folder / spec.start_scores
        if spec.start_scores and not file.exists() and not spec.record.is_trained():
            train = stage_data(self.data, spec).train
            key = spec.parent.folder.name if spec.parent else train.fingerprint
            if key not in self._start_scores:  # Seeds with the same data share the pretrained one.
                say(f"{spec.title}  scores its start")
                examples = self.data.config.transferability
                with doing(f"{spec.title}  scoring its start", announced=True):
                    self._start_scores[key] = transferability.score(
                        self.data.encoder, start(), train, examples, self.mesh
                    )
            spec.record.write(spec.start_scores, self._start_scores[key], confirm)
        return Run(spec, start, confirm, self.calls)

    def _train(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        spec = runs[0].spec
        data = stage_data(self.data, spec)
        try:
            loop.train(runs, data, self.mesh, self.tracking)
        except DivergedError as error:  # Noted in the folders; the other stages go on.
            warn(f"diverged: {error}")


def _ready(group: Sequence[StageSpec], claims: Claims, known: Troubles) -> list[StageSpec]:
    """Return the unsettled stages of a group, if all of them can start now."""
    left = [spec for spec in group if not known.settled(spec)]
    try:
        return left if all(_can_start(spec, claims) for spec in left) else []
    except CheckpointError as error:
        known.note(left, error)
        return []


def _can_start(spec: StageSpec, claims: Claims) -> bool:
    """Return whether the parent stage is finished, and nobody works on either."""
    if claims.owner(spec.folder) is not None:
        return False
    if spec.parent is None:
        return True
    # A trained stage is still tidied up and measured by its owner.
    return spec.parent.record.is_trained() and claims.owner(spec.parent.folder) is None
