"""Measurements of trained stages: evaluated sets, WiSE-FT mixtures, retention."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import DivergedError
from flaxfer.evaluation.evaluator import Evaluator, finite, require_finite, write_predictions
from flaxfer.evaluation.texts import write_texts
from flaxfer.models.lora import without_adapters
from flaxfer.runtime import signals
from flaxfer.runtime.bars import doing
from flaxfer.runtime.progress import say, warn
from flaxfer.runtime.trees import Params, path_name
from flaxfer.study.plan import stage_data
from flaxfer.study.starts import Starts
from flaxfer.training.record import FAILED
from flaxfer.training.stage import Measurement, StageSpec
from flaxfer.training.state import param_items
from flaxfer.training.vocabulary import Vocabulary

Records = list[dict[str, Any]]


def measure(starts: Starts, spec: StageSpec, confirm: Callable[[], None]) -> None:
    """Take the missing measurements of a trained stage.

    A stage whose outputs are not finite on some set has failed, which is noted in its folder.

    Args:
      starts: Parameters of the study's stages.
      spec: The stage.
      confirm: Called before anything is written in its folder.
    """
    missing = spec.missing()
    for key, score, announcement in (
        ("evaluations", functools.partial(_evaluate, confirm=confirm), ""),
        ("wise_ft", _wise_ft, "evaluates mixtures of its start and result"),
        ("retained", _retained, "evaluates the intermediate task again"),
    ):
        wanted = [one for one in missing if one.key == key]
        if wanted:
            sets = ", ".join(one.name for one in wanted)
            say(f"{spec.title}  {announcement or f'evaluates {sets}'}")
            signals.at(f"the evaluation of {spec.title}")
            try:
                for one, records in zip(wanted, score(starts, spec, wanted), strict=True):
                    spec.record.write_measured(one.file, records, confirm)
            except DivergedError as error:  # Noted in the folder; the other stages go on.
                warn(f"diverged: {spec.title}: {error}")
                spec.record.write(FAILED, {"error": f"{spec.title}: {error.what}"}, confirm)
                return
            finally:
                signals.at("")


def _evaluate(
    starts: Starts, spec: StageSpec, wanted: list[Measurement], confirm: Callable[[], None]
) -> Iterator[Records]:
    """Yield the scores of evaluated sets, after writing their predictions and texts."""
    stage = starts.data.stage(spec.name, spec.seed)
    evaluator = _evaluator(starts, spec, stage.scoring_vocabulary)
    params = starts.scoring_params(spec, starts.reader(), stage.scoring_vocabulary.ids)
    for one in wanted:
        data = stage.evaluated[one.name]
        with doing(f"{spec.title}  scoring {one.name}"):
            outputs = evaluator.outputs(params, data)
            scores = _report(evaluator, spec, one.name, data, outputs)
        stem = one.file.removeprefix("evaluations/").removesuffix(".json")
        confirm()
        predictions = spec.folder / "predictions" / f"{stem}.jsonl"
        write_predictions(predictions, spec.settings.task, data, outputs)
        write_texts(predictions, data, confirm)
        yield scores


def _wise_ft(starts: Starts, spec: StageSpec, wanted: list[Measurement]) -> Iterator[Records]:
    """Yield the scores of each mixture of start and result (WiSE-FT)."""
    read = starts.reader()
    start, start_rows = starts.start(spec, read)
    start = without_adapters(param_items(start)["params"])  # They add nothing to it.
    parts = []
    for vocabulary, sets in _parts(starts, spec):
        begin = starts.with_rows(start, start_rows(vocabulary.ids))
        result = starts.scoring_params(spec, read, vocabulary.ids)
        parts.append((_evaluator(starts, spec, vocabulary), begin, result, sets))
    for one in wanted:
        alpha, dev, entries = float(one.name), {}, []
        for evaluator, begin, result, sets in parts:
            params = mixture(begin, result, alpha, spec.fresh)
            for name, data in sets.items():
                mixed = f"{name}, in the mixture with alpha {alpha:g}"
                with doing(f"{spec.title}  scoring {mixed}"):
                    outputs, scores = evaluator.predict(params, data)
                require_finite(mixed, data, outputs)
                if name == "dev":
                    dev = finite(scores)
                else:
                    entries += _report(evaluator, spec, name, data, outputs)
        yield [{"alpha": alpha, "dev": dev, "evaluations": entries}]


def _retained(starts: Starts, spec: StageSpec, wanted: list[Measurement]) -> Iterator[Records]:
    """Yield the scores of the intermediate task before and after the target stage.

    Afterwards the task's own head is used: unchanged, or as rehearsed in the target stage.
    """
    parent, read = spec.parent, starts.reader()
    assert parent is not None
    if spec.rehearses:
        head = spec.record.rehearsed_head(starts.data.encoder, starts.mesh)
    else:
        head = read(parent.record)["head"]
    records: Records = []
    for vocabulary, sets in _parts(starts, parent):
        evaluator = _evaluator(starts, parent, vocabulary)
        before = starts.scoring_params(parent, read, vocabulary.ids)
        table = starts.rows(spec, read, vocabulary.ids)
        after = starts.with_rows({**read(spec.record), "head": head}, table)
        for name, data in sets.items():
            with doing(f"{spec.title}  scoring {name} of the intermediate task"):
                first, last = (
                    _report(evaluator, parent, name, data, evaluator.predict(params, data)[0])
                    for params in (before, after)
                )
            for one, other in zip(first, last, strict=True):
                key = {k: one[k] for k in ("set", "language", "n")}
                records.append({**key, "before": one["metrics"], "after": other["metrics"]})
    yield records


def _parts(starts: Starts, spec: StageSpec) -> list[tuple[Vocabulary, Mapping[str, Tokenized]]]:
    """Return dev and the evaluated sets, each with the vocabulary that numbers their tokens."""
    stage = stage_data(starts.data, spec)
    return [(stage.vocabulary, {"dev": stage.dev}), (stage.scoring_vocabulary, stage.evaluated)]


def _evaluator(starts: Starts, spec: StageSpec, vocabulary: Vocabulary) -> Evaluator:
    settings, dtype = spec.settings, jnp.dtype(spec.dtype)
    model = spec.model.with_vocabulary(len(vocabulary))
    return Evaluator(model, settings.task, settings.train, dtype, starts.mesh)


def _report(
    evaluator: Evaluator, spec: StageSpec, name: str, data: Tokenized, outputs: np.ndarray
) -> Records:
    """Return the scores of a set, whose settings may differ from those of the task."""
    own = dataclasses.replace(evaluator, task=spec.settings.task_of(name))
    return own.report(name, data, outputs)


def mixture(start: Params, result: Params, alpha: float, fresh: tuple[str, ...]) -> Params:
    """Return `alpha` times the result plus the rest of the start (WiSE-FT, Wortsman et al. 2022).

    Args:
      start: Parameters at the start of a stage.
      result: Parameters at its end, of the same shapes.
      alpha: Weight of the result.
      fresh: Regular expressions of new parameters, which are taken from the result.
    """

    def mix(path: Any, first: jax.Array, last: jax.Array) -> jax.Array:
        if any(re.search(pattern, path_name(path)) for pattern in fresh):
            return last
        return (1 - alpha) * first + alpha * last

    mixed: Params = jax.tree.map_with_path(mix, start, result)
    return mixed
