"""TensorBoard and Weights & Biases: a run for each seed of a stage, and one for the verdicts.

The run of a stage has its hyper-parameters and everything that metrics.jsonl holds. When the stage
has been evaluated, its run gets the scores of the evaluated sets.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from flaxfer.config import Config, fields
from flaxfer.config.common import TRACKERS, Common, Wandb
from flaxfer.errors import ConfigError
from flaxfer.runtime import plugins
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.host import install_hint
from flaxfer.training.callbacks import StageInfo
from flaxfer.training.stage import StageSpec
from flaxfer.training.trackers import Opener, Tracker

Verdicts = Mapping[str, Mapping[str, str]]
"""Cells of the primary comparison in comparisons.csv, by column, for each study."""

SHOWN = ("verdict", "difference", "low", "high", "metric", "language", "set")
"""Columns of verdicts that trackers get."""

FOLDER = "tensorboard"
"""Folder in the work directory for TensorBoard."""

RUN_ID = "wandb-run-id"
"""File in the folder of a stage with the id of its online run, which goes on with the stage."""


class Job(NamedTuple):
    """A seed of a stage, as trackers describe it.

    Attributes:
      info: Its place.
      parameters: Hyper-parameters by dotted key.
      step: Step that training continues from, or of the checkpoint that was evaluated.
    """

    info: StageInfo
    parameters: dict[str, str | int | float | bool]
    step: int


class Backend(Protocol):
    """A tracker of this package."""

    def open(self, job: Job) -> Tracker:
        """Return the sink of a stage that starts or continues."""

    def report(self, job: Job, scores: Mapping[str, float]) -> None:
        """Add the scores of evaluated sets, by set, language and metric, to the run of a stage."""

    def announce(self, name: str, verdicts: Verdicts) -> None:
        """Write a run with the verdicts of a study or grid called `name`."""


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The trackers of a study or grid.

    Attributes:
      names: Names of the trackers, of `common.TRACKERS` or of entry points.
      folder: Work directory.
      wandb: Settings of Weights & Biases.
      model: Name of the pretrained model.
    """

    names: tuple[str, ...] = ()
    folder: Path = Path()
    wandb: Wandb = dataclasses.field(default_factory=Wandb)
    model: str = ""

    @classmethod
    def of(cls, config: Common) -> Tracking:
        """Return the trackers of a config."""
        model = ""
        if isinstance(config, Config):
            model = config.model.hub or Path(config.model.path).name
        return cls(config.trackers, Path(config.folder), config.wandb, model)

    def open(self, spec: StageSpec, info: StageInfo, step: int) -> list[Tracker]:
        """Return the sinks of a stage that continues after a step; 0 if it starts.

        Raises:
          ConfigError: The package behind a tracker is not installed, or a tracker fails.
        """
        sinks, job = [], Job(info, self._parameters(spec), step)
        for name in self.names:
            if name in BACKENDS:
                make = functools.partial(self._backend(name).open, job)
            else:
                opener: Opener = plugins.load(plugins.TRACKERS, name)
                make = functools.partial(opener, spec.folder, spec.title, step)
            sinks.append(_guarded(name, info.title, make))
        return sinks

    def report(self, spec: StageSpec, info: StageInfo, record: Mapping[str, Any]) -> None:
        """Add the scores of evaluated sets to the run of a stage.

        Args:
          spec: The stage.
          info: Its description.
          record: Its entry in study.json, which has no evaluations if it has diverged.

        Raises:
          ConfigError: As `open`.
        """
        scores = {
            f"{one['set']}/{one['language']}/{metric}": value
            for one in record.get("evaluations", ())
            for metric, value in one["metrics"].items()
            if value is not None
        }
        for name in self.names if scores else ():
            if name in BACKENDS:
                job = Job(info, self._parameters(spec), record["best_step"])
                _call(name, info.title, self._backend(name).report, job, scores)

    def announce(self, name: str, verdicts: Verdicts) -> None:
        """Add the verdicts of a study or grid in a run of their own.

        Raises:
          ConfigError: As `open`.
        """
        rows = {study: {key: row[key] for key in SHOWN} for study, row in verdicts.items()}
        for tracker in self.names if rows else ():
            if tracker in BACKENDS:
                _call(tracker, name, self._backend(tracker).announce, name, rows)

    def _backend(self, name: str) -> Backend:
        try:
            module = importlib.import_module(TRACKERS[name])
        except ImportError as error:
            raise ConfigError(
                f"the tracker {name!r} is not installed ({error})",
                where="trackers",
                hint=f"run `{install_hint(name)}`, or leave it out of trackers.",
            ) from error
        return BACKENDS[name](self, module)

    def _parameters(self, spec: StageSpec) -> dict[str, Any]:
        """Return the hyper-parameters of a stage."""
        settings = spec.settings
        sections: dict[str, Any] = {"optimizer": settings.optimizer, "train": settings.train}
        return {
            **{"model": self.model, "task": settings.task.name, "dtype": spec.dtype},
            **{"condition": spec.condition, "stage": spec.name, "seed": spec.seed},
            **{
                f"{section}.{key}": value if isinstance(value, int | float | str) else str(value)
                for section, part in sections.items()
                for key, value in dataclasses.asdict(part).items()
            },
        }


NO_TRACKING = Tracking()
"""No trackers."""


class TensorBoard:
    """Event files in the work directory, in a folder for each condition, stage and seed."""

    def __init__(self, tracking: Tracking, module: Any):
        self._folder, self._module = tracking.folder / FOLDER, module

    def open(self, job: Job) -> Tracker:
        """Return a sink; records of steps after that of the job are dropped."""
        writer = self._writer(job.info, purge_step=job.step + 1)

        def scalars(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return Tracker(scalars, writer.close)

    def report(self, job: Job, scores: Mapping[str, float]) -> None:
        """Write scores with the hyper-parameters, for the tab HPARAMS."""
        with self._writer(job.info) as writer:
            # Into the same folder, so that they belong to the same run.
            writer.add_hparams(job.parameters, dict(scores), name=".", global_step=job.step)

    def announce(self, name: str, verdicts: Verdicts) -> None:
        """Write a table of verdicts, for the tab TEXT."""
        rows = [["study", *SHOWN], ["---"] * (1 + len(SHOWN))]
        rows += [[study, *row.values()] for study, row in verdicts.items()]
        with self._module.SummaryWriter(str(self._folder / "verdicts")) as writer:
            writer.add_text(name, "\n".join(f"| {' | '.join(row)} |" for row in rows))

    def _writer(self, info: StageInfo, **settings: Any) -> Any:
        folder = self._folder / info.condition / info.stage / f"seed-{info.seed}"
        # Files are named by the second, in which another one may have been begun.
        suffix = f".{secrets.token_hex(4)}"
        return self._module.SummaryWriter(str(folder), filename_suffix=suffix, **settings)


class WeightsAndBiases:
    """Runs of Weights & Biases, offline unless the config or WANDB_MODE says otherwise."""

    def __init__(self, tracking: Tracking, module: Any):
        self._tracking, self._settings, self._module = tracking, tracking.wandb, module

    def open(self, job: Job) -> Tracker:
        """Return a sink that continues the run of a stage, or begins one."""
        if not job.step:
            (job.info.folder / RUN_ID).unlink(missing_ok=True)
        run = self._stage_run(job)
        return Tracker(lambda step, values: run.log(values, step=step), run.finish)

    def report(self, job: Job, scores: Mapping[str, float]) -> None:
        """Write scores into the summary of the run of a stage."""
        run = self._stage_run(job)
        run.summary.update({**scores, "best_step": job.step})
        run.finish()

    def announce(self, name: str, verdicts: Verdicts) -> None:
        """Write verdicts into the summary of a run."""
        run = self._run(name, f"{name} verdicts", self._tracking.folder, job_type="verdicts")
        cells = {f"{study}/{k}": text for study, row in verdicts.items() for k, text in row.items()}
        run.summary.update({key: _number(text) for key, text in cells.items()})
        run.finish()

    def _stage_run(self, job: Job) -> Any:
        info = job.info
        place = {name: getattr(info, name) for name in fields.RUN_FIELDS}
        name = self._settings.name.format(**place)
        settings = {"config": job.parameters, "job_type": info.stage}
        return self._run(info.study, name, info.folder, **settings)

    def _run(self, study: str, name: str, folder: Path, **settings: Any) -> Any:
        """Return the online run whose id stands in a folder, or a new one."""
        file, mode = folder / RUN_ID, str(self._settings.mode)
        if mode == "auto":  # A study must not depend on a network.
            mode = os.environ.get("WANDB_MODE", "offline")
        # Of offline runs with the same id, `wandb sync` keeps only the last one.
        if mode == "online":
            settings["resume"] = "allow"
            if not file.exists():
                write_atomically(file, secrets.token_hex(8))
            settings["id"] = file.read_text(encoding="utf-8")
        return self._module.init(
            project=self._settings.project,
            entity=self._settings.entity or None,
            group=self._settings.group or study,
            tags=list(self._settings.tags),
            name=name,
            dir=str(folder),
            mode=mode,
            reinit="create_new",  # Several seeds may train at once.
            **settings,
        )


BACKENDS: Mapping[str, Callable[[Tracking, Any], Backend]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
"""Classes of the trackers of this package, called with the package that they import."""


def _guarded(name: str, where: str, make: Callable[[], Any]) -> Tracker:
    """Open a tracker whose errors say that they are its own."""
    opened = _call(name, where, make)
    return Tracker(
        lambda step, values: _call(name, where, opened.scalars, step, values),
        lambda: _call(name, where, opened.close),
    )


def _call(name: str, where: str, function: Callable[..., Any], *values: Any) -> Any:
    try:
        return function(*values)
    # It is another package's code: whatever it raises is reported with its place.
    except Exception as error:
        raise ConfigError(
            f"the tracker {name!r} failed: {type(error).__name__}: {error}",
            where=where,
            hint="correct it, or leave it out of trackers; the same command continues.",
        ) from error


def _number(text: str) -> str | float:
    """Return the number that a cell holds, or its text."""
    try:
        return float(text)
    except ValueError:
        return text
