"""The studies of a folder, as their files show them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import flaxfer
from flaxfer import main
from flaxfer.config import Config
from flaxfer.runtime import sealed
from flaxfer.study import claims, listing, runner
from flaxfer.study.claims import Claims
from tests.e2e.helpers import folder_of
from tests.e2e.test_workdirs import grid_around

pytestmark = pytest.mark.usefixtures("no_waiting")


def look(config: Config) -> listing.Listed:
    listed = listing.look(Path(config.workdir))
    assert listed is not None
    return listed


def test_a_finished_study(small_study: Config) -> None:
    listed = look(small_study)
    assert (listed.state, listed.name, listed.progress) == ("finished", "tiny", "1 of 1 seeds")
    record = json.loads((Path(small_study.workdir) / "study.json").read_text())
    assert listed.date == record["date"] and not listed.problem
    assert listed.verdict == "not judged"


def remove_report(workdir: Path) -> None:
    (workdir / "report.html").unlink()


def remove_end_of_a_stage(workdir: Path) -> None:
    next(workdir.glob("stages/*/done.json")).unlink()


def remove_scores_of_a_set(workdir: Path) -> None:
    next(workdir.glob("stages/*/evaluations/german-*.json")).unlink()


def remove_record(workdir: Path) -> None:
    (workdir / "study.json").unlink()


def edit_record(workdir: Path) -> None:
    file = workdir / "study.json"
    file.write_text(file.read_text().replace('"name": "tiny"', '"name": "tidy"'))


def cut_origin(workdir: Path) -> None:
    file = workdir / "origin.json"
    file.write_text(file.read_text()[:40])


def remove_config(workdir: Path) -> None:
    (workdir / "config.json").unlink()


def cut_comparisons(workdir: Path) -> None:
    file = workdir / "comparisons.csv"
    file.write_text(file.read_text()[:-30])


@pytest.mark.parametrize(
    ("change", "state", "problem"),
    [
        (remove_report, "stopped", ""),
        (remove_end_of_a_stage, "stopped", ""),
        (remove_scores_of_a_set, "stopped", ""),
        (remove_record, "stopped", ""),
        (edit_record, "damaged", "study.json"),
        (cut_origin, "damaged", "origin.json"),
        (remove_config, "damaged", "config.json"),
        (cut_comparisons, "damaged", "comparisons.csv"),
    ],
)
def test_a_study_that_is_not_whole(
    change: Callable[[Path], None], state: str, problem: str, copied: Config
) -> None:
    change(Path(copied.workdir))
    listed = look(copied)
    assert listed.state == state and problem in listed.problem
    assert bool(listed.problem) == bool(problem) and not listed.verdict
    lines = repr(flaxfer.load(copied.workdir)).splitlines()
    assert f": {state}" in lines[0] and len(lines) == 1 + bool(problem)


def test_a_study_that_a_process_works_on(copied: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_report(Path(copied.workdir))
    with Claims() as own:
        claim = own.take(folder_of(copied, "staged/target"))
        assert claim is not None and look(copied).state == "running"
        os.utime(claim.file, (1e9, 1e9))  # Silent for longer than the lease.
        assert look(copied).state == "stopped"
        os.utime(claim.file)
        monkeypatch.setattr(claims.owners, "is_gone", lambda owner: True)
        assert look(copied).state == "stopped"
        monkeypatch.undo()
        own.release(claim)
        assert look(copied).state == "stopped"


def test_looks_count_up_to_the_decision(copied: Config) -> None:
    workdir = Path(copied.workdir)
    config = json.loads((workdir / "config.json").read_text()) | {"seeds": {"looks": [1, 4]}}
    (workdir / "config.json").write_text(json.dumps(config))
    record = sealed.read(workdir / "study.json")
    look_of = {"seeds": 1, "share": 0.2, "difference": None, "low": None, "high": None, "p": 1.0}
    for decided, state in ((True, "finished"), (False, "stopped")):
        looked = [{**look_of, "p_sequential": 1.0, "decided": decided}]
        sealed.write(workdir / "study.json", record | {"looks": [1, 4], "looked": looked})
        assert (look(copied).state, look(copied).progress) == (state, "1 of 4 seeds")


def test_a_folder_is_listed_by_date_in_80_columns(
    copied: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, date in (("old", "2025-01-01"), ("new", "2027-01-01"), ("mid", "2026-01-01")):
        shutil.copytree(copied.workdir, folder / name, ignore=shutil.ignore_patterns("stages"))
        file = folder / name / "study.json"
        sealed.write(file, sealed.read(file) | {"date": f"{date}T00:00:00+00:00"})
        config = json.loads((folder / name / "config.json").read_text())
        config["name"] = f"{name}-study-with-a-name-of-several-words"
        (folder / name / "config.json").write_text(json.dumps(config))
    edit_record(folder / "mid")
    for other in ("notes", "model", ".hidden"):
        (folder / other).mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "file.txt").touch()
    assert main.main(["list", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-2])) <= 80
    dates = [words for line in lines for words in line.split() if words[:2] == "20"]
    assert dates[0] == "2027-01-01" and dates[-1] == "2025-01-01"
    assert "finished" in lines[1] and "1 of 1 seeds" in lines[1] and "not judged" in lines[1]
    assert lines[-2].startswith(f"damaged: {folder / 'mid'}: {folder / 'mid' / 'study.json'}: ")
    assert lines[-1] == "other folders: model, notes"
    assert main.main(["list", str(tmp_path / "model")]) == 3
    assert main.main(["list", str(folder / "notes")]) == 0
    assert capsys.readouterr().out == f"there are no studies in {folder / 'notes'}\n"


def test_a_grid_counts_its_studies(small_study: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(small_study, workdir=str(tmp_path / "grid"))
    grid = dataclasses.replace(grid_around(config), store=small_study.stages)
    runner.run(grid, "the command")
    listed = listing.look(tmp_path / "grid")
    assert listed is not None and listed.is_grid
    assert (listed.state, listed.progress) == ("finished", "1 of 1 studies")
    assert listed.verdict == "1 not judged"
    lines = repr(flaxfer.load(tmp_path / "grid")).splitlines()
    assert lines[0].startswith(f"grid grid in {tmp_path / 'grid'}: finished, 1 of 1 studies, 20")
    assert lines[1:] == ["1 not judged"]
    cell = tmp_path / "grid" / "cells" / "model.nli.sts"
    assert repr(flaxfer.load(cell)).startswith("study model.nli.sts in")
    edit = json.loads((cell / "study.json").read_text()) | {"seeds": [9]}
    (cell / "study.json").write_text(json.dumps(edit))
    listed = listing.look(tmp_path / "grid")
    assert listed is not None and listed.state == "damaged"
    assert listed.problem.startswith("model.nli.sts: ")
    shutil.rmtree(cell)
    listed = listing.look(tmp_path / "grid")
    assert listed is not None and (listed.state, listed.done) == ("stopped", 0)
