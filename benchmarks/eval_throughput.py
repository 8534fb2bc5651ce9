r"""Times flaxfer's evaluation of a file, metrics included, and prints a JSON line.

python -m benchmarks.eval_throughput --model FOLDER --data FILE --batch 32 --steps 20

The first `steps` x `batch` examples are scored twice by the stage's own evaluator: the first time
compiles, the second is timed. How many examples a step takes is flaxfer's choice, which packs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax

from benchmarks import common, own
from flaxfer.data.loader import BatchSize
from flaxfer.runtime.sharding import tree_shardings


def main() -> None:
    options = own.parser(__doc__).parse_args()
    pieces = own.prepare(options, options.steps * options.batch)
    figures = run(pieces).result() | own.devices()
    common.emit("flaxfer", "eval", options, figures, own.PACKAGES)


def run(pieces: own.Pieces) -> common.Measured:
    """Scores the data twice and measures the second time."""
    evaluator = pieces.evaluator
    measured = common.Measured()
    batches = evaluator.eval_batches

    def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
        """The evaluator's batches; counts what they hold and how long it waits for them."""
        source = batches(*args, **kwargs)
        while True:
            if measured.steps == 1 and not measured.start_s:  # It asks again: one is done.
                measured.start_s = common.since_start()
            called = time.monotonic()
            batch = next(source, None)
            measured.stall_seconds += time.monotonic() - called
            if batch is None:
                return
            size = BatchSize.of(batch)
            measured.steps += 1
            measured.examples += size.examples
            measured.tokens += size.tokens
            measured.slots += size.slots
            yield batch

    # The evaluator's own loop is what counts, so its input is watched from outside.
    params = jax.device_put(pieces.params, tree_shardings(pieces.params, evaluator.mesh))
    with mock.patch.object(evaluator, "eval_batches", watched):
        first = _predict(pieces, params)
        measured = common.Measured(start_s=measured.start_s)
        measured.seconds = _predict(pieces, params)
    measured.compile_s = max(first - measured.seconds, 0.0)  # What the first time took more.
    return measured


def _predict(pieces: own.Pieces, params: Any) -> float:
    """Seconds that the evaluator takes for the data."""
    began = time.monotonic()
    pieces.evaluator.predict(params, pieces.data)
    return time.monotonic() - began


if __name__ == "__main__":
    common.guarded(main)
