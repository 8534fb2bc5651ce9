"""One fine-tuning: all that it depends on, and what is kept of it while it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer import config
from flaxfer.data.packing import REHEARSED
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import CheckpointError, DivergedError
from flaxfer.evaluation.evaluator import Evaluator, finite
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.runtime.sharding import tree_shardings
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.tasks.base import Scores
from flaxfer.training import rehearsal, restarts, trackers
from flaxfer.training.checkpoints import CheckpointStore, restore
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.rows import Trained
from flaxfer.training.trackers import MetricsLog
from flaxfer.training.vocabulary import Vocabulary

DONE = "done.json"
FAILED = "failed.json"


def _nobody_else() -> None:
    """Confirms what no other process can have taken over."""


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One fine-tuning with all that it depends on.

    Attributes:
      name: path and stage, for the eye, such as `staged/target`.
      folder: of this stage in the store; named by its identity.
      settings: its part of the config.
      seed: of order, heads and dropout, and by which the run is named.
      train, dev: the splits, their tokens numbered by `vocabulary`.
      evaluator: the model's graph, the mesh, and how to score.
      vocabulary: the ids that have a row in its word embedding.
      start: `pretrained`, `random`, or the run whose best parameters it begins with.
      rehearsal: what of another task its batches hold.
      new: regular expressions, searched in the paths of parameters that no stage before has and
        no pretraining.
      identity: what the folder is named by.
      confirm: called before anything is written in the folder; raises ClaimLostError if it may
        belong to another process by now.
    """

    name: str
    folder: Path
    settings: config.Stage
    seed: int
    train: Tokenized
    dev: Tokenized
    evaluator: Evaluator
    vocabulary: Vocabulary
    start: StageRun | str
    rehearsal: Rehearsal | None = None
    new: tuple[str, ...] = ()
    tracker_names: tuple[str, ...] = ()
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    confirm: Callable[[], None] = _nobody_else

    @property
    def title(self) -> str:
        """Its name and seed."""
        return f"{self.name} seed {self.seed}"

    @property
    def attempt_seed(self) -> int:
        """The seed of the present attempt, see `flaxfer.training.restarts`."""
        return restarts.drawn_seed(self.seed, len(restarts.records(self.folder)))

    @property
    def store(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(
            self.folder / restarts.CHECKPOINTS,
            task_type(self.settings.task).larger_is_better(self.settings.task.metric),
        )

    @property
    def done(self) -> dict[str, Any] | None:
        """What `stage.train` noted at its end, or None if it has not come to it."""
        path = self.folder / DONE
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def lineage(self) -> list[StageRun]:
        """All runs up to this one, the first one first."""
        return [*(self.start.lineage if isinstance(self.start, StageRun) else []), self]

    @property
    def trained(self) -> Trained:
        """What it did to the word embedding; it is finished."""
        done = self.done
        assert done is not None
        steps = done["best_step"], done["total_steps"]
        return Trained(self.vocabulary, self.best_params, self.settings.optimizer, *steps)

    def best_params(self) -> Params:
        """The parameters of the best dev checkpoint, placed on the mesh.

        Raises:
          CheckpointError: it is gone or damaged.
        """
        return self._best("params", self.evaluator.model.param_shapes())

    def rehearsed_head(self) -> Params:
        """The head of the rehearsed task at the best dev checkpoint, likewise."""
        assert self.rehearsal is not None
        return self._best(REHEARSED, self.rehearsal.head_shapes)

    def _best(self, item: str, shapes: Params) -> Params:
        best = self.store.best() or self.store.newest()
        if best is None:
            raise CheckpointError(
                f"the stage {self.title} is marked as finished, but its checkpoint is gone",
                where=str(self.folder),
                hint="delete this folder; the same command then repeats the stage.",
            )
        return restore(best, {item: placed(shapes, self.evaluator.mesh)})[item]


def placed(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes and dtypes with the shardings of the mesh, for a restore."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        tree_shardings(shapes, mesh),
    )


@dataclasses.dataclass
class Speed:
    """What was done in how many seconds; train steps, compiling and dev evaluation apart.

    Of the `seconds` of train steps, `stall_seconds` were spent waiting for the next batch.
    """

    seconds: float = 0.0
    stall_seconds: float = 0.0
    compile_seconds: float = 0.0
    dev_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0

    def add(self, seconds: float, stall_seconds: float, examples: int, tokens: int) -> None:
        """Counts a step."""
        self.seconds += seconds
        self.stall_seconds += stall_seconds
        self.examples += examples
        self.tokens += tokens

    def rates(self) -> dict[str, float]:
        """Of training. With its share of the time, they are those of the whole group."""
        seconds = max(self.seconds, 1e-9)
        return {
            "examples_per_s": self.examples / seconds,
            "useful_tokens_per_s": self.tokens / seconds,
            "input_stall_share": self.stall_seconds / seconds,
        }

    def summary(self) -> dict[str, float]:
        """Seconds in all, and the rates."""
        return {
            "seconds": self.seconds + self.compile_seconds + self.dev_seconds,
            "compile_seconds": self.compile_seconds,
            **self.rates(),
        }


class Member:
    """A run within its group: its log and checkpoints, and how far it is from its end.

    Attributes:
      run: which one.
      speed: its share of the group's time.
      ended: whether it is finished or has diverged; nothing is written of it then.
      error: why it cannot go on, if it has diverged.
      given_up: what is to be noted of this attempt, if another one follows.
    """

    def __init__(self, run: StageRun, total_steps: int):
        self.run, self.total_steps = run, total_steps
        self.speed = Speed()
        self.ended = False
        self.error: DivergedError | None = None
        self.given_up: dict[str, Any] | None = None
        self._without_gain = 0
        self._log: MetricsLog | None = None

    def restore(self, moments: Any) -> tuple[int, dict[str, Any]] | None:
        """Step, parameters and optimiser state of its newest good checkpoint, if there is one.

        Args:
          moments: shapes and dtypes of the optimiser state.
        """
        mesh = self.run.evaluator.mesh
        shapes = rehearsal.with_head(self.run.evaluator.model.param_shapes(), self.run.rehearsal)
        wanted = {**rehearsal.parted(shapes), "opt_state": moments}
        found = self.run.store.restore_newest(placed(wanted, mesh))
        if found is None:
            return None
        checkpoint, items = found
        self._without_gain = checkpoint.notes["evaluations_without_gain"]
        self.speed = Speed(**checkpoint.notes["speed"])
        say(f"{self.run.title}: continues after step {checkpoint.step}")
        return checkpoint.step, items

    def open_log(self, step: int) -> None:
        """Goes on with metrics.jsonl after `step`."""
        run = self.run
        run.confirm()
        sinks = trackers.make(run.tracker_names, run.folder, run.title, step)
        self._log = MetricsLog(run.folder, step, sinks)

    def close_log(self) -> None:
        """Ends what `open_log` began."""
        if self._log is not None:
            self._log.close()

    def read(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step: writes them, or ends the run that they are the end of."""
        # A gradient that is not finite has spoilt the parameters, whatever the loss was.
        bad = [name for name in ("loss", "gradient_norm") if not np.isfinite(values[name])]
        if bad:
            self.ended = True
            self.error = DivergedError(
                f"the {bad[0].replace('_', ' ')} of step {step} is {values[bad[0]]}",
                where=self.run.title,
                hint="lower optimizer.learning_rate, lengthen the warm-up, or compute in float32; "
                f"the newest checkpoint is from before this step. Without {FAILED} in "
                f"{self.run.folder}, the same command tries it again.",
            )
            self.run.confirm()
            note = {"step": step, "error": f"{self.error.where}: {self.error.what}"}
            write_atomically(self.run.folder / FAILED, json.dumps(note, indent=1))
        elif step % self.run.settings.train.log_every == 0 or step == 1:
            seconds = self.speed.summary()["seconds"]
            self._write(step, "train", **values, **self.speed.rates(), seconds=seconds)

    def evaluated(self, step: int, scores: Scores) -> None:
        """Takes the scores of dev."""
        metric = self.run.settings.task.metric
        best = self.run.store.best()
        larger = task_type(self.run.settings.task).larger_is_better(metric)
        gains = _gains(scores[metric], best.score if best else None, larger)
        self._without_gain = 0 if gains else self._without_gain + 1
        self._write(step, "dev", metrics=finite(scores), best=gains)
        say(
            f"{self.run.title}  step {step}/{self.total_steps}  dev {metric} "
            f"{scores[metric]:.4f}{'  best so far' if gains else ''}"
        )

    def save(self, step: int, items: dict[str, Any], scores: Scores) -> None:
        """Writes a checkpoint of parameters and optimiser state."""
        self.run.confirm()
        self.run.store.save(
            step,
            items,
            scores[self.run.settings.task.metric],
            {
                "dev": finite(scores),
                "evaluations_without_gain": self._without_gain,
                "speed": dataclasses.asdict(self.speed),
            },
        )

    def at_end(self, step: int) -> bool:
        """Whether all steps are taken, or the dev metric has stopped to gain."""
        patience = self.run.settings.train.patience
        return step >= self.total_steps or (bool(patience) and self._without_gain >= patience)

    def finish(self, step: int, plan: dict[str, Any]) -> None:
        """Marks the run as finished, with what is to be known of it, and of its plan.

        A run that has not learned, and may be restarted, is not finished: `given_up` tells.
        """
        self.ended = True
        run, earlier = self.run, restarts.records(self.run.folder)
        best = run.store.best() or run.store.newest()
        assert best is not None  # The last step is always evaluated and saved.
        if len(earlier) < run.settings.restarts and (why := self._why_not_learned(best.notes)):
            say(f"{run.title}  starts anew, {len(earlier) + 1} of {run.settings.restarts}: {why}")
            seconds = self.speed.summary()["seconds"]
            self.given_up = {
                "attempt_seed": run.attempt_seed,
                "why": why,
                "steps": step,
                "seconds": seconds,
            }
            return
        done = {
            "steps": step,
            "total_steps": self.total_steps,
            "best_step": best.step,
            "stopped_early": step < self.total_steps,
            **plan,
            **self.speed.summary(),
            "dev": best.notes["dev"],
            "restarts": earlier,
        }
        self.run.confirm()
        # In this order: without the note, the next start needs all of the newest checkpoint.
        write_atomically(self.run.folder / DONE, json.dumps(done, indent=1))
        self.run.store.finish()

    def _why_not_learned(self, notes: Mapping[str, Any]) -> str:
        dev, form = self.run.dev, task_type(self.run.settings.task)
        scores = {name: np.nan if x is None else x for name, x in notes["dev"].items()}
        return restarts.why_not_learned(*form.learning_score(scores, dev.choices), len(dev.label))

    def _write(self, step: int, kind: str, **values: Any) -> None:
        assert self._log is not None
        self.run.confirm()
        self._log.write(step, kind, **values)


def _gains(score: float, best: float | None, larger_is_better: bool) -> bool:
    if not np.isfinite(score):
        return False
    return best is None or (score > best if larger_is_better else score < best)
