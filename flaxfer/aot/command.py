"""The subcommand `flaxfer aot`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxfer.config import Config, Mesh, loading, overrides
from flaxfer.config.arguments import add_config
from flaxfer.errors import ConfigError, DataError
from flaxfer.runtime.progress import say, table
from flaxfer.tasks import TASK_TYPES

if TYPE_CHECKING:
    import jax

    from flaxfer.aot.programs import Workload
    from flaxfer.aot.topology import Topology
    from flaxfer.aot.verdict import Report

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer aot`."""
    add_config(parser, "--topology NAME [options]")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="accelerator and number or shape of chips: v5e:8, v5e:2x4, v5p:2x2x1, v6e:16, h100:8",
    )
    parser.add_argument(
        "--stage",
        choices=("intermediate", "target"),
        default="target",
        help="stage of the study (default: %(default)s)",
    )
    parser.add_argument(
        "--mesh", type=mesh_sizes, metavar="AXIS=SIZE,...", help="in place of the config's mesh"
    )
    parser.add_argument("--search", action="store_true", help="find the fastest mesh that fits")
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")
    parser.add_argument(
        "--model-config",
        metavar="FILE",
        help="a config.json in place of the config's model; reads no weights and no data",
    )
    parser.add_argument(
        "--rows", type=_count, default=0, metavar="N", help="packed rows of a micro-batch"
    )
    parser.add_argument(
        "--examples-per-row", type=_count, default=0, metavar="N", help="with --model-config"
    )
    parser.add_argument(
        "--vocabulary",
        type=_count,
        default=0,
        metavar="N",
        help="with --model-config: rows of the embedding in use (default: all)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report and return 0 if the config fits, 1 if it does not.

    Raises:
      FlaxferError: the config is wrong, cannot be compiled, or the compiler is not installed.
    """
    _check(args)
    # Only the CPU runs anything, and a TPU that others use is left alone. Read when JAX starts.
    os.environ["JAX_PLATFORMS"] = "cpu"
    config = loading.load(args.config, TASK_TYPES, args.overrides)
    # Imported late: a wrong configuration is refused before JAX has started.
    from flaxfer.aot import topology
    from flaxfer.runtime import host
    from flaxfer.runtime.files import write_atomically

    if args.model_config:  # Refused before a compiler is looked for.
        _read_model_config(args.model_config)
    target = topology.parse(args.topology)
    report = compile_steps(args, config, target, topology.devices(target))
    show(report)
    if args.json:
        record = report | {"date": host.now(), "git": host.commit()}
        write_atomically(Path(args.json), json.dumps(record, indent=1))
    return 0 if report["fits"] else 1


def _check(args: argparse.Namespace) -> None:
    if args.model_config and not (args.rows and args.examples_per_row):
        what = "--model-config needs --rows and --examples-per-row, as no data are read"
    elif not args.model_config and (args.examples_per_row or args.vocabulary):
        what = "--examples-per-row and --vocabulary go with --model-config"
    elif args.search and args.mesh:
        what = "--search tries all meshes; leave out --mesh"
    elif (args.search or args.mesh) and overrides.given(args.overrides, "mesh"):
        what = "--mesh and --search replace the config's mesh; leave out --config.mesh"
    elif args.model_config and (names := sorted(_unread(args.overrides))):
        what = f"--model-config reads neither the config's model nor data; leave out {names[0]}"
    elif args.mesh and args.mesh.sizes.count(-1) > 1:
        what = "only one axis of --mesh may be -1"
    elif args.json and not Path(args.json).absolute().parent.is_dir():
        what = f"the folder of --json does not exist: {args.json}"  # Before minutes of compiling.
    else:
        return
    raise ConfigError(what, where="command line", hint="see flaxfer aot --help.")


def _unread(pairs: Sequence[overrides.Override]) -> set[str]:
    """Return the overrides that have no effect with a config.json instead of model and data."""
    sections = ("path", "hub", "revision", "tokenizer", "data", "data_dir", "evaluate")
    return {f"--config.{key}" for key, _ in pairs if overrides.given([(key, "")], *sections)}


def mesh_sizes(text: str) -> Mesh:
    """Parse mesh sizes such as `data=4,fsdp=2`; other axes have size 1."""
    axes = [field.name for field in dataclasses.fields(Mesh)]
    sizes = dict.fromkeys(axes, 1)
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if sum(other.startswith(f"{axis}=") for other in text.split(",")) > 1:
            raise argparse.ArgumentTypeError(f"the axis {axis} is given twice")
        if axis not in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise argparse.ArgumentTypeError(f"{part!r} is not AXIS=SIZE with one of {axes}")
        sizes[axis] = int(size)
    return Mesh(**sizes)


def compile_steps(
    args: argparse.Namespace, config: Config, topology: Topology, devices: Sequence[jax.Device]
) -> Report:
    """Compile the steps of a stage for the devices and return the report.

    Raises:
      FlaxferError: the config does not go with the devices, or its data cannot be read.
    """
    from flaxfer.aot import verdict
    from flaxfer.runtime import platform, sharding

    platform.choose_compiler_options(config.compiler_options, devices[0])
    if not args.search:
        sizes: Mesh = args.mesh or config.mesh
        mesh = sharding.make_mesh(*sizes.sizes, devices=devices)
        return verdict.judge(_workload(args, config), topology, mesh)
    work = _workload(args, config)
    say(f"compiling for {len(verdict.candidates(work, topology.chips))} meshes on {topology.name}")
    reports = verdict.search(work, topology, devices, lambda report: say(_line(report)))
    keys = ("mesh", "fits", "peak_bytes", "examples_per_s_estimate", "estimated_cycles")
    return reports[0] | {"searched": [{key: r[key] for key in keys} for r in reports]}


def _workload(args: argparse.Namespace, config: Config) -> Workload:
    from flaxfer.aot import programs

    if not args.model_config:
        return programs.read_workload(config, args.stage, args.rows)
    assumed = programs.Assumed(args.rows, args.examples_per_row, args.vocabulary)
    return programs.assumed_workload(config, args.stage, Path(args.model_config), assumed)


def _read_model_config(file: str) -> None:
    """Raise an error if a file does not describe a known encoder."""
    from flaxfer.data.json_files import read_json
    from flaxfer.models.families import read_config

    read_config(read_json(Path(file), DataError), file)


def show(report: Report) -> None:
    """Print the report as tables."""
    steps = {"train": report, "eval": report["eval"]}
    _show_summary(report)
    names = list(dict.fromkeys(name for step in steps.values() for name in step["bytes"]))
    sizes = [[name] + [f"{s['bytes'].get(name, 0):,}" for s in steps.values()] for name in names]
    table("bytes on a chip", ["use", *steps], sizes)
    collectives = [
        [step, kind, *values.values()]
        for step, entry in steps.items()
        for kind, values in entry["collectives"].items()
    ]
    if collectives:
        header = ["step", "collective", "count", "bytes", "asynchronous", "cycles (ESTIMATE)"]
        table("collectives on a chip", header, collectives)
    if "parts" in report:
        cycles = {(x["part"], x["direction"]): x["cycles"] for x in report["parts"]}
        parts = [
            [part, *(cycles.get((part, direction), 0) for direction in ("forward", "backward", ""))]
            for part in dict.fromkeys(part for part, _ in cycles)
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


def _show_summary(report: Report) -> None:
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    target = report["topology"]
    used, usable = report["peak_bytes"] / GIB, target["usable_bytes"] / GIB
    rows: list[tuple[str, Any]] = [
        ("topology", f"{target['name']}, {target['chips']} x {target['chip']}, mesh {mesh}"),
        ("fits", f"{'yes' if report['fits'] else 'NO'}: {used:.2f} of {usable:.2f} GiB a chip"),
        ("train batch", str(report["shapes"]["train"]["token_BT"])),
        ("attention", report.get("kernels", {}).get("attention", "")),
    ]
    if report["examples_per_s_estimate"]:
        useful, padded = report["utilisation_estimate"].values()
        rows += [
            ("examples/s", f"{report['examples_per_s_estimate']:,.0f} (ESTIMATE)"),
            ("utilisation", f"{useful:.1%}, with padding {padded:.1%} (ESTIMATE)"),
            ("cycles", f"{report['estimated_cycles']:,} a step (ESTIMATE)"),
            ("collectives", f"{report['collectives_not_hidden_share']:.1%} not hidden"),
        ]
    table(f"{report['step']} for {target['name']}", None, rows)


def _line(report: Report) -> str:
    rate = report["examples_per_s_estimate"]
    speed = f"{rate:,.0f} examples/s (ESTIMATE)" if rate else "no time"
    fits = "fits" if report["fits"] else "does not fit"
    return f"{report['mesh']}  {fits}, {report['peak_bytes'] / GIB:.2f} GiB  {speed}"


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
