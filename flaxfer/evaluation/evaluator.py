"""Evaluation of a split: predictions and metrics, on any number of devices."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.config import Task, Train
from flaxfer.data.loader import eval_batches, put_rows
from flaxfer.data.packing import Batch
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import DivergedError
from flaxfer.evaluation.step import EvalSpec, cast_for_eval, make_eval_step
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sharding, signals
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.trees import Params
from flaxfer.tasks import Predictions, metrics, task_type
from flaxfer.tasks.base import Scores

logger = logging.getLogger("flaxfer.evaluation")


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A model, its task and the settings that splits are evaluated with."""

    model: ModelSpec
    task: Task
    train: Train
    dtype: Any
    mesh: jax.sharding.Mesh
    batches: Callable[..., Iterator[Batch]] = eval_batches

    def predict(self, params: Params, data: Tokenized) -> tuple[np.ndarray, Scores]:
        """Return the model's outputs and the scores of a split."""
        return self.predict_seeds(params, data, 1)[0]

    def outputs(self, params: Params, data: Tokenized) -> np.ndarray:
        """Return the model's outputs."""
        return self._outputs(params, data, 1)[0][0]

    def predict_seeds(
        self, params: Params, data: Tokenized, seeds: int
    ) -> list[tuple[np.ndarray, Scores]]:
        """Return the outputs and scores of each of several seeds.

        With more than one, parameters have a leading axis of seeds, and `mesh` is a
        `sharding.seed_mesh`.

        Metrics that accumulate are computed on the device while the batches run; others, such as
        Spearman's correlation with its ranks, are computed from all predictions.
        """
        outputs, accumulated = self._outputs(params, data, seeds)
        states = [accumulated]
        if seeds > 1:
            states = [jax.tree.map(lambda x, i=i: x[i], accumulated) for i in range(seeds)]
        return [(o, self._scores(data, o, state)) for o, state in zip(outputs, states, strict=True)]

    def _outputs(self, params: Params, data: Tokenized, seeds: int) -> tuple[np.ndarray, Any]:
        """Return the outputs, with a leading axis of seeds, and the accumulated metrics."""
        form, eval_step = task_type(self.task), self._step(seeds)
        params, accumulated = cast_for_eval(self.dtype)(params), self._no_metrics(seeds)
        size = len(data.token) if form.per_token else len(data)
        outputs = np.full((seeds, size, self.model.num_outputs), np.nan, np.float32)
        unread: tuple[Batch, jax.Array] | None = None
        for batch in self._batches(data):
            signals.check()
            accumulated, logits = eval_step(params, put_rows(batch, self.mesh), accumulated)
            if unread is not None:  # One batch late: the device never waits for the host.
                _scatter(outputs, data, *unread)
            unread = batch, logits
        if unread is not None:
            _scatter(outputs, data, *unread)
        return outputs, accumulated

    def lower(self, params: Params, data: Tokenized, seeds: int) -> jax.stages.Lowered:
        """Lower the step of `predict_seeds`, with parameters as `ShapeDtypeStruct` with shardings.

        Once it is compiled, `predict_seeds` does not compile it again.
        """
        cast: Any = cast_for_eval(self.dtype)
        compiled = cast.lower(params).compile()
        narrow = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            *(compiled.out_info, compiled.output_shardings),
        )
        step: Any = self._step(seeds)
        batch = put_rows(next(self._batches(data)), self.mesh)
        lowered: jax.stages.Lowered = step.lower(narrow, batch, self._no_metrics(seeds))
        return lowered

    def _step(self, seeds: int) -> Callable[..., Any]:
        spec = EvalSpec(self.model, self.dtype, self.train.attention, batched_seeds=seeds > 1)
        return make_eval_step(spec, self.mesh)

    def _no_metrics(self, seeds: int) -> Any:
        """Return the metrics before the first batch, placed on the mesh."""
        accumulated: Any = task_type(self.task).device_metrics(self.task)
        where: Any = sharding.whole(self.mesh)
        if seeds > 1:
            accumulated = jax.tree.map(lambda x: jnp.stack([x] * seeds), accumulated)
            where = sharding.group_shardings(accumulated, self.mesh)
        return jax.device_put(accumulated, where)

    def _batches(self, data: Tokenized) -> Iterator[Batch]:
        multiple = sharding.row_shards(self.mesh)
        return self.batches(data, self.train, self.model.encoder.pad_token_id, multiple)

    def predictions(self, data: Tokenized, outputs: np.ndarray) -> Predictions:
        """Return the predictions of a split from the model's outputs."""
        return task_type(self.task).predictions(self.task, data, outputs)

    def _scores(self, data: Tokenized, outputs: np.ndarray, accumulated: Any) -> Scores:
        """Return the accumulated metrics, and the others computed from the predictions.

        All are NaN if an output is not finite: nothing is predicted then.
        """
        form = task_type(self.task)
        names = form.metrics_of(self.task)
        if not np.isfinite(outputs).all():
            return dict.fromkeys(names, np.nan)
        scores = metrics.scores(accumulated)
        if set(names) - scores.keys():
            everything = np.ones(len(data.id), bool)
            scores = form.scores(self.predictions(data, outputs), everything) | scores
        return {name: scores[name] for name in names}

    def report(self, name: str, data: Tokenized, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return the scores of a split by language, and within a language by domain.

        Raises:
          DivergedError: If an output is not finite.
        """
        require_finite(name, data, outputs)
        predictions = self.predictions(data, outputs)
        entries = []
        language, domain = np.asarray(data.language), np.asarray(data.domain)
        for code in sorted(set(data.language)):
            chosen = language == code
            domains = {
                part: _score(predictions, chosen & (domain == part))
                for part in sorted(set(domain[chosen]) - {""})
            }
            scores = _score(predictions, chosen)
            for metric in (metric for metric, value in scores["metrics"].items() if value is None):
                logger.warning(
                    "%s of %s in %s is undefined: its predictions or its labels are all the same",
                    metric, name, code,
                )  # fmt: skip
            entries.append({"set": name, "language": code, **scores, "domains": domains})
        return entries


def require_finite(name: str, data: Tokenized, outputs: np.ndarray) -> None:
    """Check the outputs on a split, which have no prediction where they are not finite.

    Raises:
      DivergedError: If an output is not finite.
    """
    (place,) = np.nonzero(~np.isfinite(outputs).all(axis=1))
    if not place.size:
        return
    if data.task_type.per_token:
        place = np.searchsorted(data.offset, place, side="right") - 1
    examples = dict.fromkeys(data.example[place].tolist())
    ids = [data.id[i] for i in examples]
    raise DivergedError(
        f"the outputs are not finite for {len(ids)} of {len(data.id)} examples of {name}: "
        f"{', '.join(ids[:10])}" + (" and others" if len(ids) > 10 else ""),
        hint="compute in float32 (train.compute_dtype), or lower optimizer.learning_rate.",
    )


def write_predictions(path: Path, task: Task, data: Tokenized, outputs: np.ndarray) -> None:
    """Write a JSON line per example: id, language, domain, cluster, prediction, label, details.

    Domain and cluster are left out for examples without one.
    """
    predictions, lines = task_type(task).predictions(task, data, outputs), []
    for i, identity in enumerate(data.id):
        record = {"id": identity, "language": data.language[i]}
        record |= {"domain": data.domain[i]} if data.domain[i] else {}
        record |= {"cluster": data.cluster[i]} if data.cluster[i] else {}
        lines.append(json.dumps(record | predictions.record(i), ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines))


def finite(scores: Scores) -> dict[str, float | None]:
    """Return scores for JSON, with None instead of NaN."""
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def _score(predictions: Predictions, chosen: np.ndarray) -> dict[str, Any]:
    scores = task_type(predictions.task).scores(predictions, chosen)
    return {"n": int(chosen.sum()), "metrics": finite(scores)}


def _scatter(outputs: np.ndarray, data: Tokenized, batch: Batch, logits: jax.Array) -> None:
    """Write the logits of a batch to the outputs of their sequences, or of their tokens.

    Args:
      outputs: (seeds, sequences or tokens, C).
      data: The split.
      batch: Arrays of the batch, on the host.
      logits: Logits of the batch, with a leading axis of seeds if there are several.
    """
    index_BE = batch["index_BE"]
    values = np.asarray(logits).reshape(len(outputs), *logits.shape[-3:])
    if not data.task_type.per_token:
        filled = index_BE >= 0
        outputs[:, index_BE[filled]] = values[:, filled]
        return
    row, place = np.nonzero(batch["segment_BT"])
    sequence = index_BE[row, batch["segment_BT"][row, place] - 1]
    # Sequences are contiguous; `position_BT` does not count every token.
    first = np.flatnonzero(np.diff(sequence, prepend=-1))
    within = np.arange(len(place)) - np.repeat(first, np.diff(first, append=len(place)))
    token = data.offset[sequence] + within
    outputs[:, token] = values[:, row, place]
