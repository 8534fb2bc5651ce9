"""Ages of claims by clocks that tests set, and claims that are damaged, deleted or renewed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from flaxfer.errors import ClaimLostError
from flaxfer.study import claims
from flaxfer.study.claims import Claims


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self, folder: Path | None = None) -> float:
        return self.time


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
