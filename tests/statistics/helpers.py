"""Studies on disk with chosen predictions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import write_predictions
from flaxfer.tasks import task_type

RunKey = tuple[str, int]
"""Condition and seed."""


def study_record(
    name: str,
    task: Task,
    runs: Sequence[RunKey],
    sets: Sequence[tuple[str, str, int]],
    scores: Mapping[tuple[RunKey, str], float] | None = None,
) -> dict[str, Any]:
    """Return a study.json of runs trained on English.

    Args:
      name: of the study.
      task: the target task.
      runs: runs of the target.
      sets: set, language and number of examples.
      scores: score by run and language; 0.5 by default.
    """
    split = {"stage": "target", "tokens": 1, "truncated": 0, "examples": 1}
    return {
        "name": name,
        "metric": task.metric,
        "metrics": task_type(task).metrics_of(task),
        "larger_is_better": task_type(task).larger_is_better(task.metric),
        "task": dataclasses.asdict(task),
        "conditions": ["direct", "staged"],
        "seeds": sorted({seed for _, seed in runs}),
        "model": {"source": "model", "family": "bert", "parameters": 1},
        "data": [
            {"split": "train", "languages": {"en": 1}, **split},
            *(
                {
                    "split": set_name,
                    "languages": {},
                    "fingerprint": "f" * 64,
                    "units": sum(n for name, _, n in sets if name == set_name),
                    **split,
                }
                for set_name in dict.fromkeys(set_name for set_name, _, _ in sets)
            ),
        ],
        "runs": [
            {
                "condition": condition,
                "seed": seed,
                "stage": "target",
                "id": f"{condition}{seed}",
                "dir": f"stages/{condition}{seed}",
                "steps": 1,
                "dev": {},
                "evaluations": [
                    {
                        "set": set_name,
                        "language": language,
                        "n": n,
                        "metrics": {
                            task.metric: (scores or {}).get(((condition, seed), language), 0.5)
                        },
                    }
                    for set_name, language, n in sets
                ],
            }
            for condition, seed in runs
        ],
    }


def write_record(
    workdir: Path, task: Task, runs: Sequence[RunKey], n: int, sets: Sequence[str] = ("test",)
) -> Path:
    """Write study.json with sets in German and English, n examples in each language."""
    workdir.mkdir(exist_ok=True)
    languages = [(name, language, n) for name in sets for language in ("de", "en")]
    record = study_record(workdir.name, task, runs, languages)
    (workdir / "study.json").write_text(json.dumps(record))
    return workdir


def predictions_file(workdir: Path, condition: str, seed: int, name: str = "test") -> Path:
    """Return the file with a run's predictions for a set."""
    return workdir / f"stages/{condition}{seed}/predictions/{name}-{'f' * 12}.jsonl"


def write_study(
    workdir: Path, task: Task, outputs: Mapping[RunKey, np.ndarray], data: Tokenized
) -> Path:
    """Write a study whose runs have the given outputs on one test set."""
    write_record(workdir, task, list(outputs), len(data.label) // 2)
    for run, output in outputs.items():
        write_predictions(predictions_file(workdir, *run), task, data, output)
    return workdir


def write_lines(workdir: Path, task: Task, lines: Mapping[RunKey, list[dict[str, Any]]]) -> Path:
    """Write a study from lines of predictions, which are English and German in turn."""
    write_record(workdir, task, list(lines), len(next(iter(lines.values()))) // 2)
    for run, records in lines.items():
        file = predictions_file(workdir, *run)
        file.parent.mkdir(parents=True)
        text = [
            json.dumps({"id": str(i), "language": ("en", "de")[i % 2], **record})
            for i, record in enumerate(records)
        ]
        file.write_text("\n".join(text))
    return workdir
