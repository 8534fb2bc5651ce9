"""Whether a config fits an accelerator, and how fast it would be there: all of it from compiling.

Nothing is run. Times, rates and utilisation are estimates, and their keys say so.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from flaxfer import config
from flaxfer.aot import estimate, hlo, programs
from flaxfer.aot.flops import train_flops
from flaxfer.aot.topology import Topology
from flaxfer.errors import ConfigError
from flaxfer.runtime import sharding

TOP = 10
"""Instructions that the report lists."""

WIDEST_TENSOR = 8
"""Largest `tensor` axis that the search tries."""

Report = dict[str, Any]


def judge(work: programs.Workload, topology: Topology, mesh: jax.sharding.Mesh) -> Report:
    """Compiles both steps for a mesh and says what follows.

    Returns:
      JSON-ready values. `bytes`, `collectives`, `estimated_cycles` and what else describes a
      program are those of the train step; `eval` has the same of the eval step. Cycles, rates and
      utilisation are None on accelerators whose compiler estimates no time.
    """
    train = examine("train", work, topology, mesh)
    report = train | {"eval": examine("eval", work, topology, mesh)}
    # While dev is scored the optimiser's state stays where it is.
    resident = report["bytes"]["optimiser"]
    highest = max(report["bytes"]["peak"], report["eval"]["bytes"]["peak"] + resident)
    fitting = train["fits"] and report["eval"]["fits"] and highest <= topology.chip.usable
    report |= {"fits": fitting, "mesh": dict(mesh.shape), "peak_bytes": highest}
    return report | rates(work, topology, mesh, train["estimated_cycles"])


def examine(
    step: str, work: programs.Workload, topology: Topology, mesh: jax.sharding.Mesh
) -> Report:
    """What the compiler says of one of the steps, `train` or `eval`."""
    state = programs.state_shapes(work, mesh, programs.ASSUMED_STEPS)
    sizes = {"parameters": programs.bytes_on_chip(state.params)}
    if step == "train":
        sizes["optimiser"] = programs.bytes_on_chip(state.opt_state)
    compile_step = programs.compile_train if step == "train" else programs.compile_eval
    try:
        compiled = compile_step(work, mesh)
    except RuntimeError as error:
        # The TPU compiler refuses what does not fit, and says how much it would need.
        if "Ran out of memory" not in str(error):
            raise
        found = re.search(r"\(([\d.]+)G\) exceeds", str(error))
        needed = int(float(found[1]) * 2**30) if found else 0
        sizes |= {"temporaries": needed, "peak": max(needed, topology.chip.usable + 1)}
        return {
            "fits": False,
            "bytes": sizes,
            "collectives": {},
            "estimated_cycles": None,
            "warnings": [f"{step}: {str(error).splitlines()[0]}"],
        }
    module = hlo.parse(compiled.as_text() or "")
    return {"fits": True} | _memory(compiled, sizes) | _program(module, topology)


def rates(
    work: programs.Workload,
    topology: Topology,
    mesh: jax.sharding.Mesh,
    cycles: int | None,
) -> Report:
    """Examples a second and utilisation of a train step of so many cycles."""
    if not cycles:
        return {"examples_per_s_estimate": None, "utilisation_estimate": None}
    seconds = cycles / topology.chip.clock
    possible = seconds * mesh.size * topology.chip.peak
    multiple = sharding.row_shards(mesh)
    flops = {
        name: train_flops(work.encoder, work.head, work.model.num_outputs, load)
        for name, load in (("useful", work.useful()), ("all_tokens", work.computed(multiple)))
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
    tell: Callable[[Report], None],
) -> list[Report]:
    """Judges every mesh that may make sense; those that fit and are fastest come first.

    Args:
      work: the stage.
      topology: what it would run on.
      devices: of the topology.
      tell: called with each report as it is made.

    Raises:
      ConfigError: the parameters and the optimiser's state alone fit no mesh.
    """
    reports = []
    for sizes in candidates(work, len(devices)):
        mesh = sharding.make_mesh(*sizes.sizes, devices=devices)
        state = programs.state_shapes(work, mesh, programs.ASSUMED_STEPS)
        if programs.bytes_on_chip(state) > topology.chip.usable:
            continue
        reports.append(judge(work, topology, mesh))
        tell(reports[-1])
    if not reports:
        raise ConfigError(
            f"parameters and optimiser state do not fit {topology.name} on any mesh",
            where="--search",
            hint="name more or larger chips.",
        )

    def rank(report: Report) -> tuple[bool, float, float]:
        moved = sum(found["bytes"] for found in report["collectives"].values())
        return (not report["fits"], -(report["examples_per_s_estimate"] or 0.0), moved)

    return sorted(reports, key=rank)


def candidates(work: programs.Workload, chips: int) -> list[config.Mesh]:
    """Meshes over so many chips, sizes powers of two.

    Left out: tensor axes that divide neither heads nor feed-forward evenly or are wider than
    `WIDEST_TENSOR`, and more row shards than twice the rows of a batch, which would hold mostly
    padding, unless nothing else is left.
    """
    encoder, rows = work.encoder, work.rows(1)
    found = []
    tensor = 1
    while tensor <= min(chips, WIDEST_TENSOR):
        even = not encoder.num_heads % tensor and not encoder.intermediate_size % tensor
        shards = chips // tensor
        if even and shards * tensor == chips:
            powers = [2**i for i in range(shards.bit_length()) if not shards % 2**i]
            found += [config.Mesh(shards // fsdp, fsdp, tensor) for fsdp in powers]
        tensor *= 2
    least = min(mesh.data * mesh.fsdp for mesh in found)
    return [mesh for mesh in found if mesh.data * mesh.fsdp <= max(2 * rows, least)]


def _memory(compiled: jax.stages.Compiled, sizes: dict[str, int]) -> Report:
    """Bytes by kind on one chip."""
    said: Any = compiled.memory_analysis()
    bytes_of = sizes | {
        "arguments": said.argument_size_in_bytes,
        "outputs": said.output_size_in_bytes,
        "aliased": said.alias_size_in_bytes,
        "temporaries": said.temp_size_in_bytes,
        "code": said.generated_code_size_in_bytes,
    }
    kinds = ("arguments", "outputs", "temporaries", "code")
    bytes_of["peak"] = sum(bytes_of[kind] for kind in kinds) - bytes_of["aliased"]
    return {"bytes": bytes_of}


def _program(module: hlo.Module, topology: Topology) -> Report:
    """Collectives, cycles and kernels of a program."""
    cost = estimate.estimate(module, topology)
    timed = bool(topology.chip.clock)
    total = round(cost.cycles)
    report: Report = {
        "collectives": {
            kind: {
                "count": found.count,
                "bytes": found.bytes,
                "asynchronous": found.asynchronous,
                "cycles": round(found.cycles),
            }
            for kind, found in sorted(cost.collectives.items())
        },
        "kernels": _kernels(module),
        "warnings": sorted(cost.warnings),
        "estimated_cycles": total if timed else None,
    }
    if timed:
        report |= {
            "cycles_by_source": {
                "compiler": round(cost.compiler),
                "modelled": round(cost.modelled),
                "collectives_not_hidden": round(cost.exposed),
            },
            "collectives_not_hidden_share": cost.exposed / cost.cycles if cost.cycles else 0.0,
            "parts": estimate.by_part(cost),
            "top": estimate.top(cost, module, TOP),
        }
    return report


def _kernels(module: hlo.Module) -> Report:
    """Custom calls by target, and what computes attention."""
    calls: collections.Counter[str] = collections.Counter()
    attention = "xla"
    for computation in module.computations.values():
        for item in computation.values():
            target = item.text(r'custom_call_target="([^"]*)"')
            if not target or target in estimate.FREE_CALLS + estimate.COPY_CALLS:
                continue
            calls[target] += 1
            if target.startswith("__cudnn$fmha"):
                attention = "cudnn"
            elif target == estimate.KERNEL and item.name.startswith(tuple(estimate.SPLASH)):
                attention = "splash"
    return {"attention": attention, "custom_calls": dict(calls)}


def assumptions(work: programs.Workload, topology: Topology) -> list[str]:
    """What the report rests on, a sentence each."""
    chip, train = topology.chip, work.settings.train
    told = []
    if work.assumed is not None:
        told.append(
            f"no data were read: {work.assumed.rows} full rows of {train.row_length} tokens a "
            f"micro-batch, {work.assumed.sequences_per_row} examples a row, "
            f"{work.encoder.vocab_size:,} rows of the word embedding"
        )
    else:
        told.append(
            "the train step is that of the largest number of rows that the plan has, or of the one "
            "asked for; most steps have fewer rows"
        )
    if not chip.clock:
        return [*told, "no time: this compiler estimates none"]
    return [
        *told,
        f"ESTIMATE: {chip.clock / 1e9:.3f} GHz, of cycles such that a bfloat16 product of 8192 x "
        f"8192 x 8192 runs at the published peak of {chip.peak / 1e12:.0f} TFLOP/s",
        "cycles are the compiler's own; gathers, scatters, random bits and waits for copies count "
        f"by bytes over {chip.bandwidth / 1e9:.0f} GB/s, kernels by the operations and bytes they "
        f"state and {estimate.KERNEL_OVERHEAD * 1e6:.0f} microseconds each",
        f"collectives are rings on one axis of the torus at {chip.link / 1e9:.0f} GB/s, "
        f"{estimate.HOP * 1e6:.0f} microsecond a hop at least; nothing waits for the host",
        "utilisation counts matrix products alone, forward and backward",
    ]


def versions() -> dict[str, str]:
    """Versions of flaxfer, JAX and the compilers."""
    import importlib.metadata

    from flaxfer.runtime import platform

    found = platform.versions()
    for name in ("libtpu", "jax-cuda12-plugin"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def whole(work: programs.Workload, topology: Topology, report: Report) -> Report:
    """The report with what was compiled, for what, and on which grounds."""
    mesh = report["mesh"]
    return {
        "step": f"{work.settings.task.name} ({work.encoder.family})",
        "topology": {
            "name": topology.name,
            "chip": topology.chip.title,
            "chips": topology.chips,
            "memory_bytes": topology.chip.memory,
            "usable_bytes": topology.chip.usable,
            "clock_hz_estimate": topology.chip.clock or None,
            "peak_flops": topology.chip.peak or None,
        },
        **report,
        "shapes": programs.summary(work, mesh["data"] * mesh["fsdp"]),
        "useful_per_step": dataclasses.asdict(work.useful()),
        "assumptions": assumptions(work, topology),
        "versions": versions(),
    }
