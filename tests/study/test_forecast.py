"""Forecast of a grid before it runs."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from flaxfer.config import Config, Data, Model, Stage, Task
from flaxfer.config.seeds import Looks
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import progress
from flaxfer.runtime.files import write_atomically
from flaxfer.study import forecast
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import DONE, FAILED
from flaxfer.training.stage import StageSpec
from tests.helpers import encoder_config

SETTINGS = Stage(Task("sts", "regression", "pearson"), Data(()))
CONFIG = Config(name="first", model=Model(path="model"), target=SETTINGS)


def stage(
    store: Path,
    seed: int,
    condition: str = "direct",
    start: StageSpec | str = "pretrained",
    model: str = "small",
) -> StageSpec:
    """A stage of 100 steps of 640 tokens."""
    return StageSpec(
        condition=condition,
        name="target",
        seed=seed,
        settings=SETTINGS,
        model=ModelSpec(encoder_config()),
        dtype="float32",
        start=start,
        hashes={"model": model},
        store=store,
        total_steps=100,
        tokens=64_000.0,
    )


def finish(folder: Path, model: str, **changes: float) -> None:
    """Write the record of 100 steps of 8 examples of 20 tokens in 50 s, 40 s of them in steps."""
    folder.mkdir()
    identity = {"model": model, "train": {"batch_size": 8}}
    write_atomically(folder / "identity.json", json.dumps(identity))
    done = {"steps": 100, "seconds": 50, "examples_per_s": 20, "useful_tokens_per_s": 400}
    write_atomically(folder / DONE, json.dumps(done | changes))


def test_the_speed_is_a_median_over_the_whole_time_of_stages_of_a_model(tmp_path: Path) -> None:
    assert forecast.tokens_per_s(tmp_path, "small") is None
    finish(tmp_path / "a", "small")
    assert forecast.tokens_per_s(tmp_path, "small") == 100 * 8 * 20 / 50
    assert forecast.tokens_per_s(tmp_path, "large") is None
    finish(tmp_path / "b", "small", seconds=100)
    finish(tmp_path / "c", "small", seconds=200)
    finish(tmp_path / "d", "large", seconds=1)
    finish(tmp_path / "e", "small", examples_per_s=0.0, useful_tokens_per_s=0.0)
    assert forecast.tokens_per_s(tmp_path, "small") == 160


def test_a_forecast_counts_each_stage_once(tmp_path: Path) -> None:
    done, failed, running = (stage(tmp_path, seed) for seed in range(3))
    finish(done.folder, "small")
    failed.folder.mkdir()
    (failed.folder / FAILED).write_text('{"error": "the loss is nan"}')
    to_do = stage(tmp_path, 3, "staged", start=done)
    blocked = stage(tmp_path, 0, "staged", start=failed)
    large = stage(tmp_path, 0, "scratch", model="large")
    plans = [
        StudyPlan(CONFIG, ((done, failed, running), (to_do, blocked)), (0, 1, 2, 3)),
        StudyPlan(dataclasses.replace(CONFIG, name="third"), ((done,),), (0,)),
        StudyPlan(dataclasses.replace(CONFIG, name="second"), ((large,),), (0,)),
    ]
    with Claims() as claims, claims.taking([running.folder]):
        entries = forecast.entries(plans, claims)
        with progress.console.capture() as capture:
            forecast.show(plans, claims)
        with progress.console.capture() as brief:
            forecast.show(plans, claims, True)
    # 100 steps of 640 tokens at 320 tokens/s.
    here = f"running on {os.uname().nodename}:{os.getpid()}"
    assert [(e.spec, e.studies, e.state, e.steps_left, e.seconds) for e in entries] == [
        (done, ("first", "third"), "done", 0, 0.0),
        (failed, ("first",), "failed", 0, 0.0),
        (running, ("first",), here, 100, 200.0),
        (to_do, ("first",), "to do", 100, 200.0),
        (blocked, ("first",), "failed", 0, 0.0),
        (large, ("second",), "to do", 100, None),
    ]
    text = capture.get()
    assert "6 stages of 3 studies" in text and "0:03:20" in text and "unknown" in text
    assert text.splitlines()[-1].endswith(
        ": 0:06:40, and 1 stages of models without a finished stage"
    )
    lines = text.splitlines()
    assert lines[1] == "  identity            seed      steps   time left  state"
    row = f"  {running.folder.name}       2        100     0:03:20  {here}"
    assert lines[lines.index("direct/target of first") :][:3] == [
        "direct/target of first",
        f"  {failed.folder.name}       1        100     0:00:00  failed",
        row,
    ]
    assert "direct/target of first, third" in lines and len(row) <= 80
    looked = dataclasses.replace(CONFIG, seeds=Looks((2, 4)))
    with Claims() as claims, progress.console.capture() as capture:
        forecast.show([StudyPlan(looked, ((done,),), (0, 1, 2, 3))], claims, True)
    assert "seeds: looks at 2, 4 seeds;" in capture.get()
    assert "and these are the stages up to the last look" in capture.get().replace("\n", " ")
    assert "looks" not in text
    assert brief.get().splitlines() == [
        "6 stages of 3 studies: 1 done, 2 failed, 1 running, 2 to do (flaxfer plan lists them)",
        text.splitlines()[-1],
    ]
