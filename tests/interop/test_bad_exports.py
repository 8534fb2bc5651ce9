"""Exports that are refused, and what the messages say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Config
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop.export import export, find_stage
from flaxfer.study import runner
from flaxfer.training.record import open_finished
from tests.e2e.helpers import folder_of, quickly
from tests.helpers import tiny_model
from tests.interop.helpers import ROWS, read_json, with_model


def refused(kind: type[FlaxferError], *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(kind) as caught:
        export(*arguments, **keywords)
    return str(caught.value)


def test_a_missing_tokenizer_is_refused(copied: Config, tmp_path: Path) -> None:
    folder = with_model(copied, tokenizer=str(tmp_path / "gone"))
    message = refused(DataError, folder, tmp_path / "out")
    assert f"{tmp_path}/gone: the tokenizer of the stage is missing" in message


def test_a_stage_that_is_not_finished_is_refused(copied: Config) -> None:
    folder = folder_of(copied, "staged/target")
    out = Path(copied.workdir).parent / "out"
    parent = folder_of(copied, "staged/intermediate")
    (parent / "done.json").rename(parent / "kept.json")
    message = refused(CheckpointError, folder, out)
    assert "is not finished" in message and str(parent) in message
    assert "run the study again: the command" in message
    (parent / "kept.json").rename(parent / "done.json")
    (folder / "done.json").unlink()
    assert "is not finished" in refused(CheckpointError, folder, out)
    assert not out.exists()


def test_a_stage_whose_records_were_edited_is_refused(copied: Config) -> None:
    folder, out = folder_of(copied, "direct/target"), Path(copied.workdir).parent / "out"
    for name, old, new in (
        ("identity.json", '"pearson"', '"mse"'),
        ("origin.json", '"hub": ""', '"hub": "someone/else"'),
        ("done.json", '"steps": 4', '"steps": 5'),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        message = refused(CheckpointError, folder, out)
        assert name in message and "was changed" in message
        (folder / name).write_text(text)
    assert not out.exists()


@pytest.mark.parametrize("name", ["origin.json", "vocabulary.npy", "evaluations/german-*.json"])
@pytest.mark.parametrize("content", [None, "[]"])
def test_a_missing_or_damaged_record_is_refused(
    copied: Config, name: str, content: str | None
) -> None:
    folder = folder_of(copied, "direct/target")
    (file,) = folder.glob(name)
    file.unlink() if content is None else file.write_text(content + "x")
    message = refused(CheckpointError, folder, Path(copied.workdir).parent / "out")
    assert ("is missing" if content is None else "is damaged") in message
    assert "run the study again: the command" in message and "without training again" in message


def test_running_the_study_again_restores_missing_records(copied: Config) -> None:
    folder = folder_of(copied, "direct/target")
    record = open_finished(folder)
    origin, ids = record.origin(), record.vocabulary().ids
    for name in ("origin.json", "vocabulary.npy"):
        (folder / name).unlink()
    with quickly():
        runner.run(copied, "the command")
    # Versions are unknown: those of now need not be those of the training.
    assert open_finished(folder).origin() == origin | {"versions": {}}
    np.testing.assert_array_equal(record.vocabulary().ids, ids)
    other = open_finished(folder_of(copied, "staged/target"))
    assert other.origin()["versions"] == origin["versions"]


def test_a_wrong_export_is_refused(copied: Config, tmp_path: Path) -> None:
    folder, out = folder_of(copied, "direct/target"), tmp_path / "out"
    model = Path(copied.model.path)
    assert "--model FOLDER" in refused(DataError, folder, out, model=tmp_path / "none")
    other = tiny_model(tmp_path / "other", "bert", seed=1, vocab_size=ROWS)
    message = refused(CheckpointError, folder, out, model=other)
    assert "not those that the stage started from" in message
    moved = Path(shutil.copytree(model, tmp_path / "moved"))
    tokenizer = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(tokenizer.replace('"##a"', '"##A"'))
    message = refused(DataError, folder, out, model=moved)
    assert "not the one that the stage was trained with" in message
    (moved / "tokenizer.json").write_text(tokenizer)
    (moved / "tokenizer of another model").mkdir()
    assert export(folder, out, model=moved) == out
    assert "--overwrite" in refused(ConfigError, folder, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert "will not delete" in refused(ConfigError, folder, tmp_path / "mine", overwrite=True)
    assert "a file of this name" in refused(ConfigError, folder, out / "config.json")
    assert "cannot be written" in refused(ConfigError, folder, out / "config.json" / "deeper")
    (checkpoint,) = (folder / "checkpoints").iterdir()
    params = next(p for p in (checkpoint / "params").rglob("*") if p.stat().st_size > 1000)
    params.write_bytes(params.read_bytes()[:-1])
    assert "is damaged" in refused(CheckpointError, folder, out, overwrite=True)
    assert read_json(out / "config.json")["flaxfer"]  # The earlier export is still there.
    assert not list(tmp_path.glob(".*"))
    shutil.rmtree(checkpoint)
    assert "checkpoint is gone" in refused(CheckpointError, folder, tmp_path / "new")


@pytest.mark.parametrize(
    ("at", "words", "kind", "message"),
    [
        ("", {"condition": "direct"}, ConfigError, "leave them out"),
        ("..", {}, DataError, "neither"),
        ("../..", {"condition": "scratch"}, ConfigError, "no stage of the study matches"),
    ],
)
def test_a_wrong_selection_of_a_stage_is_refused(
    small_study: Config, at: str, words: dict[str, Any], kind: type[FlaxferError], message: str
) -> None:
    place = (folder_of(small_study, "direct/target") / at).resolve()
    with pytest.raises(kind, match=message):
        find_stage(place, Path("out"), **words)


def test_an_unfinished_study_lists_its_finished_stages(copied: Config) -> None:
    workdir = Path(copied.workdir)
    (workdir / "study.json").unlink()
    with pytest.raises(DataError, match="finished study") as caught:
        find_stage(workdir, Path("out"))
    stages = sorted(str(p.parent) for p in (workdir / "stages").glob("*/claims"))
    assert list(caught.value.details) == stages and len(stages) == 3
    with pytest.raises(DataError, match="not the folder of a stage"):
        open_finished(workdir)
