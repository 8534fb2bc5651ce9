"""Fine-tuning of a stage from a start to the best dev checkpoint, for one seed or a group of them.

How a run starts, in this order: its newest good checkpoint, if an earlier run of the same command
left one; else the parameters it is given.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.data.loader import BatchSize, train_examples
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.progress import StageBar, say
from flaxfer.runtime.sharding import row_shards, seed_mesh, whole
from flaxfer.runtime.trees import Params
from flaxfer.training import rehearsal, restarts
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.stage_run import Member, StageRun
from flaxfer.training.state import TrainState, init_state, stack, unstack
from flaxfer.training.step import StepSpec, compiled_programs, make_train_step

Item = TypeVar("Item")
Start = Callable[[], Params]
"""Gives the parameters to begin with; called only if there is no checkpoint."""


def train(jobs: Sequence[tuple[StageRun, Start]]) -> None:
    """Trains a stage of one or several seeds to its end, or from where it was.

    Several seeds run as one program, with the results that they have one by one. What is finished
    is left out. Seeds that were killed after different steps go on apart. Those that have not
    learned are trained anew, as often as `restarts` of the stage says.

    Args:
      jobs: runs that differ in seed, folder and start alone.

    Raises:
      DivergedError: the loss or the gradient of a seed is not finite. The others are trained to
        their end before.
    """
    left = []
    for run, start in jobs:
        if run.done is None:
            run.folder.mkdir(parents=True, exist_ok=True)
            run.confirm()
            restarts.tidy(run.folder)
            left.append((run, start))
        else:
            run.store.finish()  # A kill may have come between the two.
    errors = []
    while left:
        again = []
        for group in _by_step(left):
            loop = _Loop(group)
            try:
                loop.run()
            finally:
                loop.close()
            errors += [member.error for member in loop.members if member.error is not None]
            for job, member in zip(group, loop.members, strict=True):
                if member.given_up is not None:
                    member.run.confirm()
                    restarts.give_up(member.run.folder, member.given_up)
                    again.append(job)
        left = again
    if errors:
        first, *others = errors
        first.details = tuple(f"{error.where}: {error.what}" for error in others)
        raise first


def _by_step(jobs: list[tuple[StageRun, Start]]) -> list[list[tuple[StageRun, Start]]]:
    """The jobs that go on from the same step: only those can be one program."""
    if len(jobs) < 2:
        return [jobs] if jobs else []
    groups = collections.defaultdict(list)
    for run, start in jobs:
        newest = run.store.newest_whole()
        groups[newest.step if newest else 0].append((run, start))
    if len(groups) > 1:
        where = "; ".join(f"{_seeds(group)} after step {step}" for step, group in groups.items())
        say(f"{jobs[0][0].name}: continues apart what stopped at different steps: {where}")
    return list(groups.values())


def _seeds(jobs: Sequence[tuple[StageRun, Start]]) -> str:
    numbers = ", ".join(str(run.seed) for run, _ in jobs)
    return f"seed {numbers}" if len(jobs) == 1 else f"seeds {numbers}"


class _Loop:
    """The state of a stage's loop. The order is fixed: step, evaluate, save, perhaps stop.

    It is the same for one seed and for a group. The arrays of a group lead with an axis of seeds;
    a seed that has ended keeps its place, and what is computed there is not looked at.
    """

    def __init__(self, jobs: Sequence[tuple[StageRun, Start]]):
        run = self._run = jobs[0][0]  # All but seed, folder and start is the same for all.
        settings, evaluator = run.settings, run.evaluator
        self._seeds = len(jobs)
        self._batched_seeds = len(jobs) > 1
        if self._batched_seeds:
            evaluator = dataclasses.replace(evaluator, mesh=seed_mesh(evaluator.mesh, len(jobs)))
        self._evaluator = evaluator
        seeds = tuple(run.attempt_seed for run, _ in jobs)
        shards, other = row_shards(evaluator.mesh), run.rehearsal
        self.plan = rehearsal.plan(
            run.train, settings.train, seeds, evaluator.pad_id, shards, other
        )
        total = self.plan.total_steps
        spec = StepSpec(
            model=evaluator.model,
            task=settings.task,
            label_smoothing=settings.train.label_smoothing,
            optimizer=settings.optimizer,
            total_steps=total,
            dtype=evaluator.dtype,
            remat=settings.train.remat,
            attention=settings.train.attention,
            batched_seeds=self._batched_seeds,
            rehearsed=other.objective(settings.train) if other else None,
            fresh=run.new,
        )
        self._train_step = make_train_step(spec, evaluator.mesh)
        platform, devices = evaluator.mesh.devices.flat[0].platform, evaluator.mesh.size
        keys = [dropout_key(seed, platform, devices) for seed in seeds]
        self._key = jnp.stack(keys) if self._batched_seeds else keys[0]
        self._steps_per_eval = settings.train.eval_every or math.ceil(
            train_examples(run.train) / self.plan.train.batch_size
        )
        self.members = [Member(run, total) for run, _ in jobs]
        shapes = rehearsal.with_head(run.evaluator.model.param_shapes(), other)
        optimizer = make_optimizer(settings.optimizer, total, shapes, run.new)
        moments = jax.eval_shape(optimizer.init, shapes)
        begun = []
        for member, (_, start) in zip(self.members, jobs, strict=True):
            begun.append(self._begin(member, moments, start))
        self.step = begun[0][0]
        states = [state for _, state in begun]
        self._state = stack(states, evaluator.mesh) if self._batched_seeds else states[0]
        for member in self.members:
            member.open_log(self.step)
        title = f"{run.name} {_seeds(jobs)}"
        self._bar = StageBar(title, self.step, total)

    def run(self) -> None:
        """Steps to the end of the plan, or until no seed is left that goes on."""
        self._finish_ended()  # Killed after the last save.
        if not self._left:
            return
        unread: tuple[int, dict[str, jax.Array], BatchSize | None] | None = None
        self._mark, self._waited = time.monotonic(), 0.0
        for waited, (size, batch) in _timed(self.plan.batches(self.step, self._evaluator.mesh)):
            self._waited += waited
            metrics, compiled = self._step(batch)
            # The metrics are read one step late: the device has the next step by then, and never
            # waits for the host.
            if unread is not None:
                self._read(*unread)
            unread = (self.step, metrics, None if compiled else size)
            due = self.step % self._steps_per_eval == 0 or self.step == self.plan.total_steps
            if due and self._left:
                self._read(*unread)
                unread = None
                self._evaluate_and_save()
                self._finish_ended()
            if not self._left:
                break

    def close(self) -> None:
        """Ends the bar and the logs."""
        self._bar.close()
        for member in self.members:
            member.close_log()

    @property
    def _left(self) -> list[Member]:
        """Those that go on."""
        return [member for member in self.members if not member.ended]

    def _begin(self, member: Member, moments: Any, start: Start) -> tuple[int, TrainState]:
        """The step and state that a member goes on from."""
        mesh = self._run.evaluator.mesh
        found = member.restore(moments)
        if found is not None:
            step, items = found
            count, params = jax.device_put(np.int32(step), whole(mesh)), rehearsal.joined(items)
            return step, TrainState(count, params, items["opt_state"])
        params, settings = start(), self._run.settings
        optimizer = make_optimizer(settings.optimizer, self.plan.total_steps, params, self._run.new)
        return 0, init_state(params, optimizer, mesh)

    def _step(self, batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], bool]:
        """Starts a step; gives its metrics, and whether a program was compiled for it."""
        before = compiled_programs(self._train_step)
        called = time.monotonic()
        self._state, metrics = self._train_step(self._state, batch, self._key)
        self.step += 1
        compiled = compiled_programs(self._train_step) > before
        if compiled:
            jax.block_until_ready(metrics)
            seconds = time.monotonic() - called
            for member in self._left:
                member.speed.compile_seconds += seconds / len(self._left)
            self._mark += seconds
        return metrics, compiled

    def _read(self, step: int, metrics: dict[str, jax.Array], size: BatchSize | None) -> None:
        """Takes the metrics of a step; the speed counts it if it was not one that compiled."""
        values = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        left = [(i, member) for i, member in enumerate(self.members) if not member.ended]
        for i, member in left:
            if size is not None:
                share = [count // self._seeds for count in (size.examples, size.tokens)]
                took, waited = (now - self._mark) / len(left), self._waited / len(left)
                member.speed.add(took, waited, *share)
            member.read(step, {name: float(value[i]) for name, value in values.items()})
            if member.error is not None and self._batched_seeds:
                say(f"{member.error.where}: {member.error.what}; the other seeds go on")
        self._mark, self._waited = now, 0.0
        loss = float(np.mean([values["loss"][i] for i, _ in left]))
        self._bar.update(step, loss, **left[0][1].speed.rates())

    def _evaluate_and_save(self) -> None:
        if not self._left:
            return
        began = time.monotonic()
        trained = rehearsal.parted(self._state.params)
        predicted = self._evaluator.predict_seeds(trained["params"], self._run.dev, self._seeds)
        left = [i for i, member in enumerate(self.members) if not member.ended]
        for i in left:
            self.members[i].evaluated(self.step, predicted[i][1])
        seconds = time.monotonic() - began
        for i in left:
            self.members[i].speed.dev_seconds += seconds / len(left)
            items = {**trained, "opt_state": self._state.opt_state}
            if self._batched_seeds:
                items = unstack(items, i, self._run.evaluator.mesh)
            self.members[i].save(self.step, items, predicted[i][1])
        self._mark, self._waited = time.monotonic(), 0.0

    def _finish_ended(self) -> None:
        """Marks those as finished that have come to their end, while the others go on."""
        for member in self._left:
            if member.at_end(self.step):
                padding = self.plan.padding_share()
                plan = {"bucket_sizes": list(self.plan.bucket_sizes), "padding_share": padding}
                member.finish(self.step, plan)


def _timed(items: Iterable[Item]) -> Iterator[tuple[float, Item]]:
    """Each of the items with the seconds that it was waited for."""
    left = iter(items)
    while True:
        asked = time.monotonic()
        try:
            item = next(left)
        except StopIteration:
            return
        yield time.monotonic() - asked, item
