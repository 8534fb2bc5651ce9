"""Time batched seeds beside sequential ones, and print a JSON line with the examples/s of both.

python -m benchmarks.seeds --model FOLDER --data FILE [--seeds 4] [--batch 32] [--dtype float32]

The two modes take turns, and the ratio is the median over the rounds, so other load on the machine
slows both. Compiling is not counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import common, stage
from flaxfer.runtime import sharding


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--seeds", type=common.count, default=4)
    parser.add_argument("--rounds", type=common.count, default=7)
    parser.set_defaults(steps=4)
    options = parser.parse_args(arguments)
    inputs = stage.prepare(options)
    seeds = tuple(range(options.seeds))
    modes = {
        "sequential": [runner(inputs, (seed,), options.steps) for seed in seeds],
        "batched": [runner(inputs, seeds, options.steps)],
    }
    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(options.rounds):
        for mode, runs in modes.items():
            began = time.monotonic()
            for run in runs:
                run()
            seconds[mode].append(time.monotonic() - began)
    examples = options.seeds * options.steps * options.batch
    rates = {mode: examples / np.array(times) for mode, times in seconds.items()}
    encoder = inputs.evaluator.model.encoder
    figures = {
        "width": encoder.hidden_size,
        "layers": encoder.num_layers,
        "tokens_per_step": round(options.batch * float(inputs.data.lengths.mean())),
        **{f"{mode}_examples_per_s": float(np.median(rate)) for mode, rate in rates.items()},
        "ratio": float(np.median(rates["batched"] / rates["sequential"])),
    }
    common.emit("flaxfer", "seeds", options, figures | stage.devices(), stage.PACKAGES)


def runner(inputs: stage.StageInputs, seeds: tuple[int, ...], steps: int) -> Callable[[], None]:
    """Return a function that takes `steps` steps as one program; it is compiled and warm."""
    if len(seeds) > 1:
        mesh = sharding.seed_mesh(inputs.mesh, len(seeds))
        evaluator = dataclasses.replace(inputs.evaluator, mesh=mesh)
        inputs = dataclasses.replace(inputs, evaluator=evaluator)
    plan = inputs.plan(seeds, steps, max_bucket_sizes=1)
    train_step, state, key = inputs.start(plan)
    batches = [batch for _, batch in itertools.islice(plan.batches(0, inputs.mesh), steps)]

    def run() -> None:
        nonlocal state
        for batch in batches:
            state, metrics = train_step(state, batch, key)
        jax.block_until_ready((state, metrics))

    run()
    return run


if __name__ == "__main__":
    common.guarded(main)
