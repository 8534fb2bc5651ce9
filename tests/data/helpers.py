"""Small data sets that tests write, and what refuses them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Data, Source, Stage, Task
from flaxfer.data import sources
from flaxfer.data.examples import Examples
from flaxfer.errors import DataError
from flaxfer.tasks import TASK_TYPES, task_type

NLI = Task("nli", "classification", "accuracy", labels=("entailment", "neutral", "contradiction"))
STS = Task("sts", "regression", "pearson", score_range=(0.0, 5.0))
COPA = Task("copa", "multiple_choice", "accuracy")
COPA_COLUMNS: dict[str, str | int] = {
    "text_a": "premise",
    "choice_1": "choice1",
    "choice_2": "choice2",
    "label": "label",
    "question": "question",
}
COPA_QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}
PAIRS = {"text_a": "a", "text_b": "b", "label": "y"}
ROWS = [
    ("A man eats.", "A man is eating.", "entailment"),
    ("Ein Hund — läuft.", "他在跑步。", "neutral"),
    ('He said "no", twice', "two\nlines, one field", "contradiction"),
]


def examples_of(name: str, text_a: Any, text_b: Any = None, label: Any = None) -> Examples:
    """English examples x:0, x:1, ... of a task type; their labels are 0 by default."""
    n = len(text_a)
    return Examples(
        TASK_TYPES[name],
        tuple(text_a),
        None if text_b is None else tuple(text_b),
        np.zeros(n, np.int32) if label is None else label,
        tuple(f"x:{i}" for i in range(n)),
        ("en",) * n,
        ("",) * n,
    )


def write_csv(path: Path, rows: Sequence[tuple[str, ...]] = ROWS, **options: Any) -> Path:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([("a", "b", "y"), *rows])
    path.write_bytes(out.getvalue().encode())
    return path


def write_jsonl(path: Path) -> Path:
    lines = [json.dumps(dict(zip("aby", row, strict=True))) for row in ROWS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps([dict(zip("aby", row, strict=True)) for row in ROWS]))
    return path


def write_parquet(path: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = dict(zip("aby", map(list, zip(*ROWS, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "data.csv": write_csv,
    "data.jsonl": write_jsonl,
    "data.json": write_json,
    "data.parquet": write_parquet,
}


def text_file(folder: Path, text: str | bytes, name: str = "data.tsv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refusal(source: Source, task: Task = NLI) -> DataError:
    with pytest.raises(DataError) as caught:
        read(source, task)
    return caught.value


def read(source: Source, task: Task, data_dir: str = "", seed: int = 0) -> Examples:
    return sources.read_source(source, task, task_type(task), data_dir, seed)


def read_splits(data: Data, task: Task, data_dir: str = "", seed: int = 0) -> dict[str, Examples]:
    """The splits of the run with a seed."""
    return sources.Pool.read(Stage(task, data), task_type(task), data_dir).splits(seed)


def many(folder: Path, n: int, name: str = "data.tsv") -> Source:
    path = text_file(folder, "a\ty\n" + "".join(f"{name} {i}\tneutral\n" for i in range(n)), name)
    return Source(path, columns={"text_a": "a", "label": "y"})
