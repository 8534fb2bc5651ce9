r"""Time flaxfer's evaluation of a file, metrics included, and print a JSON line.

python -m benchmarks.eval_throughput --model FOLDER --data FILE --batch 32 --steps 20

The evaluator of a stage scores the first `steps` x `batch` examples twice: the first pass
compiles (`compile_s`, the seconds of JAX's events), the second is timed. The evaluator packs the
examples into batches of its own size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import common, matmuls, programs, stage
from flaxfer.data.loader import BatchSize, eval_batches


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    matmuls.add_option(parser)
    options = parser.parse_args(arguments)
    inputs = stage.prepare(options, options.steps * options.batch)
    measured = run(inputs)
    figures = measured.result() | stage.devices()
    if options.matmul_limit:
        figures |= matmuls.limit(inputs, measured, train=False)
    common.emit("flaxfer", "eval", options, figures, stage.PACKAGES)


def run(inputs: stage.StageInputs) -> common.Measured:
    """Score the data twice and measure the second pass."""
    measured = common.Measured()

    def watched(*args: Any) -> Iterator[Any]:
        """Yield the evaluator's batches; count them and the time to build them."""
        source = eval_batches(*args)
        while True:
            if measured.steps == 1 and not measured.start_s:  # The first batch is done.
                measured.start_s = common.since_start()
            called = time.monotonic()
            batch = next(source, None)
            measured.stall_seconds += time.monotonic() - called
            if batch is None:
                return
            size = BatchSize.of(batch)
            measured.steps += 1
            measured.count(size.examples, size.tokens, size.slots)
            yield batch

    evaluator = dataclasses.replace(inputs.evaluator, batches=watched)
    params = inputs.placed_params()

    def predict() -> float:
        began = time.monotonic()
        evaluator.predict(params, inputs.data)
        return time.monotonic() - began

    with programs.recorded() as built:
        predict()
    measured = common.Measured(start_s=measured.start_s, compile_s=programs.seconds(built))
    measured.seconds = predict()
    return measured


if __name__ == "__main__":
    common.guarded(main)
