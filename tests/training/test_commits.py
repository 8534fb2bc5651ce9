"""Commits: the best is verified, an owner writes alone, and a full disk is named."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.errors import CheckpointError, ClaimLostError
from flaxfer.runtime import files, sealed
from flaxfer.runtime.files import StorageError
from flaxfer.training.checkpoints import MANIFEST, CheckpointStore, restore
from tests.training.test_checkpoints import NAN, data_files, flip_a_bit, save

TINY = {"params": {"x": np.arange(4, dtype=np.float32)}}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "stage" / "checkpoints", larger_is_better=True)


def params_file(store: CheckpointStore, step: int) -> Path:
    return max(data_files(store.folder / f"{step:08d}" / "params"), key=lambda p: p.stat().st_size)


def test_the_best_is_verified_before_a_stage_is_finished(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    for step, score in ((10, 0.9), (20, 0.4), (30, 0.7)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckpointStore, "_prune", lambda *_: None)
            store.save(step, TINY, score, {})
    best, damaged = store.best_whole()
    assert best is not None and best.step == 10 and damaged == []
    flip_a_bit(file := params_file(store, 10))
    best, damaged = store.best_whole()
    assert best is not None and best.step == 30, "the next best, not the newest of them"
    name = file.relative_to(store.folder / "00000010").as_posix()
    assert damaged == [f"step 10: {name}: changed since it was written"]
    assert "step 10 is damaged" in caplog.text and "next best" in caplog.text
    store.finish({"best_step": 30})
    assert sorted(path.name for path in store.folder.iterdir()) == ["00000030"]
    assert store.kept_record() == {"best_step": 30}
    flip_a_bit(params_file(store, 30))
    assert store.best_whole()[0] is None and store.all() == []


def test_a_checkpoint_without_scores_is_continued_from_but_never_the_best(
    store: CheckpointStore,
) -> None:
    store.save(1, TINY, 0.5, {"dev": {"f1": 0.5}})
    store.save(2, TINY, NAN, {"dev": None})
    newest, (best, _) = store.newest(), store.best_whole()
    assert newest is not None and best is not None
    assert (newest.step, best.step) == (2, 1)
    store.add_score(0.6, {"dev": {"f1": 0.6}})
    (left,) = store.all()
    assert (left.step, left.score, left.notes) == (2, 0.6, {"dev": {"f1": 0.6}})


def test_an_owner_that_is_stopped_in_a_commit_leaves_the_next_owner_alone(
    tmp_path: Path,
) -> None:
    """The next owner saves the same step while the first one is about to commit it."""
    folder = tmp_path / "stage" / "checkpoints"
    second = CheckpointStore(folder, True, owner="second")
    calls = iter(range(10))

    def confirm() -> None:
        if next(calls) == 1:  # All but the commit is done.
            second.save(7, TINY, 0.5, {"by": "second"})
            raise ClaimLostError("taken over")

    first = CheckpointStore(folder, True, confirm, owner="first")
    other = {"params": {"x": np.zeros(4, np.float32)}}
    with pytest.raises(ClaimLostError):
        first.save(7, other, 0.9, {"by": "first"})
    assert [path.name for path in folder.iterdir()] == ["00000007"]
    found = second.restore_newest(jax.eval_shape(lambda: TINY))
    assert found is not None and found[0].notes == {"by": "second"}
    np.testing.assert_array_equal(found[1]["params"]["x"], TINY["params"]["x"])


def test_a_commit_that_came_too_late_is_put_aside_by_the_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "stage" / "checkpoints"
    CheckpointStore(folder, True, owner="first").save(8, TINY, 0.9, {})
    second = CheckpointStore(folder, True, owner="second")
    second.save(7, TINY, 0.5, {})
    assert [checkpoint.step for checkpoint in second.all()] == [7]
    assert "is of an owner that has lost this stage" in caplog.text
    second.save(8, TINY, 0.6, {})
    assert [(one.step, one.owner) for one in second.all()] == [(8, "second")]


def test_nothing_is_deleted_without_the_claim(tmp_path: Path) -> None:
    folder = tmp_path / "stage" / "checkpoints"
    save(CheckpointStore(folder, True), 0.9, 0.1)

    def lost() -> None:
        raise ClaimLostError("taken over")

    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    store = CheckpointStore(folder, True, lost)
    for action in (
        store.finish,
        lambda: store.save(30, TINY, 1.0, {}),
        lambda: store.add_score(0.5, {}),
    ):
        with pytest.raises(ClaimLostError):
            action()
    flip_a_bit(params_file(store, 10))
    with pytest.raises(ClaimLostError):
        store.best_whole()
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_disk_problem(
    store: CheckpointStore, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Save something large in vain, and check the error and what is left."""
    noise = np.random.default_rng(0).normal(size=2**19).astype(np.float32)
    with pytest.raises(StorageError, match=what) as caught:
        store.save(2, {"params": {"x": noise}}, 0.9, {})
    assert caplog.text == "", "one error, no traces of Orbax"
    assert caught.value.exit_code == 4
    assert caught.value.where == str(store.folder)
    assert caught.value.details[0] == "bytes needed: 2,097,152"
    assert caught.value.details[1].startswith("bytes free: ") and caught.value.hint
    assert [path.name for path in store.folder.iterdir()] == ["00000001"]
    found = store.restore_newest(jax.eval_shape(lambda: TINY))
    assert found is not None and found[0].step == 1


def test_a_full_disk_is_named_and_the_earlier_checkpoints_are_kept(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(small_disk / "stage" / "checkpoints", True)
    store.save(1, TINY, 0.5, {})
    assert_disk_problem(store, "the disk is full", caplog)
    store.save(2, TINY, 0.9, {})
    file = small_disk / "record.json"
    file.write_text("before")
    with pytest.raises(StorageError, match="the disk is full") as caught:
        files.write_atomically(file, "x" * 2**21)
    assert caught.value.details[0] == "bytes needed: 2,097,152"
    assert file.read_text() == "before"
    assert {path.name for path in small_disk.iterdir()} == {"record.json", "stage"}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="read-only"):
        store.save(3, TINY, 0.9, {})
    with pytest.raises(StorageError, match="read-only"):
        files.write_atomically(file, "after")
    newest = store.newest()
    assert newest is not None and newest.step == 2


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Limit the size of the files that this process may write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_that_may_not_grow_so_large_are_named(
    store: CheckpointStore, limited: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, TINY, 0.5, {})
    limited(2**20)
    assert_disk_problem(store, "files of this size are not allowed", caplog)
    file = store.folder.parent / "record.json"
    with pytest.raises(StorageError, match="not allowed here"):
        files.write_atomically(file, "x" * 2**21)
    assert not file.exists()
    store.save(2, TINY, 0.9, {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_at_the_end_of_a_save_is_named(
    store: CheckpointStore, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, TINY, 0.5, {})

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(StorageError, match=files.STORAGE_ERRORS[number]):
            store.save(2, TINY, 0.9, {})
    assert [path.name for path in store.folder.iterdir()] == ["00000001"]
    store.save(2, TINY, 0.9, {})


def test_other_errors_of_a_save_are_not_called_a_full_disk(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ValueError, match="something else"):
        store.save(1, TINY, 0.9, {})
    assert list(store.folder.iterdir()) == []


def test_leftovers_of_killed_runs_are_removed_and_other_files_are_kept(
    store: CheckpointStore,
) -> None:
    store.folder.mkdir(parents=True)
    leftover = files.temporary_name(store.folder / "00000005")
    shutil.copytree(store.folder, leftover)
    (leftover / MANIFEST).write_text("{}")
    (store.folder / "notes of mine").mkdir()
    store.save(6, TINY, 0.1, {})
    (store.folder / "00000006" / ".nfs0001").write_text("of the file system")
    store.finish()
    assert {path.name for path in store.folder.iterdir()} == {"00000006", "notes of mine"}
    newest = store.newest()
    assert newest is not None
    restore(newest, jax.eval_shape(lambda: TINY))


def test_a_checkpoint_of_another_stage_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path / "one" / "checkpoints", True)
    store.save(1, TINY, 0.1, {})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert CheckpointStore(tmp_path / "two" / "checkpoints", True).all() == []
    assert "it is of the stage one" in caplog.text
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "one")
    assert len(CheckpointStore(tmp_path / "elsewhere" / "one" / "checkpoints", True).all()) == 1


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "params/../../x"])
def test_a_manifest_that_names_files_elsewhere_is_refused(
    store: CheckpointStore, name: str
) -> None:
    store.save(1, TINY, 0.1, {})
    path = store.folder / "00000001" / MANIFEST
    (store.folder / "x").write_text("")
    content = sealed.read(path)
    content["files"][name] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    sealed.write(path, content)
    newest = store.newest()
    assert newest is not None
    with pytest.raises(CheckpointError) as error:
        restore(newest, jax.eval_shape(lambda: TINY))
    assert error.value.details == (f"{name}: missing",)


@pytest.mark.parametrize(
    "content", ["[]", "[" * 100_000, "1" * 5000, '{"step": 1}', "null", '{"checksum": 1}']
)
def test_a_manifest_of_something_else_does_not_count(
    store: CheckpointStore, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, TINY, 0.1, {})
    path = store.folder / "00000001" / MANIFEST
    path.write_text(content)
    assert store.all() == [] and f"{path} is damaged" in caplog.text


def test_checkpoints_may_lie_behind_links(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(1, TINY, 0.1, {})
    elsewhere = tmp_path / "elsewhere"
    (store.folder / "00000001").rename(elsewhere)
    (elsewhere / "params").rename(tmp_path / "arrays")
    (elsewhere / "params").symlink_to(tmp_path / "arrays")
    (store.folder / "00000001").symlink_to(elsewhere)
    found = store.restore_newest(jax.eval_shape(lambda: TINY))
    assert found is not None and found[0].step == 1
    store.save(2, TINY, 0.2, {})
    assert [path.name for path in store.folder.iterdir()] == ["00000002"]
    assert (elsewhere / MANIFEST).exists(), "the link is removed, not what it leads to"
