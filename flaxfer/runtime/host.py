"""This machine and installation, described without JAX: CPU, memory, cache, commit, install hints.

The measuring scripts import this module where only the standard library is installed.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The checkout, if flaxfer is installed from one."""

CPUINFO = Path("/proc/cpuinfo")


def install_hint(extra: str) -> str:
    """Return the command that adds an extra to this environment, for error messages.

    No package index has flaxfer, so a command with its bare name would find nothing. The
    command installs the checkout again, with the extra; without a checkout it names the packages.

    Args:
      extra: A name of `project.optional-dependencies` in pyproject.toml.
    """
    if (ROOT / "pyproject.toml").is_file():
        place = "." if Path.cwd() == ROOT else str(ROOT)
        return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"
    from packaging.requirements import Requirement

    packages = []
    for text in importlib.metadata.requires("flaxfer") or ():
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        # Dependencies without a marker, or with one that holds anyway, are there already.
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            packages.append(shlex.quote(str(requirement)))
    return " ".join(["pip install", *packages])


def cache_dir(setting: str) -> Path:
    """Return the folder for tokenised data, compiled programs and the demo's weights."""
    if folder := setting or os.environ.get("FLAXFER_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxfer"


def cpu_and_memory() -> dict[str, Any]:
    """Return the name of the processor, the number of cores, and the memory in GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
    }


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the features of the CPU by Linux's names; empty if the system does not list them.

    Args:
      cpuinfo: The file in which Linux describes the CPUs; macOS has none.
    """
    # On Arm, Linux calls them "Features".
    flags = _cpu_info("flags", cpuinfo) or _cpu_info("Features", cpuinfo)
    return frozenset(flags.split()) or _apple_flags()


def parse_apple_flags(text: str) -> frozenset[str]:
    """Return the features in the output of `sysctl hw.optional.arm`, by Linux's names.

    A line such as `hw.optional.arm.FEAT_BF16: 1` says that the CPU has `bf16`.
    """
    entries = (line.partition(":") for line in text.splitlines())
    return frozenset(
        name.rpartition(".")[2].removeprefix("FEAT_").lower()
        for name, _, value in entries
        if value.strip() == "1"
    )


@functools.cache
def _apple_flags() -> frozenset[str]:
    """Return the features that macOS lists; empty on other systems."""
    if sys.platform != "darwin":
        return frozenset()
    command = ["/usr/sbin/sysctl", "hw.optional.arm"]
    # An Intel Mac has no such names; jaxlib does not support it.
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return parse_apple_flags(done.stdout)


def commit(folder: Path = ROOT, but: str = "") -> str:
    """Return the commit of a checkout, with `-dirty` if files differ; empty if unknown.

    Args:
      folder: The root of the checkout. A folder inside another repository has no commit.
      but: A folder within it whose changes do not count.
    """
    commands = (
        ["rev-parse", "--show-toplevel"],
        ["rev-parse", "--short=12", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no", "--", ".", *[f":!{but}"] * bool(but)],
    )
    try:
        top, name, dirty = (
            subprocess.check_output(
                ["git", *command], cwd=folder, text=True, timeout=10, stderr=subprocess.DEVNULL
            ).strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    if Path(top) != folder.resolve():
        return ""
    return name + ("-dirty" if dirty else "")


def now() -> str:
    """Return the current time in UTC, as in 2026-01-31T23:59:59+00:00."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def _cpu_info(key: str, cpuinfo: Path = CPUINFO) -> str:
    """Return the first CPU's entry in a file; empty if there is none, as on macOS."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() == key), "")
