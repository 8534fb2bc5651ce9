"""Reports on a config's compiled steps: whether they fit an accelerator, and how fast they are.

Nothing is run. Times, rates and utilisation are estimates, and their keys say so.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.metadata
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from flaxfer import config
from flaxfer.aot import estimate, hlo, programs
from flaxfer.aot.flops import train_flops
from flaxfer.aot.topology import Topology
from flaxfer.errors import ConfigError
from flaxfer.runtime import platform, sharding

TOP = 10
"""Number of instructions that the report lists."""

WIDEST_TENSOR = 8
"""Largest `tensor` axis that the search tries."""

Report = dict[str, Any]
"""JSON values, as `flaxfer aot --json` writes them."""


def judge(work: programs.Workload, topology: Topology, mesh: jax.sharding.Mesh) -> Report:
    """Compile both steps for a mesh and return the report.

    `eval` describes the program of the eval step, the keys beside it the train step. Cycles, rates
    and utilisation are None for accelerators whose compiler estimates no time.
    """
    chip = topology.chip
    train, evaluation = (examine(step, work, topology, mesh) for step in ("train", "eval"))
    # While dev is scored with a copy of the parameters, the train state stays on the device.
    state = train["bytes"]["parameters"] + train["bytes"]["optimizer"]
    copies = programs.merged_bytes(work, mesh)
    peak = max(train["bytes"]["peak"], evaluation["bytes"]["peak"] + state + copies)
    return {
        "step": f"{work.settings.task.name} ({work.model.encoder.family})",
        "topology": {
            "name": topology.name,
            "chip": chip.title,
            "chips": topology.chips,
            "memory_bytes": chip.memory,
            "usable_bytes": chip.usable,
            "clock_hz_estimate": chip.clock or None,
            "peak_flops": chip.peak if chip.clock else None,
        },
        **train,
        "eval": evaluation,
        "fits": train["fits"] and evaluation["fits"] and peak <= chip.usable,
        "mesh": dict(mesh.shape),
        "peak_bytes": peak,
        **rates(work, topology, mesh, train["estimated_cycles"]),
        "shapes": programs.summary(work, sharding.row_shards(mesh)),
        "useful_per_step": dataclasses.asdict(work.useful()),
        "assumptions": assumptions(work, topology),
        "versions": versions(),
        "compiler_options": platform.compiler_options(mesh.devices.flat[0]),
    }


def examine(
    step: str, work: programs.Workload, topology: Topology, mesh: jax.sharding.Mesh
) -> Report:
    """Compile a step, `train` or `eval`, and return what its compiler reports."""
    state = programs.state_shapes(work, mesh)
    sizes = {"parameters": programs.bytes_on_chip(state.params)}
    if step == "train":
        sizes["optimizer"] = programs.bytes_on_chip(state.opt_state)
    compile_step = programs.compile_train if step == "train" else programs.compile_eval
    try:
        compiled = compile_step(work, mesh)
    except RuntimeError as error:
        # The TPU compiler refuses programs that do not fit, and says how much they would need.
        if "Ran out of memory" not in str(error):
            raise
        match = re.search(r"\(([\d.]+)G\) exceeds", str(error))
        needed = int(float(match[1]) * 2**30) if match else 0
        sizes |= {"temporaries": needed, "peak": max(needed, topology.chip.usable + 1)}
        return {
            "fits": False,
            "bytes": sizes,
            "collectives": {},
            "estimated_cycles": None,
            "warnings": [f"{step}: {str(error).splitlines()[0]}"],
        }
    module = hlo.parse(compiled.as_text() or "")
    return {"fits": True, "bytes": sizes | _memory(compiled), **_program(module, topology)}


def rates(
    work: programs.Workload,
    topology: Topology,
    mesh: jax.sharding.Mesh,
    cycles: int | None,
) -> Report:
    """Return examples per second and utilisation of a train step of `cycles` cycles."""
    if not cycles:
        return {"examples_per_s_estimate": None, "utilisation_estimate": None}
    seconds = cycles / topology.chip.clock
    possible = seconds * mesh.size * topology.chip.peak
    padded = work.padded(sharding.row_shards(mesh))
    flops = {
        "useful": train_flops(work.trained_model, work.useful()),
        "all_tokens": train_flops(work.trained_model, padded),
    }
    return {
        "seconds_per_step_estimate": seconds,
        "examples_per_s_estimate": work.examples / seconds,
        "model_flops": flops,
        "utilisation_estimate": {name: value / possible for name, value in flops.items()},
    }


def search(
    work: programs.Workload,
    topology: Topology,
    devices: Sequence[jax.Device],
    on_report: Callable[[Report], None],
) -> list[Report]:
    """Judge every candidate mesh and sort the reports: those that fit first, fastest first.

    `on_report` is called with each report when its mesh has been compiled.

    Raises:
      ConfigError: the parameters and the optimizer state alone fit no mesh.
    """
    reports = []
    for sizes in candidates(work, len(devices)):
        mesh = sharding.make_mesh(*sizes.sizes, devices=devices)
        if programs.bytes_on_chip(programs.state_shapes(work, mesh)) > topology.chip.usable:
            continue
        reports.append(judge(work, topology, mesh))
        on_report(reports[-1])
    if not reports:
        raise ConfigError(
            f"parameters and optimizer state do not fit {topology.name} on any mesh",
            where="--search",
            hint="use more or larger chips.",
        )

    def rank(report: Report) -> tuple[bool, float, float]:
        sent = sum(entry["bytes"] for entry in report["collectives"].values())
        return (not report["fits"], -(report["examples_per_s_estimate"] or 0.0), sent)

    return sorted(reports, key=rank)


def candidates(work: programs.Workload, chips: int) -> list[config.Mesh]:
    """Return the meshes worth trying on `chips` chips; their sizes are powers of two.

    A tensor axis must divide heads and feed-forward width and is at most `WIDEST_TENSOR`. Meshes
    with more row shards than twice the rows of a batch, whose rows would be mostly padding, are
    left out unless there is no other.
    """
    encoder = work.model.encoder
    powers = [2**i for i in range(chips.bit_length())]
    meshes = [
        config.Mesh(chips // (fsdp * tensor), fsdp, tensor)
        for tensor, fsdp in itertools.product(powers, powers)
        if tensor <= WIDEST_TENSOR
        and not (encoder.num_heads % tensor or encoder.intermediate_size % tensor)
        and not chips % (fsdp * tensor)
    ]
    most = max(2 * work.rows(1), min(mesh.data * mesh.fsdp for mesh in meshes))
    return [mesh for mesh in meshes if mesh.data * mesh.fsdp <= most]


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Return the bytes on one chip by use."""
    analysis: Any = compiled.memory_analysis()
    sizes = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    # Aliased buffers are arguments and outputs at once.
    peak = sum(sizes.values()) - 2 * sizes["aliased"]
    return sizes | {"peak": peak}


def _program(module: hlo.Module, topology: Topology) -> Report:
    """Return collectives, kernels and cycles of a program."""
    cost = estimate.estimate(module, topology)
    cycles, exposed = cost.cycles(), cost.cycles("exposed")
    report: Report = {
        "collectives": {
            kind: dataclasses.asdict(entry) | {"cycles": round(entry.cycles)}
            for kind, entry in sorted(cost.collectives.items())
        },
        "kernels": _kernels(module),
        "warnings": sorted(cost.warnings),
        "estimated_cycles": None,
    }
    if topology.chip.clock:
        report |= {
            "estimated_cycles": round(cycles),
            "cycles_by_source": {
                "compiler": round(cost.cycles("compiler")),
                "modelled": round(cost.cycles("modelled")),
                "collectives_not_hidden": round(exposed),
            },
            "collectives_not_hidden_share": exposed / cycles if cycles else 0.0,
            "parts": estimate.by_part(cost),
            "top": estimate.top(cost, module, TOP),
        }
    return report


def _kernels(module: hlo.Module) -> Report:
    """Return the number of custom calls by target, and the implementation of attention."""
    calls: collections.Counter[str] = collections.Counter()
    attention = "xla"
    for computation in module.computations.values():
        for item in computation.values():
            target = item.call_target
            if not target or target in estimate.FREE_CALLS + estimate.COPY_CALLS:
                continue
            calls[target] += 1
            if target.startswith("__cudnn$fmha"):
                attention = "cudnn"
            elif target == estimate.KERNEL and item.name.startswith(tuple(estimate.SPLASH)):
                attention = "splash"
            elif target == estimate.KERNEL and item.name.startswith(tuple(estimate.SHORT_ROWS)):
                attention = "short_rows"
    return {"attention": attention, "custom_calls": dict(calls)}


def assumptions(work: programs.Workload, topology: Topology) -> list[str]:
    """Return the assumptions of the report, a sentence each."""
    chip = topology.chip
    if isinstance(work.data, programs.Assumed):
        shapes = (
            f"no data were read: {work.data.rows} full rows of "
            f"{work.settings.train.row_length} tokens a micro-batch, "
            f"{work.data.sequences_per_row} examples a row, "
            f"{work.model.encoder.vocab_size:,} rows of the word embedding"
        )
    else:
        shapes = (
            "the train step has the largest bucket size of the plan, or --rows; most steps have "
            "fewer rows"
        )
    always = [shapes, "a step trains one seed on the task of its stage alone"]
    if not chip.clock:
        return [*always, "no time: this compiler estimates none"]
    return [
        *always,
        f"ESTIMATE: {chip.clock / 1e9:.3f} GHz, at which a bfloat16 matmul of 8192 x 8192 x 8192 "
        f"reaches the published peak of {chip.peak / 1e12:.0f} TFLOP/s",
        "cycles are the compiler's; gathers, scatters, random bits and waits for copies count by "
        f"bytes over {chip.bandwidth / 1e9:.0f} GB/s, kernels by the operations and bytes they "
        f"declare and {estimate.KERNEL_OVERHEAD * 1e6:.0f} microseconds each",
        f"collectives are rings on one axis of the torus at {chip.link / 1e9:.0f} GB/s, with at "
        f"least {estimate.HOP * 1e6:.0f} microsecond a hop; nothing waits for the host",
        "utilisation counts only matmuls, forward and backward",
    ]


def versions() -> dict[str, str]:
    """Return the versions of flaxfer, JAX and the installed compilers."""
    installed = platform.versions()
    for name in ("libtpu", "jax-cuda12-plugin"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed
