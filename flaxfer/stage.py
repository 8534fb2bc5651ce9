"""One stage: fine-tune from a start to the best dev checkpoint.

How a stage starts, in this order: its newest good checkpoint, if an earlier run of the same
command left one; else the parameters it is given.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer import config, trackers
from flaxfer.checkpoint import CheckpointStore, restore, write_atomically
from flaxfer.data.loader import BatchSize, TrainPlan, train_examples
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import CheckpointError, DivergedError
from flaxfer.evaluate import Evaluator, finite
from flaxfer.metrics import METRICS
from flaxfer.optim import Params, make_optimizer
from flaxfer.prng import dropout_key
from flaxfer.progress import StageBar, say
from flaxfer.sharding import row_shards, tree_shardings, whole
from flaxfer.state import TrainState, init_state
from flaxfer.step import make_train_step, programs
from flaxfer.trackers import MetricsLog

DONE = "done.json"


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One fine-tuning with all that it depends on.

    Attributes:
      title: for the eye, such as `staged/target seed 0`.
      folder: of this stage in the store; named by its identity.
      settings: its part of the config.
      seed: of order, heads and dropout.
      train, dev: the splits.
      evaluator: the model's graph, the mesh, and how to score.
      param_shapes: nested dict of `ShapeDtypeStruct`.
      dropout: whether the model has any.
    """

    title: str
    folder: Path
    settings: config.Stage
    seed: int
    train: Tokenized
    dev: Tokenized
    evaluator: Evaluator
    param_shapes: Params
    dropout: bool
    tracker_names: tuple[str, ...] = ()

    @property
    def store(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.folder / "checkpoints", METRICS[self.settings.task.metric])

    @property
    def done(self) -> dict[str, Any] | None:
        """What `train` noted at its end, or None if it has not come to it."""
        path = self.folder / DONE
        return json.loads(path.read_text()) if path.exists() else None

    def best_params(self) -> Params:
        """The parameters of the best dev checkpoint, placed on the mesh.

        Raises:
          CheckpointError: it is gone or damaged.
        """
        best = self.store.best() or self.store.newest()
        if best is None:
            raise CheckpointError(
                f"the stage {self.title} is marked as finished, but its checkpoint is gone",
                where=str(self.folder),
                mend="delete this folder; the same command then repeats the stage.",
            )
        return restore(best, {"params": placed(self.param_shapes, self.evaluator.mesh)})["params"]


def placed(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes and dtypes with the shardings of the mesh, for a restore."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        tree_shardings(shapes, mesh),
    )


def train(run: StageRun, start: Callable[[], Params]) -> dict[str, Any]:
    """Trains a stage to its end, or from where it was, and returns what is in its done.json.

    Args:
      run: the stage.
      start: gives the parameters to begin with; called only if there is no checkpoint.

    Raises:
      DivergedError: the loss or the gradient is not finite.
    """
    if run.done is not None:
        run.store.finish()  # A kill may have come between the two.
        return run.done
    run.folder.mkdir(parents=True, exist_ok=True)
    loop = _Loop(run, start)
    try:
        loop.run()
    finally:
        loop.close()
    best = run.store.best() or run.store.newest()
    assert best is not None  # The last step is always evaluated and saved.
    done = {
        "steps": loop.step,
        "total_steps": loop.plan.total_steps,
        "best_step": best.step,
        "stopped_early": loop.step < loop.plan.total_steps,
        "row_counts": list(loop.plan.row_counts),
        "padding_share": loop.plan.padding_share(),
        **loop.speed.summary(),
        "dev": best.notes["dev"],
    }
    # In this order: without the note, the next start needs all of the newest checkpoint.
    write_atomically(run.folder / DONE, json.dumps(done, indent=1))
    run.store.finish()
    return done


@dataclasses.dataclass
class Speed:
    """What was done in how many seconds; train steps, compiling and dev evaluation apart."""

    seconds: float = 0.0
    compile_seconds: float = 0.0
    dev_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0

    def add(self, seconds: float, size: BatchSize) -> None:
        """Counts a step."""
        self.seconds += seconds
        self.examples += size.examples
        self.tokens += size.tokens

    def summary(self) -> dict[str, float]:
        """Seconds in all, and rates while training."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": self.seconds + self.compile_seconds + self.dev_seconds,
            "compile_seconds": self.compile_seconds,
            "examples_per_s": self.examples / seconds,
            "useful_tokens_per_s": self.tokens / seconds,
        }


class _Loop:
    """The state of a stage's loop. The order is fixed: step, evaluate, save, perhaps stop."""

    def __init__(self, run: StageRun, start: Callable[[], Params]):
        self._run = run
        settings, evaluator = run.settings, run.evaluator
        self.plan = TrainPlan.make(
            run.train, settings.train, run.seed, evaluator.pad_id, row_shards(evaluator.mesh)
        )
        total = self.plan.total_steps
        self._train_step = make_train_step(
            evaluator.graph,
            settings.task,
            settings.optimizer,
            total,
            settings.train.label_smoothing,
            evaluator.dtype,
            run.dropout,
            evaluator.mesh,
            settings.train.keep,
        )
        self._key = dropout_key(run.seed, evaluator.mesh.devices.flat[0].platform)
        self._steps_per_eval = settings.train.eval_every or math.ceil(
            train_examples(run.train) / settings.train.batch_size
        )
        self.speed = Speed()
        self._without_gain = 0
        self.step, self._state = self._continue() or (0, self._begin(start()))
        sinks = trackers.make(run.tracker_names, run.folder, run.title, self.step)
        self._log = MetricsLog(run.folder, self.step, sinks)
        self._bar = StageBar(run.title, self.step, total)

    def run(self) -> None:
        """Steps to the end of the plan, or until the dev metric has stopped to gain."""
        if self._out_of_patience():  # Killed after its last save.
            return
        unread: tuple[int, dict[str, jax.Array], BatchSize | None] | None = None
        self._mark = time.monotonic()
        for size, batch in self.plan.batches(self.step, self._run.evaluator.mesh):
            metrics, compiled = self._step(batch)
            # The metrics are read one step late: the device has the next step by then, and never
            # waits for the host.
            if unread is not None:
                self._read(*unread)
            unread = (self.step, metrics, None if compiled else size)
            if self.step % self._steps_per_eval and self.step < self.plan.total_steps:
                continue
            self._read(*unread)
            unread = None
            self._evaluate_and_save()
            if self._out_of_patience():
                break

    def close(self) -> None:
        """Ends the bar and the log."""
        self._bar.close()
        self._log.close()

    def _out_of_patience(self) -> bool:
        patience = self._run.settings.train.patience
        return bool(patience) and self._without_gain >= patience

    def _begin(self, params: Params) -> TrainState:
        settings = self._run.settings
        optimizer = make_optimizer(settings.optimizer, self.plan.total_steps, params)
        return init_state(params, optimizer, self._run.evaluator.mesh)

    def _continue(self) -> tuple[int, TrainState] | None:
        """Step and state of the newest good checkpoint, if there is one."""
        run, mesh = self._run, self._run.evaluator.mesh
        if run.store.newest() is None:
            return None
        optimizer = make_optimizer(run.settings.optimizer, self.plan.total_steps, run.param_shapes)
        moments = jax.eval_shape(optimizer.init, run.param_shapes)
        found = run.store.restore_newest(
            {"params": placed(run.param_shapes, mesh), "opt_state": placed(moments, mesh)}
        )
        if found is None:
            return None
        checkpoint, items = found
        self._without_gain = checkpoint.notes["evaluations_without_gain"]
        self.speed = Speed(**checkpoint.notes["speed"])
        say(f"{run.title}: continues after step {checkpoint.step}")
        step = jax.device_put(np.int32(checkpoint.step), whole(mesh))
        return checkpoint.step, TrainState(step, **items)

    def _step(self, batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], bool]:
        """Starts a step; gives its metrics, and whether a program was compiled for it."""
        before = programs(self._train_step)
        called = time.monotonic()
        self._state, metrics = self._train_step(self._state, batch, self._key)
        self.step += 1
        compiled = programs(self._train_step) > before
        if compiled:
            jax.block_until_ready(metrics)
            self.speed.compile_seconds += time.monotonic() - called
            self._mark += time.monotonic() - called
        return metrics, compiled

    def _read(self, step: int, metrics: dict[str, jax.Array], size: BatchSize | None) -> None:
        """Takes the metrics of a step; the speed counts it if it was not one that compiled."""
        values = {name: float(value) for name, value in metrics.items()}
        now = time.monotonic()
        if size is not None:
            self.speed.add(now - self._mark, size)
        self._mark = now
        # A gradient that is not finite has spoilt the parameters, whatever the loss was.
        bad = [name for name in ("loss", "gradient_norm") if not np.isfinite(values[name])]
        if bad:
            raise DivergedError(
                f"the {bad[0].replace('_', ' ')} of step {step} is {values[bad[0]]}",
                where=self._run.title,
                mend="lower optimizer.learning_rate, lengthen the warm-up, or compute in float32; "
                "the newest checkpoint is from before this step.",
            )
        rates = self.speed.summary()
        shown = {name: rates[name] for name in ("examples_per_s", "useful_tokens_per_s")}
        self._bar.update(step, values["loss"], *shown.values())
        if step % self._run.settings.train.log_every == 0 or step == 1:
            self._log.write(step, "train", **values, **shown, seconds=rates["seconds"])

    def _evaluate_and_save(self) -> None:
        run, began = self._run, time.monotonic()
        metric = run.settings.task.metric
        best = run.store.best()
        _, scores = run.evaluator.predict(self._state.params, run.dev)
        dev = finite(scores)
        gains = _gains(scores[metric], best.score if best else None, METRICS[metric])
        self._without_gain = 0 if gains else self._without_gain + 1
        self._log.write(self.step, "dev", metrics=dev, best=gains)
        say(
            f"{run.title}  step {self.step}/{self.plan.total_steps}  dev {metric} "
            f"{scores[metric]:.4f}{'  best so far' if gains else ''}"
        )
        self.speed.dev_seconds += time.monotonic() - began
        run.store.save(
            self.step,
            {"params": self._state.params, "opt_state": self._state.opt_state},
            scores[metric],
            {
                "dev": dev,
                "evaluations_without_gain": self._without_gain,
                "speed": dataclasses.asdict(self.speed),
            },
        )
        self._mark = time.monotonic()


def _gains(score: float, best: float | None, larger_is_better: bool) -> bool:
    if not np.isfinite(score):
        return False
    return best is None or (score > best if larger_is_better else score < best)
