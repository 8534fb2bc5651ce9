"""Damage of a finished study is named, and exactly what is damaged is made again."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config
from flaxfer.errors import CheckpointError, DataError
from flaxfer.evaluation.records import read_study
from flaxfer.report.writing import write_report
from flaxfer.study import runner, troubles
from flaxfer.study.claims import Claims
from flaxfer.study.repair import repair
from flaxfer.training import checkpoints, manifests
from flaxfer.training.record import DONE, IDENTITY, METRICS
from tests.e2e.helpers import (
    folder_of,
    open_study,
    results,
    runs_of,
    spec_of,
    summary_of,
    trained_since,
    work_in,
)
from tests.training.test_damage import flip_a_byte

pytestmark = pytest.mark.usefixtures("no_waiting")


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def zero(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def edit(file: Path) -> None:
    """Change a digit of a number."""
    text = file.read_text()
    place = text.index("0.") + 2
    file.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


@pytest.mark.parametrize("damage", [cut, zero, edit])
def test_damaged_files_of_finished_stages_are_made_again_without_training(
    damage: Callable[[Path], None],
    small_study: Config,
    copied: Config,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders = {name: folder_of(copied, name) for name in runs_of(copied)}
    files = [
        folders["staged/intermediate"] / METRICS,
        folders["direct/target"] / DONE,
        *folders["direct/target"].glob("predictions/test-*"),
        *folders["staged/target"].glob("evaluations/german-*"),
    ]
    contents, before = {file: file.read_bytes() for file in files}, work_in(copied.stages)
    for file in files:
        damage(file)
        assert file.read_bytes() != contents[file]
    runner.run(copied, "the command")
    assert results(copied) == results(small_study)
    assert "curves are lost" in caplog.text and not files[0].exists()
    for file in files[1:]:
        assert file.read_bytes() == contents[file] and file.name in caplog.text
    for name in folders:
        assert f"{name} seed 0, {folders[name]}: " in caplog.text
    # Each file is kept as it was found, but the predictions, whose scores are kept.
    kept = {path.name for path in Path(copied.stages).glob("*/damaged/1/**/*.json*")}
    scores = files[2].name.replace("jsonl", "json")
    assert kept == {METRICS, DONE, scores, files[3].name}
    written = dict(work_in(copied.stages).items() - before.items())
    names = {path.split("/", 1)[1] for path in written if "/damaged/" not in path}
    pairs = [
        f"{folder}/{files[i].stem}" for i in (2, 3) for folder in ("evaluations", "predictions")
    ]
    assert {name.partition(".")[0] for name in names} == {"done", *pairs}


def test_nothing_is_made_again_of_what_is_intact_or_lost_for_good(
    copied: Config, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Curves that were set aside stay lost, and descriptions are written again."""
    (folder_of(copied, "direct/target") / METRICS).unlink()
    file = folder_of(copied, "direct/target") / IDENTITY
    other = folder_of(copied, "staged/target") / IDENTITY
    content, before = file.read_text(), work_in(copied.stages)
    file.write_text(content.replace("pearson", "mse"))
    other.write_text(other.read_text()[:50])
    runner.run(copied, "the command")
    assert file.read_text() == content and json.loads(other.read_text())["seed"] == 0
    shown = capsys.readouterr().err.replace("\n", "")
    assert f"{file} was changed or copied" in shown and f"{other} is damaged" in shown
    assert caplog.text == "" and not work_in(copied.stages).items() - before.items()


@pytest.mark.parametrize("lost", ["flipped", pytest.param("missing", marks=pytest.mark.slow)])
def test_a_stage_whose_finished_checkpoint_is_damaged_is_repeated_when_it_is_needed(
    lost: str, small_study: Config, copied: Config, caplog: pytest.LogCaptureFixture
) -> None:
    parent = folder_of(copied, "staged/intermediate")
    child = folder_of(copied, "staged/target")
    shutil.rmtree(child)
    (checkpoint,) = (parent / "checkpoints").iterdir()
    if lost == "flipped":
        flip_a_byte(checkpoint)
    else:
        shutil.rmtree(checkpoint)
    before = work_in(copied.stages)
    runner.run(copied, "the command")
    assert results(copied) == results(small_study)
    assert trained_since(before, copied.stages) - {"damaged"} == {parent.name, child.name}
    assert f"staged/intermediate seed 0, {parent}" in caplog.text
    assert (parent / "damaged" / "1" / DONE).exists()


def test_a_stage_that_stays_damaged_is_listed_and_the_others_go_on(
    small_study: Config, copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = folder_of(copied, "staged/intermediate").name
    ids = {name: run["id"] for name, run in runs_of(copied).items()}
    for name in ("staged/target", "direct/target"):
        shutil.rmtree(folder_of(copied, name))
    real = manifests.damage

    def damage(folder: Path) -> list[str]:
        """Of a disk that returns other bytes than were written."""
        return ["params/a: changed"] if folder.parents[1].name == parent else real(folder)

    monkeypatch.setattr(checkpoints.manifests, "damage", damage)
    with pytest.raises(CheckpointError) as caught:
        runner.run(copied, "the command")
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert parent in text and "staged/target seed 0" in text
    summary = summary_of(copied)
    assert [run["id"] for run in summary["runs"]] == [ids["direct/target"]]
    assert [(one["condition"], one["stage"]) for one in summary["failed"]] == [
        ("staged", "intermediate"),
        ("staged", "target"),
    ]
    assert "staged seed 0" in (Path(copied.workdir) / "report.md").read_text()
    monkeypatch.undo()
    runner.run(copied, "the command")
    assert results(copied) == results(small_study)


def test_a_folder_copied_from_another_stage_is_not_taken_for_it(
    small_study: Config, copied: Config
) -> None:
    direct, staged = folder_of(copied, "direct/target"), folder_of(copied, "staged/target")
    shutil.rmtree(staged)
    shutil.copytree(direct, staged)
    runner.run(copied, "the command")
    assert results(copied) == results(small_study)


def test_a_stage_that_cannot_be_written_is_listed_and_the_others_go_on(copied: Config) -> None:
    direct, staged = folder_of(copied, "direct/target"), folder_of(copied, "staged/target")
    shutil.rmtree(direct)
    shutil.rmtree(staged)
    direct.write_text("a file in place of the folder")
    with pytest.raises(CheckpointError) as caught:
        runner.run(copied, "the command")
    assert str(direct) in str(caught.value) and "direct/target seed 0" in str(caught.value)
    assert runs_of(copied).keys() == {"staged/intermediate", "staged/target"}


def test_a_record_is_left_alone_while_another_process_holds_the_stage(copied: Config) -> None:
    spec = spec_of(open_study(copied), "direct")
    zero(spec.folder / DONE)
    with Claims() as others, others.taking([spec.folder]), Claims() as claims:
        assert not repair(spec, claims)
    with Claims() as claims:
        assert repair(spec, claims) and not repair(spec, claims)


def test_a_study_json_that_was_edited_is_refused(copied: Config) -> None:
    file = Path(copied.workdir) / "study.json"
    content = json.loads(file.read_text())
    content["runs"][0]["evaluations"][0]["metrics"]["pearson"] = 0.99
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="was changed after it was written") as caught:
        read_study(file.parent)
    assert caught.value.where == str(file)
    with pytest.raises(DataError):
        write_report(file.parent)
    runner.run(copied, "the command")
    read_study(file.parent)


def test_a_wait_names_the_stages_their_owners_and_the_times(
    copied: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine has trained the intermediate stage and does not release it."""
    shutil.rmtree(folder_of(copied, "staged/target"))
    parent = folder_of(copied, "staged/intermediate")
    owner = {"host": "far", "pid": 7, "system": "far", "started": "1", "since": 1_799_999_000.0}
    newest = parent / "claims" / "2"
    newest.write_text(json.dumps(owner))
    real, texts = troubles.waiting, list[str]()

    def waiting(*args: Any) -> str:
        """Let the owner release the stage as soon as it is waited for."""
        texts.append(real(*args))
        os.utime(newest, (0, 0))
        return texts[-1]

    monkeypatch.setattr(troubles, "waiting", waiting)
    runner.run(copied, "the command")
    (text,) = texts
    first, second = text.splitlines()
    assert first.startswith("waiting for 1 stages held by other processes")
    assert f"staged/intermediate seed 0, {parent.name}: held by far:7 since 2027-01-15" in second
    assert re.search(r"last heartbeat \d+ s ago, free in \d+ s unless there is another$", second)
    assert text in capsys.readouterr().err
