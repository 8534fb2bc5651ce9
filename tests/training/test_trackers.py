"""metrics.jsonl and the sinks beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flaxfer.training.trackers import MetricsLog, Tracker, read_metrics


class Recorder:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.seen.append((step, values))

    def close(self) -> None:
        self.closed = True


def write_steps(folder: Path, resume: int, steps: range) -> MetricsLog:
    """Logs a train record a step after `resume`, and does not close, as a kill would not."""
    log = MetricsLog(folder, resume, [])
    for step in steps:
        log.write(step, "train", loss=1 / step)
    return log


def test_records_reach_the_file_at_once_and_the_trackers_as_numbers(tmp_path: Path) -> None:
    recorder = Recorder()
    log = MetricsLog(tmp_path, 0, [Tracker(recorder.scalars, recorder.close)])
    log.write(1, "train", loss=0.5, seconds=2)
    log.write(2, "dev", metrics={"pearson": 0.25, "spearman": None}, best=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "kind": "train", "loss": 0.5, "seconds": 2},
        {"step": 2, "kind": "dev", "metrics": {"pearson": 0.25, "spearman": None}, "best": True},
    ]
    assert recorder.seen == [
        (1, {"train/loss": 0.5, "train/seconds": 2.0}),
        (2, {"dev/pearson": 0.25}),
    ]
    assert not recorder.closed
    log.close()
    assert recorder.closed


@pytest.mark.parametrize("torn", ["", '{"step": 8, "ki', '{"step": 8, "kind": "train"}'])
def test_after_a_kill_no_step_stands_twice_and_no_line_is_torn(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(tmp_path, 0, range(1, 8))._file.close()
    with open(path, "a", encoding="utf-8") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(path)][:7] == list(range(1, 8))
    write_steps(tmp_path, 5, range(6, 10)).close()
    assert path.read_text().endswith("}\n")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 10))
    assert records == read_metrics(path)
    # Started anew, without a checkpoint: nothing of before counts.
    write_steps(tmp_path, 0, range(1, 3)).close()
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_a_log_that_is_gone_starts_anew(tmp_path: Path) -> None:
    write_steps(tmp_path, 3, range(4, 5)).close()
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [4]
