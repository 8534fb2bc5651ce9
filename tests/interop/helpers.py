"""A small study whose stages are exported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from flaxfer.config import Config
from flaxfer.training.record import StageRecord
from tests.e2e.helpers import (
    COLUMNS,
    config_of,
    folder_of,
    predictions_of,
    with_optimizer,
    write_sets,
)
from tests.helpers import tiny_model

ROWS = 300
"""Rows of the whole embedding; the stages use 128 of them."""


def write_study(folder: Path, family: Literal["bert", "xlm-roberta"]) -> Config:
    """Write a model of one layer and data, and return a config with an intermediate task."""
    tiny_model(folder / "model", family, vocab_size=ROWS, layers=1)
    write_sets(folder)
    config = config_of(folder)
    for stage in ("intermediate", "target"):
        # So strong that the rows without a gradient shrink by far more than rounding.
        config = with_optimizer(config, stage, learning_rate=3e-3, weight_decay=1.0)
    return dataclasses.replace(config, conditions=("direct", "staged"), transferability=0)


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def texts_of(config: Config, folder: Path, name: str) -> Path:
    """Write the texts of an evaluated set, in the order of a stage's predictions."""
    lines = []
    for prediction in predictions_of(folder, name):
        stem, _, number = prediction["id"].rpartition(":")
        source = (Path(config.data_dir) / f"{stem}.tsv").read_text().splitlines()
        fields = source[int(number) - 1].split("\t")
        record = {role: fields[i] for role, i in COLUMNS.items() if role != "label"}
        lines.append(json.dumps(record | {"id": prediction["id"]}))
    path = folder / f"texts-{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def with_model(config: Config, **changes: str) -> Path:
    """Change the model in the records of a stage, and return its folder."""
    folder = folder_of(config, "direct/target")
    record = StageRecord(folder)
    origin = record.origin()
    record.write("origin.json", origin | {"model": origin["model"] | changes})
    return folder
