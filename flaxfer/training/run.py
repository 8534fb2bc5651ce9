"""One seed of a stage while it trains: its log, checkpoints, speed and patience."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flaxfer.data.loader import TrainPlan
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import CheckpointError, DivergedError
from flaxfer.evaluation.evaluator import finite
from flaxfer.runtime.files import storage_errors
from flaxfer.runtime.progress import say, warn
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.tasks.base import Scores
from flaxfer.training import restarts, trackers
from flaxfer.training.callbacks import Calls, StageInfo
from flaxfer.training.record import DIGEST, DONE, FAILED, METRICS, file_digest
from flaxfer.training.stage import StageSpec
from flaxfer.training.state import nonfinite
from flaxfer.training.tracking import Tracking

MAX_EXAMPLES = 10
"""Ids of examples in the message of an error; failed.json has all of them."""


@dataclasses.dataclass
class Speed:
    """Work and time of a run: train steps, compilation and dev evaluation apart.

    Of the `seconds` of train steps, `stall_seconds` were spent waiting for the next batch.
    """

    seconds: float = 0.0
    stall_seconds: float = 0.0
    compile_seconds: float = 0.0
    dev_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0

    def rates(self) -> dict[str, float]:
        """Return the rates of training; of batched seeds, those of the whole group."""
        seconds = max(self.seconds, 1e-9)
        return {
            "examples_per_s": self.examples / seconds,
            "useful_tokens_per_s": self.tokens / seconds,
            "input_stall_share": self.stall_seconds / seconds,
        }

    @property
    def total_seconds(self) -> float:
        """Time of train steps, compilation and dev evaluation."""
        return self.seconds + self.compile_seconds + self.dev_seconds


def info(spec: StageSpec, study: str) -> StageInfo:
    """Return the description of a stage for callbacks."""
    place = spec.condition, spec.name, spec.seed
    return StageInfo(study, *place, spec.total_steps, spec.folder)


class Run:
    """A seed of a stage that is being trained.

    Attributes:
      spec: what is trained.
      record: its folder.
      store: its checkpoints, written in the name of this run.
      start: returns the parameters to start from; called only without a checkpoint.
      confirm: called before anything is written; raises ClaimLostError if the folder may belong to
        another process by now.
      info: description of the stage for callbacks.
      speed: its part of the group's time.
      ended: whether it has finished or diverged; nothing more is written then.
      saved_step: step of the newest checkpoint, 0 if there is none.
      scored_step: step of the newest checkpoint with dev scores, 0 if there is none.
      error: why it diverged.
      given_up: note of this attempt if another one follows.
    """

    def __init__(
        self,
        spec: StageSpec,
        start: Callable[[], Params],
        confirm: Callable[[], None] = lambda: None,
        calls: Calls | None = None,
    ):
        self.spec, self.start, self.confirm = spec, start, confirm
        self._calls = calls or Calls()
        self.info = info(spec, self._calls.study)
        self.record = spec.record
        owner = secrets.token_hex(8)
        self.store = self.record.checkpoints(spec.settings.task, confirm, owner)
        self._reset()

    def _reset(self) -> None:
        self.speed = Speed()
        self.ended = False
        self.error: DivergedError | None = None
        self.given_up: dict[str, Any] | None = None
        self.saved_step = self.scored_step = 0
        self._skipped: list[int] = []
        self._evaluations_without_gain = 0
        self._log: trackers.MetricsLog | None = None

    @property
    def seed(self) -> int:
        """Seed of the current attempt."""
        return self.spec.attempt_seed()

    def prepare(self) -> bool:
        """Make the folder ready for training; return whether there is anything to train."""
        self._reset()
        self.confirm()
        if self.record.is_trained():
            self.record.tidy(self.spec.settings.task, self.confirm)  # A kill may have prevented it.
            return False
        restarts.complete(self.spec.folder)
        return True

    def restore(self, shapes: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Return step and items, of the given shapes, of the newest intact checkpoint, if any."""
        restored = self.store.restore_newest(shapes)
        if restored is None:
            return None
        checkpoint, items = restored
        self._evaluations_without_gain = checkpoint.notes["evaluations_without_gain"]
        self._skipped = list(checkpoint.notes.get("skipped_steps", ()))
        self.speed = Speed(**checkpoint.notes["speed"])
        self.saved_step = checkpoint.step
        self.scored_step = checkpoint.step if checkpoint.notes["dev"] is not None else 0
        say(f"{self.spec.title}: continues after step {checkpoint.step}")
        return checkpoint.step, items

    def open_log(self, step: int, tracking: Tracking) -> None:
        """Continue metrics.jsonl and the trackers after `step`."""
        self.confirm()
        sinks = tracking.open(self.spec, self.info, step)
        self._log = trackers.MetricsLog(
            self.spec.folder, step, sinks, scored=self.scored_step == step
        )

    def close_log(self) -> None:
        """Close what `open_log` opened."""
        if self._log is not None:
            self._log.close()

    def log_step(
        self, step: int, values: dict[str, float], examples: Callable[[], list[str]]
    ) -> None:
        """Log a step's metrics; if they are not finite, note the skipped step or stop the run.

        Args:
          step: number of the step, from 1.
          values: metrics by name.
          examples: returns the ids of the batch's examples.
        """
        self._calls("on_step", self.info, step, values)
        # A gradient that is not finite has spoilt the parameters, whatever the loss was.
        bad = [name for name in ("loss", "gradient_norm") if not np.isfinite(values[name])]
        train = self.spec.settings.train
        if bad:
            problem = f"the {bad[0].replace('_', ' ')} of step {step} is {values[bad[0]]}"
            if len(self._skipped) == train.max_skipped_steps:
                self._fail(step, problem, examples())
                return
            self._skipped.append(step)
            self._write(step, "skipped", problem=problem, examples=examples())
            count = f"skipped, {len(self._skipped)} of at most {train.max_skipped_steps}"
            warn(f"{self.spec.title}  {problem}: {count}")
        elif step % train.log_every == 0 or step == 1:
            rates, seconds = self.speed.rates(), self.speed.total_seconds
            self._write(step, "train", **values, **rates, seconds=seconds)

    def log_dev(self, step: int, outputs: np.ndarray, scores: Scores) -> None:
        """Log a step's dev scores and count the evaluations without gain, or stop the run.

        The outputs are not finite if the last update has spoilt the parameters.
        """
        if not np.isfinite(outputs).all():
            self._fail(step, f"outputs for dev after step {step} are not finite")
            return
        metric = self.spec.settings.task.metric
        gains = self.store.improves(scores[metric])
        self._evaluations_without_gain = 0 if gains else self._evaluations_without_gain + 1
        self._write(step, "dev", metrics=finite(scores), best=gains)
        self._calls("on_evaluate", self.info, step, scores, gains)
        say(
            f"{self.spec.title}  step {step}/{self.spec.total_steps}  dev {metric} "
            f"{scores[metric]:.4f}{'  best so far' if gains else ''}"
        )

    def save(self, step: int, items: dict[str, Any], scores: Scores | None) -> None:
        """Write a checkpoint of parameters and optimizer state, or stop the run if they are spoilt.

        A checkpoint without scores is there to continue from; it is never the best. Its scores are
        added when the same step is saved again with them.
        """
        if step == self.saved_step and (scores is None or step == self.scored_step):
            return
        if bad := nonfinite(items):
            self._fail(step, f"after step {step}, {bad[0]} is not finite")
            return
        self.confirm()
        notes = {
            "dev": None if scores is None else finite(scores),
            "evaluations_without_gain": self._evaluations_without_gain,
            "skipped_steps": self._skipped,
            "speed": dataclasses.asdict(self.speed),
        }
        score = np.nan if scores is None else scores[self.spec.settings.task.metric]
        if step == self.saved_step:
            self.store.add_score(score, notes)
        else:
            self.store.save(step, items, score, notes)
        self.saved_step = step
        self.scored_step = self.scored_step if scores is None else step

    def is_at_end(self, step: int) -> bool:
        """Return whether all steps are taken or the patience has run out."""
        patience = self.spec.settings.train.patience
        out_of_patience = bool(patience) and self._evaluations_without_gain >= patience
        return step >= self.spec.total_steps or out_of_patience

    def finish(self, step: int, plan: TrainPlan, dev: Tokenized) -> None:
        """Mark the run as finished after `step`, or give the attempt up if it has not learned."""
        self.ended = True
        attempts = self.record.attempts()
        best, damaged = self.store.best_whole()
        if best is None:
            raise CheckpointError(
                "no checkpoint is intact, so the stage cannot be finished",
                where=str(self.spec.folder),
                hint="run the same command again: it repeats this stage.",
                details=damaged,
            )
        allowed = self.spec.settings.max_restarts
        if len(attempts) < allowed and (why := self._why_not_learned(best.notes, dev)):
            warn(f"{self.spec.title}  restarts, {len(attempts) + 1} of {allowed}: {why}")
            self.given_up = {
                "attempt_seed": self.seed,
                "why": why,
                "steps": step,
                "seconds": self.speed.total_seconds,
            }
            return
        done = {
            "steps": step,
            "total_steps": self.spec.total_steps,
            "best_step": best.step,
            "stopped_early": step < self.spec.total_steps,
            "bucket_sizes": list(plan.bucket_sizes),
            "padding_share": plan.padding_share(),
            "seconds": self.speed.total_seconds,
            "compile_seconds": self.speed.compile_seconds,
            **self.speed.rates(),
            "dev": best.notes["dev"],
            "restarts": attempts,
            "damaged": damaged,
            DIGEST: file_digest(self.spec.folder / METRICS),
            "skipped_steps": self._skipped,
        }
        # In this order: without the note, the next start needs all of the newest checkpoint.
        self.record.write(DONE, done, self.confirm)
        self.store.finish(done)

    def give_up(self) -> None:
        """Put the files of an attempt that was given up aside."""
        assert self.given_up is not None
        self.confirm()
        restarts.give_up(self.spec.folder, self.given_up)

    def _fail(self, step: int, problem: str, examples: Sequence[str] = ()) -> None:
        self.ended = True
        if examples:
            shown = ", ".join(examples[:MAX_EXAMPLES])
            more = len(examples) - MAX_EXAMPLES
            problem += f"; its examples: {shown}{f' and {more} more' if more > 0 else ''}"
        self.error = DivergedError(
            problem,
            where=self.spec.title,
            hint="lower optimizer.learning_rate, lengthen the warm-up, or compute in float32; the "
            f"newest checkpoint is from before this step. Delete {FAILED} in {self.spec.folder} "
            "to let the same command try again.",
        )
        note = {
            "step": step,
            "error": f"{self.error.where}: {self.error.what}",
            "examples": list(examples),
        }
        self.record.write(FAILED, note, self.confirm)

    def _why_not_learned(self, notes: Mapping[str, Any], dev: Tokenized) -> str:
        scores = {name: np.nan if x is None else x for name, x in notes["dev"].items()}
        form = task_type(self.spec.settings.task)
        name, score = form.learning_score(scores, dev.choices)
        classes = form.effective_classes(dev.label.tolist())
        return restarts.why_not_learned(name, score, len(dev.id), classes)

    def _write(self, step: int, kind: str, **values: Any) -> None:
        assert self._log is not None
        self.confirm()
        with storage_errors(self.spec.folder / METRICS):
            self._log.write(step, kind, **values)
