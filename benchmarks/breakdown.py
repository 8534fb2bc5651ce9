r"""Measure where the time of flaxfer's steps goes on a CPU, and what a compiler option changes.

python -m benchmarks.breakdown --model FOLDER --data FILE --eval_data FILE --title TEXT \
    > benchmarks/results/breakdown.json

Traces train steps of one shape, and the eval steps over the second file, without their input
pipeline. XLA's trace has the time of each operation, and its metadata the part of the model. Then
the same programs, compiled with each of `OPTIONS`, are timed in turn with the original ones.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks import common, stage, summary
from flaxfer.aot import hlo, parts
from flaxfer.data.loader import eval_batches, put_rows
from flaxfer.evaluation.step import EvalSpec, cast_for_eval, make_eval_step
from flaxfer.runtime import platform, sharding
from flaxfer.study.open_study import forget_programs
from flaxfer.tasks import task_type

OPTIONS: tuple[tuple[str, bool | int], ...] = (
    ("xla_cpu_prefer_vector_width", 256),
    ("xla_cpu_experimental_onednn_custom_call", True),
)
"""Compiler options that are tried instead of flaxfer's."""

PAIRS = 10
"""Number of times that a program and its variant are timed in turn."""

STEPS = {"train": "a training step", "eval": "a pass of evaluation"}


@dataclasses.dataclass
class Program:
    """A compiled step and its inputs.

    Attributes:
      text: the program in XLA's text format.
      run: takes all steps and waits for the last.
      steps: number of steps.
    """

    text: str
    run: Callable[[], None]
    steps: int

    def seconds(self) -> float:
        """Return the time of all steps."""
        began = time.monotonic()
        self.run()
        return time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--eval_data", required=True, type=Path, help="csv or tsv file")
    parser.add_argument("--title", required=True, help="title of the section: model and data")
    options = parser.parse_args(arguments)
    train = stage.prepare(options)
    options.data, train_file = options.eval_data, options.data
    evaluation = stage.prepare(options)
    # The record has the names of the files, not their paths.
    options.data, options.eval_data = train_file, options.eval_data.name
    figures = measure(train, evaluation, options)
    common.emit("flaxfer", "breakdown", options, figures, stage.PACKAGES)


def measure(
    train: stage.StageInputs, evaluation: stage.StageInputs, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the breakdown of both steps, and the ratios with other compiler options."""
    originals = programs(train, evaluation, options)
    figures: dict[str, Any] = {name: breakdown(program) for name, program in originals.items()}
    figures["options"] = []
    for option, value in OPTIONS:
        platform.choose_compiler_options({option: value})
        variants = programs(train, evaluation, options)
        platform.choose_compiler_options({})
        ratios = {
            name: statistics.median(
                variant.seconds() / originals[name].seconds() for _ in range(PAIRS)
            )
            for name, variant in variants.items()
        }
        figures["options"].append({"option": f"{option}={value}", **ratios})
    return figures


def programs(
    train: stage.StageInputs, evaluation: stage.StageInputs, options: argparse.Namespace
) -> dict[str, Program]:
    """Compile the steps with the current options and run each once."""
    forget_programs()
    steps = {"train": train_program(train, options), "eval": eval_program(evaluation)}
    for program in steps.values():
        program.run()
    return steps


def train_program(inputs: stage.StageInputs, options: argparse.Namespace) -> Program:
    """Compile the train step for `options.steps` batches."""
    plan = inputs.plan((options.seed,), 1, max_bucket_sizes=1)
    steps = min(options.steps, plan.total_steps)
    batches = [put_rows(plan.batch(step), inputs.mesh, None) for step in range(steps)]
    step, state, key = inputs.start(plan)
    compiled = step.lower(state, batches[0], key).compile()

    def run() -> None:
        nonlocal state
        for batch in batches:
            state, _ = compiled(state, batch, key)
        jax.block_until_ready(state)

    return Program(compiled.as_text(), run, steps)


def eval_program(inputs: stage.StageInputs) -> Program:
    """Compile the eval step for all of the data."""
    evaluator, mesh, task = inputs.evaluator, inputs.mesh, inputs.evaluator.task
    host_batches = eval_batches(
        inputs.data, evaluator.train, evaluator.model.encoder.pad_token_id, inputs.row_shards
    )
    batches = [put_rows(batch, mesh) for batch in host_batches]
    step = make_eval_step(EvalSpec(evaluator.model, evaluator.dtype), mesh)
    params = cast_for_eval(evaluator.dtype)(inputs.placed_params())

    def empty() -> Any:
        return jax.device_put(task_type(task).device_metrics(task), sharding.whole(mesh))

    compiled = step.lower(params, batches[0], empty()).compile()

    def run() -> None:
        accumulated = empty()
        for batch in batches:
            accumulated, logits = compiled(params, batch, accumulated)
        jax.block_until_ready((accumulated, logits))

    return Program(compiled.as_text(), run, len(batches))


def breakdown(program: Program) -> dict[str, Any]:
    """Return the seconds of a program's operations by part, with and without matmuls.

    Concurrent operations are counted in full.
    """
    module = hlo.parse(program.text)
    entry = module.computations[module.entry]
    seconds_of: collections.Counter[tuple[str, bool]] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = program.seconds()
        for name, spent in _events(Path(folder)):
            if item := entry.get(name.partition("__")[0]):  # "NAME__TARGET" for custom calls.
                seconds_of[parts.part_of(module, item)[0], has_matmul(module, item)] += spent
    return {
        "seconds": seconds,
        "steps": program.steps,
        "parts": {
            part: {"matmuls": seconds_of[part, True], "rest": seconds_of[part, False]}
            for part in sorted({part for part, _ in seconds_of})
        },
    }


def _events(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield name and seconds of each event of the host in a trace."""
    for file in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            for line in plane.lines if plane.name.startswith("/host:CPU") else ():
                yield from ((event.name, event.duration_ns / 1e9) for event in line.events)


def has_matmul(module: hlo.Module, item: hlo.Instruction) -> bool:
    """Return whether an operation is, or contains, a matmul."""
    operations = [item, *module.inner(item)]
    return any(x.opcode == "dot" or "onednn$matmul" in x.attributes for x in operations)


def section(record: Mapping[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    text = (
        f"## Where the time goes on a CPU: {record['settings']['title']}\n"
        "Times of XLA's operations by part of the model, from its trace. An operation that "
        "contains a matmul counts as one, with everything that the compiler's library fuses into "
        "it (in attention, the softmax). Concurrent operations are counted in full, so sums exceed "
        "the elapsed time. Measured by benchmarks/breakdown.py. "
        f"{summary.machine([record])}\n"
    )
    for step, title in STEPS.items():
        entry = record[step]
        per = entry["steps"] if step == "train" else 1
        totals = {part: sum(times.values()) for part, times in entry["parts"].items()}
        total = sum(totals.values())
        rows = [
            [
                part,
                *(f"{seconds / per * 1e3:.1f}" for seconds in times.values()),
                f"{totals[part] / total:.1%}",
            ]
            for part, times in sorted(entry["parts"].items(), key=lambda item: -totals[item[0]])
            if totals[part] / total > 0.0005
        ]
        matmuls = sum(times["matmuls"] for times in entry["parts"].values())
        text += (
            f"\nMilliseconds of {title}, {entry['seconds'] / per * 1e3:.0f} in all; "
            f"{matmuls / total:.0%} of the operations' time is in matmuls:\n\n"
        )
        text += summary.table(["part", "matmuls", "rest", "share"], rows)
    text += "\nTime with another compiler option over time without, median of pairs:\n\n"
    rows = [[f"`{o['option']}`", *(f"{o[step]:.2f}" for step in STEPS)] for o in record["options"]]
    return text + summary.table(["option", "training", "evaluation"], rows)


if __name__ == "__main__":
    common.guarded(main)
