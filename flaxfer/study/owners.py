"""Owners of claims: what distinguishes a process from all others, and whether it still runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

UNKNOWN: dict[str, Any] = {"host": "unknown", "pid": 0, "system": "", "started": "", "since": 0.0}
"""Owner of a claim that is damaged."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The owner of a claim in force.

    Attributes:
      name: Host and process.
      since: When the claim was taken, in seconds of the owner's clock since the epoch; 0 if
        unknown.
      silent: Seconds since the last heartbeat that this process knows of.
      left: Seconds until the claim expires without another heartbeat.
    """

    name: str
    since: float
    silent: float
    left: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        taken = f" since {since}" if self.since else ""
        return (
            f"held by {self.name}{taken}; last heartbeat {self.silent:.0f} s ago, free in "
            f"{self.left:.0f} s unless there is another"
        )


def this_process() -> dict[str, Any]:
    """Return what distinguishes this process from all others, the time, and a random number."""
    pid = os.getpid()
    owner = {
        "host": socket.gethostname(),
        "pid": pid,
        "system": this_system(),
        "started": _start(pid),
    }
    return {**owner, "since": time.time(), "token": secrets.token_hex(8)}


def parse(data: bytes) -> dict[str, Any] | None:
    """Return the owner that a claim names; None if it is damaged."""
    try:
        owner = json.loads(data)
        known = {**UNKNOWN, **owner}
    except (ValueError, TypeError, RecursionError):
        return None
    if any(type(known[key]) not in (type(value), int) for key, value in UNKNOWN.items()):
        return None
    return known if owner.keys() >= {"host", "pid"} else None


def is_gone(owner: dict[str, Any]) -> bool:
    """Return whether an owner ran on this system and has ended."""
    if not owner["system"] or owner["system"] != this_system():
        return False
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # A process of another user has this number.
        return False
    return _start(owner["pid"]) != owner["started"]


@functools.cache
def this_system() -> str:
    """Return boot and namespace of process numbers; empty without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # After the name, which may hold anything.
    return "" if fields[0] in "ZX" else fields[19]
