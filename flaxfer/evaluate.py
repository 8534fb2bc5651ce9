"""A split in, predictions and metrics out: every example once, on any number of devices."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer import metrics, sharding
from flaxfer.checkpoint import write_atomically
from flaxfer.config import Task, Train
from flaxfer.data.loader import eval_batches, put_rows
from flaxfer.data.tokenize import Tokenized
from flaxfer.optim import Params
from flaxfer.step import Graph, make_eval_step

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """What it takes to score a split: the model's graph, the task, and how to batch."""

    graph: Graph
    task: Task
    train: Train
    dtype: Any
    mesh: jax.sharding.Mesh
    pad_id: int

    def predict(self, params: Params, data: Tokenized) -> tuple[np.ndarray, Scores]:
        """Logits of every example, float32 (n, C), in the order of `data`, and the split's scores.

        The metrics that can be accumulated are accumulated on the device while the batches run;
        Spearman's ranks need all predictions, and are taken from them.
        """
        eval_step = make_eval_step(self.graph, self.task, self.dtype)
        outputs = max(len(self.task.labels), 1)
        accumulated = metrics.collection(self.task.kind, outputs).empty()
        accumulated = jax.device_put(accumulated, sharding.whole(self.mesh))
        logits_nC = np.full((len(data.lengths), outputs), np.nan, np.float32)
        pending: list[tuple[np.ndarray, jax.Array]] = []
        multiple = sharding.row_shards(self.mesh)
        for batch in eval_batches(data, self.train, self.pad_id, multiple):
            placed = put_rows(batch, self.mesh)
            accumulated, logits_BEC = eval_step(params, placed, accumulated)
            pending.append((batch["index_BE"], logits_BEC))
            if len(pending) > 1:  # One batch late: the device never waits for the host.
                _scatter(logits_nC, *pending.pop(0))
        for index_BE, logits_BEC in pending:
            _scatter(logits_nC, index_BE, logits_BEC)
        scores = metrics.scores(accumulated)
        missing = set(metrics.task_metrics(self.task.kind)) - scores.keys()
        if missing:
            whole = metrics.evaluate(self.task.kind, outputs, logits_nC, data.label)
            scores |= {name: whole[name] for name in missing}
        return logits_nC, {name: scores[name] for name in metrics.task_metrics(self.task.kind)}

    def report(self, name: str, data: Tokenized, logits_nC: np.ndarray) -> list[dict[str, Any]]:
        """The scores of a split by language, and within a language by domain."""
        entries = []
        language = np.asarray(data.language)
        domain = np.asarray(data.domain)
        for code in sorted(set(data.language)):
            chosen = language == code
            entry = {"set": name, "language": code, **self._score(data, logits_nC, chosen)}
            domains = sorted(set(domain[chosen]) - {""})
            entry["domains"] = {
                part: self._score(data, logits_nC, chosen & (domain == part)) for part in domains
            }
            entries.append(entry)
        return entries

    def _score(self, data: Tokenized, logits_nC: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        outputs = logits_nC.shape[1]
        scores = metrics.evaluate(self.task.kind, outputs, logits_nC[chosen], data.label[chosen])
        return {"n": int(chosen.sum()), "metrics": finite(scores)}


def write_predictions(path: Path, task: Task, data: Tokenized, logits_nC: np.ndarray) -> None:
    """One json line an example: id, prediction, label, and for classes their probabilities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in _lines(task, data, logits_nC)))


def finite(scores: Scores) -> dict[str, float | None]:
    """Scores for JSON, which has no NaN: an undefined one is null."""
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def _lines(task: Task, data: Tokenized, logits_nC: np.ndarray) -> Iterable[str]:
    for i, (identity, label) in enumerate(zip(data.id, data.label, strict=True)):
        record: dict[str, Any] = {"id": identity, "language": data.language[i]}
        if data.domain[i]:
            record["domain"] = data.domain[i]
        if task.kind == "regression":
            record |= {"prediction": float(logits_nC[i, 0]), "score": float(label)}
        else:
            shifted = np.exp(logits_nC[i] - logits_nC[i].max())
            probabilities = (shifted / shifted.sum()).tolist()
            record |= {
                "prediction": task.labels[int(logits_nC[i].argmax())],
                "label": task.labels[int(label)],
                "probabilities": dict(zip(task.labels, probabilities, strict=True)),
            }
        yield json.dumps(record, ensure_ascii=False)


def _scatter(logits_nC: np.ndarray, index_BE: np.ndarray, logits_BEC: jax.Array) -> None:
    filled = index_BE >= 0
    logits_nC[index_BE[filled]] = np.asarray(logits_BEC)[filled]
