r"""Measure what starting a study costs: tracing, lowering and compiling each of its programs.

python -m benchmarks.compile --model FOLDER --data FILE --eval_data FILE --steps 24 \
    --bucket_sizes 2 > benchmarks/results/compile.json

Runs the same study twice in processes of its own: cold, with an empty cache of programs, and warm.
Prints a table for each, and a JSON line. Seconds of tracing, lowering and compiling are those of
JAX's events; reading a program from disk counts as compiling. A thread compiles while steps run,
so the events of all programs may sum to more than the time that steps wait for (`waited`).
`cpu` is the processor time of the whole process. For the programs of a long stage in few steps,
name the number of bucket sizes that the long stage has.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, stage, summary
from benchmarks.programs import Program, recorded
from flaxfer.config import Config, Data, Model, Source, Stage, Task, Train
from flaxfer.study import runner
from flaxfer.tasks import TASK_TYPES

STARTS = ("cold", "warm")
SHOWN = 12
"""Functions in a table; the others are summed."""


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = stage.parser(__doc__)
    parser.add_argument("--eval_data", required=True, type=Path, help="csv or tsv file")
    parser.add_argument(
        "--bucket_sizes", type=common.count, default=0, help="maximum number; chosen by default"
    )
    parser.add_argument("--child", type=Path, help="run the study in this folder and end")
    options = parser.parse_args(words)
    if options.child:
        print(json.dumps(start(options)))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in STARTS:  # Both have the cache of this folder.
            child = [sys.executable, "-m", "benchmarks.compile", *words, "--child", folder]
            done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
            figures[kind] = json.loads(done.stdout.splitlines()[-1])
    del options.child
    options.eval_data = options.eval_data.name  # The record has no paths.
    for kind, record in figures.items():
        print(f"{kind}: {table(record)}", file=sys.stderr)
    common.emit("flaxfer", "compile", options, figures, stage.PACKAGES)


def section(record: Mapping[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    settings = record["settings"]
    return (
        "## Cost of a start\n"
        "Seconds of JAX's events for tracing, lowering and compiling each function of a study of "
        f"{settings['steps']} steps of {settings['batch']} examples (all-MiniLM-L6-v2, STS-B "
        "English), by benchmarks/compile.py: cold with an empty cache of programs, warm with those "
        "of the cold start, whose reading counts as compiling. A thread compiles while steps run, "
        f"so only a part is waited for. {summary.machine([dict(record)])}\n\n"
        + "\n".join(f"{kind.capitalize()}: {table(record[kind])}" for kind in STARTS)
    )


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Run the study in `options.child`, and return what its programs cost."""
    config = study(options, options.child)
    with recorded() as programs, contextlib.redirect_stdout(sys.stderr):
        report = runner.run(config, "benchmarks.compile")
    (run,) = json.loads((report.parent / "study.json").read_text())["runs"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "programs": {name: dataclasses.asdict(program) for name, program in programs.items()},
        "bucket_sizes": run["bucket_sizes"],
        "waited": run["compile_seconds"],
        "steps_s": run["seconds"],
        "seconds": common.since_start(),
        "cpu": used.ru_utime + used.ru_stime,
    }


def study(options: argparse.Namespace, folder: Path) -> Config:
    """Return a study of one stage, with its own work directory in `folder`."""
    layout = common.read(options.data, options.columns, options.task).layout
    train, dev = (
        Source(path=str(file.absolute()), header=layout.header, columns=layout.columns)
        for file in (options.data, options.eval_data)
    )
    metric = TASK_TYPES[layout.task_type].metrics[0]
    task = Task("benchmark", layout.task_type, metric, layout.labels, layout.score_range)
    settings = Train(
        batch_size=options.batch,
        max_steps=options.steps,
        max_length=options.length,
        row_length=max(Train().row_length, options.length),
        max_bucket_sizes=options.bucket_sizes,
        compute_dtype=options.dtype,
    )
    return Config(
        name="compile",
        model=Model(path=str(Path(options.model).absolute())),
        target=Stage(task, Data((train,), (dev,)), {}, stage.OPTIMIZER, settings),
        conditions=("direct",),
        seeds=(options.seed,),
        workdir=tempfile.mkdtemp(dir=folder),
        cache=str(folder / "cache"),
    )


def table(record: Mapping[str, Any]) -> str:
    """Return a start as a table of functions, the longest first."""
    programs = {name: Program(**fields) for name, fields in record["programs"].items()}
    ordered = sorted(programs, key=lambda name: -programs[name].seconds)
    rows = {name: programs[name] for name in ordered[:SHOWN]}
    rows["others"] = total([programs[name] for name in ordered[SHOWN:]])
    rows["all"] = total(list(programs.values()))
    lines = [
        [name, str(one.programs), *(f"{x:.2f}" for x in (one.trace, one.lower, one.compile))]
        for name, one in rows.items()
    ]
    return (
        f"bucket sizes {record['bucket_sizes']}; steps waited {record['waited']:.1f} s for their "
        f"programs; the process took {record['seconds']:.1f} s, {record['cpu']:.1f} s of processors"
        f"\n\n{summary.table(['function', 'programs', 'trace s', 'lower s', 'compile s'], lines)}"
    )


def total(programs: Sequence[Program]) -> Program:
    """Return the sum of programs."""
    names = [field.name for field in dataclasses.fields(Program)]
    return Program(*(sum(getattr(one, name) for one in programs) for name in names))


if __name__ == "__main__":
    common.guarded(main)
