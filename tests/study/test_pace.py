"""Progress through the stages of a study, and the time left by measured rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flaxfer.runtime.files import write_atomically
from flaxfer.study import pace
from flaxfer.study.pace import Pace
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import DONE
from flaxfer.training.stage import StageSpec
from tests.study.test_forecast import CONFIG, finish, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    clock = {"now": 0.0}
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock["now"])
    return clock


def pace_of(*groups: tuple[StageSpec, ...]) -> Pace:
    plan = StudyPlan(CONFIG, groups, (0, 1, 2))
    return Pace(lambda: [plan], lambda spec: spec.record.is_trained())


def train(spec: StageSpec) -> None:
    spec.folder.mkdir(parents=True)
    write_atomically(spec.folder / DONE, json.dumps({"steps": 100}))


def test_the_time_left_comes_from_the_rates_of_stages(
    tmp_path: Path, clock: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Stages of 64,000 tokens each: the first takes 100 s, the second has taken 50 s."""
    specs = [stage(tmp_path, seed) for seed in range(4)]
    measured = pace_of(*((spec,) for spec in specs))
    state = measured.state(None)
    assert (state.place, state.share, state.seconds_left) == ("stage 1 of 4", 0.0, None)
    with measured.working(specs[:1]):
        assert measured.state(0.0).seconds_left is None
        clock["now"] = 25.0
        # A quarter has taken 25 s.
        assert measured.state(0.25).seconds_left == pytest.approx(75 + 3 * 100)
        assert measured.state(None).share == 0.25 / 4, "no stage is trained: as it was"
        clock["now"] = 100.0
        train(specs[0])
    assert measured.state(None).seconds_left == pytest.approx(300)
    with measured.working(specs[1:3]):
        clock["now"] = 150.0
        state = measured.state(0.75)
        assert (state.place, state.share) == ("stages 2-3 of 4", (1 + 2 * 0.75) / 4)
        # By the finished stage, not by the current ones.
        assert state.seconds_left == pytest.approx(50 + 100)
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 4: direct/target seed 0, time left unknown",
        "stages 2-3 of 4: direct/target seeds 1, 2, about 0:05:00 left",
    ]


def test_before_the_first_stage_the_rate_is_that_of_the_store(tmp_path: Path) -> None:
    finish(tmp_path / "earlier", "small")
    # 100 steps of 8 examples of 20 tokens in 50 s: 320 tokens/s.
    assert pace_of((stage(tmp_path, 0),)).state(None).seconds_left == pytest.approx(64_000 / 320)


def test_a_finished_study_has_nothing_left(tmp_path: Path) -> None:
    spec = stage(tmp_path, 0)
    train(spec)
    measured = pace_of((spec,))
    state = measured.state(None)
    assert (measured.done, measured.total, state.share, state.seconds_left) == (1, 1, 1.0, 0.0)
