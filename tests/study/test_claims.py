"""Claims by real processes that race, are killed, are stopped, or live on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flaxfer.errors import ClaimLostError
from flaxfer.study import claims, owners
from flaxfer.study.claims import Claims

ROOT = Path(__file__).parents[2]
LEASE = 1.0


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a function of this module in another process, which ends with the test."""
    started = []

    def run(name: str, *words: object) -> subprocess.Popen[str]:
        code = f"import sys; from tests.study.test_claims import {name}; {name}(*sys.argv[1:])"
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def race(folder: str, number: str) -> None:
    """Claim free folders in an order of its own, and write the process number into each."""
    folders = [Path(folder) / str(i) for i in range(int(number))]
    with Claims() as own:
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(len(folders)):
            place = folders[(i + os.getpid()) % len(folders)]
            if (place / "done").exists() or (claim := own.take(place)) is None:
                continue
            if not (place / "done").exists():
                with open(place / "had", "a", encoding="utf-8") as file:
                    file.write(f"{os.getpid()}\n")
                claim.confirm()
                (place / "done").touch()
            own.release(claim)


def hold(folder: str, lease: str, elsewhere: str) -> None:
    """Hold a claim, and for each line of input print whether it can be confirmed."""
    if elsewhere == "elsewhere":
        owners.system = lambda: "another machine"
    with Claims(float(lease)) as own:
        claim = own.take(Path(folder))
        assert claim is not None
        print("holds", flush=True)
        while sys.stdin.readline():
            try:
                claim.confirm()
                print("ours", flush=True)
            except ClaimLostError as error:
                print(error.where, flush=True)


def snatch(folder: str, number: str, lease: str) -> None:
    """Take over expired claims at the same time as other processes."""
    with Claims(float(lease)) as own:
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(int(number)):
            claim = own.take(Path(folder) / str(i))
            if claim is not None:
                claim.confirm()
                print(i, flush=True)
        print("end", flush=True)
        sys.stdin.readline()


def test_each_of_many_claims_is_won_once(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [start("race", tmp_path, 100) for _ in range(4)]
    assert {said(process) for process in processes} == {"ready"}
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(30) for process in processes] == [0] * 4
    won = [(tmp_path / str(i) / "had").read_text().split() for i in range(100)]
    assert all(len(names) == 1 for names in won)
    assert len({names[0] for names in won}) > 1, "they raced"


def test_void_claims_are_taken_over_once_each(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with Claims() as own:
        for i in range(100):
            claim = own.take(tmp_path / str(i))
            assert claim is not None
            own.release(claim)
    processes = [start("snatch", tmp_path, 100, 60) for _ in range(4)]
    assert {said(process) for process in processes} == {"ready"}
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won: Counter[str] = Counter()
    for process in processes:
        won.update(iter(lambda process=process: said(process), "end"))
    assert won == {str(i): 1 for i in range(100)}


def until(what: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait for a condition, and return the seconds that it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def test_the_claim_of_a_killed_owner_falls_after_the_lease(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = start("hold", tmp_path, LEASE, "elsewhere")
    assert said(owner) == "holds"
    with Claims(LEASE) as own:
        for _ in range(8):  # The living one keeps it for longer than its lease.
            assert own.take(tmp_path) is None
            time.sleep(LEASE / 4)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert own.take(tmp_path) is None
        took = until(lambda: own.take(tmp_path))
        assert LEASE * (1 - 2 / claims.BEATS) <= took < LEASE + 1


def test_an_owner_that_died_on_this_machine_is_not_waited_for(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    if not owners.system():
        pytest.skip("this system does not tell which processes live: no /proc")
    owner = start("hold", tmp_path, 60, "here")
    assert said(owner) == "holds"
    with Claims() as own:
        assert own.take(tmp_path) is None
        holder = own.owner(tmp_path)
        assert holder is not None and holder.name == f"{os.uname().nodename}:{owner.pid}"
        owner.kill()
        until(lambda: own.owner(tmp_path) is None)  # As a zombie, too: nobody has waited for it.
        assert own.take(tmp_path) is not None


def test_a_number_that_another_process_has_now_is_no_sign_of_life(tmp_path: Path) -> None:
    if not owners.system():
        pytest.skip("this system does not tell which processes live: no /proc")
    with Claims() as own:
        assert own.take(tmp_path) is not None
        file = tmp_path / claims.FOLDER / "1"
        owner = json.loads(file.read_text())
        with open(file, "w") as opened:
            json.dump(owner | {"started": "0"}, opened)
        assert own.take(tmp_path) is not None


def test_a_stopped_owner_finds_its_claim_lost(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = start("hold", tmp_path, LEASE, "here")
    assert said(owner) == "holds"
    assert owner.stdin is not None
    owner.stdin.write("\n")
    owner.stdin.flush()
    assert said(owner) == "ours"
    owner.send_signal(signal.SIGSTOP)
    with Claims(LEASE) as own:
        until(lambda: own.take(tmp_path))
        owner.send_signal(signal.SIGCONT)
        time.sleep(2 * LEASE / claims.BEATS)  # Its heart beats again.
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert said(owner) == str(tmp_path)
        holder = own.owner(tmp_path)
        assert holder is not None and holder.name == f"{os.uname().nodename}:{os.getpid()}"


def test_the_clock_of_the_file_system_is_that_of_its_files(tmp_path: Path) -> None:
    now = claims.file_system_time(tmp_path)
    (tmp_path / "file").touch()
    assert 0 <= (tmp_path / "file").stat().st_mtime - now < 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_group_of_folders_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    with Claims() as own:
        with own.taking(folders[1:2]) as one, own.taking(folders) as none:
            assert [claim.folder for claim in one] == folders[1:2]
            assert none == []
        with own.taking(folders) as every:
            assert [claim.folder for claim in every] == folders
            assert all(own.owner(folder) for folder in folders)
        assert not any(own.owner(folder) for folder in folders)


def test_all_is_released_at_the_end_however_it_comes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Claims() as own:
        assert own.take(tmp_path) is not None
        raise KeyboardInterrupt
    assert "claims" not in {thread.name for thread in threading.enumerate()}
    with Claims() as other:
        assert other.take(tmp_path) is not None
    assert sorted(path.name for path in (tmp_path / claims.FOLDER).iterdir()) == ["1", "2"]
