"""Training of a stage, for one seed or several in one program: load, plan, step, evaluate, save.

A run starts from its newest intact checkpoint if an earlier process left one, else from the
parameters it is given.
"""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.data.loader import BatchSize, train_examples
from flaxfer.errors import PreemptedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.runtime import memory, signals
from flaxfer.runtime.bars import StageBar, doing
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.progress import say, warn
from flaxfer.runtime.sharding import placed_shapes, row_shards, seed_mesh, tree_shardings, whole
from flaxfer.runtime.trees import Params
from flaxfer.tasks.base import Scores
from flaxfer.training.data import StageData, example_ids
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.programs import Programs
from flaxfer.training.record import placed
from flaxfer.training.run import Run
from flaxfer.training.state import from_items, init_state, param_items, stack, unstack
from flaxfer.training.step import StepSpec, compiled_programs, make_train_step
from flaxfer.training.tracking import NO_TRACKING, Tracking


def train(
    runs: Sequence[Run],
    data: StageData,
    mesh: jax.sharding.Mesh,
    tracking: Tracking = NO_TRACKING,
) -> None:
    """Train a stage of one or several seeds to its end, or from where it was.

    Several seeds run as one program, with the results that they have one by one. Finished runs are
    left out. Seeds that were killed after different steps continue apart. Runs that have not
    learned start again, at most as often as the stage's settings allow.

    Args:
      runs: of specs that differ in seed and start alone.
      data: of the stage.
      mesh: of the devices.
      tracking: further sinks of the metrics.

    Raises:
      DivergedError: the loss, the gradient or the parameters of a seed are not finite. The other
        seeds are trained to their end first.
      PreemptedError: a signal asked for a stop, see `flaxfer.runtime.signals`. The last step is
        saved.
      ConfigError: memory has run out.
    """
    errors = []
    pending = [run for run in runs if run.prepare()]
    while pending:
        for group in _by_step(pending):
            signals.check()
            loop = _Loop(group, data, mesh)
            try:
                loop.run(tracking)
            finally:
                loop.close()
        errors += [run.error for run in pending if run.error is not None]
        restarted = [run for run in pending if run.given_up is not None]
        for run in restarted:
            run.give_up()
        pending = [run for run in restarted if run.prepare()]
    if errors:
        first, *others = errors
        first.details = tuple(f"{error.where}: {error.what}" for error in others)
        raise first


def _by_step(runs: list[Run]) -> list[list[Run]]:
    """Group the runs by the step that they continue from: only equal ones can be one program."""
    if len(runs) < 2:
        return [runs]
    groups = collections.defaultdict(list)
    for run in runs:
        newest = run.store.newest_whole()
        groups[newest.step if newest else 0].append(run)
    if len(groups) > 1:
        where = "; ".join(f"{_seeds(group)} after step {step}" for step, group in groups.items())
        spec = runs[0].spec
        say(f"{spec.condition}/{spec.name}: seeds continue apart: {where}")
    return list(groups.values())


def _seeds(runs: Sequence[Run]) -> str:
    numbers = ", ".join(str(run.spec.seed) for run in runs)
    return f"seed {numbers}" if len(runs) == 1 else f"seeds {numbers}"


class _Loop:
    """The loop of a stage. Its order is fixed: step, evaluate if due, save if due, perhaps stop.

    It is the same for one seed and for several. The arrays of several lead with an axis of seeds; a
    seed that has ended keeps its place, and its results there are ignored.
    """

    def __init__(self, runs: Sequence[Run], data: StageData, mesh: jax.sharding.Mesh):
        self._runs, self._data, self._whole_mesh = runs, data, mesh
        self._spec = runs[0].spec  # The specs differ in seed and start alone.
        self._batched = len(runs) > 1
        self._mesh = seed_mesh(mesh, len(runs)) if self._batched else mesh
        self._title = f"{self._spec.condition}/{self._spec.name} {_seeds(runs)}"
        self._programs = Programs()
        self._bar: StageBar | None = None
        self._unread: tuple[int, dict[str, jax.Array], BatchSize] | None = None

    def run(self, tracking: Tracking) -> None:
        """Take all steps of the plan, or stop when every seed has ended or a signal arrives."""
        self._step, self._saved = 0, time.monotonic()
        with doing(f"{self._title}  planning the batches"):
            self._plan()
        loading = doing(f"{self._title}  loading parameters")
        with loading, memory.explained(self._title, self._describe):
            self._load()
        self._note_place()
        for run in self._runs:
            run.open_log(self._step, tracking)
        steps_per_epoch = train_examples(self._data.train) / self._batches.train.batch_size
        total = self._batches.total_steps
        self._bar = StageBar(self._title, self._step, total, steps_per_epoch)
        try:
            with memory.explained(self._title, self._describe):
                self._train()
        except PreemptedError:
            if not self._is_saved():  # Perhaps in an evaluation, which is repeated later.
                self._save()
            raise signals.stopped() from None

    def _train(self) -> None:
        if self._is_evaluation_due() and not self._is_scored():  # Stopped in an evaluation.
            self._evaluate_and_save()
        self._finish_ended()  # Killed after the last save.
        if not self._active:
            return
        self._compile_ahead()
        self._start_clock()
        asked = time.monotonic()
        for size, batch in self._batches.batches(self._step, self._mesh):
            self._waited += time.monotonic() - asked
            metrics = self._take_step(batch)
            # The metrics are read one step late: the device has the next step by then, and never
            # waits for the host.
            self._read()
            self._unread = (self._step, metrics, size)
            if self._is_evaluation_due() and self._active:
                self._read()
                self._evaluate_and_save()
                self._finish_ended()
            elif self._is_save_due() and self._active:
                self._save()
            if not self._active:
                break
            signals.check()
            asked = time.monotonic()

    def close(self) -> None:
        """Close the bar and the logs, and end the thread that compiles."""
        signals.release()
        signals.at("")
        self._programs.close()
        if self._bar is not None:
            self._bar.close()
        for run in self._runs:
            run.close_log()

    @property
    def _active(self) -> list[tuple[int, Run]]:
        """Index and run of the seeds that have not ended."""
        return [(i, run) for i, run in enumerate(self._runs) if not run.ended]

    def _plan(self) -> None:
        """Plan the batches, and make the step and the evaluator."""
        settings, spec = self._spec.settings, self._spec
        seeds = tuple(run.seed for run in self._runs)
        self._batches = self._data.plan(seeds, row_shards(self._mesh))
        rehearsal, dtype = self._data.rehearsal, jnp.dtype(spec.dtype)
        self._step_spec = StepSpec(
            model=spec.trained_model,
            task=settings.task,
            label_smoothing=settings.train.label_smoothing,
            optimizer=settings.optimizer,
            total_steps=self._batches.total_steps,
            dtype=dtype,
            remat=settings.train.remat,
            attention=settings.train.attention,
            batched_seeds=self._batched,
            rehearsed=rehearsal.objective(settings.train, settings.lora) if rehearsal else None,
            # Elsewhere without effect; conditions whose specs are equal share their programs.
            fresh=spec.fresh if settings.optimizer.l2_sp else (),
            skip_nonfinite=settings.train.max_skipped_steps > 0,
        )
        self._train_step = make_train_step(self._step_spec, self._mesh)
        self._evaluator = Evaluator(spec.model, settings.task, settings.train, dtype, self._mesh)
        platform = self._mesh.devices.flat[0].platform
        keys = [dropout_key(seed, platform, self._mesh.size) for seed in seeds]
        self._key = jnp.stack(keys) if self._batched else keys[0]
        self._steps_per_evaluation = settings.train.eval_every or math.ceil(
            train_examples(self._data.train) / self._batches.train.batch_size
        )

    def _load(self) -> None:
        """Restore the newest checkpoints, or start from the given parameters."""
        spec = self._step_spec
        params = spec.param_shapes()
        optimizer = make_optimizer(spec.optimizer, spec.total_steps, params, spec.fresh)
        items = param_items(params, self._spec.settings.lora)
        shapes = {**items, "opt_state": jax.eval_shape(optimizer.init, params)}
        shapes = placed(shapes, self._whole_mesh)
        states = []
        for run in self._runs:
            restored = run.restore(shapes)
            if restored is None:
                states.append(init_state(run.start(), optimizer, self._whole_mesh))
            else:
                self._step, items = restored
                step = jax.device_put(np.int32(self._step), whole(self._whole_mesh))
                states.append(from_items(step, items, functools.partial(self._start, run)))
        self._state = stack(states, self._mesh) if self._batched else states[0]

    def _start(self, run: Run) -> Params:
        """Return the parameters that a run starts from, placed."""
        params = run.start()
        placed_params: Params = jax.device_put(params, tree_shardings(params, self._whole_mesh))
        return placed_params

    def _compile_ahead(self) -> None:
        """Start to compile the programs of the stage, beginning with the next step's."""
        state = placed_shapes(self._state)
        for batch in self._batches.shapes(self._step, self._mesh):
            lower = functools.partial(self._train_step.lower, state, batch, self._key)
            self._programs.plan(batch["token_BT"].shape, lower)
        params, dev = param_items(state.params, self._spec.settings.lora)["params"], self._data.dev
        lower = functools.partial(self._evaluator.lower, params, dev, len(self._runs))
        self._programs.plan("dev", lower)

    def _take_step(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Start a step; return its metrics. Waiting for its program counts as compilation."""
        shape = batch["token_BT"].shape
        if self._programs.is_planned(shape):
            self._read()  # Else the step before would compute in the time of this compilation.
        programs, called = compiled_programs(self._train_step), time.monotonic()
        self._wait(shape)
        self._state, metrics = self._train_step(self._state, batch, self._key)
        self._step += 1
        signals.hold()
        if compiled_programs(self._train_step) > programs:
            seconds = time.monotonic() - called
            for _, run in self._active:
                run.speed.compile_seconds += seconds / len(self._active)
            self._mark += seconds
        return metrics

    def _wait(self, program: Hashable) -> None:
        """Wait for a program that is compiled ahead."""
        if self._programs.is_planned(program):
            with doing("compiling"):
                self._programs.wait(program)

    def _read(self) -> None:
        """Log the metrics not read yet, and count the step's speed."""
        if self._unread is None:
            return
        (step, metrics, size), self._unread = self._unread, None
        values = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        now, active = time.monotonic(), self._active
        for i, run in active:
            run.speed.seconds += (now - self._mark) / len(active)
            run.speed.stall_seconds += self._waited / len(active)
            run.speed.examples += size.examples // len(self._runs)
            run.speed.tokens += size.tokens // len(self._runs)
            numbers = {name: float(value[i]) for name, value in values.items()}
            run.log_step(step, numbers, functools.partial(example_ids, self._batches, step - 1, i))
            self._say_others_continue(run)
        self._start_clock(now)
        assert self._bar is not None
        loss = float(np.mean([values["loss"][i] for i, _ in active]))
        self._bar.update(step, loss, **active[0][1].speed.rates())

    def _say_others_continue(self, run: Run) -> None:
        if run.error is not None and self._batched:
            warn(f"{run.error.where}: {run.error.what}; the other seeds continue")

    def _is_evaluation_due(self) -> bool:
        at_end = self._step == self._batches.total_steps
        return at_end or self._step % self._steps_per_evaluation == 0

    def _is_save_due(self) -> bool:
        """Return whether a checkpoint without an evaluation is due; 0 is never."""
        train, seconds = self._spec.settings.train, time.monotonic() - self._saved
        by_time = train.save_minutes and seconds >= 60 * train.save_minutes
        return bool(by_time or (train.save_every and self._step % train.save_every == 0))

    def _is_saved(self) -> bool:
        return all(run.saved_step == self._step for _, run in self._active)

    def _is_scored(self) -> bool:
        return all(run.scored_step == self._step for _, run in self._active)

    def _evaluate_and_save(self) -> None:
        """Score the dev split and save, for every seed that has not ended and is not scored yet."""
        if not self._active:
            return
        began, dev = time.monotonic(), self._data.dev
        params = param_items(self._state.params, self._spec.settings.lora)["params"]
        self._wait("dev")
        with doing("scoring dev"):
            results = self._evaluator.predict_seeds(params, dev, len(self._runs))
        active = [(i, run) for i, run in self._active if run.scored_step != self._step]
        seconds = time.monotonic() - began
        for i, run in active:
            run.speed.dev_seconds += seconds / len(active)
            run.log_dev(self._step, *results[i])
            self._say_others_continue(run)
        self._save({i: scores for i, (_, scores) in enumerate(results)})

    def _save(self, scores: Mapping[int, Scores] | None = None) -> None:
        """Write a checkpoint of every seed that has not ended, with its scores if it has some."""
        self._read()  # If the step has spoilt the parameters, they are not saved.
        with doing("writing a checkpoint"):
            for i, run in self._active:
                items: Any = self._state.items(self._spec.settings.lora)
                if self._batched:
                    items = unstack(items, i, self._whole_mesh)
                run.save(self._step, items, scores[i] if scores else None)
                self._say_others_continue(run)
        self._saved = time.monotonic()
        self._note_place()
        signals.release()
        self._start_clock()

    def _note_place(self) -> None:
        """Note for a stop after which step this stage would go on."""
        total = self._batches.total_steps
        step = f"after step {self._step} of {total}" if self._step else "before its first step"
        signals.at(f"{self._title} {step}")

    def _finish_ended(self) -> None:
        """Mark the runs that are at their end as finished, while the others continue."""
        for _, run in self._active:
            if run.is_at_end(self._step):
                run.finish(self._step, self._batches, self._data.dev)

    def _describe(self) -> tuple[str, str]:
        """Return what takes memory, and how to need less."""
        train = self._spec.settings.train
        sizes = [f"batches of {train.batch_size} examples, {self._batches.bucket_sizes[-1]} rows"]
        sizes[0] += f" of {train.row_length} tokens at a time"
        params = jax.tree.leaves(self._step_spec.param_shapes())
        count = sum(leaf.size for leaf in params) * len(self._runs)
        sizes.append(f"{4 * count:,} bytes of parameters, and moments and gradients beside them")
        remedies = [
            "raise train.gradient_accumulation_steps (the same batches, fewer rows at a time)",
            "set train.remat='full'",
            "lower train.batch_size, train.max_length or train.eval_rows",
        ]
        if self._batched:
            remedies.append("set batched_seeds=1")
        if self._mesh.size > 1:
            remedies.append("raise mesh.fsdp")
        kept = "Checkpoints are kept: the same command continues."
        return "; ".join(sizes), f"{'; or '.join(remedies)}. {kept}"

    def _start_clock(self, now: float | None = None) -> None:
        """Start to measure the next step."""
        self._mark, self._waited = time.monotonic() if now is None else now, 0.0
