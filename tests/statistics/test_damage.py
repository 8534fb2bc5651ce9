"""Records and predictions that were cut off, lost, or edited by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.evaluation.records import read_study
from flaxfer.statistics import reading
from flaxfer.statistics.comparisons import compare
from tests.statistics.helpers import predictions_file, study_record, write_lines

CLASSES = Task("nli", "classification", "accuracy", labels=("a", "b"))
LINES: dict[str, tuple[Task, dict[str, Any]]] = {
    "classification": (CLASSES, {"label": "a", "prediction": "b"}),
    "regression": (Task("t", "regression", "pearson"), {"score": 1.5, "prediction": 2}),
    "tagging": (
        Task("t", "tagging", "f1", ("O", "B-X")),
        {"label": ["O", None], "prediction": ["O", "B-X"]},
    ),
    "question_answering": (
        Task("t", "question_answering", "f1"),
        {"answers": ["x"], "prediction": ""},
    ),
    "multiple_choice": (Task("t", "multiple_choice", "accuracy"), {"label": 0, "prediction": 1}),
}


def study(workdir: Path, runs: int = 1) -> Path:
    lines = [{"label": "ab"[i % 3 > 0], "prediction": "ab"[i % 2]} for i in range(12)]
    keys = [(condition, seed) for condition in ("direct", "staged") for seed in range(runs)]
    return write_lines(workdir, CLASSES, dict.fromkeys(keys, lines))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("classification", {"label": 1}, "1 is no text"),
        ("classification", {"prediction": None}, "None is no text"),
        ("classification", {"id": 7}, "id 7 is no text"),
        ("classification", {"language": ["en"]}, "language ['en'] is no text"),
        ("regression", {"score": "1.5"}, "'1.5' is no finite number"),
        ("regression", {"prediction": float("nan")}, "nan is no finite number"),
        ("regression", {"prediction": True}, "True is no finite number"),
        ("tagging", {"label": "O"}, "'O' is no list of tags"),
        ("tagging", {"prediction": {}}, "{} is no list of tags"),
        ("tagging", {"prediction": ["O"]}, "1 tags are predicted for 2 words"),
        ("tagging", {"prediction": ["O", 1]}, "1 is no tag"),
        ("question_answering", {"answers": "x"}, "'x' is no list of answers"),
        ("question_answering", {"answers": [1]}, "1 is no text"),
        ("multiple_choice", {"label": "0"}, "'0' is no index of a choice"),
        ("multiple_choice", {"prediction": -1}, "-1 is no index of a choice"),
    ],
)
def test_a_prediction_of_another_type_is_named_with_its_line(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    task, line = LINES[kind]
    good = {"id": "x", "language": "en"} | line
    path = tmp_path / "test.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good)}\n")
    assert reading.read(path, task)["en"].ids == ["x", "x"]
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | changes)}\n")
    with pytest.raises(DataError) as caught:
        reading.read(path, task)
    assert message in caught.value.what and caught.value.where == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "a list, no object"),
        ("", "no JSON"),
        ("{}, {}", "no JSON"),
        ("{}", "no id, language, label, prediction"),
        ("[" * 100_000, "no JSON"),
        ('{"id": "\\xff"}', "no JSON"),
    ],
)
def test_a_damaged_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    workdir = study(tmp_path / "s")
    file = predictions_file(workdir, "staged", 0)
    lines = file.read_bytes().split(b"\n")
    lines[4] = text.encode("latin-1")
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=message) as caught:
        compare([workdir], draws=10)
    assert caught.value.where == f"{file}:5"


@pytest.mark.parametrize("lines", [0, 11, 13])
def test_predictions_that_were_cut_off_in_all_runs_are_refused(lines: int, tmp_path: Path) -> None:
    workdir = study(tmp_path / "s")
    for condition in ("direct", "staged"):
        file = predictions_file(workdir, condition, 0)
        text = file.read_text().splitlines()
        file.write_text("\n".join((text + text)[:lines]))
    if not lines:
        assert "has no predictions in" in compare([workdir], draws=10).skipped[0]
        return
    with pytest.raises(DataError, match=r"for which study\.json says 6"):
        compare([workdir], draws=10)


def set_to(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *path, last = key.split(".")

    def change(record: Any) -> None:
        for name in path:
            record = record[int(name) if name.isdigit() else name]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("conditions", [], "conditions: should be some of"),
        ("conditions", ["direct", "direct", "staged"], "each once"),
        ("conditions", ["direct", "stagd"], "conditions.1: Input should be"),
        ("conditions", ["direct"], "runs.1.condition: 'staged' is none of the conditions"),
        ("seeds", [1], "runs.0.seed: 0 is none of the seeds"),
        ("metric", "f1", "metric: 'f1' is none of the metrics"),
        ("runs.0.condition", "x", "runs.0.condition: Input should be"),
        ("runs.0.stage", "x", "runs.0.stage: Input should be"),
        ("runs.0.evaluations.0.n", 0, "runs.0.evaluations.0.n: Input should be greater"),
        ("runs.0.evaluations.0.metrics.accuracy", "high", "accuracy"),
        ("task.labels", 3.5, "task.labels"),
        ("seeds", None, "seeds"),
    ],
)
def test_a_record_that_cannot_be_is_refused(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    runs = [("direct", 0), ("staged", 0)]
    record = study_record("s", CLASSES, runs, [("test", "en", 6)])
    file = tmp_path / "study.json"
    file.write_text(json.dumps(record))
    assert read_study(tmp_path).seeds == [0]
    set_to(key, value)(record)
    file.write_text(json.dumps(record))
    with pytest.raises(DataError) as caught:
        read_study(tmp_path)
    assert any(message in detail for detail in caught.value.details)
    assert caught.value.where == str(file)
