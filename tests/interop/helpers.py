"""A small study whose stages are exported, and what it leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxfer.config import Config, Data, Model, Optimizer, Source, Stage, Task, Train
from tests.helpers import WORDS, tiny_model

ROWS = 300
"""Rows of the whole embedding; the stages use 128 of them."""

COLUMNS = {"text_a": 0, "text_b": 1, "label": 2, "language": 3}
LABELS = ("no", "maybe", "yes")
SETS = {
    "nli-train": (40, "en", LABELS),
    "nli-dev": (12, "en", LABELS),
    "sts-train": (40, "en", ()),
    "sts-dev": (12, "en", ()),
    "sts-test": (13, "en", ()),
    "sts-german": (11, "de", ()),
}
TRAIN = Train(
    batch_size=8,
    epochs=2,
    eval_every=3,
    max_length=32,
    row_length=64,
    max_bucket_sizes=1,
    eval_rows=8,
    log_every=1,
)
# So strong that the rows without a gradient shrink by far more than rounding.
OPTIMIZER = Optimizer(learning_rate=3e-3, weight_decay=1.0)


def write_study(folder: Path, family: Literal["bert", "xlm-roberta"]) -> Config:
    """Write a model of one layer and data, and return a config with an intermediate task."""
    model = tiny_model(folder / "model", family, vocab_size=ROWS, layers=1)
    rng = np.random.default_rng(0)
    for name, (n, language, labels) in SETS.items():
        lines = []
        for _ in range(n):
            first, second = (" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2))
            label = rng.choice(labels) if labels else f"{rng.uniform(0, 5):.2f}"
            lines.append(f"{first}\t{second}\t{label}\t{language}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    return Config(
        name="tiny",
        model=Model(path=str(model)),
        intermediate=Stage(
            Task("nli", "classification", "accuracy", LABELS),
            Data((_source("nli-train"),), (_source("nli-dev"),)),
            {},
            OPTIMIZER,
            TRAIN,
        ),
        target=Stage(
            Task("sts", "regression", "pearson"),
            Data((_source("sts-train"),), (_source("sts-dev"),), (_source("sts-test"),)),
            {"german": _source("sts-german")},
            OPTIMIZER,
            TRAIN,
        ),
        conditions=("direct", "staged"),
        workdir=str(folder / "work"),
        data_dir=str(folder),
        cache=str(folder / "cache"),
        transferability=0,
    )


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def record_of(workdir: Path | str, condition: str, stage: str = "target") -> dict[str, Any]:
    """Return the record of a stage in study.json."""
    runs = read_json(Path(workdir) / "study.json")["runs"]
    (record,) = (r for r in runs if (r["condition"], r["stage"]) == (condition, stage))
    return dict(record)


def stage_of(workdir: Path | str, condition: str, stage: str = "target") -> Path:
    """Return the folder of a stage."""
    return Path(workdir) / record_of(workdir, condition, stage)["dir"]


def texts_of(config: Config, folder: Path, name: str) -> Path:
    """Write the texts of an evaluated set, in the order of a stage's predictions."""
    (file,) = folder.glob(f"predictions/{name}-*.jsonl")
    lines = []
    for line in file.read_text().splitlines():
        identity = json.loads(line)["id"]
        stem, _, number = identity.rpartition(":")
        source = (Path(config.data_dir) / f"{stem}.tsv").read_text().splitlines()
        fields = source[int(number) - 1].split("\t")
        record = {role: fields[i] for role, i in COLUMNS.items() if role != "label"}
        lines.append(json.dumps(record | {"id": identity}))
    path = folder / f"texts-{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _source(name: str) -> Source:
    return Source(path=f"{name}.tsv", header=False, columns=COLUMNS)
