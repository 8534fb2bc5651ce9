r"""Time flaxfer's train step with its input, as a stage runs it, and print a JSON line.

python -m benchmarks.train_throughput --model FOLDER --data FILE --batch 32 --steps 20

Dropout, AdamW, linear schedule and clipping are on. Every shape of the timed steps is compiled
first (`compile_s`), and the clock starts after two more steps. The loop is that of a stage: a
thread builds batches ahead, and the metrics of every step are read one step late.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import common, matmuls, stage
from flaxfer.data.loader import TrainPlan
from flaxfer.training.step import compiled_programs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    matmuls.add_option(parser)
    options = parser.parse_args(arguments)
    inputs = stage.prepare(options)
    measured = run(inputs, options.steps, options.seed)
    figures = measured.result() | stage.devices()
    figures["step_s"] = measured.seconds / measured.steps
    if options.matmul_limit:
        figures |= matmuls.limit(inputs, measured, train=True)
    common.emit("flaxfer", "train", options, figures, stage.PACKAGES)


def run(inputs: stage.StageInputs, steps: int, seed: int) -> common.Measured:
    """Time `steps` steps.

    Raises:
      ConfigError: the data are too few for so many steps.
    """
    last = common.WARMUP + steps
    plan = inputs.plan((seed,), last)
    train_step, state, key = inputs.start(plan)
    measured = common.Measured(steps=steps)
    state = _compile(inputs, plan, train_step, state, key, last, measured)
    compiled, unread = compiled_programs(train_step), None
    began = 0.0
    batches = iter(plan.batches(0, inputs.mesh))
    for step in range(last):
        if step == common.WARMUP:
            _read(unread)
            unread, began = None, time.monotonic()
        called = time.monotonic()
        size, batch = next(batches)
        waited = time.monotonic() - called
        state, metrics = train_step(state, batch, key)
        # Read one step late, as in a stage: by then the device has the next step.
        _read(unread)
        unread = metrics
        if step >= common.WARMUP:
            measured.stall_seconds += waited
            measured.count(size.examples, size.tokens, size.slots)
    _read(unread)
    measured.seconds = time.monotonic() - began
    assert compiled_programs(train_step) == compiled, "a timed step was compiled"
    return measured


def _compile(
    inputs: stage.StageInputs,
    plan: TrainPlan,
    train_step: Any,
    state: Any,
    key: jax.Array,
    steps: int,
    measured: common.Measured,
) -> Any:
    """Take a step with each shape of the first `steps` batches; return the new state."""
    shapes = set()
    for _, (_, batch) in zip(range(steps), plan.batches(0, inputs.mesh), strict=False):
        shape = batch["token_BT"].shape
        if shape not in shapes:
            shapes.add(shape)
            called, before = time.monotonic(), compiled_programs(train_step)
            state, metrics = train_step(state, batch, key)
            _read(metrics)
            if compiled_programs(train_step) > before:
                measured.compile_s += time.monotonic() - called
            measured.start_s = measured.start_s or common.since_start()
    measured.more["programs"] = len(shapes)
    return state


def _read(metrics: dict[str, jax.Array] | None) -> None:
    for value in (metrics or {}).values():
        float(value)


if __name__ == "__main__":
    common.guarded(main)
