"""Parser of compiled programs in XLA's text format, limited to what the estimate needs.

The programs are scheduled: the instructions of a computation run in the order of the text.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (.*)$")
NAME = re.compile(r"%([\w.\-]+)")
PARENTHESIS = re.compile(r"[()]")
ROW = re.compile(r"^(\d+) (.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
      name: unique in its module.
      opcode: such as `fusion` or `all-gather-start`.
      shape: shape of the result, as printed.
      operands: names of the operands.
      attributes: everything after the operands, as printed.
      literal: text between the parentheses of a constant or a parameter.
      root: whether its computation returns it.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    literal: str = ""
    root: bool = False

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of all arrays of the result."""
        return sum(array_bytes(self.shape))

    @property
    def cycles(self) -> int | None:
        """The compiler's own estimate, or None without one."""
        cycles = self.text(r'"estimated_cycles":"(\d+)"')
        return int(cycles) if cycles else None

    @property
    def call_target(self) -> str:
        """Target of a custom call, or an empty string."""
        return self.text(r'custom_call_target="([^"]*)"')

    @property
    def op_name(self) -> str:
        """JAX's name for it, such as `jit(train_step)/jvp()/dot_general`."""
        return self.text('op_name="([^"]*)"')

    @property
    def frame(self) -> int:
        """Number of its stack frame, 0 for none."""
        return int(self.text(r"stack_frame_id=(\d+)") or 0)

    def called(self, role: str = "calls") -> str:
        """Return the computation it calls in a role: calls, condition or body."""
        return self.text(rf"\b{role}=%?([\w.\-]+)")

    def text(self, pattern: str) -> str:
        """Return the first group of a pattern in the attributes, or an empty string."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


Computation = Mapping[str, Instruction]
"""Instructions by name, in execution order."""

Frames = tuple[tuple[str, str], ...]
"""File and function of each frame of a stack, outermost first."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: computations by name.
      entry: name of the computation that is run.
      frames: stacks by the number of their innermost frame.
    """

    computations: Mapping[str, Computation]
    entry: str
    frames: Mapping[int, Frames]

    def inner(self, instruction: Instruction) -> list[Instruction]:
        """Return the instructions a fusion or an asynchronous operation calls, root last."""
        called = self.computations.get(instruction.called(), {})
        return sorted(called.values(), key=lambda item: item.root)

    def trip_count(self, loop: Instruction) -> int | None:
        """Return how often the body of a while loop runs, or None if unknown.

        A scan counts from 0 in steps of 1 while its counter is below a constant.
        """
        known = loop.text(r'"known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        condition = self.computations.get(loop.called("condition"), {})
        limits = [
            int(item.literal)
            for item in condition.values()
            if item.opcode == "constant" and item.literal.isdecimal()
        ]
        for root in (item for item in condition.values() if item.root):
            comparison = (self.inner(root) or [root])[-1]
            if "direction=LT" in comparison.attributes and len(limits) == 1:
                return limits[0]
        return None


def array_bytes(shape: str) -> list[int]:
    """Return the bytes of each array of a printed shape; dynamic sizes count at their maximum."""
    sizes = []
    for dtype, dimensions in ARRAY.findall(shape):
        # Names contain the number of bits; only pred, token and opaque have none.
        number = re.search(r"\d+", dtype)
        bits = int(number[0]) if number else 8 * (dtype == "pred")
        sizes.append(math.prod(map(int, re.findall(r"\d+", dimensions))) * bits // 8)
    return sizes


def parse(text: str) -> Module:
    """Parse the text of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    tables: dict[str, dict[int, str]] = {}
    entry, current, table = "", None, None
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current, table = computations.setdefault(header[2], {}), None
            entry = header[2] if header[1] else entry
        elif current is not None and (match := INSTRUCTION.match(line)):
            current[match[2]] = _instruction(match[2], match[3], bool(match[1]))
        elif re.fullmatch(r"[A-Z][A-Za-z]+", line):
            table = tables.setdefault(line, {})
        elif table is not None and (row := ROW.match(line)):
            table[int(row[1])] = row[2]
    return Module(computations, entry, _frames(tables))


def group_size(instruction: Instruction, devices: int) -> int:
    """Return how many of the `devices` each group of a collective joins."""
    groups = instruction.attributes.partition("replica_groups=")[2]
    if match := re.match(r"\{\{([\d,]+)\}", groups):
        return len(match[1].split(","))
    if match := re.match(r"\[\d+,(\d+)\]", groups):
        return int(match[1])
    if match := re.match(r"mesh\[(.*?)\] \{(.*?)\}", groups):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """Parse the text after the equals sign: shape, opcode, (operands), attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    start = rest.index("(")
    close = _closing(rest, start)
    inside = rest[start + 1 : close]
    return Instruction(
        name=name,
        opcode=rest[:start],
        shape=shape,
        operands=tuple(NAME.findall(inside)),
        attributes=rest[close + 1 :],
        literal="" if "%" in inside else inside,
        root=root,
    )


def _closing(text: str, start: int) -> int:
    """Return the position of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in PARENTHESIS.finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(text)


def _frames(tables: Mapping[str, Mapping[int, str]]) -> dict[int, Frames]:
    """Read the stacks from the four tables at the head of a program."""

    def field(text: str, name: str) -> int:
        match = re.search(rf"\b{name}=(\d+)", text)
        return int(match[1]) if match else 0

    files, functions = tables.get("FileNames", {}), tables.get("FunctionNames", {})
    locations, rows = tables.get("FileLocations", {}), tables.get("StackFrames", {})
    # A frame without a parent has 0 in some versions of XLA; in others all parents are one higher.
    shift = field(rows.get(1, ""), "parent_frame_id")
    stacks: dict[int, Frames] = {}
    for number, row in sorted(rows.items()):
        location = locations.get(field(row, "file_location_id"), "")
        frame = (
            files.get(field(location, "file_name_id"), "").strip('"'),
            functions.get(field(location, "function_name_id"), "").strip('"'),
        )
        stacks[number] = (*stacks.get(field(row, "parent_frame_id") - shift, ()), frame)
    return stacks
