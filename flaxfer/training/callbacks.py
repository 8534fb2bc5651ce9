"""Callbacks: what a user's code is told while stages are trained.

    class Print(flaxfer.Callbacks):
        def on_evaluate(self, stage, step, scores, best):
            print(stage.title, step, scores)

    flaxfer.run(config, callbacks=[Print()])

Callbacks run on the host, in the process that has claimed the stage, and in no other. They cannot
change a run. The metrics of a step are passed on when the next step has been started, so they do
not hold up the device, unless they take longer than a step. Several seeds may be trained as one
program; each call is about one seed. An exception stops the run. What is saved is kept, so the same
command goes on from the newest checkpoint, whose later steps are then taken, and told, again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config.findings import suggestion
from flaxfer.errors import ConfigError, FlaxferError


@dataclasses.dataclass(frozen=True)
class StageInfo:
    """The stage that a call is about.

    Attributes:
      study: Name of the study; in a grid, of the cell.
      condition: `direct`, `staged` or `scratch`.
      stage: `intermediate` or `target`.
      seed: Seed of the run.
      total_steps: Optimizer updates without early stopping.
      folder: Folder of the stage.
    """

    study: str
    condition: str
    stage: str
    seed: int
    total_steps: int
    folder: Path

    @property
    def title(self) -> str:
        """Study, condition, stage and seed, for people."""
        return f"{self.study} {self.condition}/{self.stage} seed {self.seed}"


class Callbacks:
    """Base class of callbacks; methods that are not overridden do nothing."""

    def on_step(self, stage: StageInfo, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a train step.

        Args:
          stage: The stage.
          step: Number of the step, from 1.
          metrics: `loss` (mean over the examples of the batch), `gradient_norm` (before clipping)
            and `learning_rate`; not finite if the run has diverged.
        """

    def on_evaluate(
        self, stage: StageInfo, step: int, scores: Mapping[str, float], best: bool
    ) -> None:
        """Take the scores on dev after a step.

        Args:
          stage: The stage.
          step: Number of steps that have been taken.
          scores: All metrics of the task by name; NaN if undefined.
          best: Whether the metric that selects the checkpoint is the best so far.
        """

    def on_stage_end(self, stage: StageInfo, record: Mapping[str, Any]) -> None:
        """Take the record of a stage that this process has finished or measured again.

        Args:
          stage: The stage.
          record: Its entry in `runs` of study.json, among others with `best_step`, `steps`,
            `seconds`, `dev` and `evaluations`; or, if it has diverged, its entry in `failed`, with
            `error`.
        """


EVENTS = tuple(name for name in vars(Callbacks) if name.startswith("on_"))


def check_callbacks(callbacks: Sequence[Callbacks]) -> None:
    """Check that callbacks have methods that are called.

    Raises:
      ConfigError: One is no `Callbacks`, or has a method of an unknown name.
    """
    for each in callbacks:
        name = type(each).__name__
        if not isinstance(each, Callbacks):
            raise ConfigError(
                f"{each!r} is no instance of flaxfer.Callbacks",
                where="callbacks",
                hint="derive a class from flaxfer.Callbacks, and pass an instance of it.",
            )
        for method in dir(each):
            if method.startswith("on_") and method not in EVENTS:
                what = f"{name}.{method} would never be called"
                raise ConfigError(what, where="callbacks", hint=suggestion(method, EVENTS))


class Calls:
    """The callbacks of a study.

    Args:
      callbacks: They are called in this order.
      study: Name of the study.
    """

    def __init__(self, callbacks: Sequence[Callbacks] = (), study: str = ""):
        self.callbacks, self.study = tuple(callbacks), study

    def __call__(self, event: str, stage: StageInfo, *values: Any) -> None:
        """Call the method of an event.

        Raises:
          FlaxferError: One has failed.
        """
        for each in self.callbacks:
            try:
                getattr(each, event)(stage, *values)
            # A callback is the user's program: whatever it raises is reported with its place.
            except Exception as error:
                name = f"{type(each).__name__}.{event}"
                raise FlaxferError(
                    f"the callback {name} failed: {type(error).__name__}: {error}",
                    where=stage.title,
                    hint="correct it, or leave it out; the same command continues from the newest "
                    "checkpoint.",
                ) from error
