"""Signals end a process at once, or after what it trained is saved, with the documented code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flaxfer.errors import PreemptedError
from flaxfer.runtime import signals

pytestmark = pytest.mark.usefixtures("default_signals")

ROOT = Path(__file__).parents[2]

START = """
import gc, hashlib, os, signal, sys, time
from flaxfer.errors import FlaxferError
from flaxfer.runtime import signals

def say(text):
    print(text, flush=True)

def native():  # In C for seconds, where no handler of Python runs.
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", {iterations})

try:
    with signals.handled({patience}):
        {body}
except FlaxferError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

SLEEP = """
        say("ready")
        time.sleep(60)
"""
HELD = """
        signals.hold()
        say("ready")
        time.sleep(0.5)
        say("saved")
        signals.release()
        signals.check()
"""
PLACE = """
        signals.at("direct/target seed 0 after step 3 of 10")
        try:
            say("ready")
            time.sleep(60)
        finally:
            signals.at("")
"""
NATIVE = """
        say("ready")
        native()
        say("after")
"""
HELD_NATIVE = """
        signals.hold()
        say("ready")
        native()
        say("saved")
        signals.release()
        signals.check()
"""
SWALLOWED = """
        say("ready")
        try:
            time.sleep(60)
        except BaseException:
            say("swallowed")
        signals.check()
"""
IGNORED = """
        def callback(phase, info):
            if len(calls) < 3 and not calls.append(phase):
                say("ready")
                time.sleep(1)
        gc.callbacks.append(callback)
        calls = []
        while True:
            gc.collect()
"""
FORKED = """
        child = os.fork()
        if not child:
            say("ready")
            time.sleep(60)
        _, status = os.waitpid(child, 0)
        say(f"child {os.waitstatus_to_exitcode(status)}")
        time.sleep(0.5)
        signals.check()
"""


def start(body: str, iterations: int = 10**9, prefix: str = "") -> subprocess.Popen[str]:
    """Start a process, and wait until it is ready."""
    code = START.replace("{body}", body.strip()).replace("{iterations}", str(iterations))
    # A main thread that can react is given the time it needs on a busy machine.
    code = code.replace("{patience}", "0.3" if "native()" in body else "30")
    process = subprocess.Popen(
        [*prefix.split(), sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return code, output and errors of a process once it has ended."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # If it hangs; nothing happens if it has ended.
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("name", "code"),
    [("SIGTERM", 75), ("SIGHUP", 75), ("SIGUSR1", 75), ("SIGUSR2", 75), ("SIGINT", 130)],
)
def test_a_process_with_nothing_to_save_ends_at_once(name: str, code: int) -> None:
    process = start(SLEEP)
    process.send_signal(getattr(signal, name))
    said = "Ctrl-C" if name == "SIGINT" else name
    assert end(process) == (code, "", f"stopped by {said}\n")


def test_a_stop_says_where_the_work_was_when_it_came() -> None:
    process = start(PLACE)
    process.send_signal(signal.SIGINT)
    message = "stopped by Ctrl-C in direct/target seed 0 after step 3 of 10\n"
    assert end(process) == (130, "", message)


def test_a_stop_waits_until_everything_is_saved() -> None:
    process = start(HELD)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # Schedulers repeat it.
    assert end(process) == (75, "saved\n", "stopped by SIGTERM\n")


def test_the_first_interrupt_waits_and_the_second_does_not() -> None:
    process = start(HELD_NATIVE)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    first_line = process.stderr.readline()
    assert first_line == "stopping after this step, which is saved; Ctrl-C again stops at once\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (130, "")
    assert err == "stopped at once; the newest checkpoint is intact\n"


def test_a_main_thread_in_native_code_is_not_waited_for() -> None:
    process = start(NATIVE)
    time.sleep(0.5)  # The call follows the line that it is ready.
    process.send_signal(signal.SIGTERM)
    message = "stopped by SIGTERM. Run the same command again to continue.\n"
    assert end(process) == (75, "", message)


def test_a_main_thread_in_native_code_is_waited_for_if_it_has_something_to_save() -> None:
    process = start(HELD_NATIVE, iterations=3 * 10**5)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (75, "saved\n", "stopped by SIGTERM\n")


def test_a_stop_that_a_library_swallows_comes_at_the_next_check() -> None:
    process = start(SWALLOWED)
    time.sleep(0.5)  # It sleeps after the line that it is ready.
    process.send_signal(signal.SIGUSR1)
    assert end(process) == (75, "swallowed\n", "stopped by SIGUSR1\n")


def test_a_stop_where_python_ignores_exceptions_is_tried_again() -> None:
    process = start(IGNORED)
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert (code, err) == (130, "stopped by Ctrl-C\n")
    assert not out.replace("ready", "").strip()  # Of interruptions that were ignored.


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    process = start(SLEEP, prefix="nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 75


def test_a_signal_to_a_forked_process_leaves_its_parent_alone() -> None:
    process = start(FORKED)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.communicate()
        pytest.skip("the system does not list the children of a process")
    os.kill(int(children.read_text()), signal.SIGTERM)
    assert end(process) == (0, "child -15\n", "")


def test_handlers_are_those_of_before_after_the_block() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.handled():
        inside = [signal.getsignal(number) for number in signals.SIGNALS]
    assert inside != before
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    signals.check()


def test_a_repeated_signal_does_not_change_the_code_of_a_process_that_ends() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    try:
        with signals.handled(ending=True):
            pass
        assert [signal.getsignal(number) for number in signals.SIGNALS] == before
        with pytest.raises(PreemptedError), signals.handled(ending=True):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == before[signals.SIGNALS.index(signal.SIGINT)]
    finally:
        for number, handler in zip(signals.SIGNALS, before, strict=True):
            signal.signal(number, handler)


def test_handlers_are_not_replaced_in_other_threads() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with signals.handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stop_in_this_process_is_an_error_that_says_which_signal() -> None:
    with pytest.raises(PreemptedError, match="stopped by SIGTERM") as error, signals.handled():
        signal.raise_signal(signal.SIGTERM)
    assert error.value.exit_code == 75
    with pytest.raises(PreemptedError) as error, signals.handled():
        signals.hold()
        signal.raise_signal(signal.SIGINT)
        signals.release()
        signals.check()
    assert error.value.exit_code == 130
    signals.check()  # Forgotten.
