"""Sequential seeds: when studies stop, without training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Config, Data, Model, Source, Stage, Task, loading
from flaxfer.config.seeds import Looks
from flaxfer.evaluation.records import read_study
from flaxfer.report import writing
from flaxfer.statistics import looks as statistics_looks
from flaxfer.statistics.comparisons import compare
from flaxfer.study.plan import StudyPlan
from flaxfer.study.stopping import Stopping
from tests.helpers import random_tokenized
from tests.statistics.helpers import RunKey, write_study

LAST = 8
DATA = random_tokenized(120)
TASK = Task("sts", "regression", "pearson")
STAGE = Stage(TASK, Data((Source(path="a.tsv", columns={"text_a": 0, "label": 1}),)))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_looks, "DRAWS", 100)


def config_of(workdir: Path, looks: tuple[int, ...] = (2, 6, LAST)) -> Config:
    return Config(
        name=workdir.name,
        model=Model(path="model"),
        target=STAGE,
        intermediate=STAGE,
        workdir=str(workdir),
        seeds=Looks(looks),
    )


class World:
    """Studies whose runs are finished before anybody looks, and what has been summarised."""

    def __init__(self, folder: Path, noise_of_staged: Mapping[str, float]):
        self.folder, self.asked = folder, list[tuple[str, int]]()
        self.late: list[str] = []  # What a slower process writes after the next summary.
        self.outputs: dict[str, dict[RunKey, np.ndarray]] = {}
        for number, (name, noise) in enumerate(noise_of_staged.items()):
            rng = np.random.default_rng(number)
            self.outputs[name] = {
                (condition, seed): (DATA.label + sd * rng.standard_normal(len(DATA.label)))[:, None]
                for condition, sd in (("direct", 4.0), ("staged", noise))
                for seed in range(LAST)
            }

    def plans(self, looks: tuple[int, ...] = (2, 6, LAST)) -> list[StudyPlan]:
        return [
            StudyPlan(config_of(self.folder / name, looks), (), tuple(range(looks[-1])))
            for name in self.outputs
        ]

    def go_on(self, stopping: Stopping) -> bool:
        def summarise(plan: StudyPlan) -> None:
            name = plan.config.name
            self.asked.append((name, len(plan.seeds)))
            runs = {run: out for run, out in self.outputs[name].items() if run[1] in plan.seeds}
            workdir = write_study(self.folder / name, TASK, runs, DATA)
            record: dict[str, Any] = json.loads((workdir / "study.json").read_text())
            config = plan.config
            record |= {"config": loading.to_dict(config), "looks": list(config.looks)}
            record |= {"paired": config.paired}
            (workdir / "study.json").write_text(json.dumps(record | stopping.facts(plan)))
            if self.late:
                (workdir / "study.json").write_text(self.late.pop())

        return stopping.go_on(summarise)

    def run(self, looks: tuple[int, ...] = (2, 6, LAST)) -> dict[str, list[int]]:
        """Run to the end; return the looks of each study."""
        stopping = Stopping(self.plans(looks))
        while self.go_on(stopping):
            pass
        records = {name: read_study(self.folder / name) for name in self.outputs}
        return {name: [look.seeds for look in record.looked] for name, record in records.items()}


Finished = tuple[World, dict[str, list[int]]]
"""A world after its last look, and the looks of its studies."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study with a large difference and one without, and the looks that they had."""
    world = World(tmp_path_factory.mktemp("finished"), {"large": 0.1, "none": 4.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics_looks, "DRAWS", 100)
        return world, world.run()


def test_studies_stop_at_the_look_that_decides_and_others_go_on(finished: Finished) -> None:
    world, had = finished
    assert had["none"] == [2, 6, LAST]
    assert had["large"][-1] < LAST
    assert max(at for name, at in world.asked if name == "large") == had["large"][-1]
    large, none = (read_study(world.folder / name) for name in ("large", "none"))
    assert [look.decided for look in large.looked] == [False] * (len(had["large"]) - 1) + [True]
    assert not any(look.decided for look in none.looked)
    assert len(large.seeds) == had["large"][-1]
    assert [look.share for look in none.looked][-1] == 1.0
    for record in (large, none):
        p = [look.p_sequential for look in record.looked]
        assert p == sorted(p, reverse=True)


def test_the_report_has_the_decisions_of_the_looks(finished: Finished, tmp_path: Path) -> None:
    folders = [finished[0].folder / name for name in ("large", "none")]
    evidence = compare(folders, draws=100)
    primary = [one for one in evidence.comparisons if one.family == "primary"]
    assert [one.all_runs.verdict for one in primary] == ["helps", "undecided"]
    for one, folder in zip(primary, folders, strict=True):
        assert one.all_runs.p == pytest.approx(read_study(folder).looked[-1].p_sequential)
    writing.write_report(*folders, output=tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Looks at the primary comparison, planned after 2, 6, 8 seeds." in text
    assert "of a design after there were results" not in text


def test_a_killed_run_continues_with_the_same_looks(finished: Finished, tmp_path: Path) -> None:
    whole, expected = finished
    killed = World(tmp_path, {"large": 0.1, "none": 4.0})
    killed.go_on(Stopping(killed.plans()))
    assert read_study(killed.folder / "none").looked[-1].seeds == 2
    assert killed.run() == expected
    for name in expected:
        records = [read_study(world.folder / name) for world in (whole, killed)]
        assert records[0].looked == records[1].looked
    # Nothing is judged again, and no earlier look replaces a later one.
    killed.asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics_looks, "take_look", None)
        assert killed.run() == expected
    assert {at for name, at in killed.asked if name == "none"} == {LAST}


def test_another_process_takes_over_the_looks_that_it_finds(tmp_path: Path) -> None:
    world = World(tmp_path, {"none": 4.0})
    slow = Stopping(world.plans())
    world.run()
    world.asked.clear()
    while world.go_on(slow):
        pass
    assert [at for _, at in world.asked] == [LAST]
    assert [look.seeds for look in read_study(tmp_path / "none").looked] == [2, 6, LAST]


def test_a_record_of_an_earlier_look_is_not_judged_as_a_later_one(tmp_path: Path) -> None:
    for name in ("alone", "disturbed"):
        (tmp_path / name).mkdir()
    alone, disturbed = (World(tmp_path / name, {"none": 4.0}) for name in ("alone", "disturbed"))
    alone.run()
    stopping = Stopping(disturbed.plans())
    disturbed.go_on(stopping)
    disturbed.late.append((disturbed.folder / "none" / "study.json").read_text())
    while disturbed.go_on(stopping):
        pass
    assert not disturbed.late
    records = [read_study(world.folder / "none") for world in (alone, disturbed)]
    assert records[0].looked == records[1].looked


def test_a_change_of_the_looks_after_a_look_is_recorded(tmp_path: Path) -> None:
    world = World(tmp_path, {"none": 4.0})
    world.go_on(Stopping(world.plans((2, 4))))
    assert world.run((3, LAST))["none"] == [2, 3, LAST]
    record = read_study(tmp_path / "none")
    (change,) = record.design_changes
    assert "after results of 2 seeds: seeds looks 2, 4 became looks 3, 8." in change
    writing.write_report(tmp_path / "none")
    text = (tmp_path / "none" / "report.md").read_text()
    assert "1 change of a design after there were results" in text and change in text
    assert world.run((3, LAST)) and read_study(tmp_path / "none").design_changes == [change]


def test_a_change_of_the_analysis_after_a_look_is_recorded(tmp_path: Path) -> None:
    world = World(tmp_path, {"none": 4.0})
    world.go_on(Stopping(world.plans()))
    before = read_study(tmp_path / "none").looked
    paired = [
        dataclasses.replace(plan, config=dataclasses.replace(plan.config, paired=True))
        for plan in world.plans()
    ]
    stopping = Stopping(paired)
    while world.go_on(stopping):
        pass
    record = read_study(tmp_path / "none")
    (change,) = record.design_changes
    assert "after results of 2 seeds: analysis unpaired became paired." in change
    assert [look.seeds for look in record.looked] == [2, 6, LAST]
    assert record.looked[0].difference == before[0].difference
    assert record.looked[0].p != before[0].p
    assert Stopping(paired).facts(paired[0])["design_changes"] == [change]


@pytest.mark.parametrize("paired", [False, True])
def test_looks_are_at_the_comparison_of_the_report(paired: bool, tmp_path: Path) -> None:
    workdir = write_study(tmp_path / "a", TASK, World(tmp_path, {"a": 1.0}).outputs["a"], DATA)
    record = json.loads((workdir / "study.json").read_text()) | {"paired": paired}
    (workdir / "study.json").write_text(json.dumps(record))
    look = statistics_looks.take_look(read_study(workdir), workdir, LAST, LAST, [])
    evidence = compare([workdir], draws=100)
    (one,) = [one.all_runs for one in evidence.comparisons if one.family == "primary"]
    assert (look.difference, look.p) == (one.difference, one.p)
    direct, staged = np.array(one.direct.scores), np.array(one.staged.scores)
    groups = [staged - direct] if paired else [direct, staged]
    assert one.variance_seeds == pytest.approx(sum(group.var(ddof=1) for group in groups))


def test_seeds_added_after_results_are_recorded(tmp_path: Path) -> None:
    world = World(tmp_path, {"none": 4.0})
    fixed = dataclasses.replace(config_of(tmp_path / "none"), seeds=(0, 1))
    more = dataclasses.replace(fixed, seeds=(0, 1, 2))
    workdir = write_study(tmp_path / "none", TASK, world.outputs["none"], DATA)
    record = json.loads((workdir / "study.json").read_text())
    (workdir / "study.json").write_text(json.dumps(record | {"config": loading.to_dict(fixed)}))
    same, changed = (Stopping([StudyPlan(c, (), c.run_seeds)]) for c in (fixed, more))
    assert same.facts(same.plans[0]) == {"looked": [], "design_changes": []}
    (note,) = changed.facts(changed.plans[0])["design_changes"]
    assert f"after results of {LAST} seeds: seeds 0, 1 became 0, 1, 2." in note
    assert not changed.go_on(lambda plan: None)


def test_a_study_without_predictions_of_a_condition_goes_on_to_the_last_look(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, {"lost": 0.1})
    world.outputs["lost"] = {
        run: out for run, out in world.outputs["lost"].items() if run[0] == "direct"
    }
    assert world.run()["lost"] == [2, 6, LAST]
    assert {look.p_sequential for look in read_study(tmp_path / "lost").looked} == {1.0}


def test_a_look_at_runs_that_learned_nothing_decides_nothing(tmp_path: Path) -> None:
    outputs = World(tmp_path, {"constant": 0.1}).outputs["constant"]
    constant = {run: np.zeros_like(output) for run, output in outputs.items()}
    workdir = write_study(tmp_path / "constant", TASK, constant, DATA)
    record = json.loads((workdir / "study.json").read_text()) | {"margin": {"pearson": 0.02}}
    (workdir / "study.json").write_text(json.dumps(record))
    look = statistics_looks.take_look(read_study(workdir), workdir, LAST, LAST, [])
    assert (look.p_sequential, look.p_equivalence_sequential) == (1.0, 1.0)


def test_a_look_sees_the_runs_of_its_seeds_alone(tmp_path: Path) -> None:
    outputs = World(tmp_path, {"large": 0.1}).outputs["large"]
    first = {run: output for run, output in outputs.items() if run[1] < 3}
    folders = [
        write_study(tmp_path / name, TASK, runs, DATA)
        for name, runs in (("all", outputs), ("first", first))
    ]
    looks = [
        statistics_looks.take_look(read_study(workdir), workdir, 3, LAST, []) for workdir in folders
    ]
    assert looks[0] == looks[1]
