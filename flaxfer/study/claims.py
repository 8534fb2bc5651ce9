"""Claims: which process works on which folder of a shared directory, agreed through files.

A claim on a folder is the file `claims/<n>` in it, where n counts from 1 and the highest is in
force. The file names its owner, whose heartbeat sets its modification time. A claim expires without
heartbeat for longer than the lease, or when its owner ran on this machine and is gone. An expired
claim is taken over by creating the file n + 1, which only one of many contenders can do. No file is
ever removed or renamed, so a slow contender cannot take anything from a newer owner.

The file system, local or NFS version 3 or later, must create a file for one client only (`O_EXCL`)
and show the newest times of a file that is opened (close-to-open consistency). Ages are differences
of two times of the file system's clock; clocks of machines are not compared.

No file system can prevent one thing: an owner that is suspended in the middle of a write for longer
than the lease completes that write when it wakes, and finds its claim lost at the next one. So
every write must be atomic.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.errors import ClaimLostError

LEASE = 60.0
"""Seconds without heartbeat after which a claim expires."""

BEATS = 6
"""Heartbeats per lease."""

FOLDER = "claims"

UNKNOWN = {"host": "unknown", "pid": 0, "system": "", "started": ""}

log = logging.getLogger("flaxfer.study.claims")


def file_system_time(folder: Path) -> float:
    """Return the time of a folder's file system, read off a file touched there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.utime(file.fileno())
        return os.fstat(file.fileno()).st_mtime


def uptime() -> float:
    """Return a clock in seconds that also runs while this process or machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclasses.dataclass(eq=False)
class Claim:
    """A folder owned by this process until `release` or until a heartbeat is overdue.

    Attributes:
      folder: The claimed folder.
      file: File of the claim.
      lease: Seconds without heartbeat after which the claim expires.
      clock: Clock of this process, in seconds.
      beaten: Start of the last heartbeat, by this clock.
    """

    folder: Path
    file: Path
    lease: float
    clock: Callable[[], float]
    beaten: float

    def beat(self) -> None:
        """Renew the claim, unless it has expired."""
        began = self.clock()
        if began - self.beaten <= self.lease:
            os.utime(self.file)  # Without times: the server sets its own.
            self.beaten = began

    def confirm(self) -> None:
        """Return if the folder is still owned; call it before anything is written there.

        Raises:
          ClaimLostError: If it may belong to another process.
        """
        silent = self.clock() - self.beaten
        if silent > self.lease or _newest(self.folder) != int(self.file.name):
            raise ClaimLostError(
                f"another process may have taken this over: this one sent no heartbeat for "
                f"{silent:.0f} s, and {self.lease:.0f} s are allowed",
                where=str(self.folder),
                hint="find out what stops this process, or its access to the folder, for so long.",
            )


class Claims:
    """Claims of this process, renewed by a thread; a context manager.

    Args:
      lease: Seconds; the same for all processes that share a directory.
      now: Returns the time of the file system of a folder.
      clock: Returns the time of this process.
    """

    def __init__(
        self,
        lease: float = LEASE,
        now: Callable[[Path], float] = file_system_time,
        clock: Callable[[], float] = uptime,
    ):
        self._lease, self._now, self._clock = lease, now, clock
        self._held: set[Claim] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for claim in list(self._held):
            self.release(claim)

    def take(self, folder: Path) -> Claim | None:
        """Claim a folder, created if it is missing; return None if another process owns it."""
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        newest, owner = self._newest(folder)
        if owner is not None:
            return None
        began, file = self._clock(), folder / FOLDER / str(newest + 1)
        try:
            with open(file, "x", encoding="utf-8") as opened:
                json.dump(_process(), opened)
        except FileExistsError:
            return None
        os.utime(file)
        claim = Claim(folder, file, self._lease, self._clock, began)
        with self._lock:
            self._held.add(claim)
        return claim

    @contextlib.contextmanager
    def taking(self, folders: Sequence[Path]) -> Iterator[list[Claim]]:
        """Claim all of some folders within a `with` block; yield none if one is not free.

        All processes should list them in the same order, so that one of them gets all.
        """
        taken: list[Claim] = []
        try:
            for folder in folders:
                claim = self.take(folder)
                if claim is None:
                    break
                taken.append(claim)
            yield taken if len(taken) == len(folders) else []
        finally:
            for claim in taken:
                self.release(claim)

    def release(self, claim: Claim) -> None:
        """End a claim, so that others need not wait until it expires."""
        with self._lock:  # No heartbeat may come after it.
            self._held.discard(claim)
            os.utime(claim.file, (0, 0))  # Older than any lease.

    def owner(self, folder: Path) -> str | None:
        """Return host and process of a folder's owner, or None."""
        _, owner = self._newest(folder)
        return f"{owner['host']}:{owner['pid']}" if owner else None

    def _newest(self, folder: Path) -> tuple[int, dict[str, Any] | None]:
        """Return the number of a folder's newest claim, and its owner if it is in force."""
        if not (newest := _newest(folder)):
            return 0, None
        # Opening makes NFS show the current time.
        with open(folder / FOLDER / str(newest), encoding="utf-8") as opened:
            changed = os.fstat(opened.fileno()).st_mtime
            text = opened.read()
        # Created but not yet written: its owner is not known yet.
        owner: dict[str, Any] = json.loads(text) if text else UNKNOWN
        expired = _is_gone(owner) or self._now(folder / FOLDER) - changed > self._lease
        return newest, None if expired else owner

    def _beat(self) -> None:
        while not self._stop.wait(self._lease / BEATS):
            with self._lock:
                for claim in self._held:
                    try:
                        claim.beat()
                    except OSError as error:  # `confirm` raises if it lasts.
                        log.warning("no heartbeat for %s: %s", claim.folder, error)


def _newest(folder: Path) -> int:
    """Return the number of the newest claim; 0 if there is none."""
    try:
        names = os.listdir(folder / FOLDER)
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def _process() -> dict[str, Any]:
    """Return what distinguishes this process from all others."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "system": _system(), "started": _start(pid)}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Return whether an owner ran on this system and has ended."""
    if not owner["system"] or owner["system"] != _system():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # A process of another user has this number.
        return False
    return _start(owner["pid"]) != owner["started"]


@functools.cache
def _system() -> str:
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
