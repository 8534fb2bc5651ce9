"""A study with sequential seeds trains up to the look that decides, and goes on from there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from flaxfer.config import Config, Model
from flaxfer.config.seeds import Looks
from flaxfer.statistics import looks
from flaxfer.study import plan, runner
from tests.e2e.helpers import TIMES, open_study, start_worker, summary_of
from tests.helpers import tiny_model

LOOK = re.compile(r"look at (\d+) seeds: (\w+)")


@pytest.fixture
def config(copied: Config) -> Config:
    return dataclasses.replace(copied, seeds=Looks((2, 3)), batched_seeds=1)


@pytest.mark.slow  # The looks are tested without training in tests/study.
def test_a_study_stops_at_the_look_that_decides_and_trains_nothing_more(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(looks, "ALPHA", 1.0)
    runner.run(config, "the command")
    summary = summary_of(config)
    assert (summary["seeds"], summary["looks"]) == ([0, 1], [2, 3])
    assert {run["seed"] for run in summary["runs"]} == {0, 1}
    (first,) = summary["looked"]
    assert (first["seeds"], first["decided"]) == (2, True)
    (change,) = summary["design_changes"]
    assert change.endswith("after results of 1 seeds: seeds 0 became looks 2, 3.")
    later = [spec for spec in open_study(config).plan.stages if spec.seed == 2]
    assert later and not any(Path(spec.folder).exists() for spec in later)
    # Nothing is trained again, and the look is not had again.
    before = {file: file.stat().st_mtime_ns for file in Path(config.stages).glob("*/done.json")}
    monkeypatch.setattr(looks, "take_look", None)
    runner.run(config, "the command")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert summary_of(config)["looked"] == summary["looked"]
    # Without a decision it goes on to the last look.
    monkeypatch.undo()
    runner.run(config, "the command")
    summary = summary_of(config)
    assert summary["seeds"] == [0, 1, 2]
    assert [look["seeds"] for look in summary["looked"]] == [2, 3]
    assert summary["looked"][0] == {**first, "decided": False}
    assert summary["looked"][1]["share"] == 1.0
    report = (Path(config.workdir) / "report.md").read_text()
    assert "Looks at the primary comparison, planned after 2, 3 seeds." in report
    capsys.readouterr()
    runner.show(config)
    assert "looks at 2, 3 seeds; a study that is decided stops" in capsys.readouterr().err


@pytest.mark.slow  # That looks do not depend on the process is tested in tests/study.
def test_two_processes_have_the_same_looks(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The last seeds are never trained: with so wide a margin, an earlier look decides, if outputs
    # are not constant as those of small weights.
    model = Model(path=str(tiny_model(tmp_path / "model", deviation=0.5)))
    seeds, margin = Looks((2, 3, 4, 6)), {"pearson": 1.9}
    config = dataclasses.replace(config, seeds=seeds, margin=margin, model=model)
    alone, both = (
        dataclasses.replace(config, workdir=str(tmp_path / name), store="")
        for name in ("alone", "both")
    )
    runner.run(alone, "the command")
    said = [LOOK.findall(capsys.readouterr().err)]
    processes = [start_worker(both, number=2) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        said.append(LOOK.findall(errors))
    assert said == said[:1] * 3
    assert said[0][-1][1] == "decided" and 1 < len(said[0]) < 4
    summaries = [summary_of(one) for one in (alone, both)]
    for key in ("seeds", "looked", "design_changes", "failed"):
        assert summaries[0][key] == summaries[1][key]
    runs = [
        [{key: value for key, value in run.items() if key not in TIMES} for run in summary["runs"]]
        for summary in summaries
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 3 * len(summaries[0]["seeds"])
    for name in ("results.csv", "comparisons.csv"):
        written = [(Path(one.workdir) / name).read_text() for one in (alone, both)]
        assert written[0] == written[1]
    claimed = list(Path(both.stages).glob("*/claims"))
    claims = [file for folder in claimed for file in folder.iterdir()]
    assert [file.name for file in claims] == ["1"] * len(runs[0]), "a stage was claimed again"
    assert len({json.loads(file.read_text())["pid"] for file in claims}) == 2, "one did all"


def test_seeds_are_trained_together_within_a_look(config: Config) -> None:
    data = open_study(dataclasses.replace(config, seeds=Looks((2, 5, 6)), batched_seeds=2)).data
    assert plan.seed_groups(data) == [(0, 1), (2, 3), (4,), (5,)]
