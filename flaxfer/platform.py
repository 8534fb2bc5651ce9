"""What the run's hardware is, and what follows for precision and the compilation cache."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxfer import __version__
from flaxfer.config import Train

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def compute_dtype(train: Train) -> Any:
    """The dtype of matrix products; `auto` is bfloat16 where the hardware gains by it."""
    if train.compute_dtype != "auto":
        return jnp.dtype(train.compute_dtype)
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def cache_dir(setting: str) -> Path:
    """The folder for tokenised data and compiled programs."""
    if setting:
        return Path(setting)
    if own := os.environ.get("FLAXFER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxfer"


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs on disk, so that a second start does not compile again."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
