"""The hardware of a run as JAX sees it: precision, compiler options, memory and versions."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxfer import __version__
from flaxfer.errors import ConfigError
from flaxfer.runtime import host
from flaxfer.runtime.cpu import this_cpu
from flaxfer.runtime.host import cpu_flags

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def compute_dtype(setting: str, backend: str | None = None) -> Any:
    """Return the dtype of matmuls; `auto` is bfloat16 where the hardware gains by it.

    Args:
      setting: `auto`, `float32` or `bfloat16`.
      backend: `cpu`, `gpu` or `tpu`; None for the backend of this process.
    """
    if setting != "auto":
        return jnp.dtype(setting)
    if (backend or jax.default_backend()) != "cpu":
        return jnp.dtype("bfloat16")
    return jnp.dtype(this_cpu().dtype(jax.__version_info__))


def backend_of(device: jax.Device) -> str:
    """Return `cpu`, `gpu` or `tpu`."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


Options = Mapping[str, Any]

COMPILER_OPTIONS: Mapping[str, Options] = {
    # Overlap communication between chips with computation.
    "tpu": {
        "xla_tpu_enable_latency_hiding_scheduler": True,
        "xla_tpu_enable_async_collective_fusion": True,
        "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    },
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": True},
}
"""Default options on accelerators; those on CPUs are in `flaxfer.runtime.cpu`."""

_chosen: dict[str, Any] = {}


def choose_compiler_options(options: Options, device: jax.Device | None = None) -> None:
    """Set options for all later compilations, in addition to the defaults or overriding them.

    Args:
      options: values by name.
      device: a device of the programs; None for this process's.

    Raises:
      ConfigError: the compiler refuses an option.
    """
    for name, value in options.items():
        if reason := _refusal(name, value, device or jax.devices()[0]):
            raise ConfigError(
                f"the compiler does not take {name} = {value!r}: {reason}",
                where="compiler_options",
                hint="look the option up for this version of jaxlib, or leave it out.",
            )
    _chosen.clear()
    _chosen.update(options)


def compiler_options(device: jax.Device) -> dict[str, Any]:
    """Return the compiler options for programs on a device.

    Options are passed at compilation, where a name that this jaxlib does not know raises an error
    that can be caught; in XLA_FLAGS it would end the process. Unknown defaults are omitted, and
    `describe_compiler` names them.
    """
    defaults = _defaults(device).items()
    return {n: value for n, value in defaults if not _refusal(n, value, device)} | _chosen


def describe_compiler(device: jax.Device, dtype: Any) -> str:
    """Return a line with precision, kind of CPU, options, and the defaults unknown to jaxlib."""
    on_cpu = backend_of(device) == "cpu"
    options = compiler_options(device)
    unknown = sorted(_defaults(device).keys() - options)
    return ", ".join(
        [
            f"{jnp.dtype(dtype).name} matmuls",
            *([f"CPU kind {this_cpu()}"] if on_cpu else []),
            *(f"{name}={value}" for name, value in options.items()),
            *(f"{name} is not known to this jaxlib" for name in unknown),
        ]
    )


def _defaults(device: jax.Device) -> Options:
    backend = backend_of(device)
    return this_cpu().compiler_options if backend == "cpu" else COMPILER_OPTIONS[backend]


@functools.cache
def _refusal(name: str, value: Any, device: jax.Device) -> str:
    """Return why the compiler refuses an option; empty if it accepts it."""
    sharding = jax.sharding.SingleDeviceSharding(device)
    argument = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding)
    try:
        jax.jit(jnp.negative).lower(argument).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def keep_memory() -> bool:
    """Keep the memory that a step frees in the process for the next step; return success.

    On a CPU, XLA allocates its buffers in every step, and glibc returns large ones to the system at
    once, so each step begins with tens of thousands of page faults. Only for glibc on Linux, and
    not with FLAXFER_MALLOC=system. Existing allocations are unaffected.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("FLAXFER_MALLOC") == "system":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Constants of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD. A single arena on
    # the heap, which grows in large pieces and is never trimmed.
    settings = ((-8, 1), (-4, 0), (-1, -1), (-2, 1 << 28))
    return all(mallopt(parameter, value) for parameter, value in settings)


def return_memory() -> None:
    """Return the memory that `keep_memory` has kept to the system.

    What differs from study to study in size fits badly into the pieces that are free, so the heap
    of a grid would grow from study to study. Only for glibc on Linux.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def use_compilation_cache(folder: Path) -> None:
    """Keep compiled programs on disk, so that a second start does not compile again.

    JAX keys them by program, options and versions, but code for one CPU may not run on another, so
    each CPU model has its own folder. Damaged files are compiled again.
    """
    cpu = hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla" / cpu))
    # Dozens of small programs, each read faster than it is compiled.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def versions() -> dict[str, str]:
    """Return the versions of Python, flaxfer and the packages that affect numbers."""
    return {
        "python": platform.python_version(),
        "flaxfer": __version__,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def machine() -> dict[str, Any]:
    """Return processor, cores, memory (GiB) and JAX devices."""
    device = jax.devices()[0]
    return host.cpu_and_memory() | {"devices": f"{jax.device_count()} x {device.device_kind}"}
