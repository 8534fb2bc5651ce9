"""A grid with sets of XTREME-R: records and predictions of two targets and two intermediates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.tasks import task_type
from flaxfer.xtreme.metrics import answer_scores

LABELS = ("entailment", "neutral", "contradiction")
NLI = Task("inference", "classification", "accuracy", labels=LABELS)
QA = Task("answers", "question_answering", "f1")
SEEDS = (0, 1, 2)
N = 48
SETS = {
    "xnli": ("xnli-en", "xnli-de", "xnli-sw"),
    "qa": ("xquad-en", "xquad-de", "mlqa-en", "mlqa-de"),
}
# Share of right answers, by target and condition; more on the same examples of all sets.
RIGHT = {
    "xnli": {"direct": 0.3, "mnli": 0.8, "stsb": 0.3},
    "qa": {"direct": 0.5, "mnli": 0.5, "stsb": 0.4},
}
MORE = np.where(np.arange(N) % 4 == 0, 0.4, 0.0)
Json = dict[str, Any]
Scores = dict[str, dict[str, dict[int, dict[str, float]]]]
"""Set -> condition -> seed -> metric -> score."""


def write_benchmark_grid(folder: Path) -> Scores:
    """Write the studies of a grid; return their scores."""
    scores: Scores = {}
    for target, sets in SETS.items():
        for intermediate in ("mnli", "stsb"):
            _write(folder, target, intermediate, sets, scores)
    return scores


def _predict(
    target: str, name: str, condition: str, seed: int
) -> tuple[list[Json], dict[str, float]]:
    """Return predictions with a random error each, and their scores."""
    task, language = name.split("-")
    # All runs have the same examples; runs without an intermediate task are shared.
    examples = np.random.default_rng([len(name), ord(name[0]), ord(language[0])])
    rng = np.random.default_rng([*map(ord, name + condition), seed])
    share = RIGHT[target][condition] + rng.normal(0, 0.03)
    right = rng.uniform(size=N) < share + (MORE if condition == "mnli" else 0)
    records = []
    for i in range(N):
        record: Json = {"id": f"{i}", "language": language}
        if target == "xnli":
            label = int(examples.integers(3))
            wrong = (label + 1 + int(rng.integers(2))) % 3
            record |= {"prediction": LABELS[label if right[i] else wrong], "label": LABELS[label]}
        else:
            # The article counts in the style of SQuAD, not in that of MLQA.
            gold, other = f"der Ort {i}", f"Ort {i}"
            record |= {"prediction": gold if right[i] else other, "answers": [gold], "n_best": []}
        records.append(record)
    if target == "xnli":
        return records, {
            "accuracy": float(np.mean([one["prediction"] == one["label"] for one in records]))
        }
    questions = [(one["id"], one["answers"]) for one in records]
    predicted = {one["id"]: one["prediction"] for one in records}
    percent = answer_scores(questions, predicted, task, language)
    return records, {key: value / 100 for key, value in percent.items()}


def _write(
    folder: Path, target: str, intermediate: str, sets: Sequence[str], scores: Scores
) -> None:
    task = NLI if target == "xnli" else QA
    name = f"xlmr.{intermediate}.{target}"
    runs = []
    for seed in SEEDS:
        for condition, start in (("direct", "direct"), ("staged", intermediate)):
            identity = f"{target}-{start}-{seed}"
            if condition == "staged":
                runs.append(_run(folder, f"{intermediate}-{seed}", condition, seed, "intermediate"))
            run = _run(folder, identity, condition, seed, "target")
            for one in sets:
                records, metrics = _predict(target, one, start, seed)
                file = folder / f"stages/{identity}/predictions/{one}-{'f' * 12}.jsonl"
                file.parent.mkdir(exist_ok=True)
                file.write_text("".join(json.dumps(record) + "\n" for record in records))
                scores.setdefault(one, {}).setdefault(start, {})[seed] = metrics
                language = one.split("-")[1]
                run["evaluations"].append(
                    {"set": one, "language": language, "n": N, "metrics": metrics}
                )
            runs.append(run)
    split = {"stage": "target", "tokens": 1000, "truncated": 0, "examples": N}
    record = {
        "name": name,
        "metric": task.metric,
        "metrics": list(task_type(task).metrics_of(task)),
        "larger_is_better": True,
        "task": dataclasses.asdict(task),
        "intermediate_task": dataclasses.asdict(dataclasses.replace(NLI, name=intermediate)),
        "conditions": ["direct", "staged"],
        "seeds": list(SEEDS),
        "model": {"source": "xlmr", "family": "roberta", "parameters": 1000},
        "data": [
            {"split": "train", "languages": {"en": N}, "fingerprint": "e" * 64, **split},
            *(
                {
                    "split": one,
                    "languages": {one.split("-")[1]: N},
                    "fingerprint": "f" * 64,
                    "units": N,
                    **split,
                }
                for one in sets
            ),
        ],
        "sets": {
            one: {
                "benchmark": f"xtreme-r/{one.split('-')[0]}",
                "answer_style": "mlqa" if one.startswith("mlqa") else None,
                "fraction": 0.5 if one == "xnli-sw" else 1.0,
            }
            for one in sets
        },
        # Sets of other tasks have the same ids, but not the same examples.
        "parallel": [],
        "runs": runs,
        "cell": {
            "model": "xlmr",
            "intermediate": intermediate,
            "target": target,
            "fraction": 1.0,
        },
    }
    workdir = folder / "cells" / name
    workdir.mkdir(parents=True)
    (workdir / "study.json").write_text(json.dumps(record), encoding="utf-8")


def _run(folder: Path, identity: str, condition: str, seed: int, stage: str) -> Json:
    place = folder / "stages" / identity
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "loss": 1.0}\n')
    return {
        "condition": condition,
        "seed": seed,
        "stage": stage,
        "id": identity,
        "dir": f"../../stages/{identity}",
        "steps": 10,
        "dev": {},
        "evaluations": [],
    }
