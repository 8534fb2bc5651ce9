r"""Times flaxfer's train step with its input, as a stage runs it, and prints a JSON line.

python -m benchmarks.train_throughput --model FOLDER --data FILE --batch 32 --steps 20

Dropout, AdamW, linear schedule and clipping are on. Every shape of the steps to come is compiled
first (`compile_s`); two steps go before the clock. Then the loop is the stage's: batches built
ahead in a thread, metrics of every step read one step late.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from benchmarks import common, matmuls, own
from flaxfer.config import Optimizer
from flaxfer.data.loader import TrainPlan
from flaxfer.errors import ConfigError
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.sharding import row_shards
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import init_state
from flaxfer.training.step import StepSpec, compiled_programs, make_train_step

OPTIMIZER = Optimizer(learning_rate=5e-5)


def main() -> None:
    parser = own.parser(__doc__)
    parser.add_argument(
        "--matmul_limit", action="store_true", help="time the step's matrix products alone too"
    )
    options = parser.parse_args()
    pieces = own.prepare(options)
    measured, rows = run(pieces, options.steps, options.seed)
    figures = measured.result() | own.devices()
    figures["step_s"] = measured.seconds / measured.steps
    if options.matmul_limit:
        limit = matmuls.limit_s(pieces.encoder, rows, pieces.evaluator.dtype)
        figures |= {
            "limit_s_per_step": limit,
            "times_limit": figures["step_s"] / limit,
            "limit_rows": list(rows),
        }
    common.emit("flaxfer", "train", options, figures, own.PACKAGES)


def run(pieces: own.Pieces, steps: int, seed: int) -> tuple[common.Measured, tuple[float, int]]:
    """Times `steps` steps; gives the figures, and the mean number of rows with their length.

    Raises:
      ConfigError: the data has not so many steps.
    """
    evaluator = pieces.evaluator
    plan = TrainPlan.make(
        data=pieces.data,
        train=evaluator.train,
        seeds=(seed,),
        pad_id=evaluator.pad_id,
        multiple=row_shards(evaluator.mesh),
    )
    last = common.WARMUP + steps
    if last > plan.total_steps:
        raise ConfigError(
            f"the data has {plan.total_steps} steps, of which {common.WARMUP} go before the clock",
            hint=f"pass --steps {max(plan.total_steps - common.WARMUP, 1)}, or more data.",
        )
    train_step, state, key = begin(pieces, plan, seed)
    measured = common.Measured(steps=steps)
    state = _compile(plan, evaluator.mesh, train_step, state, key, last, measured)
    compiled, unread = compiled_programs(train_step), None
    began = 0.0
    batches = iter(plan.batches(0, evaluator.mesh))
    for step in range(last):
        if step == common.WARMUP:
            _read(unread)
            unread, began = None, time.monotonic()
        called = time.monotonic()
        size, batch = next(batches)
        waited = time.monotonic() - called
        state, metrics = train_step(state, batch, key)
        # The metrics are read one step late, as in a stage: the device has the next step by then.
        if unread is not None:
            _read(unread)
        unread = metrics
        if step >= common.WARMUP:
            measured.stall_seconds += waited
            measured.examples += size.examples
            measured.tokens += size.tokens
            measured.slots += size.slots
    _read(unread)
    measured.seconds = time.monotonic() - began
    assert compiled_programs(train_step) == compiled, "a program was compiled while the clock ran"
    length = batch["token_BT"].shape[-1]
    return measured, (measured.slots / length / steps, length)


def begin(pieces: own.Pieces, plan: TrainPlan, seed: int) -> tuple[Any, Any, jax.Array]:
    """The train step of a plan, the state that it begins with, and the key of its dropout."""
    evaluator = pieces.evaluator
    spec = StepSpec(
        model=evaluator.model,
        task=evaluator.task,
        label_smoothing=evaluator.train.label_smoothing,
        optimizer=OPTIMIZER,
        total_steps=plan.total_steps,
        dtype=evaluator.dtype,
    )
    train_step = make_train_step(spec, evaluator.mesh)
    optimizer = make_optimizer(OPTIMIZER, plan.total_steps, pieces.params)
    state = init_state(pieces.params, optimizer, evaluator.mesh)
    return train_step, state, dropout_key(seed, jax.default_backend(), jax.device_count())


def _compile(
    plan: TrainPlan,
    mesh: jax.sharding.Mesh,
    train_step: Any,
    state: Any,
    key: jax.Array,
    last: int,
    measured: common.Measured,
) -> Any:
    """Takes a step with every shape that the first `last` batches have; gives the new state."""
    seen = set()
    for _, batch in plan.batches(0, mesh):
        shape = batch["token_BT"].shape
        if shape not in seen:
            seen.add(shape)
            called, before = time.monotonic(), compiled_programs(train_step)
            state, metrics = train_step(state, batch, key)
            _read(metrics)
            measured.compile_s += (time.monotonic() - called) * (
                compiled_programs(train_step) > before
            )
            measured.start_s = measured.start_s or common.since_start()
        last -= 1
        if not last:
            break
    measured.more["programs"] = len(seen)
    return state


def _read(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


if __name__ == "__main__":
    common.guarded(main)
