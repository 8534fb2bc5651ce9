"""Estimated run time of a compiled program; an estimate, never a measurement.

The instructions of a program run one after the other. Asynchronous copies and collectives run
beside them, each kind on a queue of its own. Cycles have three sources:

- the compiler's estimate, if it has one;
- bytes over memory bandwidth for the rest: gathers, scatters, random bits, and waits for
  asynchronous copies. Pallas kernels count by the operations and bytes they declare, and JAX's
  splash attention, which declares none, by those in its source;
- for collectives, the bytes that a ring sends or the latency of its hops, whichever takes longer
  (Patarasuk & Yuan 2009, J. Parallel Distrib. Comput. 69).
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from flaxfer.aot.hlo import ARRAY, Instruction, Module, array_bytes, group_size
from flaxfer.aot.parts import part_of
from flaxfer.aot.topology import Chip, Topology

FREE = (
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
)
"""Instructions that take no time, or next to none."""

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
KERNEL = "tpu_custom_call"
FREE_CALLS = ("X64Combine", "X64SplitLow", "X64SplitHigh", "ConcatBitcast", "AllocateBuffer")
"""Custom calls of the TPU compiler that only reinterpret bits."""

COPY_CALLS = ("ZeroCrop", "PadToStatic", "SliceToDynamic")
"""Custom calls of the TPU compiler that copy."""

KERNEL_OVERHEAD = 2e-6
"""Seconds added to each kernel for its start and its exposed copies."""

SPLASH = {"splash_mha_fwd": (2, 10), "splash_mha_dkv": (5, 15)}
"""Matmuls, and vector operations per attention score, of each kernel of splash attention, counted
in its source (with the backward pass fused into one kernel, as flaxfer configures it)."""

SHORT_ROWS = {"short_rows_forward": 20, "short_rows_backward": 48}
"""Vector operations per attention score of each kernel of `flaxfer.models.short_rows`, which
declares an exponential a score: so many that, with its matmuls, it takes as many cycles as it has
bundles of instructions for v5e, 128 tokens, 12 heads of 64, dropout (`benchmarks.tpu_kernel`)."""

VECTOR_OPERATIONS = 4 * 8 * 128
"""float32 operations of a chip per cycle: four vector units of 8 x 128."""

LANES = 128
"""Side of the matrix unit; matmuls over smaller dimensions take the same time."""

HOP = 1e-6
"""Seconds of latency between neighbouring chips."""


@dataclasses.dataclass
class Collectives:
    """Collectives of one kind on one chip, with the bytes of their arrays."""

    count: int = 0
    bytes: int = 0
    asynchronous: int = 0
    cycles: float = 0.0

    def add(self, other: Collectives, times: int) -> None:
        """Add other collectives, repeated `times` times."""
        self.count += times * other.count
        self.bytes += times * other.bytes
        self.asynchronous += times * other.asynchronous
        self.cycles += times * other.cycles


class Spent(NamedTuple):
    """Cycles of an instruction.

    Attributes:
      cycles: of all its runs.
      source: `compiler` for its estimate, `modelled` for our own model of bytes and operations,
        `exposed` for collectives that no other work hides.
      part: part of the model and direction.
    """

    cycles: float
    item: Instruction
    runs: int
    source: str
    part: tuple[str, str]


@dataclasses.dataclass
class Cost:
    """Cost of a computation on one chip.

    Attributes:
      spent: cycles of the instructions that take time.
      collectives: collectives by kind.
      warnings: limits of the estimate.
    """

    spent: list[Spent] = dataclasses.field(default_factory=list)
    collectives: dict[str, Collectives] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(Collectives)
    )
    warnings: set[str] = dataclasses.field(default_factory=set)

    def cycles(self, source: str = "") -> float:
        """Return the cycles of a source, by default of all."""
        return sum(x.cycles for x in self.spent if source in ("", x.source))

    def parts(self) -> dict[tuple[str, str], float]:
        """Return the cycles by part of the model and direction."""
        parts: dict[tuple[str, str], float] = collections.defaultdict(float)
        for x in self.spent:
            parts[x.part] += x.cycles
        return parts

    def add(self, other: Cost, times: int) -> None:
        """Add the cost of a computation that runs `times` times."""
        self.spent += [
            x._replace(cycles=times * x.cycles, runs=times * x.runs) for x in other.spent
        ]
        for kind, collective in other.collectives.items():
            self.collectives[kind].add(collective, times)
        self.warnings |= other.warnings


def estimate(module: Module, topology: Topology) -> Cost:
    """Return the cost of a program on one chip of the topology.

    For accelerators without a clock only `collectives` and `warnings` are meaningful.
    """
    return _Schedule(module, topology, module.entry).cost


def _copy_cycles(chip: Chip, size: float) -> float:
    """Return the cycles that `size` bytes take between the chip and its memory."""
    return size / chip.bandwidth * chip.clock


def _splash_cycles(
    chip: Chip, query: Sequence[int], matmuls: int, operations: int, size: float
) -> float:
    """Return the cycles of splash attention, whose vector operations wait for its matmuls.

    `query` is the shape of the queries (rows, heads, tokens, width), `operations` counts vector
    operations per score, and `size` is in bytes read and written.
    """
    scores = math.prod(query[:3]) * query[2]
    flops = 2 * matmuls * scores * max(query[3], LANES)
    computing = flops / chip.peak * chip.clock + operations * scores / VECTOR_OPERATIONS
    return max(computing, _copy_cycles(chip, size)) + KERNEL_OVERHEAD * chip.clock


def _collective_cycles(topology: Topology, kind: str, size: float, item: Instruction) -> float:
    """Return the cycles of a collective whose gathered or unreduced array has `size` bytes."""
    chip, n = topology.chip, group_size(item, topology.chips)
    if n == 1:
        return 0.0
    if kind == "collective-permute":
        sent, hops = size, 1
    else:
        # Half way around the ring, in both directions at once.
        sent, hops = size * (n - 1) / n, min(n, 2 * topology.side) // 2
        sent *= {"all-reduce": 2, "all-to-all": n / (2 * (n - 1))}.get(kind, 1)
    return max(sent / chip.link, hops * HOP) * chip.clock


class _Schedule:
    """The instructions of one computation in order, with the queues that run beside them."""

    def __init__(self, module: Module, topology: Topology, name: str):
        self.cost = Cost()
        self._module, self._topology, self._chip = module, topology, topology.chip
        self._items = module.computations[name]
        self._now = 0.0
        self._free = {"network": 0.0, "copies": 0.0}
        self._pending: dict[str, tuple[float, str]] = {}
        for item in self._items.values():
            self._step(item)

    def _step(self, item: Instruction) -> None:
        if item.opcode in FREE:
            return
        if item.opcode in ("while", "call", "conditional"):
            self._nested(item)
        elif (collective := self._collective(item)) is not None:
            self._communicate(item, *collective)
        elif item.cycles is not None:
            self._spend(item, item.cycles, "compiler")
        elif item.opcode.endswith("-start"):
            largest = max(array_bytes(item.shape), default=0)
            self._begin(item.name, "copies", _copy_cycles(self._chip, largest))
        elif item.opcode == "async-update":  # It hands on what has begun.
            self._pending[item.name] = self._pending.pop(item.operands[0], (0.0, "copies"))
        elif item.opcode.endswith("-done"):
            self._wait(item, item.operands[0])
        elif item.opcode == "custom-call":
            self._custom_call(item)
        else:
            self._spend(item, _copy_cycles(self._chip, self._traffic(item)), "modelled")

    def _nested(self, item: Instruction) -> None:
        times = 1
        if item.opcode == "while":
            trips, called = self._module.trip_count(item), item.called("body")
            if trips is None:
                self.cost.warnings.add(f"{item.name}: trip count unknown, counted as 1")
            else:
                times = trips
        elif item.opcode == "call":
            called = item.called("to_apply")
        else:
            called = item.text(r"branch_computations=\{([^}]*)\}") or ", ".join(
                (item.called("true_computation"), item.called("false_computation"))
            )
        names = [n for n in re.findall(r"[\w.\-]+", called) if n in self._module.computations]
        costs = [_Schedule(self._module, self._topology, name).cost for name in names]
        if costs:
            slowest = max(costs, key=Cost.cycles)
            self.cost.add(slowest, times)
            self._now += times * slowest.cycles()

    def _collective(self, item: Instruction) -> tuple[str, Instruction, str] | None:
        """Return kind, operation and role (`now`, `start`, `done`) of a collective, else None.

        The TPU compiler splits an asynchronous collective into fusions that begin it, continue it
        beside other work, and end it; each holds the same operation, with one channel.
        """
        kind, _, ending = item.opcode.rpartition("-")
        if kind in COLLECTIVES and ending in ("start", "done"):
            return kind, item, ending
        if item.opcode in COLLECTIVES:
            return item.opcode, item, "now"
        if item.opcode == "async-done" and item.operands[0] in self._pending:
            return "", item, "done"
        if item.opcode not in ("fusion", "async-start"):
            return None
        inside = [x for x in self._module.inner(item) if x.opcode in COLLECTIVES]
        if not inside:
            return None
        operation = inside[0]
        scattered = item.called().startswith("all-reduce-scatter")
        kind = "reduce-scatter" if scattered else operation.opcode
        if item.opcode == "async-start" or item.name.startswith("async-collective-start"):
            return kind, operation, "start"
        if item.name.startswith("async-collective-done"):
            return kind, operation, "done"
        # Work beside a collective that has begun counts as work.
        return None if _channel(operation) in self._pending else (kind, operation, "now")

    def _communicate(self, item: Instruction, kind: str, operation: Instruction, role: str) -> None:
        if role == "done":
            started = [name for name in item.operands if name in self._pending]
            self._wait(item, started[0] if started else _channel(operation))
            return
        size = max(self._operand_bytes(operation), _gathered_bytes(operation))
        if kind == "reduce-scatter" and operation.opcode == "all-reduce":
            size = operation.bytes
        cycles = _collective_cycles(self._topology, kind, size, operation)
        self.cost.collectives[kind].add(Collectives(1, size, role == "start", cycles), 1)
        name = item.name
        if role == "start" and item.opcode == "fusion":
            name = _channel(operation)
        self._begin(name, "network", cycles)
        if role == "now":
            self._wait(item, name)

    def _begin(self, name: str, queue: str, cycles: float) -> None:
        self._free[queue] = max(self._now, self._free[queue]) + cycles
        self._pending[name] = (self._free[queue], queue)

    def _wait(self, item: Instruction, name: str) -> None:
        end, queue = self._pending.pop(name, (0.0, "copies"))
        if queue == "network":
            self._spend(item, end - self._now, "exposed", "collectives")
        else:
            self._spend(item, end - self._now, "modelled", "waits for copies")

    def _spend(self, item: Instruction, cycles: float, source: str, part: str = "") -> None:
        if cycles <= 0:
            return
        self._now += cycles
        model_part, direction = part_of(self._module, item)
        self.cost.spent.append(Spent(cycles, item, 1, source, (part or model_part, direction)))

    def _custom_call(self, item: Instruction) -> None:
        if item.call_target in FREE_CALLS:
            return
        size = float(self._operand_bytes(item) + item.bytes)
        splash = [counts for name, counts in SPLASH.items() if item.name.startswith(name)]
        if item.call_target in COPY_CALLS:
            cycles = _copy_cycles(self._chip, size)
        elif splash:
            query = max(map(self._dimensions, item.operands), key=len)
            cycles = _splash_cycles(self._chip, query, *splash[0], size)
        else:
            cycles = self._kernel_cycles(item, size)
        self._spend(item, cycles, "modelled")

    def _kernel_cycles(self, item: Instruction, size: float) -> float:
        """Return the cycles of a kernel that reads and writes `size` bytes, or what it declares."""
        chip = self._chip
        text = item.text(r'"cost_estimate":\{([^}]*)\}')
        if not text and chip.clock:
            name = re.sub(r"[.\d]+$", "", item.name)
            self.cost.warnings.add(
                f"the kernel {name} ({item.call_target}) has no cost_estimate: only its bytes count"
            )
        declared = dict(re.findall(r'"(\w+)":"(\d+)"', text))
        flops = float(declared.get("flops", 0))
        size = float(declared.get("bytes_accessed", size))
        computing = flops / chip.peak * chip.clock
        for name, operations in SHORT_ROWS.items():
            if item.name.startswith(name):
                computing += operations * float(declared["transcendentals"]) / VECTOR_OPERATIONS
        return max(computing, _copy_cycles(chip, size)) + KERNEL_OVERHEAD * chip.clock

    def _operand_bytes(self, item: Instruction) -> int:
        """Return the bytes of the operands that are in this computation."""
        return sum(self._items[name].bytes for name in item.operands if name in self._items)

    def _dimensions(self, name: str) -> tuple[int, ...]:
        """Return the shape of an operand; () for a scalar and outside of this computation."""
        match = ARRAY.search(self._items[name].shape) if name in self._items else None
        return tuple(int(size) for size in match[2].split(",") if size) if match else ()

    def _traffic(self, item: Instruction) -> int:
        """Return the bytes read and written; a gather reads only the rows it takes."""
        if "gather" in item.name or item.opcode in ("gather", "dynamic-slice"):
            return 2 * item.bytes
        return self._operand_bytes(item) + item.bytes


def _channel(operation: Instruction) -> str:
    return operation.text(r"(channel_id=\d+)") or operation.name


def _gathered_bytes(operation: Instruction) -> int:
    """Return the bytes of the result; a start's is a tuple of operands and results."""
    sizes = array_bytes(operation.shape)
    return max(sizes) if operation.opcode.endswith("-start") else sum(sizes)


def by_part(cost: Cost) -> list[dict[str, Any]]:
    """Return the cycles of each part and direction, largest first."""
    return [
        {"part": part, "direction": direction, "cycles": round(cycles)}
        for (part, direction), cycles in sorted(cost.parts().items(), key=lambda item: -item[1])
    ]


def top(cost: Cost, module: Module, count: int) -> list[dict[str, Any]]:
    """Return the instructions with the most cycles, summed over the iterations of loops."""
    return [
        {
            "instruction": x.item.name,
            "shape": _largest_array(x.item.shape),
            "part": " ".join(filter(None, part_of(module, x.item))),
            "operation": x.item.op_name,
            "runs": x.runs,
            "cycles": round(x.cycles),
        }
        for x in sorted(cost.spent, key=lambda x: -x.cycles)[:count]
    ]


def _largest_array(shape: str) -> str:
    """Return the largest array of a result, and the number of its other arrays."""
    arrays = [match[0] for match in ARRAY.finditer(shape)]
    largest = max(arrays, key=lambda array: sum(array_bytes(array)))
    return largest + (f" and {len(arrays) - 1} more" if len(arrays) > 1 else "")
