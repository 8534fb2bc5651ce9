"""Signals that ask the process to stop, and stopping without losing trained steps.

SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 come from schedulers and closed terminals: exit code 75, for
which a script starts the same command again. SIGINT (Ctrl-C) comes from a person: exit code 130; a
second one ends the process at once, which loses only the steps since the last save.

A stop takes effect where it meets the main thread, as a KeyboardInterrupt, unless steps are trained
but not saved (`hold`). Then it waits for the next `check`, which raises PreemptedError, so that the
training loop can save first. The main thread may be inside a call that no Python handler can
interrupt, such as a compilation: a thread ends the process if nothing is to be saved and the main
thread has not reacted within `PATIENCE` seconds. Where Python ignores exceptions, as in a callback
of the garbage collector, the stop is lost: the thread interrupts again.

With several hosts, all of them must stop after the same step: `hold` then has to span whatever they
do together, and the loop's `check` has to ask one host whether to stop.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from flaxfer.errors import PreemptedError

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT")
    if hasattr(signal, name)
)

PATIENCE = 10.0
"""Seconds that the main thread has to react. Slurm, Kubernetes and preempted Google Cloud machines
allow about 30 from the signal to a kill."""

TICK = 0.1
"""Seconds between two looks at the main thread after a signal."""

ANNOUNCED_AFTER = 1.0
"""Seconds after Ctrl-C until a line says that steps are being saved."""


class _Stop(KeyboardInterrupt):
    """A stop that takes effect at once. Libraries leave a KeyboardInterrupt alone."""


class _State:
    """The stop that was asked for, if any; set by signal handlers, so without locks.

    Attributes:
      number: The first signal; 0 if there was none.
      held: Whether trained steps are not saved yet.
      since: When the stop was asked for, or the last steps were saved.
      raised: Whether the main thread has been interrupted.
      lost: Whether the interruption was ignored.
      announces: Whether the watcher says that a stop waits for steps to be saved.
      place: Where the work would go on, such as `direct/target seed 0 after step 3 of 10`.
      previous: Handlers to restore, by signal.
      wakeup: Previous file descriptor that signals are written to.
      unraisable: Previous hook for exceptions that Python ignores.
    """

    def __init__(self) -> None:
        self.previous: dict[int, Any] = {}
        self.wakeup = -1
        self.unraisable = sys.unraisablehook
        self.announces = True
        self.place = ""
        self.reset()

    def reset(self) -> None:
        """Forget what was asked for."""
        self.number, self.held, self.since, self.raised, self.lost = 0, False, 0.0, False, False

    def request(self, number: int) -> None:
        """Note the first signal."""
        if not self.number:
            self.since = time.monotonic()
            self.number = number

    def restore(self) -> None:
        """Restore the handlers, if they were replaced."""
        if self.previous:
            for number, handler in self.previous.items():
                signal.signal(number, handler)
            self.previous = {}
            signal.set_wakeup_fd(self.wakeup)


_state = _State()
# A forked process shares the socket: a signal to it must not stop this process.
os.register_at_fork(after_in_child=lambda: _state.restore())


@contextlib.contextmanager
def handled(patience: float = PATIENCE, ending: bool = False) -> Iterator[None]:
    """Handle the signals within a `with` block in the main thread; do nothing in other threads.

    Signals that the process was told to ignore, as by nohup, stay ignored.

    Args:
      patience: Seconds that the main thread has to react when nothing is to be saved.
      ending: Whether the process ends after the block. After a stop, signals that a scheduler
        repeats are then ignored, so that they do not change the exit code.

    Raises:
      PreemptedError: A signal has arrived.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.reset()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(reader, patience), name="signals", daemon=True)
    watcher.start()
    try:
        _state.wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        _state.unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                _state.previous[number] = signal.signal(number, _handle)
        yield
    except _Stop as stop:
        raise _error(str(stop)) from None
    finally:
        _state.raised = True  # Too late to interrupt anything.
        if ending and _state.number:
            repeated = _state.previous.keys() - {signal.SIGINT}
            _state.previous |= dict.fromkeys(repeated, signal.SIG_IGN)
        _state.restore()
        sys.unraisablehook = _state.unraisable
        writer.send(b"\0")  # The watcher ends.
        watcher.join()
        reader.close()
        writer.close()
        _state.reset()


def check() -> None:
    """Stop here if a stop was asked for; call it where everything trained can be saved.

    Raises:
      PreemptedError: A signal has arrived.
    """
    if _state.number:
        raise stopped()


def stopped() -> PreemptedError:
    """Return the error that says which signal has arrived, and where the work would go on."""
    return _error(_message())


def _error(message: str) -> PreemptedError:
    error = PreemptedError(message)
    error.exit_code = _exit_code()
    return error


def pending() -> str:
    """Return what a stop that was asked for waits for, in words; empty if none was."""
    if not _state.number:
        return ""
    what = "stopping after this step, which is saved" if _state.held else "stopping"
    return f"{what}; Ctrl-C again stops at once"


def announce(announces: bool) -> None:
    """Set whether a stop that waits for steps to be saved is said here; a display may say it."""
    _state.announces = announces


def at(place: str) -> None:
    """Note where the work would go on after a stop, such as `direct/target after step 3 of 10`."""
    _state.place = place


def _message() -> str:
    name = signal.Signals(_state.number).name
    by = "Ctrl-C" if name == "SIGINT" else name
    return f"stopped by {by} in {_state.place}" if _state.place else f"stopped by {by}"


def hold() -> None:
    """Let a stop wait for `check`: from here on there are trained steps to be saved."""
    _state.held = True


def release() -> None:
    """End `hold`: everything trained is saved, or given up."""
    _state.since = time.monotonic()
    _state.held = False


def _exit_code() -> int:
    return 128 + signal.SIGINT if _state.number == signal.SIGINT else PreemptedError.exit_code


def _handle(number: int, frame: object) -> None:
    """Interrupt the main thread unless it has something to save."""
    del frame
    _state.request(number)
    if not _state.held and not _state.raised:
        _state.raised = True
        raise _Stop(_message())


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """Let the watcher interrupt again where Python has ignored the interruption."""
    if isinstance(args.exc_value, _Stop):
        _state.lost = True
    else:
        _state.unraisable(args)


def _watch(reader: socket.socket, patience: float) -> None:
    """End the process if the main thread does not, or at a second Ctrl-C.

    Signals are read from a socket that C code writes them to, whatever the main thread is doing.
    """
    interrupts, is_announced = 0, False
    while True:
        ready, _, _ = select.select([reader], [], [], TICK if _state.number else None)
        for number in reader.recv(64) if ready else b"":
            if not number:
                return
            if number not in _state.previous:  # Of somebody else's handler.
                continue
            _state.request(number)
            interrupts += number == signal.SIGINT
            if interrupts > 1:
                _exit("stopped at once; the newest checkpoint is intact")
        waited = time.monotonic() - _state.since
        waits = interrupts and _state.held and waited > ANNOUNCED_AFTER
        if waits and _state.announces and not is_announced:
            is_announced = True
            _print(pending())
        if _state.lost and signal.SIGTERM in _state.previous:
            _state.lost = _state.raised = False
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if _state.number and not _state.held and waited > patience:
            _exit(f"{_message()}. Run the same command again to continue.")


def _exit(message: str) -> None:
    """End the process without waiting for the main thread."""
    _print(message)
    os._exit(_exit_code())


def _print(message: str) -> None:
    """Print a line and show a cursor that a progress bar hides; the terminal may be gone."""
    with contextlib.suppress(OSError):
        show_cursor = b"\x1b[?25h" if os.isatty(2) else b""
        os.write(2, show_cursor + f"{message}\n".encode())
