"""What is said of a grid before it runs."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from flaxfer.study.graph import Cell, Node
from flaxfer.training.stage_run import DONE, FAILED

from flaxfer.config import Config, Data, Model, Stage, Task
from flaxfer.runtime import progress
from flaxfer.runtime.files import write_atomically
from flaxfer.study import forecast
from flaxfer.study.claims import Claims

CONFIG = Config(
    name="first",
    model=Model(path="model"),
    target=Stage(Task("sts", "regression", "pearson"), Data(())),
)


def node(folder: Path, **more: Any) -> Node:
    return Node(**{
        "condition": "direct", "seed": 0, "stage": "target", "folder": folder, "parent": None,
        "scores": {}, "steps": 100, "tokens": 64_000.0,
    } | more)  # fmt: skip


def finish(folder: Path, model: str, **more: float) -> None:
    """What a finished stage leaves: 100 steps of 8 examples of 20 tokens in 50 s, 40 s of steps."""
    folder.mkdir()
    write_atomically(
        folder / "identity.json", json.dumps({"model": model, "train": {"batch_size": 8}})
    )
    done = {"steps": 100, "seconds": 50, "examples_per_s": 20, "useful_tokens_per_s": 400}
    write_atomically(folder / DONE, json.dumps(done | more))


def test_speed_is_that_of_all_that_a_stage_took(tmp_path: Path) -> None:
    assert forecast.tokens_per_s(tmp_path, "small") is None
    finish(tmp_path / "a", "small")
    assert forecast.tokens_per_s(tmp_path, "small") == 100 * 8 * 20 / 50
    assert forecast.tokens_per_s(tmp_path, "large") is None
    finish(tmp_path / "b", "small", seconds=100)
    finish(tmp_path / "c", "small", seconds=200)
    finish(tmp_path / "d", "large", seconds=1)
    finish(tmp_path / "e", "small", examples_per_s=0.0, useful_tokens_per_s=0.0)
    assert forecast.tokens_per_s(tmp_path, "small") == 160


def test_a_forecast_counts_each_stage_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path / "done", "small")
    done = node(tmp_path / "done")
    failed, running = node(tmp_path / "failed", seed=1), node(tmp_path / "running", seed=2)
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / FAILED).write_text('{"error": "the loss is nan"}')
    to_do = node(tmp_path / "to-do", seed=3, condition="staged", parent=tmp_path / "done")
    blocked = node(tmp_path / "blocked", condition="staged", parent=tmp_path / "failed")
    other = dataclasses.replace(CONFIG, name="second", model=Model(path="large"))
    large = node(tmp_path / "large", condition="scratch")
    facts = {name: {"model": {"fingerprint": name}} for name in ("small", "large")}
    cells = [
        Cell(CONFIG, [(done, failed, running), (to_do, blocked)], facts["small"]),
        Cell(dataclasses.replace(CONFIG, name="third"), [(done,)], facts["small"]),
        Cell(other, [(large,)], facts["large"]),
    ]
    with Claims() as claims, claims.taking([running.folder]):
        entries = forecast.entries(cells, claims)
        forecast_lines: list[str] = []
        monkeypatch.setattr(forecast, "say", forecast_lines.append)
        with progress.console.capture() as capture:
            forecast.show(cells, claims)
    # 100 steps of 640 tokens at 320 tokens/s.
    here = f"running on {os.uname().nodename}:{os.getpid()}"
    assert [(e.node.folder.name, e.cells, e.state, e.steps_left, e.seconds) for e in entries] == [
        ("done", ("first", "third"), "done", 0, 0.0),
        ("failed", ("first",), "failed", 0, 0.0),
        ("running", ("first",), here, 100, 200.0),
        ("to-do", ("first",), "to do", 100, 200.0),
        ("blocked", ("first",), "failed", 0, 0.0),
        ("large", ("second",), "to do", 100, None),
    ]
    text = capture.get()
    assert "6 stages of 3 studies" in text and "0:03:20" in text and "unknown" in text
    (line,) = forecast_lines
    assert line.endswith(": 0:06:40, and 1 stages of models that nothing is known of")
