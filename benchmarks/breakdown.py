r"""Where the time of flaxfer's own steps goes on a CPU, and what a compiler option changes.

python -m benchmarks.breakdown --model FOLDER --data FILE --eval_data FILE --title TEXT \
    > benchmarks/results/breakdown.json

Train steps that share one shape, and a pass of the evaluation's steps over the second file, their
input at hand. XLA's own trace tells how long each operation took; its metadata, which part of the
model it belongs to. Then the same programs are compiled with each of `OPTIONS` and timed in turn
with the first ones.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks import common, own, summary, train_throughput
from flaxfer.aot import hlo, parts
from flaxfer.data.loader import TrainPlan, eval_batches, put_rows
from flaxfer.evaluation.step import EvalSpec, cast_for_eval, make_eval_step
from flaxfer.runtime import platform, sharding
from flaxfer.tasks import task_type
from flaxfer.training.step import make_train_step

OPTIONS: tuple[tuple[str, bool | int], ...] = (
    ("xla_cpu_prefer_vector_width", 256),
    ("xla_cpu_experimental_onednn_custom_call", True),
)
"""What is tried instead of what flaxfer asks of the compiler."""

PAIRS = 10
"""How often a program and its other form are timed in turn."""

WHAT = {"train": "a training step", "eval": "a pass of evaluation"}


@dataclasses.dataclass
class Program:
    """A compiled step with what it takes.

    Attributes:
      text: the program.
      run: takes all steps, and waits for the last.
      steps: how many.
    """

    text: str
    run: Callable[[], None]
    steps: int

    def seconds(self) -> float:
        """What the steps take."""
        began = time.monotonic()
        self.run()
        return time.monotonic() - began


def main() -> None:
    parser = own.parser(__doc__)
    parser.add_argument("--eval_data", required=True, type=Path, help="csv or tsv file")
    parser.add_argument("--title", required=True, help="of the page's section: model and data")
    options = parser.parse_args()
    train = own.prepare(options)
    options.data, trained_on = options.eval_data, options.data
    evaluated = own.prepare(options)
    # The record has names of files, and no paths.
    options.data, options.eval_data = trained_on, options.eval_data.name
    made = programs(train, evaluated, options)
    figures: dict[str, Any] = {name: breakdown(program) for name, program in made.items()}
    figures["options"] = [compare(made, train, evaluated, options, *o) for o in OPTIONS]
    common.emit("flaxfer", "breakdown", options, figures, own.PACKAGES)


def programs(
    train: own.Pieces, evaluated: own.Pieces, options: argparse.Namespace
) -> dict[str, Program]:
    """The steps as they are compiled now, by `WHAT`; each has run once."""
    make_train_step.cache_clear()
    make_eval_step.cache_clear()
    made = {"train": train_program(train, options), "eval": eval_program(evaluated)}
    for program in made.values():
        program.run()
    return made


def train_program(pieces: own.Pieces, options: argparse.Namespace) -> Program:
    """Training over `options.steps` batches."""
    evaluator, mesh = pieces.evaluator, pieces.evaluator.mesh
    one = dataclasses.replace(evaluator.train, max_bucket_sizes=1)
    multiple = sharding.row_shards(mesh)
    plan = TrainPlan.make(pieces.data, one, (options.seed,), evaluator.pad_id, multiple)
    steps = min(options.steps, plan.total_steps)
    batches = [put_rows(plan.batch(step), mesh, None) for step in range(steps)]
    step, state, key = train_throughput.begin(pieces, plan, options.seed)
    compiled = step.lower(state, batches[0], key).compile()

    def run() -> None:
        nonlocal state
        for batch in batches:
            state, _ = compiled(state, batch, key)
        jax.block_until_ready(state)

    return Program(compiled.as_text(), run, steps)


def eval_program(pieces: own.Pieces) -> Program:
    """The evaluator's step over all of the data."""
    evaluator, mesh = pieces.evaluator, pieces.evaluator.mesh
    rows = sharding.row_shards(mesh)
    batches = [
        put_rows(batch, mesh)
        for batch in eval_batches(pieces.data, evaluator.train, evaluator.pad_id, rows)
    ]
    step = make_eval_step(EvalSpec(evaluator.model, evaluator.task, evaluator.dtype), mesh)
    params = cast_for_eval(evaluator.dtype)(
        jax.device_put(pieces.params, sharding.tree_shardings(pieces.params, mesh))
    )
    metrics = task_type(evaluator.task).device_metrics(evaluator.task)

    def nothing() -> Any:
        return jax.device_put(metrics.empty(), sharding.whole(mesh))

    compiled = step.lower(params, batches[0], nothing()).compile()  # type: ignore[attr-defined]

    def run() -> None:
        accumulated = nothing()
        for batch in batches:
            accumulated, logits = compiled(params, batch, accumulated)
        jax.block_until_ready((accumulated, logits))

    return Program(compiled.as_text(), run, len(batches))


def breakdown(program: Program) -> dict[str, Any]:
    """Seconds of the program's operations by part of the model, and whether they hold a product.

    Operations that run at the same time count each for itself.
    """
    module = hlo.parse(program.text)
    entry = module.computations[module.entry]
    taken: collections.Counter[tuple[str, bool]] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = program.seconds()
        for name, spent in traced(Path(folder)):
            if item := entry.get(name.partition("__")[0]):  # "NAME__TARGET" of custom calls.
                taken[parts.part_of(module, item)[0], multiplies(module, item)] += spent
    named = sorted({part for part, _ in taken})
    return {
        "seconds": seconds,
        "steps": program.steps,
        "parts": {p: {"products": taken[p, True], "rest": taken[p, False]} for p in named},
    }


def traced(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and seconds of each event that a trace has of the host."""
    for file in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            for line in plane.lines if plane.name.startswith("/host:CPU") else ():
                yield from ((event.name, event.duration_ns / 1e9) for event in line.events)


def multiplies(module: hlo.Module, item: hlo.Instruction) -> bool:
    """Whether an operation is, or holds, a product of matrices."""
    within = [item, *module.inner(item)]
    return any(x.opcode == "dot" or "onednn$matmul" in x.attributes for x in within)


def compare(
    made: Mapping[str, Program],
    train: own.Pieces,
    evaluated: own.Pieces,
    options: argparse.Namespace,
    name: str,
    value: bool | int,
) -> dict[str, Any]:
    """Time with one other option over the time without, the median of pairs, by `WHAT`."""
    platform.choose_compiler_options({name: value})
    others = programs(train, evaluated, options)
    platform.choose_compiler_options({})
    ratios = {
        what: statistics.median(other.seconds() / made[what].seconds() for _ in range(PAIRS))
        for what, other in others.items()
    }
    return {"option": f"{name}={value}", **ratios}


def section(record: Mapping[str, Any]) -> str:
    """The section of the page."""
    text = (
        f"## Where the time goes on a CPU: {record['settings']['title']}\n"
        "Times of XLA's operations by part of the model, from its own trace; an operation that "
        "holds a product of matrices counts as one, with what the compiler's library computes "
        "along with it (of attention, the softmax). Operations that run at the same time count "
        "each for itself, so that sums are larger than the time that passes. "
        "Measured by benchmarks/breakdown.py.\n"
    )
    for what, title in WHAT.items():
        found = record[what]
        per = found["steps"] if what == "train" else 1
        total = sum(sum(times.values()) for times in found["parts"].values())
        rows = [
            [
                part,
                *(f"{seconds / per * 1e3:.1f}" for seconds in times.values()),
                f"{sum(times.values()) / total:.1%}",
            ]
            for part, times in sorted(found["parts"].items(), key=lambda x: -sum(x[1].values()))
            if sum(times.values()) / total > 0.0005
        ]
        products = sum(times["products"] for times in found["parts"].values())
        text += (
            f"\nMilliseconds of {title}, {found['seconds'] / per * 1e3:.0f} in all; "
            f"{products / total:.0%} of the operations' time is in products:\n\n"
        )
        columns = ["part", "products", "rest", "share"]
        text += summary.table(columns, rows)
    text += "\nThe same with another compiler option, time over time, the median of pairs:\n\n"
    rows = [[f"`{o['option']}`", *(f"{o[what]:.2f}" for what in WHAT)] for o in record["options"]]
    return text + summary.table(["option", "training", "evaluation"], rows)


if __name__ == "__main__":
    common.guarded(main)
