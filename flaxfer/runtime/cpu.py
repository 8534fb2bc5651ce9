"""Kinds of CPU and the choices for each: precision, compiler options and form of matmuls.

A row of the table says what was measured for it; a row without measurements keeps XLA's defaults.
`benchmarks/cpu_matmul.py` measures the matmuls of a machine and says whether its row is best there.

The number of threads is XLA's choice for every kind: one per CPU that the process may use, or
PJRT_NPROC of the environment. XLA's library takes it for matmuls, too: the option
xla_cpu_multi_thread_eigen has no effect on them (seen with jaxlib 0.12.0.1 on AVX2).
"""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Mapping, Set
from typing import Any

from flaxfer.runtime.host import cpu_flags


@dataclasses.dataclass(frozen=True)
class CpuKind:
    """A kind of CPU, by instruction set, and the choices for it.

    Attributes:
      name: the instruction set.
      flag: the flag that CPUs of this kind have; empty if any CPU of the architecture is of it.
      bfloat16_since: first version of jax, (major, minor), whose bfloat16 matmuls are faster than
        its float32 ones; None for none.
      compiler_options: XLA's options by name.
      flat_dtypes: dtypes in which matmuls with weights are fastest with two axes
        (`flaxfer.models.ops.project`).
      measured: what was measured, with which jaxlib; empty if nothing was.
    """

    name: str
    flag: str = ""
    bfloat16_since: tuple[int, int] | None = None
    compiler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    flat_dtypes: frozenset[str] = frozenset({"float32"})
    measured: str = ""

    def dtype(self, jax_version: tuple[int, ...]) -> str:
        """Return the faster dtype of matmuls with a version of jax: `float32` or `bfloat16`."""
        since = self.bfloat16_since
        return "bfloat16" if since and jax_version[:2] >= since else "float32"

    def __str__(self) -> str:
        """Return the name, with a note if nothing was measured."""
        return self.name if self.measured else f"{self.name} (not measured)"


# Vectors of 512 bits; XLA's default is 256, because older CPUs lower their clock for wider ones.
# oneDNN's matmuls are not an option: programs with them cannot be cached on disk, and are no
# faster, because models/ops.py has forms that XLA's own library supports.
_WIDE = {"xla_cpu_prefer_vector_width": 512}

X86 = (
    CpuKind(
        "AMX",
        flag="amx_bf16",
        bfloat16_since=(0, 12),
        compiler_options=_WIDE,
        measured="single matmuls of 4096 x 768 x 3072 on 2 cores, GFLOP/s: jaxlib 0.12.0.1 "
        "float32 290, bfloat16 1500 forward; jaxlib 0.10.2 280 and 250. No whole step.",
    ),
    CpuKind(
        "AVX-512 BF16",
        flag="avx512_bf16",
        bfloat16_since=(0, 12),
        compiler_options=_WIDE,
        measured="steps of all-MiniLM-L6-v2 on 2 cores of an AMD EPYC with jaxlib 0.12.0.1: in "
        "bfloat16, vectors of 256 bits take 1.05 times as long, oneDNN's matmuls 1.01 times "
        "(benchmarks/breakdown.py). Not measured: float32 steps.",
    ),
    CpuKind("AVX-512", flag="avx512f"),
    CpuKind(
        "AVX2",
        flag="avx2",
        measured="matmuls of layers of BERT-base and MiniLM on 2 cores of an AMD EPYC (Zen 3) "
        "with jaxlib 0.12.0.1: bfloat16 is 0.76 times as fast as float32, matmuls with all axes "
        "and vectors of 512 bits 1.01 times (benchmarks/results/cpu_matmul.json).",
    ),
    CpuKind("x86-64"),
)
ARM = (CpuKind("NEON with BF16", flag="bf16"), CpuKind("NEON"))
"""Kinds of each architecture, from the newest to the oldest; the last has no flag.

The system lists no flags, or none of these, for a CPU of the last kind.
"""

OTHER = CpuKind("other")
"""CPUs of other architectures."""

_KINDS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}


def cpu_kind(flags: Set[str], machine: str) -> CpuKind:
    """Return the kind of a CPU.

    Args:
      flags: its features, as `flaxfer.runtime.host.cpu_flags` returns them.
      machine: its architecture, as `platform.machine` returns it.
    """
    kinds = _KINDS.get(machine.lower(), (OTHER,))
    return next(kind for kind in kinds if not kind.flag or kind.flag in flags)


@functools.cache
def this_cpu() -> CpuKind:
    """Return the kind of this machine's CPU."""
    return cpu_kind(cpu_flags(), platform.machine())
