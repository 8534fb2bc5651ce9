"""Whether a config fits a named accelerator, and how fast it would be there, without having it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxfer import config
from flaxfer.config import Mesh, loading
from flaxfer.errors import ConfigError
from flaxfer.runtime.progress import say, table
from flaxfer.tasks import TASK_TYPES

if TYPE_CHECKING:
    from flaxfer.aot.programs import Workload

GIB = 2**30
EXAMPLES = """\
examples:
  --config configs/sts_xling.py:base --config.train.batch_size=64   as for flaxfer run
  --topology v5e:8        also v5e:2x4, v5p:2x2x1, v6e:16, h100:8
  --mesh data=4,fsdp=2    instead of the config's mesh; --search tries all meshes
  --model_config config.json --rows 32 --examples_per_row 4   without the model and its data

The exit code is 0 if the steps fit into the accelerator's memory, 1 if they do not, and 69 if its
compiler is not installed. The compiler's times are estimates.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer aot`."""
    parser.epilog = EXAMPLES
    parser.add_argument("--config", required=True, metavar="FILE[:PRESET]")
    parser.add_argument("--topology", required=True, metavar="NAME")
    parser.add_argument("--stage", choices=("intermediate", "target"), default="target")
    parser.add_argument("--mesh", type=mesh_sizes, metavar="AXIS=SIZE,...")
    parser.add_argument("--search", action="store_true", help="find the fastest mesh that fits")
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")
    parser.add_argument("--model_config", metavar="FILE", help="a config.json; reads no data")
    parser.add_argument("--rows", type=_count, default=0, help="packed rows of a micro-batch")
    parser.add_argument("--examples_per_row", type=_count, default=0)
    parser.add_argument("--vocabulary", type=_count, default=0, help="rows of the embedding in use")


def run(args: argparse.Namespace) -> int:
    """Print the report and return 0 if the config fits, 1 if it does not."""
    _check(args)
    # Only the CPU runs anything, and a TPU that others use is left alone. Read when JAX starts.
    os.environ["JAX_PLATFORMS"] = "cpu"
    report = compile_steps(args, loading.load(args.config, TASK_TYPES, args.overrides))
    if args.json:
        from flaxfer.runtime.files import write_atomically

        write_atomically(Path(args.json), json.dumps(report, indent=1))
    return 0 if report["fits"] else 1


def _check(args: argparse.Namespace) -> None:
    if args.model_config and not (args.rows and args.examples_per_row):
        what = "--model_config needs --rows and --examples_per_row, as no data are read"
    elif not args.model_config and (args.examples_per_row or args.vocabulary):
        what = "--examples_per_row and --vocabulary go with --model_config"
    elif args.search and args.mesh:
        what = "--search tries all meshes; leave out --mesh"
    else:
        return
    raise ConfigError(what, where="command line", hint="see flaxfer aot --help.")


def mesh_sizes(text: str) -> config.Mesh:
    """The mesh that `data=4,fsdp=2` names; an axis that is not named has size 1."""
    axes = [field.name for field in dataclasses.fields(config.Mesh)]
    sizes = dict.fromkeys(axes, 1)
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in sizes or not size.removeprefix("-").isdigit() or int(size) in (0, -2):
            raise argparse.ArgumentTypeError(f"{part!r} is not AXIS=SIZE with one of {axes}")
        sizes[axis] = int(size)
    return config.Mesh(**sizes)


def compile_steps(options: argparse.Namespace, settings: config.Config) -> dict[str, Any]:
    """Compile the steps of a stage, print the report and return it.

    Raises:
      FlaxferError: of the kind of what is wrong.
    """
    # Imported late: a wrong configuration is refused before JAX has started.
    from flaxfer.aot import programs, topology, verdict
    from flaxfer.runtime import platform, sharding

    wanted = topology.parse(options.topology)
    devices = topology.devices(wanted)
    platform.choose_compiler_options(settings.compiler_options, devices[0])
    sizes: Mesh = options.mesh or settings.mesh
    mesh = None if options.search else sharding.make_mesh(*sizes.sizes, devices=devices)
    programs.check_stage(settings, options.stage)
    work = _workload(options, settings)
    if mesh is not None:
        report = verdict.judge(work, wanted, mesh)
    else:
        say(f"tries {len(verdict.candidates(work, wanted.chips))} meshes on {wanted.name}")
        reports = verdict.search(work, wanted, devices, lambda found: say(_line(found)))
        keys = ("mesh", "fits", "peak_bytes", "examples_per_s_estimate", "estimated_cycles")
        report = reports[0] | {"searched": [{k: r[k] for k in keys} for r in reports]}
    used = platform.compiler_options(devices[0])
    report = verdict.whole(work, wanted, report) | {"compiler_options": used}
    show(report)
    return report


def show(report: dict[str, Any]) -> None:
    """Prints the report as tables."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    place = report["topology"]
    used, free = report["peak_bytes"] / GIB, place["usable_bytes"] / GIB
    rows = [
        ("topology", f"{place['name']}, {place['chips']} x {place['chip']}, mesh {mesh}"),
        ("fits", f"{'yes' if report['fits'] else 'NO'}: {used:.2f} of {free:.2f} GiB a chip"),
        ("train batch", str(report["shapes"]["train"]["token_BT"])),
        ("attention by", report.get("kernels", {}).get("attention", "")),
    ]
    if report["examples_per_s_estimate"]:
        useful, every = report["utilisation_estimate"].values()
        rows += [
            ("examples/s", f"{report['examples_per_s_estimate']:,.0f} (ESTIMATE)"),
            ("utilisation", f"{useful:.1%}, padding counted {every:.1%} (ESTIMATE)"),
            ("cycles", f"{report['estimated_cycles']:,} a step (ESTIMATE)"),
            ("collectives", f"{report['collectives_not_hidden_share']:.1%} of them not hidden"),
        ]
    table(f"{report['step']} for {place['name']}", None, rows)
    steps = {"train": report, "eval": report["eval"]}
    kinds = list(dict.fromkeys(kind for step in steps.values() for kind in step["bytes"]))
    sizes = [[kind] + [f"{s['bytes'].get(kind, 0):,}" for s in steps.values()] for kind in kinds]
    table("bytes on a chip", ["kind", *steps], sizes)
    found = [
        [step, kind, *values.values()]
        for step, entry in steps.items()
        for kind, values in entry["collectives"].items()
    ]
    if found:
        header = ["step", "collective", "count", "bytes", "asynchronous", "cycles (ESTIMATE)"]
        table("collectives on a chip", header, found)
    if "parts" in report:
        cycles = {(x["part"], x["direction"]): x["cycles"] for x in report["parts"]}
        ways = ("forward", "backward", "")
        parts = [
            [x, *(cycles.get((x, y), 0) for y in ways)] for x in dict.fromkeys(x for x, _ in cycles)
        ]
        header = ["cycles (ESTIMATE)", "forward", "backward", "neither"]
        table("train step by part", header, parts)
        keys = ("cycles", "runs", "part", "shape", "instruction")
        largest = [[entry[key] for key in keys] for entry in report["top"]]
        table("largest instructions of the train step", keys, largest)
    for step, entry in steps.items():
        for warning in entry["warnings"]:
            say(f"warning: {step}: {warning}")
    for assumption in report["assumptions"]:
        say(f"- {assumption}")


def _workload(options: argparse.Namespace, settings: config.Config) -> Workload:
    from flaxfer.aot import programs

    if not options.model_config:
        return programs.read_workload(settings, options.stage, options.rows)
    assumed = programs.Assumed(options.rows, options.examples_per_row, options.vocabulary)
    return programs.assumed_workload(settings, options.stage, Path(options.model_config), assumed)


def _line(report: dict[str, Any]) -> str:
    """One mesh of a search."""
    rate = report["examples_per_s_estimate"]
    told = f"{rate:,.0f} examples/s (ESTIMATE)" if rate else "no time"
    fits = "fits" if report["fits"] else "does not fit"
    return f"{report['mesh']}  {fits}, {report['peak_bytes'] / GIB:.2f} GiB  {told}"


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
