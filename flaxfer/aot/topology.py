"""Accelerators by name: their published figures, and absent devices to compile for."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from flaxfer.errors import ConfigError, UnavailableError
from flaxfer.runtime.host import install_hint

CALIBRATION = 8192
"""Side of a square bfloat16 matmul that runs at the peak of every TPU here. The compiler's estimate
of its cycles gives the clock of those cycles."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of accelerator; if figures are unknown (infinite), no time is estimated.

    Attributes:
      title: full name.
      memory: bytes of HBM of a chip, as sold.
      usable: bytes of HBM that the compiler lets a program use.
      peak: bfloat16 FLOP/s of matmuls.
      bandwidth: bytes/s of HBM.
      link: bytes/s that a chip sends over one axis of the torus, in both directions together.
      calibration_cycles: the compiler's estimate for the matmul of `CALIBRATION`.
    """

    title: str
    memory: int
    usable: int
    peak: float = math.inf
    bandwidth: float = math.inf
    link: float = math.inf
    calibration_cycles: int = 0

    @property
    def clock(self) -> float:
        """Estimated cycles per second; 0 if unknown."""
        if not self.calibration_cycles:
            return 0.0
        return self.calibration_cycles * self.peak / (2 * CALIBRATION**3)


GIB = 2**30
# Memory, peak, bandwidth and links: Google Cloud's TPU documentation; NVIDIA's H100 data sheet.
# Usable memory: what the compilers report when a program does not fit.
CHIPS: Mapping[str, Chip] = {
    "v5e": Chip("TPU v5e", 16 * GIB, int(15.75 * GIB), 197e12, 819e9, 90e9, 9_557_312),
    "v5p": Chip("TPU v5p", 95 * GIB, 95 * GIB, 459e12, 2765e9, 180e9, 4_652_072),
    "v6e": Chip("TPU v6e", 32 * GIB, int(31.24 * GIB), 918e12, 1640e9, 180e9, 2_977_840),
    "h100": Chip("NVIDIA H100 80GB", 84_942_979_072, 84_942_979_072),
}

FLAT = ("1x1", "1x2", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOLID = ("1x1x1", "1x1x2", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "v5e": FLAT,
    "v6e": FLAT,
    "v5p": SOLID,
    "h100": ("1", "2", "4", "8"),
}
"""The usual slices of TPUs, from one chip to 256, and the numbers of GPUs in one machine."""

ENVIRONMENT = {
    # Otherwise libtpu asks a metadata server, and warns that it finds no other hosts.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    # Nothing runs on a TPU, so several processes may compile for one.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}
"""Environment variables that libtpu reads when it starts."""

H100 = Path(__file__).with_name("h100.txtpb")
"""Description of an H100, as the CUDA driver gives it."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of TPUs or a machine with GPUs.

    Attributes:
      name: the compiler's name, such as `v5e:2x4`; for GPUs, such as `h100:8`.
      kind: key of `CHIPS`.
      chips: number of chips.
    """

    name: str
    kind: str
    chips: int

    @property
    def chip(self) -> Chip:
        """Figures of its kind of chip."""
        return CHIPS[self.kind]

    @property
    def side(self) -> int:
        """Chips along the longest axis of the torus."""
        return max(map(int, self.name.partition(":")[2].split("x")))


def parse(name: str) -> Topology:
    """Return the topology of a name such as `v5e:8`, `v5e:2x4`, `v5p:2x2x1` or `h100:8`.

    Raises:
      ConfigError: there is no such topology.
    """
    kind, _, layout = name.lower().partition(":")
    for sides in LAYOUTS.get(kind, ()):
        chips = math.prod(map(int, sides.split("x")))
        if layout in (sides, str(chips)):
            return Topology(f"{kind}:{sides}", kind, chips)
    raise ConfigError(
        f"there is no topology {name!r}",
        where="--topology",
        hint="use one of these, or only the number of chips, as in v5e:8.",
        details=[f"{kind}: {', '.join(layouts)}" for kind, layouts in LAYOUTS.items()],
    )


def devices(topology: Topology) -> list[jax.Device]:
    """Return devices to build a mesh of and compile for; nothing can run on them.

    Raises:
      UnavailableError: their compiler is not installed, or does not start.
    """
    gpu = topology.kind == "h100"
    package, extra = ("jax_cuda12_plugin", "cuda") if gpu else ("libtpu", "tpu")
    if importlib.util.find_spec(package) is None:
        raise UnavailableError(
            f"{package}, which contains the compiler, is not installed",
            where=topology.name,
            hint=f"run `{install_hint(extra)}` on Linux with Python 3.12 or later; no "
            f"{'GPU' if gpu else 'TPU'} is needed.",
        )
    from jax.experimental import topologies

    try:
        if gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
            description = topologies.get_topology_desc(
                platform="cuda", topology=f"1x1x{topology.chips}", target_config=H100.read_text()
            )
        else:
            os.environ.update(ENVIRONMENT)
            description = topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise UnavailableError(
            f"the compiler does not start: {error}",
            where=topology.name,
            hint="install the versions of constraints.txt; on Python 3.11 jax is older and may "
            "not know this accelerator.",
        ) from error
    return list(description.devices)
