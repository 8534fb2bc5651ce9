"""A run whose best checkpoint is damaged ends with the next best, or is not marked as finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxfer.errors import CheckpointError
from flaxfer.runtime.files import StorageError
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.record import DONE
from flaxfer.training.trackers import MetricsLog
from tests.training.helpers import (
    Case,
    assert_equal_trees,
    no_start,
    record_saves,
    saves_of,
    script_scores,
    stage_case,
    train,
)

SCORES = [0.3, 0.9, 0.5, 0.6, 0.4]
"""Dev scores after the steps 2, 4, 6, 8 and 9."""


def flip_a_byte(checkpoint: Path) -> str:
    """Flip a byte of the parameters, and return the name of the file."""
    files = [path for path in (checkpoint / "params").rglob("*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file.relative_to(checkpoint).as_posix()


def damage_after(
    monkeypatch: pytest.MonkeyPatch, last: int, damage: Callable[[CheckpointStore], None]
) -> None:
    """Damage checkpoints as soon as the one of step `last` is saved."""
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, *rest: Any) -> None:
        real(self, step, *rest)
        if step == last:
            damage(self)

    monkeypatch.setattr(CheckpointStore, "save", save)


def test_a_damaged_best_checkpoint_is_replaced_by_the_next_best_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script_scores(monkeypatch, SCORES)
    saves, names = record_saves(monkeypatch), list[str]()
    damage_after(monkeypatch, 6, lambda store: names.append(flip_a_byte(store.folder / "00000004")))
    case = stage_case(tmp_path)
    train(case)
    done = case.done()
    assert (done["best_step"], done["dev"]["pearson"]) == (9, 0.4), "the newest is intact"
    assert done["damaged"] == [f"step 4: {names[0]}: changed since it was written"]
    assert "step 4 is damaged" in caplog.text and "Falling back to the next best" in caplog.text
    assert_equal_trees(case.best_params(), saves_of(saves, case)[9]["params"])
    assert [path.name for path in (case.folder / "checkpoints").iterdir()] == ["00000009"]
    train(case, starts=[no_start])
    assert case.done() == done


def test_a_stage_without_an_intact_checkpoint_is_not_finished_but_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, SCORES + SCORES)
    saves = record_saves(monkeypatch)
    case = stage_case(tmp_path)
    with monkeypatch.context() as patch:
        damage_after(
            patch, 9, lambda store: [flip_a_byte(one.path) for one in store.all()] and None
        )
        with pytest.raises(CheckpointError, match="no checkpoint is intact") as caught:
            train(case)
    assert [detail[:7] for detail in caught.value.details] == ["step 4:", "step 9:"]
    assert "repeats this stage" in str(caught.value.hint)
    assert not (case.folder / DONE).exists()
    first = saves_of(saves, case)
    train(case)
    assert case.done()["best_step"] == 4 and case.done()["damaged"] == []
    assert_equal_trees(case.best_params(), first[4]["params"])


def test_nothing_of_a_finished_stage_is_deleted_while_its_checkpoint_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the note and the deletion, and a byte that flips in between."""
    script_scores(monkeypatch, SCORES)
    case = stage_case(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "finish", lambda *_: None)
        train(case)
    folder = case.folder / "checkpoints"
    flip_a_byte(folder / "00000004")
    with pytest.raises(CheckpointError, match="step 4 is damaged"):
        train(case, starts=[no_start])
    assert sorted(path.name for path in folder.iterdir()) == ["00000004", "00000009"]
    assert (folder / "00000004" / "opt_state").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Case:
    with pytest.MonkeyPatch.context() as monkeypatch:
        script_scores(monkeypatch, [0.3])
        case = stage_case(tmp_path_factory.mktemp("finished"))
        train(case)
    return case


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut-off"),
        pytest.param(lambda text: "\0" * len(text), id="zero-bytes"),
        pytest.param(lambda text: text.replace('"best_step": 2', '"best_step": 4'), id="edited"),
        pytest.param(lambda text: text.replace("0.3", "0.8"), id="a-score-edited"),
        pytest.param(lambda text: "[]", id="no-object"),
        pytest.param(lambda text: "[" * 100_000, id="brackets"),
    ],
)
def test_a_damaged_record_is_named(damage: Callable[[str], str], finished: Case) -> None:
    file = finished.folder / DONE
    text = file.read_text()
    file.write_text(damage(text))
    assert file.read_text() != text
    with pytest.raises(CheckpointError, match="the record is damaged") as caught:
        finished.done()
    assert caught.value.where == str(file)
    file.write_text(json.dumps(json.loads(text)))
    assert finished.done()["best_step"] == 2, "spaces do not matter"
    file.write_text(text)


def test_a_full_disk_while_metrics_are_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_scores(monkeypatch, [0.3])
    case = stage_case(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", fail)
        with pytest.raises(StorageError, match="the disk is full"):
            train(case)
    train(case)
    assert case.is_done()
