"""How long a compiled program takes, by its compiler's own estimates: an estimate, never a timing.

The instructions of a program run one after the other; copies between memories and collectives that
are asynchronous run beside them, each on a queue of its own. Cycles have three sources:

- the compiler's estimate, where it has made one;
- bytes over the bandwidth of memory where it has not: gathers, scatters, random bits, and waits for
  asynchronous copies. Kernels (Pallas) count by the operations and bytes that they declare, JAX's
  splash attention, which declares none, by those that its source has;
- for collectives the bytes that a ring has to send, or the latency of its hops if that is longer
  (Patarasuk & Yuan 2009, J. Parallel Distrib. Comput. 69).
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from flaxfer.aot.hlo import ARRAY, Instruction, Module, array_bytes, group_size
from flaxfer.aot.parts import part_of
from flaxfer.aot.topology import Topology

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
"""Custom calls of the TPU compiler that only rename bits."""

COPY_CALLS = ("ZeroCrop", "PadToStatic", "SliceToDynamic")
"""Custom calls of the TPU compiler that copy."""

KERNEL_OVERHEAD = 2e-6
"""Seconds added to each kernel for its start and the copies that nothing hides."""

SPLASH = {"splash_mha_fwd": (2, 10), "splash_mha_dkv": (5, 15)}
"""Of each kernel of splash attention: matrix products, and vector operations on each score, counted
in its source (the backward pass in one kernel, as flaxfer asks for it)."""

VECTOR_OPERATIONS = 4 * 8 * 128
"""Of a chip in a cycle, on float32 numbers: four units of 8 x 128."""

LANES = 128
"""Side of the matrix unit: products over fewer dimensions take the time of as many."""

HOP = 1e-6
"""Seconds of latency from a chip to its neighbour."""


@dataclasses.dataclass
class Collectives:
    """Collectives of one kind: how many run, the bytes of their arrays on one chip, and cycles."""

    count: int = 0
    bytes: int = 0
    asynchronous: int = 0
    cycles: float = 0.0


@dataclasses.dataclass
class Cost:
    """What a computation takes on one chip.

    Attributes:
      compiler: cycles by the compiler's estimate.
      modelled: cycles by our own model of bytes and operations.
      exposed: cycles in collectives that nothing hides.
      parts: part of the model, direction -> cycles of any source.
      instructions: (cycles, instruction, how often it runs), of those that have any.
      collectives: by kind.
      warnings: what the estimate does not know.
    """

    compiler: float = 0.0
    modelled: float = 0.0
    exposed: float = 0.0
    parts: dict[tuple[str, str], float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )
    instructions: list[tuple[float, Instruction, int]] = dataclasses.field(default_factory=list)
    collectives: dict[str, Collectives] = dataclasses.field(default_factory=dict)
    warnings: set[str] = dataclasses.field(default_factory=set)

    @property
    def cycles(self) -> float:
        """All cycles."""
        return self.compiler + self.modelled + self.exposed

    def add(self, other: Cost, times: int) -> None:
        """Adds what a computation takes that is run so often."""
        for source in ("compiler", "modelled", "exposed"):
            setattr(self, source, getattr(self, source) + times * getattr(other, source))
        for part, cycles in other.parts.items():
            self.parts[part] += times * cycles
        self.instructions += [(times * c, item, times * n) for c, item, n in other.instructions]
        for kind, found in other.collectives.items():
            total = self.collectives.setdefault(kind, Collectives())
            total.count += times * found.count
            total.bytes += times * found.bytes
            total.asynchronous += times * found.asynchronous
            total.cycles += times * found.cycles
        self.warnings |= other.warnings


def estimate(module: Module, topology: Topology) -> Cost:
    """What the program takes on one chip of the topology.

    On kinds of accelerators without a clock only `collectives` and `warnings` mean something.
    """
    return _Clock(module, topology).run(module.entry)


class _Clock:
    """Runs a module's computations on paper."""

    def __init__(self, module: Module, topology: Topology):
        self._module, self._topology, self._chip = module, topology, topology.chip

    def run(self, name: str) -> Cost:
        """The cost of a computation, run once."""
        return _Run(self, name).cost

    def cycles(self, seconds: float) -> float:
        """Of the chip's clock."""
        return seconds * self._chip.clock

    def copy(self, size: float) -> float:
        """Cycles that bytes take between the chip and its memory."""
        return self.cycles(size / self._chip.bandwidth) if self._chip.bandwidth else 0.0

    def kernel(self, flops: float, size: float) -> float:
        """Cycles of a kernel."""
        if not self._chip.peak:
            return 0.0
        busiest = max(flops / self._chip.peak, size / self._chip.bandwidth)
        return self.cycles(busiest + KERNEL_OVERHEAD)

    def splash(self, query: Sequence[int], products: int, operations: int, size: float) -> float:
        """Cycles of a kernel of splash attention, whose vector operations wait for its products.

        Args:
          query: its shape, (rows, heads, tokens, width).
          products: of matrices.
          operations: on each score, of the vector units.
          size: bytes read and written.
        """
        if not self._chip.peak:
            return 0.0
        scores = math.prod(query[:3]) * query[2]
        flops = 2 * products * scores * max(query[3], LANES)
        computing = self.cycles(flops / self._chip.peak)
        computing += operations * scores / VECTOR_OPERATIONS
        return max(computing, self.copy(size)) + self.cycles(KERNEL_OVERHEAD)

    def collective(self, kind: str, size: float, instruction: Instruction) -> float:
        """Cycles of a collective of an array of so many bytes, gathered or still to be reduced."""
        n = group_size(instruction, self._topology.chips)
        if n == 1 or not self._chip.link:
            return 0.0
        if kind == "collective-permute":
            sent, hops = size, 1
        else:
            # To the half way around the ring, in both directions at once.
            sent, hops = size * (n - 1) / n, min(n, 2 * self._topology.side) // 2
            sent *= {"all-reduce": 2, "all-to-all": n / (2 * (n - 1))}.get(kind, 1)
        return self.cycles(max(sent / self._chip.link, hops * HOP))


class _Run:
    """One computation in its order, with the queues of what runs beside it."""

    def __init__(self, clock: _Clock, name: str):
        self.cost = Cost()
        self._clock, self._module = clock, clock._module
        self._items = self._module.computations[name]
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
        elif (found := self._collective(item)) is not None:
            self._communicate(item, *found)
        elif item.cycles is not None:
            self._spend(item, item.cycles, "compiler")
        elif item.opcode.endswith("-start"):
            largest = max(array_bytes(item.shape), default=0)
            self._begin(item.name, "copies", self._clock.copy(largest))
        elif item.opcode.endswith(("-done", "-update")):
            self._wait(item, item.operands[0])
        elif item.opcode == "custom-call":
            self._custom_call(item)
        else:
            self._spend(item, self._clock.copy(self._traffic(item)), "modelled")

    def _nested(self, item: Instruction) -> None:
        times = 1
        if item.opcode == "while":
            found = self._module.trip_count(item)
            if found is None:
                self.cost.warnings.add(f"{item.name}: its trip count is not known and counts as 1")
            times = found or 1
            names = [item.called("body")]
        elif item.opcode == "call":
            names = [item.called("to_apply")]
        else:
            listed = item.text(r"branch_computations=\{([^}]*)\}") or ", ".join(
                (item.called("true_computation"), item.called("false_computation"))
            )
            names = re.findall(r"[\w.\-]+", listed)
        costs = [self._clock.run(name) for name in names if name in self._module.computations]
        if costs:
            slowest = max(costs, key=lambda cost: cost.cycles)
            self.cost.add(slowest, times)
            self._now += times * slowest.cycles

    def _collective(self, item: Instruction) -> tuple[str, Instruction, str] | None:
        """Kind, the operation itself and its role: `now`, `start`, `done`; None if it is none.

        The TPU compiler splits an asynchronous collective into fusions that begin it, go on with it
        beside other work, and end it; each holds the same operation, with one channel.
        """
        kind, _, ending = item.opcode.rpartition("-")
        if kind in COLLECTIVES and ending in ("start", "done"):
            return kind, item, ending
        if item.opcode in COLLECTIVES:
            return item.opcode, item, "now"
        if item.opcode in ("async-done", "async-update") and item.operands[0] in self._pending:
            return ("", item, "done") if item.opcode == "async-done" else None
        if item.opcode not in ("fusion", "async-start"):
            return None
        inside = [x for x in self._module.inner(item) if x.opcode in COLLECTIVES]
        if not inside:
            return None
        operation = inside[0]
        kind = operation.opcode
        if item.called().startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        if item.opcode == "async-start" or item.name.startswith("async-collective-start"):
            return kind, operation, "start"
        if item.name.startswith("async-collective-done"):
            return kind, operation, "done"
        # Work beside a collective that has begun counts as work.
        return None if self._channel(operation) in self._pending else (kind, operation, "now")

    def _communicate(self, item: Instruction, kind: str, operation: Instruction, role: str) -> None:
        if role == "done":
            known = [name for name in item.operands if name in self._pending]
            self._wait(item, known[0] if known else self._channel(operation))
            return
        size = max(self._operand_bytes(operation), self._gathered(operation))
        if kind == "reduce-scatter":
            size = sum(array_bytes(operation.shape)) if operation.opcode == "all-reduce" else size
        cycles = self._clock.collective(kind, size, operation)
        total = self.cost.collectives.setdefault(kind, Collectives())
        total.count += 1
        total.bytes += int(size)
        total.cycles += cycles
        total.asynchronous += role == "start"
        name = item.name
        if role == "start" and item.opcode == "fusion":
            name = self._channel(operation)
        self._begin(name, "network", cycles)
        if role == "now":
            self._wait(item, name)

    def _gathered(self, operation: Instruction) -> int:
        """Bytes of the result; that of a start is a tuple of operands and results."""
        sizes = array_bytes(operation.shape)
        return max(sizes) if operation.opcode.endswith("-start") else sum(sizes)

    def _channel(self, operation: Instruction) -> str:
        return operation.text(r"(channel_id=\d+)") or operation.name

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
        setattr(self.cost, source, getattr(self.cost, source) + cycles)
        own, direction = part_of(self._module, item)
        self.cost.parts[part or own, direction] += cycles
        self.cost.instructions.append((cycles, item, 1))

    def _custom_call(self, item: Instruction) -> None:
        target = item.text(r'custom_call_target="([^"]*)"')
        if target in FREE_CALLS:
            return
        size = float(self._operand_bytes(item) + item.bytes)
        if target in COPY_CALLS:
            self._spend(item, self._clock.copy(size), "modelled")
            return
        for name, (products, operations) in SPLASH.items():
            if item.name.startswith(name):
                query = max(map(self._dimensions, item.operands), key=len)
                cycles = self._clock.splash(query, products, operations, size)
                self._spend(item, cycles, "modelled")
                return
        flops = 0.0
        stated = item.text(r'"cost_estimate":\{([^}]*)\}')
        if stated:
            numbers = dict(re.findall(r'"(\w+)":"(\d+)"', stated))
            flops = float(numbers.get("flops", 0))
            size = float(numbers.get("bytes_accessed", size))
        elif self._clock._chip.peak:
            name = re.sub(r"[.\d]+$", "", item.name)
            self.cost.warnings.add(
                f"the kernel {name} ({target}) states no cost_estimate: only its bytes count"
            )
        self._spend(item, self._clock.kernel(flops, size), "modelled")

    def _operand_bytes(self, item: Instruction) -> int:
        """Bytes of the operands that stand in this computation, of those of a fusion its inputs."""
        return sum(self._items[name].bytes for name in item.operands if name in self._items)

    def _dimensions(self, name: str) -> tuple[int, ...]:
        """The shape of an operand; empty where it stands elsewhere or is a scalar."""
        found = ARRAY.search(self._items[name].shape) if name in self._items else None
        return tuple(int(size) for size in found[2].split(",") if size) if found else ()

    def _traffic(self, item: Instruction) -> int:
        """Bytes read and written; of a gather only the rows that it takes."""
        if "gather" in item.name or item.opcode in ("gather", "dynamic-slice"):
            return 2 * item.bytes
        return self._operand_bytes(item) + item.bytes


def by_part(cost: Cost) -> list[dict[str, Any]]:
    """Cycles of each part and direction, the largest first."""
    return [
        {"part": part, "direction": direction, "cycles": round(cycles)}
        for (part, direction), cycles in sorted(cost.parts.items(), key=lambda item: -item[1])
    ]


def top(cost: Cost, module: Module, count: int) -> list[dict[str, Any]]:
    """The instructions with the most cycles, those of loops with all their turns."""
    largest = sorted(cost.instructions, key=lambda entry: -entry[0])[:count]
    return [
        {
            "instruction": item.name,
            "shape": _largest(item.shape),
            "part": " ".join(filter(None, part_of(module, item))),
            "operation": item.op_name,
            "runs": runs,
            "cycles": round(cycles),
        }
        for cycles, item, runs in largest
    ]


def _largest(shape: str) -> str:
    """The largest array of a result, and how many others there are."""
    arrays = [found[0] for found in ARRAY.finditer(shape)]
    largest = max(arrays, key=lambda array: sum(array_bytes(array)))
    return largest + (f" and {len(arrays) - 1} more" if len(arrays) > 1 else "")
