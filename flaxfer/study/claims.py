"""Claims: which process works on which folder of a shared directory, agreed through files.

A claim on a folder is the file `claims/<n>` in it, where n counts from 1 and the highest is in
force. The file names its owner, whose heartbeat sets its modification time. A claim expires without
heartbeat for longer than the lease, or when its owner ran on this machine and is gone. An expired
claim is taken over by creating the file n + 1, which only one of many contenders can do. No file is
ever removed or renamed, so a slow contender cannot take anything from a newer owner. An owner that
was suspended for longer than the lease renews its claim in the same way, if nobody took it over.

The file system, local or NFS version 3 or later, must link or create a file for one client only
(`link`, else `O_EXCL`) and show the newest times of a file that is opened (close-to-open
consistency). Ages are differences of two times of the file system's clock; clocks of machines are
not compared. As that clock may be set, silence is also watched by the clock of this process: a
claim is not expired before it has been watched in silence for longer than a heartbeat takes, and is
expired once it has been watched for the lease, whatever its times are.

No file system can prevent one thing: an owner that is suspended between the confirmation of its
claim and the rename that follows at once completes that rename when it wakes. So every write must
be atomic and whole by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.errors import CheckpointError, ClaimLostError
from flaxfer.runtime import files

LEASE = 60.0
"""Seconds without heartbeat after which a claim expires."""

BEATS = 6
"""Heartbeats per lease."""

FOLDER = "claims"

WATCH = 1.5 / BEATS
"""Part of the lease for which a claim must be watched in silence before it is expired."""

UNKNOWN: dict[str, Any] = {"host": "unknown", "pid": 0, "system": "", "started": "", "since": 0.0}
"""Owner of a claim that is damaged."""

MAX_BYTES = 2**16
"""Bytes of a claim that are read."""

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
      data: Content of the file, which another process's file of the same name does not have.
    """

    folder: Path
    file: Path
    lease: float
    clock: Callable[[], float]
    beaten: float
    data: bytes

    def beat(self) -> None:
        """Renew the claim, unless it has expired."""
        began = self.clock()
        if began - self.beaten <= self.lease:
            os.utime(self.file)  # Without times: the server sets its own.
            self.beaten = began

    def confirm(self) -> None:
        """Return if the folder is still owned; call it before anything is written there.

        An expired claim that nobody has taken over is renewed.

        Raises:
          ClaimLostError: If it may belong to another process.
        """
        silent = self.clock() - self.beaten
        newest = _newest(self.folder)
        if newest == int(self.file.name) and _content(self.file) == self.data:
            if silent <= self.lease or self._renew():
                return
        elif newest < int(self.file.name) and self._renew():  # Somebody has deleted the claim.
            return
        raise ClaimLostError(
            f"another process has taken this over: this one sent no heartbeat for {silent:.0f} s, "
            f"and {self.lease:.0f} s are allowed",
            where=str(self.folder),
            hint="find out what stops this process, or its access to the folder, for so long.",
        )

    def _renew(self) -> bool:
        """Take the claim over from oneself; return whether no other process was faster."""
        began, file = self.clock(), self.file.with_name(str(int(self.file.name) + 1))
        data = _create(file)
        if data is None:
            return False
        log.warning(
            "%s: this process was stopped for %.0f s, but nobody took over; it goes on.",
            self.folder,
            began - self.beaten,
        )
        self.file, self.data, self.beaten = file, data, began
        return True


@dataclasses.dataclass
class _Watch:
    """State of a claim as this process last saw it.

    Attributes:
      state: What identifies its content.
      seen: When the process last looked.
      silent: Seconds without a change, by the process's own clock.
    """

    state: tuple[int, int, float]
    seen: float
    silent: float = 0.0


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
        self._watches: dict[Path, _Watch] = {}
        self._damaged: set[Path] = set()
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
        data = _create(file)
        if data is None:
            return None
        claim = Claim(folder, file, self._lease, self._clock, began, data)
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

    def owner(self, folder: Path) -> Owner | None:
        """Return the owner of a folder, or None."""
        return self._newest(folder)[1]

    def _newest(self, folder: Path) -> tuple[int, Owner | None]:
        """Return the number of a folder's newest claim, and its owner if it is in force."""
        if not (newest := _newest(folder)):
            return 0, None
        file = folder / FOLDER / str(newest)
        with open(file, "rb") as opened:  # Opening makes NFS show the current time.
            status = os.fstat(opened.fileno())
            data = opened.read(MAX_BYTES)
        watch = self._watch(file, (newest, status.st_ino, status.st_mtime))
        owner: dict[str, Any] | None = _parse(data)
        age = self._now(folder / FOLDER) - status.st_mtime
        released = status.st_mtime <= 0
        silent = age > self._lease and watch.silent > WATCH * self._lease
        expired = released or silent or watch.silent > self._lease
        if owner is None:
            # Perhaps just created on a file system that cannot link: its owner is not known yet.
            owner = UNKNOWN
            if expired and file not in self._damaged:
                self._damaged.add(file)
                log.warning("%s is damaged, as by a crash, and older than the lease: void", file)
        elif _is_gone(owner):
            expired = True
        if expired:
            return newest, None
        since = max(0.0, min(age, self._lease), watch.silent)
        name = f"{owner['host']}:{owner['pid']}"
        left = max(0.0, self._lease - since)
        return newest, Owner(name, float(owner["since"]), since, left)

    def _watch(self, file: Path, state: tuple[int, int, float]) -> _Watch:
        """Return what this process knows of a claim, after another look at it."""
        now, watch = self._clock(), self._watches.get(file.parent)
        if watch is None or watch.state != state:
            watch = self._watches[file.parent] = _Watch(state, now)
        # Between two looks, this process may have been suspended itself.
        watch.silent += min(now - watch.seen, self._lease / BEATS)
        watch.seen = now
        return watch

    def _beat(self) -> None:
        while not self._stop.wait(self._lease / BEATS):
            with self._lock:
                for claim in self._held:
                    try:
                        claim.beat()
                    except OSError as error:  # `confirm` raises if it lasts.
                        log.warning("no heartbeat for %s: %s", claim.folder, error)


def _newest(folder: Path) -> int:
    """Return the number of the newest claim; 0 if there is none.

    Raises:
      CheckpointError: The folder cannot be read.
    """
    try:
        names = os.listdir(folder / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise CheckpointError(
            f"its claims cannot be read: {error.strerror}",
            where=str(folder),
            hint="make the folder readable and writable for this user.",
        ) from error
    return max((int(name) for name in names if name.isdigit() and name.isascii()), default=0)


def _content(file: Path) -> bytes:
    """Return the content of a claim; empty if it does not exist."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _create(file: Path) -> bytes | None:
    """Create a claim of this process, whole; return its content, or None if the file exists."""
    data = json.dumps(_process()).encode()
    temporary = files.temporary_name(file)
    try:
        with files.storage_errors(file, len(data)):
            files.write_durably(temporary, data)
            try:
                os.link(temporary, file)  # Unlike a rename, it does not replace a file.
            except FileExistsError:
                # NFS may have linked it and lost the answer.
                return data if _content(file) == data else None
            except OSError:  # This file system cannot link: a crash may leave half of the file.
                try:
                    files.write_durably(file, data)
                except FileExistsError:
                    return None
        files.sync_folder(file.parent)
        return data
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _process() -> dict[str, Any]:
    """Return what distinguishes this process from all others, the time, and a random number."""
    pid = os.getpid()
    owner = {"host": socket.gethostname(), "pid": pid, "system": _system(), "started": _start(pid)}
    return {**owner, "since": time.time(), "token": secrets.token_hex(8)}


def _parse(data: bytes) -> dict[str, Any] | None:
    """Return the owner that a claim names; None if it is damaged."""
    try:
        owner = json.loads(data)
        known = {**UNKNOWN, **owner}
    except (ValueError, TypeError, RecursionError):
        return None
    if any(type(known[key]) not in (type(value), int) for key, value in UNKNOWN.items()):
        return None
    return known if owner.keys() >= {"host", "pid"} else None


def _is_gone(owner: dict[str, Any]) -> bool:
    """Return whether an owner ran on this system and has ended."""
    if not owner["system"] or owner["system"] != _system():
        return False
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
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
