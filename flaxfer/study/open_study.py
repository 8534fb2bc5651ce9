"""A study with its data in memory: train and measure its stages, and complete their records."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from flaxfer.config import Config
from flaxfer.config.grids import Grid
from flaxfer.errors import CheckpointError, ClaimLostError, DataError, DivergedError
from flaxfer.evaluation.step import cast_for_eval, make_eval_step
from flaxfer.interop.embedding import make_embed_step
from flaxfer.runtime import files, host, platform, sharding
from flaxfer.runtime.bars import doing
from flaxfer.runtime.files import StorageError
from flaxfer.runtime.progress import say, warn
from flaxfer.study import origins, repair, scoring, summary, transferability
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan, plan_study, stage_data
from flaxfer.study.starts import Starts
from flaxfer.study.troubles import Troubles
from flaxfer.training import loop
from flaxfer.training.callbacks import Callbacks, Calls
from flaxfer.training.reading import read_study_data
from flaxfer.training.run import Run, info
from flaxfer.training.stage import StageSpec
from flaxfer.training.step import make_train_step
from flaxfer.training.tracking import Tracking

Confirm = Callable[[], None]
Working = Callable[[Sequence[StageSpec]], AbstractContextManager[Any]]


def forget_programs() -> None:
    """Free all compiled steps, which are cached for stages with equal specs."""
    for make in (make_train_step, make_eval_step, cast_for_eval, make_embed_step):
        make.cache_clear()


def _programs_differ(one: Config, other: Config) -> bool:
    """Return whether studies have different programs, but for those of intermediate stages.

    On a CPU, the programs of all targets of a large grid would take more memory mappings than Linux
    grants a process.
    """
    return (one.model, one.target) != (other.model, other.target)


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
            if self._opened is not None and _programs_differ(self._opened.data.config, config):
                forget_programs()
            self._opened = None
            gc.collect()  # Data, weights and programs are held in reference cycles.
            platform.return_memory()
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
        left = ready_stages(group, claims, self.troubles)
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


def ready_stages(group: Sequence[StageSpec], claims: Claims, known: Troubles) -> list[StageSpec]:
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
