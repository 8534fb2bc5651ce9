"""The programs that JAX builds in a block of code, and what tracing and compiling them costs."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

PHASES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
"""JAX's events by name."""


@dataclasses.dataclass
class Program:
    """The programs of one function: their number, and seconds by phase."""

    programs: int = 0
    trace: float = 0.0
    lower: float = 0.0
    compile: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of all phases."""
        return self.trace + self.lower + self.compile


Programs = dict[str, Program]

_recording: list[Programs] = []


def _note(event: str, seconds: float, **details: Any) -> None:
    if not _recording or event not in PHASES:
        return
    name = str(details["fun_name"])
    name = name.removeprefix("jit(").removesuffix(")").removeprefix("jit_")
    for programs in _recording:
        program, phase = programs[name], PHASES[event]
        setattr(program, phase, getattr(program, phase) + seconds)
        program.programs += phase == "compile"


jax.monitoring.register_event_duration_secs_listener(_note)


@contextlib.contextmanager
def recorded() -> Iterator[Programs]:
    """Record the programs that are built in the block, by name of their function.

    A function without programs was traced as part of another.
    """
    programs: Programs = collections.defaultdict(Program)
    _recording.append(programs)
    try:
        yield programs
    finally:
        _recording.pop()


def seconds(programs: Programs) -> float:
    """Return the seconds of all phases of recorded programs.

    The trace of a function that has no program of its own is within that of another.
    """
    return sum(program.seconds for program in programs.values() if program.programs)
