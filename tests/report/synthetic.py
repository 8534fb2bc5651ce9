"""Work directories of a grid with known effects: predictions, curves and all records.

python -m tests.report.synthetic FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import write_predictions
from flaxfer.tasks import task_type
from tests.helpers import random_tokenized

LABELS = ("negative", "positive")
FAMILIES = {"classification": "imdb", "sentiment": "sst2", "similarity": "qqp"}
LANGUAGES = {"domain": ("en",), "language": ("en", "de", "fr", "zh")}
BEST = {"helps": 0.55, "hurts": 1.9, "same": 1.0}
"""Noise of staged relative to direct, by the effect of the intermediate task."""

EFFECTS = {
    "classification-domain": "helps", "classification-language": "same",
    "sentiment-domain": "hurts", "sentiment-language": "same",
    "similarity-domain": "same", "similarity-language": "helps",
}  # fmt: skip

RESTARTED = "classification-language"
RESTART = {"attempt_seed": 0, "why": "the best dev mcc is 0.000", "steps": 40, "seconds": 1000.0}

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class World:
    """The size of a grid: `targets` are keys of `EFFECTS`, every set has `n` examples.

    Studies declare `margin` for their metric, and whether runs are `paired`."""

    models: Sequence[str] = ("bert", "xlmr")
    targets: Sequence[str] = tuple(EFFECTS)
    seeds: Sequence[int] = (0, 1, 2, 3)
    n: int = 200
    margin: float | None = 0.1
    paired: bool = False


def write_grid(folder: Path, world: World) -> Path:
    """Write the studies of a grid, three of them with failures of the first model.

    The first direct run of the first target has collapsed; the staged run with the last seed of
    the last target has diverged; the first staged run of `RESTARTED` was restarted, and transfers
    nothing to zh.
    """
    for model in world.models:
        for target in world.targets:
            first = model == world.models[0]
            collapsed = first and target == world.targets[0]
            failed = world.seeds[-1:] if first and target == world.targets[-1] else ()
            _write_study(folder, world, model, target, collapsed, list(failed))
    return folder


def _write_study(
    folder: Path, world: World, model: str, target: str, collapsed: bool, failed: list[int]
) -> None:
    family, kind = target.split("-")
    intermediate = FAMILIES[family]
    name = f"{model}.{intermediate}.{target}"
    task = Task("similarity", "regression", "pearson")
    if family != "similarity":
        task = Task("polarity", "classification", "accuracy", labels=LABELS)
    sets = {code: _data(task, code, world.n) for code in LANGUAGES[kind]}
    rng = np.random.default_rng([ord(c) for c in name])
    runs: list[Json] = []
    for seed in world.seeds:
        for condition in ("direct", "staged"):
            noise = (
                0.8
                * (BEST[EFFECTS[target]] if condition == "staged" else 1)
                * rng.uniform(0.9, 1.1)
            )
            parent = ""
            if condition == "staged":
                parent = f"{model}-{intermediate}-{seed}"
                runs.append(_run(folder, parent, condition, seed, "intermediate", "accuracy"))
            if condition == "staged" and seed in failed:
                continue
            identity = f"{name}-{condition}-{seed}"
            run = _run(folder, identity, condition, seed, "target", task.metric) | {
                "parent": parent
            }
            place = (model, target, condition, seed)
            restarted = place == (world.models[0], RESTARTED, "staged", world.seeds[0])
            if restarted:
                run["restarts"] = [RESTART]
            scored = []
            for code, data in sets.items():
                outputs = _outputs(task, data, noise, rng)
                if collapsed and condition == "direct" and seed == world.seeds[0]:
                    outputs[:] = outputs[0]
                if restarted and code == "zh":
                    outputs[:] = outputs[0]
                file = folder / "stages" / identity / f"predictions/{code}-{'f' * 12}.jsonl"
                write_predictions(file, task, data, outputs)
                scores = (
                    task_type(task).predictions(task, data, outputs).scores(np.ones(world.n, bool))
                )
                scored.append({"set": code, "language": code, "n": world.n, "metrics": scores})
            runs.append(run | {"evaluations": scored, **_controls(condition, scored, rng)})
    cell = {"model": model, "intermediate": intermediate, "target": target, "fraction": 1.0}
    record = {
        "name": name,
        "metric": task.metric,
        "metrics": list(task_type(task).metrics),
        "larger_is_better": task_type(task).larger_is_better(task.metric),
        "task": dataclasses.asdict(task),
        "intermediate_task": dataclasses.asdict(
            Task(intermediate, "classification", "accuracy", labels=LABELS)
        ),
        "conditions": ["direct", "staged"],
        "seeds": list(world.seeds),
        "margin": {} if world.margin is None else {task.metric: world.margin},
        "paired": world.paired,
        "model": {"source": model, "family": "bert", "parameters": 110_000_000},
        "data": list(_splits(sets, world.n)),
        "runs": runs,
        "failed": [
            {
                "condition": "staged",
                "seed": seed,
                "stage": "target",
                "error": "the loss of step 7 is nan",
            }
            for seed in failed
        ],
        "cell": cell,
        "size_rule": {"intermediate": 2500, "target": 250, "ratio": 10.0, "holds": True},
        "overlap": [_overlap(code) for code in sets],
        "transferability": [
            {
                "condition": condition, "seed": seed, "start": "x",
                "logme": 0.1 * seed + (condition == "staged"),
                "knn": 0.6 - 0.1 * (condition == "staged"), "neighbours": 5, "examples": 250,
                "features": "mean over tokens, last layer",
            }
            for seed in world.seeds
            for condition in ("direct", "staged")
        ],
        "config": {"name": name, "target": {"train": {"epochs": 4, "batch_size": 16}}},
        "versions": {"jax": "0.12.0", "flax": "0.12.12"},
        "machine": {"cpu": "a CPU", "cores": 2},
        "date": "2026-01-02T03:04:05+00:00",
        "command": "python -m flaxfer.main --config grid.py",
        "git": "abc123",
        "seconds": 321.0,
    }  # fmt: skip
    workdir = folder / "cells" / name
    workdir.mkdir(parents=True)
    (workdir / "study.json").write_text(json.dumps(record), encoding="utf-8")


def _data(task: Task, code: str, n: int) -> Tokenized:
    data = random_tokenized(n, classes=2 if task.labels else 0, seed=ord(code[0]))
    return dataclasses.replace(data, language=(code,) * n, domain=("",) * n)


def _outputs(task: Task, data: Tokenized, noise: float, rng: np.random.Generator) -> np.ndarray:
    n = len(data.id)
    if task.labels:
        noisy = np.eye(2)[data.label] + noise * rng.standard_normal((n, 2))
    else:
        noisy = (data.label + 2 * noise * rng.standard_normal(n))[:, None]
    return np.asarray(noisy, np.float32)


def _run(folder: Path, identity: str, condition: str, seed: int, stage: str, metric: str) -> Json:
    lines = []
    for step in range(10, 410, 10):
        loss = 0.2 + float(np.exp(-step / 120)) + 0.02 * seed
        lines.append({"step": step, "kind": "train", "loss": loss})
        if step % 50 == 0:
            lines.append({"step": step, "kind": "dev", "metrics": {metric: 0.9 - loss / 3}})
    place = folder / "stages" / identity
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "condition": condition, "seed": seed, "stage": stage, "id": identity,
        "dir": f"../../stages/{identity}", "parent": None, "steps": 400, "best_step": 350,
        "seconds": 100.0 + seed, "examples_per_s": 60.0, "useful_tokens_per_s": 1500.0,
        "padding_share": 0.05, "dev": {metric: 0.75}, "evaluations": [],
    }  # fmt: skip


def _controls(condition: str, scored: list[Json], rng: np.random.Generator) -> Json:
    """Return mixtures of a target run, and scores of the intermediate task if there was one."""

    def shrunk(share: float) -> list[Json]:
        return [
            one | {"metrics": {k: v * (0.6 + 0.4 * share) for k, v in one["metrics"].items()}}
            for one in scored
        ]

    dev = {"accuracy": 0.7, "pearson": 0.7}
    mixtures = [{"alpha": x, "dev": dev, "evaluations": shrunk(x)} for x in (0, 0.25, 0.5, 0.75, 1)]
    kept = {"set": "dev", "language": "en", "n": 300, "before": {"accuracy": 0.9}}
    retained = [kept | {"after": {"accuracy": float(rng.uniform(0.7, 0.8))}}]
    return {"wise_ft": mixtures, "retained": retained if condition == "staged" else []}


def _overlap(code: str) -> Json:
    return {
        "between": "train and evaluation", "a": "target/train", "b": f"target/{code}",
        "examples": 200, "texts": 3 if code == "de" else 0, "pairs": None, "short": 0,
        "share": 0.015 if code == "de" else 0.0, "same_label": 2, "removed": 0,
    }  # fmt: skip


def _splits(sets: dict[str, Tokenized], n: int) -> Iterator[Json]:
    split = {"stage": "target", "tokens": 1000, "truncated": 3, "examples": n}
    yield {"split": "train", "languages": {"en": n}, "fingerprint": "e" * 64, **split}
    for code in sets:
        facts = {"split": code, "languages": {code: n}, "fingerprint": "f" * 64, "units": n}
        yield {**facts, **split}


if __name__ == "__main__":
    print(write_grid(Path(sys.argv[1]), World()))
