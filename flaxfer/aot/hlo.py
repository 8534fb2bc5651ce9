"""Compiled programs as XLA prints them: computations, instructions, and where they come from.

Only what the estimate needs is read. The programs are scheduled: the instructions of a computation
run in the order in which they stand.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

BYTES = {"pred": 1.0, "token": 0.0, "opaque": 0.0, "bf16": 2.0, "s4": 0.5, "u4": 0.5, "s2": 0.25}
"""Bytes of an element; the other types say their bits in their names."""

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
      shape: the result, as printed.
      operands: names.
      attributes: all that follows the operands, as printed.
      literal: what stands between the parentheses of a constant or a parameter.
      root: whether it is what its computation returns.
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
        """Bytes of the result, that of all its arrays."""
        return sum(array_bytes(self.shape))

    @property
    def cycles(self) -> int | None:
        """The compiler's own estimate, or None where it has made none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def op_name(self) -> str:
        """How JAX calls it, such as `jit(train_step)/jvp()/dot_general`."""
        return self.text('op_name="([^"]*)"')

    @property
    def frame(self) -> int:
        """Number of its stack frame, 0 for none."""
        return int(self.text(r"stack_frame_id=(\d+)") or 0)

    def called(self, role: str = "calls") -> str:
        """The computation that it calls in a role: calls, condition, body."""
        return self.text(rf"\b{role}=%?([\w.\-]+)")

    def text(self, pattern: str) -> str:
        """The first group of the pattern in its attributes, or nothing."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


Computation = Mapping[str, Instruction]
"""Instructions by name, in the order in which they run."""

Frames = tuple[tuple[str, str], ...]
"""File and function of each frame of a stack, the outermost first."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: by name.
      entry: name of the one that is run.
      frames: number of a stack frame -> the stack.
    """

    computations: Mapping[str, Computation]
    entry: str
    frames: Mapping[int, Frames]

    def inner(self, instruction: Instruction) -> list[Instruction]:
        """The instructions of what a fusion or an asynchronous operation calls, its root last."""
        found = list(self.computations.get(instruction.called(), {}).values())
        return sorted(found, key=lambda item: item.root)

    def trip_count(self, loop: Instruction) -> int | None:
        """How often the body of a while loop runs; None if the program does not say.

        A scan counts from 0 in steps of 1 until its counter is no longer below a constant.
        """
        known = loop.text(r'"known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        condition = self.computations.get(loop.called("condition"), {})
        last = next((item for item in condition.values() if item.root), None)
        if last is None or "direction=LT" not in last.attributes:
            if last is None or last.opcode != "fusion":
                return None
            inner = self.inner(last)
            if not inner or "direction=LT" not in inner[-1].attributes:
                return None
        limits = [
            int(item.literal)
            for item in condition.values()
            if item.opcode == "constant" and re.fullmatch(r"\d+", item.literal)
        ]
        return limits[0] if len(limits) == 1 else None


def array_bytes(shape: str) -> list[int]:
    """Bytes of each array of a result as printed; tuples hold several, dynamic sizes their most."""
    sizes = []
    for kind, dimensions in ARRAY.findall(shape):
        bits = re.match(r"[a-z]+(\d+)", kind)
        each = BYTES.get(kind) or (int(bits[1]) / 8 if bits else 0.0)
        count = 1
        for size in filter(None, dimensions.replace("<=", "").split(",")):
            count *= int(size)
        sizes.append(int(each * count))
    return sizes


def parse(text: str) -> Module:
    """Reads what `compiled.as_text()` gives."""
    computations: dict[str, dict[str, Instruction]] = {}
    tables: dict[str, dict[int, str]] = {}
    entry, current, table = "", None, None
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current, table = computations.setdefault(header[2], {}), None
            entry = header[2] if header[1] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            made = _instruction(found[2], found[3], bool(found[1]))
            current[made.name] = made
        elif re.fullmatch(r"[A-Z][A-Za-z]+", line):
            table = tables.setdefault(line, {})
        elif table is not None and (row := ROW.match(line)):
            table[int(row[1])] = row[2]
    return Module(computations, entry, _frames(tables))


def group_size(instruction: Instruction, devices: int) -> int:
    """How many devices a collective joins; `devices` is how many there are in all."""
    groups = instruction.attributes.partition("replica_groups=")[2]
    if found := re.match(r"\{\{([\d,]+)\}", groups):
        return len(found[1].split(","))
    if found := re.match(r"\[\d+,(\d+)\]", groups):
        return int(found[1])
    if found := re.match(r"mesh\[(.*?)\] \{(.*?)\}", groups):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        size = 1
        for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2]):
            size *= int(part or sizes[axis])
        return size
    return devices


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """From what follows the equals sign: shape, opcode, operands in parentheses, attributes."""
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
    """Place of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in PARENTHESIS.finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    return len(text)


def _frames(tables: Mapping[str, Mapping[int, str]]) -> dict[int, Frames]:
    """The stacks, from the four tables at the head of a program."""

    def field(text: str, name: str) -> int:
        found = re.search(rf"\b{name}=(\d+)", text)
        return int(found[1]) if found else 0

    files, functions = tables.get("FileNames", {}), tables.get("FunctionNames", {})
    places, rows = tables.get("FileLocations", {}), tables.get("StackFrames", {})
    # A frame without a parent says 1 where the numbers of parents are one too high, else 0.
    shift = field(rows.get(1, ""), "parent_frame_id")
    stacks: dict[int, Frames] = {}
    for number, row in sorted(rows.items()):
        place = places.get(field(row, "file_location_id"), "")
        own = (
            files.get(field(place, "file_name_id"), "").strip('"'),
            functions.get(field(place, "function_name_id"), "").strip('"'),
        )
        stacks[number] = (*stacks.get(field(row, "parent_frame_id") - shift, ()), own)
    return stacks
