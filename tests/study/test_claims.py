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
from flaxfer.study import claims
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
        claims._system = lambda: "another machine"  # type: ignore[assignment]
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
        won.update(iter(lambda process=process: said(process), "end"))  # type: ignore[misc]
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
    if not claims._system():
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
    if not claims._system():
        pytest.skip("this system does not tell which processes live: no /proc")
    with Claims() as own:
        assert own.take(tmp_path) is not None
        file = tmp_path / claims.FOLDER / "1"
        owner = json.loads(file.read_text())
        with open(file, "w") as opened:
            json.dump(owner | {"started": "0"}, opened)
        assert own.take(tmp_path) is not None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 120, id="zero-bytes"),
        pytest.param(b'{"host": "far", "pi', id="torn"),
        pytest.param(b'["host", "pid"]', id="no-object"),
        pytest.param(b'{"host": "far", "pid": "many"}', id="pid-of-text"),
        pytest.param(b"[" * 50_000, id="brackets"),
        pytest.param(b"\xff\xfe", id="no-utf-8"),
    ],
)
def test_a_damaged_claim_is_void_after_the_lease_and_named(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, here = Clock(), Clock()
    file = tmp_path / claims.FOLDER / "1"
    file.parent.mkdir()
    file.write_bytes(content)
    own = Claims(60, server, here)
    holder = own.owner(tmp_path)
    assert own.take(tmp_path) is None and holder is not None and holder.name == "unknown:0"
    assert caplog.text == "", "it may just be being written"
    for _ in range(3):
        server.time += 30
        here.time += 30
        holder = own.owner(tmp_path)
    assert holder is None
    claim = own.take(tmp_path)
    assert claim is not None and claim.file.name == "2"
    assert caplog.text.count(f"{file} is damaged") == 1
    assert file.read_bytes() == content


def test_a_claim_is_whole_as_soon_as_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / claims.FOLDER
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Claims().take(tmp_path)
    assert list(folder.iterdir()) == []
    with monkeypatch.context() as patch:  # A file system without hard links.
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
        assert Claims().take(tmp_path) is not None
        assert Claims().take(tmp_path) is None
    assert [path.name for path in folder.iterdir()] == ["1"]
    assert json.loads((folder / "1").read_text())["pid"] == os.getpid()


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


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self, folder: Path | None = None) -> float:
        return self.time


def test_age_is_by_the_clock_of_the_file_system(tmp_path: Path) -> None:
    server, here, there = Clock(), Clock(), Clock()
    owner, other = Claims(60, server, here), Claims(60, server, there)
    claim = owner.take(tmp_path)
    assert claim is not None
    os.utime(claim.file, (server.time, server.time))
    here.time += 60
    claim.confirm()
    here.time += 0.001
    claim.beat()  # Too late: it does not count.
    assert claim.file.stat().st_mtime == pytest.approx(server.time)
    for _ in range(3):  # It is watched, too.
        server.time += 20
        there.time += 10
        assert other.take(tmp_path) is None
    server.time += 0.001
    assert other.take(tmp_path) is not None
    for _ in range(2):
        with pytest.raises(ClaimLostError, match=r"sent no heartbeat for 60 s"):
            claim.confirm()
    here.time -= 60  # Even if its own clock does not tell.
    with pytest.raises(ClaimLostError):
        claim.confirm()


def test_a_claim_that_nobody_took_over_is_renewed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = Clock()
    owner = Claims(60, Clock(), here)
    claim = owner.take(tmp_path)
    assert claim is not None
    here.time += 3600
    claim.confirm()
    assert claim.file.name == "2" and "stopped for 3600 s, but nobody took over" in caplog.text
    claim.confirm()
    assert claim.file.name == "2", "it is renewed once"
    (tmp_path / claims.FOLDER / "3").write_text(json.dumps(claims.UNKNOWN))
    here.time += 3600
    with pytest.raises(ClaimLostError):
        claim.confirm()


def test_a_deleted_claim_is_renewed_unless_another_process_has_it(tmp_path: Path) -> None:
    claim = Claims().take(tmp_path)
    assert claim is not None
    claim.file.unlink()
    claim.confirm()
    assert [path.name for path in claim.file.parent.iterdir()] == ["2"] == [claim.file.name]
    claim.file.unlink()
    other = tmp_path / claims.FOLDER / "2"
    other.write_text(json.dumps(claims.UNKNOWN))  # Of the same number.
    if other.stat().st_ino != claim.inode:
        with pytest.raises(ClaimLostError):
            claim.confirm()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_does_not_end_a_claim_nor_make_it_last(
    hours: int, tmp_path: Path
) -> None:
    server, there = Clock(), Clock()
    claim = Claims(60, server).take(tmp_path)
    assert claim is not None
    (tmp_path / claims.FOLDER / "1").write_text(json.dumps(claims.UNKNOWN | {"host": "far"}))
    other = Claims(60, server, there)
    os.utime(claim.file, (server.time, server.time))
    assert other.take(tmp_path) is None
    server.time += 3600 * hours
    for _ in range(30):  # It lives: its heart beats every ten seconds.
        server.time += 5
        there.time += 5
        if _ % 2:
            os.utime(claim.file, (server.time, server.time))
        assert other.take(tmp_path) is None
    server.time -= 3600
    waited = 0
    while other.take(tmp_path) is None:  # It is dead.
        server.time += 1
        there.time += 1
        waited += 1
        assert waited < 70
    assert waited > 50


def test_a_process_that_was_suspended_itself_does_not_find_others_silent(tmp_path: Path) -> None:
    server, there = Clock(), Clock()
    claim = Claims(60, server).take(tmp_path)
    assert claim is not None
    (tmp_path / claims.FOLDER / "1").write_text(json.dumps(claims.UNKNOWN | {"host": "far"}))
    os.utime(claim.file, (server.time, server.time))
    other = Claims(60, server, there)
    assert other.take(tmp_path) is None
    server.time += 3600  # A computer that sleeps, with both processes.
    there.time += 3600
    assert other.take(tmp_path) is None
    os.utime(claim.file, (server.time, server.time))
    assert other.take(tmp_path) is None


def test_an_owner_is_named_with_its_times(tmp_path: Path) -> None:
    server, there = Clock(), Clock()
    server.time = there.time = 1_800_000_000.0
    claim = Claims(60, server).take(tmp_path)
    assert claim is not None
    content = {"host": "far", "pid": 7, "system": "", "started": "", "since": 1_799_999_000.0}
    claim.file.write_text(json.dumps(content))
    os.utime(claim.file, (server.time, server.time))
    server.time += 12
    assert str(Claims(60, server, there).owner(tmp_path)) == (
        "held by far:7 since 2027-01-15 07:43:20 UTC; last heartbeat 12 s ago, free in 48 s "
        "unless there is another"
    )


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
