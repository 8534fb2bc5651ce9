"""Tagging, question answering and multiple choice, from files to a report, and they learn."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Config, Data, Model, Optimizer, Source, Stage, Task, Train
from flaxfer.runtime import sharding
from flaxfer.study import studies, study
from tests.helpers import WORDS, mesh_of, tiny_model

OPTIMIZER = Optimizer(learning_rate=3e-3, warmup=5)
TRAIN = Train(
    batch_size=16, max_steps=120, eval_every=60, max_length=24, row_length=48, doc_stride=6
)
NAMES, REST = WORDS[1:7], WORDS[7:]  # No article, which scoring answers leaves out.

Made = tuple[Task, Source]


def tagging(folder: Path, name: str, rng: np.random.Generator) -> Made:
    """Three words begin a name and three go on with it, whatever stands before them."""
    tags = dict.fromkeys(NAMES[:3], "B-PER") | dict.fromkeys(NAMES[3:], "I-PER")
    lines = []
    for _ in range(60):
        # Some are longer than a sequence.
        words = rng.choice(WORDS, rng.integers(4, 30))
        lines += [f"{word}\t{tags.get(word, 'O')}\n" for word in words]
        lines.append("\n")
    (folder / f"{name}.conll").write_text("".join(lines), encoding="utf-8")
    columns: dict[str, str | int] = {"words": 0, "tags": 1}
    source = Source(path=f"{name}.conll", format="conll", columns=columns)
    return Task("names", "tagging", "f1", ("O", "B-PER", "I-PER")), source


def answering(folder: Path, name: str, rng: np.random.Generator) -> Made:
    """The answer is the only name in the context, which often takes several windows."""
    asked = []
    for i in range(80):
        words = [str(word) for word in rng.choice(REST, rng.integers(6, 40))]
        place = int(rng.integers(len(words)))
        words[place] = str(rng.choice(NAMES))
        start = len(" ".join([*words[:place], ""]))
        answers = [{"text": words[place], "answer_start": start}]
        question = {"id": f"{name}-{i}", "question": "the man", "answers": answers}
        asked.append({"context": " ".join(words), "qas": [question]})
    content = {"data": [{"title": "t", "paragraphs": asked}]}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    source = Source(path=f"{name}.json", format="squad")
    return Task("answers", "question_answering", "f1", max_answer_tokens=8), source


def choosing(folder: Path, name: str, rng: np.random.Generator) -> Made:
    """The right choice of three is the one with a name."""
    lines = []
    for _ in range(60):
        choices = [" ".join(rng.choice(REST, rng.integers(1, 5))) for _ in range(3)]
        label = int(rng.integers(3))
        choices[label] += f" {rng.choice(NAMES)}"
        record = {"premise": " ".join(rng.choice(REST, 3)), "label": label}
        lines.append(json.dumps(record | {f"c{i}": text for i, text in enumerate(choices)}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns: dict[str, str | int] = {"text_a": "premise", "label": "label"}
    columns |= {f"choice_{i + 1}": f"c{i}" for i in range(3)}
    return Task("choices", "multiple_choice", "accuracy"), Source(f"{name}.jsonl", columns=columns)


@pytest.mark.parametrize(
    ("make", "scores"),
    [
        (tagging, {"f1": 0.9, "precision": 0.9, "recall": 0.9, "accuracy": 0.95}),
        (answering, {"f1": 0.8, "exact_match": 0.8}),
        (choosing, {"accuracy": 0.9}),
    ],
)
def test_a_kind_of_task_is_learnt_and_reported(
    make: Callable[..., Made],
    scores: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharding, "make_mesh", lambda sizes: mesh_of())
    monkeypatch.setattr(study.platform, "use_compilation_cache", lambda folder: None)
    tiny_model(tmp_path / "model", "bert")
    rng = np.random.default_rng(0)
    made = {name: make(tmp_path, name, rng) for name in ("train", "dev", "other")}
    task, train = made["train"]
    other = dataclasses.replace(made["other"][1], language="de")
    config = Config(
        name="kinds",
        model=Model(path=str(tmp_path / "model"), dropout=0.0),
        target=Stage(task, Data((train,), (made["dev"][1],)), {"other": other}, OPTIMIZER, TRAIN),
        conditions=("direct",),
        workdir=str(tmp_path / "work"),
        data_dir=str(tmp_path),
        cache=str(tmp_path / "cache"),
    )
    report = studies.run(config, "command")
    summary = json.loads((tmp_path / "work" / "study.json").read_text())
    (run,) = summary["runs"]
    (entry,) = run["evaluations"]
    assert (entry["set"], entry["language"]) == ("other", "de")
    assert entry["metrics"].keys() == scores.keys() and summary["metrics"] == list(scores)
    for name, least in scores.items():
        assert entry["metrics"][name] >= least, entry["metrics"]
        assert name in report.read_text()
    (file,) = (tmp_path / "work" / run["dir"]).glob("predictions/other-*.jsonl")
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == entry["n"]
    right = [line["prediction"] in answers_of(line) for line in lines]
    if task.type != "tagging":
        share = entry["metrics"]["exact_match" if "exact_match" in scores else "accuracy"]
        assert np.mean(right) == pytest.approx(share)


def answers_of(line: dict[str, Any]) -> list[Any]:
    """What would have been right."""
    return line["answers"] if "answers" in line else [line["label"]]
