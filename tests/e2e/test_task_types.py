"""Tagging, question answering and multiple choice are learned, from files to a report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Config, Data, Model, Optimizer, Source, Stage, Task, Train
from flaxfer.evaluation.texts import read_texts
from flaxfer.interop.export import export
from flaxfer.interop.predict import predict
from flaxfer.study import runner
from flaxfer.tasks import task_type
from tests.e2e.helpers import Json, lines_of, runs_of, summary_of
from tests.helpers import WORDS, tiny_model

OPTIMIZER = Optimizer(learning_rate=3e-3, warmup=5)
TRAIN = Train(batch_size=16, max_steps=120, eval_every=60, max_length=24, row_length=48)
NAMES, REST = WORDS[1:7], WORDS[7:]  # No article: the metrics of answers ignore them.

Split = tuple[Task, Source]


def tagging(folder: Path, name: str, rng: np.random.Generator) -> Split:
    """Write sentences where three words begin a name and three continue one."""
    tags = dict.fromkeys(NAMES[:3], "B-PER") | dict.fromkeys(NAMES[3:], "I-PER")
    lines = []
    for _ in range(60):
        words = rng.choice(WORDS, rng.integers(4, 30))  # Some are longer than a sequence.
        lines += [f"{word}\t{tags.get(word, 'O')}\n" for word in words]
        lines.append("\n")
    (folder / f"{name}.conll").write_text("".join(lines), encoding="utf-8")
    columns: dict[str, str | int] = {"words": 0, "tags": 1}
    source = Source(path=f"{name}.conll", format="conll", columns=columns)
    return Task("names", "tagging", "f1", ("O", "B-PER", "I-PER")), source


def answering(folder: Path, name: str, rng: np.random.Generator) -> Split:
    """Write questions whose answer is the only name in a context, often of several windows.

    In the set `other`, a German article belongs to the answer.
    """
    paragraphs = []
    for i in range(80):
        words = [str(word) for word in rng.choice(REST, rng.integers(6, 40))]
        place = int(rng.integers(len(words)))
        words[place] = ("der " if name == "other" else "") + str(rng.choice(NAMES))
        start = len(" ".join([*words[:place], ""]))
        answers = [{"text": words[place], "answer_start": start}]
        question = {"id": f"{name}-{i}", "question": "the man", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [question]})
    content = {"data": [{"title": "t", "paragraphs": paragraphs}]}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    source = Source(path=f"{name}.json", format="squad")
    return Task("answers", "question_answering", "f1", max_answer_tokens=8), source


def choosing(folder: Path, name: str, rng: np.random.Generator) -> Split:
    """Write examples of three choices; the right one has a name."""
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
    ("write", "scores", "accuracy"),
    [
        (tagging, {"f1": 0.9, "precision": 0.9, "recall": 0.9, "accuracy": 0.95}, ""),
        (answering, {"f1": 0.8, "exact_match": 0.8}, "exact_match"),
        (choosing, {"accuracy": 0.9}, "accuracy"),
    ],
)
def test_a_task_type_is_learned_and_reported(
    write: Callable[..., Split], scores: dict[str, float], accuracy: str, tmp_path: Path
) -> None:
    """`accuracy` names the metric that is the fraction of examples with a right prediction."""
    tiny_model(tmp_path / "model", "bert", layers=1)
    rng = np.random.default_rng(0)
    (task, train), (_, dev), (_, other) = (
        write(tmp_path, name, rng) for name in ("train", "dev", "other")
    )
    # MLQA's script removes German articles, SQuAD's does not.
    style = "mlqa" if write is answering else None
    other = dataclasses.replace(other, language="de", answer_style=style)
    windows = {"doc_stride": 6} if write is answering else {}
    settings = dataclasses.replace(TRAIN, **windows)
    config = Config(
        name="types",
        model=Model(path=str(tmp_path / "model"), dropout=0.0),
        target=Stage(task, Data((train,), (dev,)), {"other": other}, OPTIMIZER, settings),
        conditions=("direct",),
        workdir=str(tmp_path / "work"),
        data_dir=str(tmp_path),
        cache=str(tmp_path / "cache"),
    )
    report = runner.run(config, "command").read_text(encoding="utf-8")
    run = runs_of(config)["direct/target"]
    (entry,) = run["evaluations"]
    assert (entry["set"], entry["language"]) == ("other", "de")
    assert entry["metrics"].keys() == scores.keys()
    assert summary_of(config)["metrics"] == list(scores)
    for name, least in scores.items():
        assert entry["metrics"][name] >= least, entry["metrics"]
        assert name in report
    (file,) = (tmp_path / "work" / run["dir"]).glob("predictions/other-*.jsonl")
    lines = lines_of(file)
    assert len(lines) == entry["n"]
    texts = read_texts(file)
    assert list(texts) == [line["id"] for line in lines] and all(map(all, texts.values()))
    assert "Errors and examples" in report and "were not recorded" not in report
    if accuracy:
        right = [bare(line["prediction"]) in map(bare, answers_of(line)) for line in lines]
        assert np.mean(right) == pytest.approx(entry["metrics"][accuracy])
    again = predicted_again(tmp_path, other, export(file.parents[1], tmp_path / "out"))
    for line, record in zip(lines, again, strict=True):
        del line["language"], line[task_type(task).gold_key]
        assert line.items() <= record.items()
        assert record.keys() - line.keys() <= {"entities", "start", "end"}


def predicted_again(folder: Path, source: Source, model: Path) -> list[Json]:
    """Predict a set with an export of the stage that was evaluated on it."""
    labels = ("label", "tags")
    return list(
        predict(
            model,
            folder / source.path,
            columns={role: key for role, key in source.columns.items() if role not in labels},
            settings={} if source.format == "auto" else {"format": source.format},
            ignored=["label"] if "label" in source.columns else (),
        )
    )


def bare(prediction: Any) -> Any:
    """A prediction without the German article."""
    return prediction.removeprefix("der ") if isinstance(prediction, str) else prediction


def answers_of(line: Json) -> list[Any]:
    """The right predictions of an example."""
    return line["answers"] if "answers" in line else [line["label"]]
