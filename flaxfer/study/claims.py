"""Who works on which folder of a shared directory, agreed by its files alone.

A claim on a folder is the file `claims/<n>` in it, where n counts from 1 and the highest is in
force. The file names its owner, whose heartbeat sets its modification time; a claim without
heartbeat for longer than the lease is void, and so is one whose owner ran here and is gone. A void
claim is taken over by making the file n + 1, which exactly one of many contenders can. No file is
ever removed or renamed, so a contender that is slow can take nothing from a newer owner.

What is assumed of the file system, local or NFS version 3 or later: a file is made by one client
alone (`O_EXCL`), and one that is opened shows its newest times (close-to-open consistency).
Age is a difference of two times of the file system's own clock; those of machines are not compared.

What no file system can promise: an owner that is stopped (suspended, not slow) in the middle of a
write for longer than the lease completes that one write when it wakes. It finds its claim lost at
the next one. Whoever writes must therefore write what is whole or not at all.
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
"""Seconds without heartbeat after which a claim is void."""

BEATS = 6
"""Heartbeats within a lease."""

FOLDER = "claims"

UNKNOWN = {"host": "unknown", "pid": 0, "system": "", "started": ""}

log = logging.getLogger("flaxfer.study.claims")


def file_system_time(folder: Path) -> float:
    """Seconds by the clock that times the files of `folder`: that of a file just touched there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.utime(file.fileno())
        return os.fstat(file.fileno()).st_mtime


def uptime() -> float:
    """Seconds that also pass while this process, or its machine, is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclasses.dataclass(eq=False)
class Claim:
    """A folder that is ours until `release`, or until we fail to say so in time.

    Attributes:
      folder: what is claimed.
      file: that says so.
      lease: seconds without heartbeat after which it is void.
      clock: that of this process, in seconds.
      beaten: when the last heartbeat began, by this clock.
    """

    folder: Path
    file: Path
    lease: float
    clock: Callable[[], float]
    beaten: float

    def beat(self) -> None:
        """Says that the owner is alive, unless it is too late for that."""
        began = self.clock()
        if began - self.beaten <= self.lease:
            os.utime(self.file)  # Without times: the server sets its own.
            self.beaten = began

    def confirm(self) -> None:
        """Returns if the folder is still ours: to be called before anything is written in it.

        Raises:
          ClaimLostError: it may belong to another process by now.
        """
        silent = self.clock() - self.beaten
        if silent > self.lease or _newest(self.folder) != int(self.file.name):
            raise ClaimLostError(
                f"another process may have taken this over: there was no sign of life from here "
                f"for {silent:.0f} s, and {self.lease:.0f} s are allowed",
                where=str(self.folder),
                hint="look what stops this process, or its access to the directory, for so long.",
            )


class Claims:
    """The claims of this process; a thread keeps them alive. To be used in a `with` statement.

    Args:
      lease: seconds; the same for all processes that share a directory.
      now: gives the time by the clock of the file system that a folder is on.
      clock: gives the time by a clock of this process.
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
        """Claims a folder, which is made if it is not there; None if it belongs to another."""
        claims = folder / FOLDER
        claims.mkdir(parents=True, exist_ok=True)
        newest = _newest(folder)
        if newest and self._owner(claims / str(newest)) is not None:
            return None
        began = self._clock()
        file = claims / str(newest + 1)
        if not _make(file, json.dumps(_process())):
            return None
        claim = Claim(folder, file, self._lease, self._clock, began)
        with self._lock:
            self._held.add(claim)
        return claim

    @contextlib.contextmanager
    def taking(self, folders: Sequence[Path]) -> Iterator[list[Claim]]:
        """Claims all of the folders for the time of a `with` block; gives none if one is not free.

        All processes should name them in the same order, so that one of them gets all.
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
        """Makes a claim void, so that others need not wait for the end of its lease."""
        with self._lock:  # No heartbeat may come after it.
            self._held.discard(claim)
            os.utime(claim.file, (0, 0))  # Older than any lease.

    def owner(self, folder: Path) -> str | None:
        """Host and process that a folder belongs to, or None."""
        newest = _newest(folder)
        owner = self._owner(folder / FOLDER / str(newest)) if newest else None
        return f"{owner['host']}:{owner['pid']}" if owner else None

    def _owner(self, file: Path) -> dict[str, Any] | None:
        """What a claim says of its owner, if it is in force."""
        with open(file, encoding="utf-8") as opened:  # Opened, NFS shows its time of now.
            changed = os.fstat(opened.fileno()).st_mtime
            text = opened.read()
        # Made and not yet written: whose it is will be known.
        owner: dict[str, Any] = json.loads(text) if text else UNKNOWN
        if _is_gone(owner) or self._now(file.parent) - changed > self._lease:
            return None
        return owner

    def _beat(self) -> None:
        while not self._stop.wait(self._lease / BEATS):
            with self._lock:
                for claim in self._held:
                    try:
                        claim.beat()
                    except OSError as error:  # `confirm` says so if it lasts.
                        log.warning("no heartbeat for %s: %s", claim.folder, error)


def _newest(folder: Path) -> int:
    """The number of the claim in force or void; 0 if there was none ever."""
    try:
        names = os.listdir(folder / FOLDER)
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def _make(file: Path, text: str) -> bool:
    """Makes a file with its contents; False if there is one of the name."""
    try:
        with open(file, "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        return False
    os.utime(file)
    return True


def _process() -> dict[str, Any]:
    """Of this process, what tells it from all others."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "system": _system(), "started": _start(pid)}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether an owner ran on this very system and does so no more."""
    if not owner["system"] or owner["system"] != _system():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # Of another user: there is one of this number, whichever it is.
        return False
    return _start(owner["pid"]) != owner["started"]


@functools.cache
def _system() -> str:
    """The boot and the namespace that process numbers are of; empty where /proc does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When a process started, in ticks since the boot; empty if it is not there, or dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # After the name, which may hold anything.
    return "" if fields[0] in "ZX" else fields[19]
