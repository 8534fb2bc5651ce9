"""What the run's hardware is, and what follows for precision and the compilation cache."""

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

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def compute_dtype(setting: str, backend: str | None = None) -> Any:
    """The dtype of matrix products; `auto` is bfloat16 where the hardware gains by it.

    Args:
      setting: `auto`, `float32` or `bfloat16`.
      backend: `cpu`, `gpu` or `tpu`; None for that of this process.
    """
    if setting != "auto":
        return jnp.dtype(setting)
    if (backend or jax.default_backend()) != "cpu" or bfloat16_on_cpu():
        return jnp.dtype("bfloat16")
    return jnp.dtype("float32")


def bfloat16_on_cpu() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32, and this JAX knows how."""
    release = tuple(int(part) for part in jax.__version_info__[:2])
    return release >= (0, 12) and not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpu_flags())


COMPILER_OPTIONS: Mapping[str, Mapping[str, bool | int]] = {
    # Of CPUs that have them (see `_own_options`). The products of oneDNN are not asked for: a
    # program with them cannot be kept on disk, and is no faster, as the models ask for products in
    # forms that XLA's own library takes (models/layers.py, models/attention.py).
    "cpu": {"xla_cpu_prefer_vector_width": 512},
    # What is sent between chips may be sent while they compute.
    "tpu": {
        "xla_tpu_enable_latency_hiding_scheduler": True,
        "xla_tpu_enable_async_collective_fusion": True,
        "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    },
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": True},
}

_chosen: dict[str, Any] = {}


def choose_compiler_options(options: Mapping[str, Any], device: jax.Device | None = None) -> None:
    """Options for all programs that are compiled from here on, beside or instead of our own.

    Args:
      options: by name.
      device: one of those the programs are for; None for this process's.

    Raises:
      ConfigError: the compiler refuses one of them.
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
    """What XLA is told beside its defaults, for programs on such a device.

    The options go with the compilation, where a name that this jaxlib does not know is an error
    that can be caught; in XLA_FLAGS it would end the process. Such an option is left out, and
    `describe_compiler` names it.

    Args:
      device: one of those the program is for.
    """
    own = _own_options(device).items()
    return {name: value for name, value in own if not _refusal(name, value, device)} | _chosen


def _own_options(device: jax.Device) -> Mapping[str, bool | int]:
    """Those of `COMPILER_OPTIONS` that are for such a device."""
    # Older CPUs with such vectors lower their clock to use them.
    if _family(device) == "cpu" and "avx512_bf16" not in _cpu_flags():
        return {}
    return COMPILER_OPTIONS[_family(device)]


def _family(device: jax.Device) -> str:
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


@functools.cache
def _refusal(name: str, value: Any, device: jax.Device) -> str:
    """Why the compiler refuses an option; empty if it takes it."""
    where = jax.sharding.SingleDeviceSharding(device)
    argument = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)
    try:
        jax.jit(jnp.negative).lower(argument).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def describe_compiler(device: jax.Device, dtype: Any) -> str:
    """One line for the eye: precision, options, and those that this jaxlib does not know."""
    used = compiler_options(device)
    words = [f"{jnp.dtype(dtype).name} products"]
    words += [f"{name}={value}" for name, value in used.items()]
    left = _own_options(device).keys() - used
    words += [f"{name} is not known to this jaxlib" for name in sorted(left)]
    return ", ".join(words)


def keep_memory() -> bool:
    """Lets the process keep the memory that a step frees, for the next step; gives success.

    On a CPU, XLA takes its buffers anew in every step. glibc returns large ones to the system at
    once, so that each step begins with tens of thousands of page faults. Only glibc on Linux is
    told; FLAXFER_MALLOC=system leaves it as it is. Memory taken before is not touched.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("FLAXFER_MALLOC") == "system":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # The numbers of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD. One arena,
    # which lies on the heap, grows in large pieces, and of which nothing is given back.
    settings = ((-8, 1), (-4, 0), (-1, -1), (-2, 1 << 28))
    return all(mallopt(parameter, value) for parameter, value in settings)


def cache_dir(setting: str) -> Path:
    """The folder for tokenised data and compiled programs."""
    if setting:
        return Path(setting)
    if own := os.environ.get("FLAXFER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxfer"


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs on disk, so that a second start does not compile again.

    JAX keys them by program, options and versions, but code for one CPU may not run on another
    that shares the folder: so each kind of CPU has a folder of its own. What is damaged is compiled
    again.
    """
    kind = hashlib.sha256(" ".join(sorted(_cpu_flags())).encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla" / kind))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def versions() -> dict[str, str]:
    """Versions of Python, flaxfer and what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "flaxfer": __version__,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB) and JAX devices."""
    device = jax.devices()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "devices": f"{jax.device_count()} x {device.device_kind}",
    }


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpu_info("flags").split())


@functools.cache
def _cpu_info(key: str) -> str:
    """The first CPU's entry in /proc/cpuinfo; empty where there is none, as on macOS."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = [
        value.strip() for name, _, value in (x.partition(":") for x in lines) if name.strip() == key
    ]
    return found[0] if found else ""
