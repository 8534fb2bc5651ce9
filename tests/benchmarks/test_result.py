"""The time to a result: its parts, what is compared, and a run of flaxfer on invented data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common, invented, report, result, whole_run
from flaxfer.errors import FlaxferError
from tests.helpers import restored_compilation_cache


def test_time_in_several_parts_belongs_to_the_first() -> None:
    intervals = {
        "compile": [(3.0, 4.0), (3.5, 3.75), (8.0, 8.5)],
        "evaluate": [(6.0, 7.0)],
        "train": [(2.0, 7.0)],
        "data": [(0.5, 1.5)],
    }
    assert whole_run.breakdown(intervals, 1.0, 10.0) == {
        "compile": 1.5,
        "evaluate": 1.0,
        "train": 3.0,
        "data": 0.5,
        "other": 3.0,
    }


@pytest.mark.slow
def test_a_run_is_taken_apart_and_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = invented.model(tmp_path / "model"), invented.data(tmp_path / "data")
    folder, sizes = result.cut(data, tmp_path / "cut", 64)
    assert sizes == {"train": 64, "dev": 64, "test": 64}
    words = ["--model", str(model), "--data", str(folder), "--epochs", "2"]
    with restored_compilation_cache():
        whole_run.main([*words, "--cache", str(tmp_path / "cache")])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    result.check(line, sizes, 2, words)
    assert (line["steps"], line["cache"]) == (4, "cold")
    phases = line["phases"]
    assert phases.keys() == {"imports", *whole_run.PHASES, "other"}
    assert min(phases.values()) > 0
    assert line["score_s"] == pytest.approx(sum(phases.values()))
    assert line["score_s"] < common.since_start()


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"steps": 539}, result.SPLITS),
        ({"test_pearson": 0.5}, result.SPLITS),
        ({"test_pearson": float("nan")}, {"train": 5749, "dev": 2, "test": 2}),
    ],
)
def test_a_run_with_other_steps_or_a_bad_score_is_refused(
    changes: dict[str, Any], sizes: dict[str, int]
) -> None:
    line = {"steps": 540, "test_pearson": 0.8}
    result.check(line, sizes, 3, [])
    with pytest.raises(FlaxferError, match=r"took \d+ steps to a test Pearson"):
        result.check(line | changes, sizes, 3, [])


def line_of(label: str, cache: str, number: int, seconds: float) -> dict[str, Any]:
    phases = {"imports": 2.0, "compile": seconds / 2}
    return {
        **{"benchmark": "sts-result", "what": "result", "label": label, "cache": cache},
        **{"epochs": 1, "round": number, "score_s": seconds, "steps": 180, "test_pearson": 0.8},
        **{"examples": result.SPLITS, "git": "abc", "date": "2026-11-23", "phases": phases},
        "machine": {"cpu": "Test CPU", "features": ["avx2"], "cores": 2, "memory_gib": 8.0},
        "versions": {"python": "3.13"},
    }


LINES = [
    line_of("flaxfer, float32", "cold", 0, 100.0),
    line_of("flaxfer, float32", "warm", 0, 50.0),
    line_of("flaxfer, float32", "warm", 1, 60.0),
    line_of("Trainer, torch.compile", "cold", 0, 150.0),
    line_of("Trainer, torch.compile", "warm", 0, 75.0),
    line_of("Trainer, torch.compile", "warm", 1, 75.0),
    line_of("Trainer", "none", 0, 120.0),
    line_of("Trainer", "none", 1, 60.0),
]


def test_a_start_is_compared_with_the_fastest_peer_of_its_kind() -> None:
    assert result.best_ratios(LINES, 1, "cold") == ("Trainer", [1.2])
    assert result.best_ratios(LINES, 1, "warm") == ("Trainer, torch.compile", [1.5, 1.25])
    assert result.best_ratios(LINES[:1], 1, "cold") == ("", [])


def test_results_have_a_table_of_their_own() -> None:
    page = report.page(LINES, [])
    assert "### Time to result" in page.partition("## Speed on a CPU with AVX2\n")[2]
    assert "5,749 / 1,500 / 1,379 examples" in page and "180 steps in 1 epoch." in page
    assert (
        "| flaxfer, float32 | 1 | cold | 100.0 (100.0–100.0) | 1.20 (1.20–1.20), Trainer "
        "| 0.800 (0.800–0.800) | 1 |\n" in page
    )
    assert "| Trainer | 1 | none | 90.0 (60.0–120.0) | – | 0.800 (0.800–0.800) | 2 |\n" in page
    assert "| 1, cold | 2.0 | 50.0 |\n" in page and "| 1, warm | 2.0 | 27.5 |\n" in page
