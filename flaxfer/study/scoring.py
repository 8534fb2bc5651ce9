"""What is measured of a trained stage: evaluated sets, WiSE-FT mixtures, retention."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator, finite, write_predictions
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.runtime.trees import Params, path_name
from flaxfer.study.starts import Starts
from flaxfer.training.data import StudyData
from flaxfer.training.stage import Measurement, StageSpec
from flaxfer.training.state import param_items
from flaxfer.training.vocabulary import Vocabulary

Records = list[dict[str, Any]]

ANNOUNCEMENTS = {
    "wise_ft": "evaluates mixtures of its start and result",
    "retained": "evaluates the intermediate task again",
}


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Measures trained stages of a study.

    Attributes:
      data: of the study.
      starts: parameters of its stages.
      mesh: of the devices.
    """

    data: StudyData
    starts: Starts
    mesh: jax.sharding.Mesh

    def measure(self, spec: StageSpec, confirm: Callable[[], None]) -> None:
        """Measure whatever is missing of a trained stage.

        Args:
          spec: the stage.
          confirm: called before anything is written in its folder.
        """
        measure = {
            "evaluations": self._evaluate,
            "wise_ft": self._wise_ft,
            "retained": self._retained,
        }
        missing = spec.missing()
        for key in measure:
            wanted = [one for one in missing if one.key == key]
            if wanted:
                what = f"evaluates {', '.join(one.name for one in wanted)}"
                say(f"{spec.title}  {ANNOUNCEMENTS.get(key, what)}")
                for one, records in zip(wanted, measure[key](spec, wanted, confirm), strict=True):
                    file = spec.folder / one.file
                    file.parent.mkdir(exist_ok=True)
                    confirm()
                    write_atomically(file, json.dumps(records, indent=1))

    def _evaluate(
        self, spec: StageSpec, wanted: list[Measurement], confirm: Callable[[], None]
    ) -> Iterator[Records]:
        """Yield the scores of evaluated sets, after writing their predictions."""
        stage = self.data.stages[spec.name]
        evaluator = self._evaluator(spec, stage.scoring_vocabulary)
        params = self.starts.scoring_params(spec, stage.scoring_vocabulary)
        for one in wanted:
            data = stage.evaluated[one.name]
            outputs, _ = evaluator.predict(params, data)
            stem = one.file.removeprefix("evaluations/").removesuffix(".json")
            confirm()
            predictions = spec.folder / "predictions" / f"{stem}.jsonl"
            write_predictions(predictions, spec.settings.task, data, outputs)
            yield evaluator.report(one.name, data, outputs)

    def _wise_ft(
        self, spec: StageSpec, wanted: list[Measurement], confirm: Callable[[], None]
    ) -> Iterator[Records]:
        """Yield the scores of each mixture of start and result (WiSE-FT)."""
        start = param_items(self.starts.params(spec))["params"]
        parts = []
        for vocabulary, sets in self._parts(spec):
            begin = self.starts.with_rows(start, self.starts.start_rows(spec, vocabulary.ids))
            result = self.starts.scoring_params(spec, vocabulary)
            parts.append((self._evaluator(spec, vocabulary), begin, result, sets))
        for one in wanted:
            alpha, dev, entries = float(one.name), {}, []
            for evaluator, begin, result, sets in parts:
                params = mixture(begin, result, alpha, spec.fresh)
                for name, data in sets.items():
                    outputs, scores = evaluator.predict(params, data)
                    if name == "dev":
                        dev = finite(scores)
                    else:
                        entries += evaluator.report(name, data, outputs)
            yield [{"alpha": alpha, "dev": dev, "evaluations": entries}]

    def _retained(
        self, spec: StageSpec, wanted: list[Measurement], confirm: Callable[[], None]
    ) -> Iterator[Records]:
        """Yield the scores of the intermediate task before and after the target stage.

        Afterwards its own head is used: as it was, or as the target stage rehearsed it.
        """
        parent = spec.parent
        assert parent is not None
        best = self.starts.best_params(spec.record)
        if spec.rehearses:
            head = spec.record.rehearsed_head(self.data.encoder, self.mesh)
        else:
            head = self.starts.best_params(parent.record)["head"]
        records: Records = []
        for vocabulary, sets in self._parts(parent):
            evaluator = self._evaluator(parent, vocabulary)
            before = self.starts.scoring_params(parent, vocabulary)
            table = self.starts.rows(spec, vocabulary.ids, best)
            after = self.starts.with_rows({**best, "head": head}, table)
            for name, data in sets.items():
                first, last = (
                    evaluator.report(name, data, evaluator.predict(params, data)[0])
                    for params in (before, after)
                )
                for one, other in zip(first, last, strict=True):
                    key = {k: one[k] for k in ("set", "language", "n")}
                    records.append({**key, "before": one["metrics"], "after": other["metrics"]})
        yield records

    def _parts(self, spec: StageSpec) -> list[tuple[Vocabulary, Mapping[str, Tokenized]]]:
        """Return dev and the evaluated sets, each with the vocabulary that numbers their tokens."""
        stage = self.data.stage(spec.name, after_intermediate=spec.parent is not None)
        return [(stage.vocabulary, {"dev": stage.dev}), (stage.scoring_vocabulary, stage.evaluated)]

    def _evaluator(self, spec: StageSpec, vocabulary: Vocabulary) -> Evaluator:
        settings, dtype = spec.settings, jnp.dtype(spec.dtype)
        model = spec.model.with_vocabulary(len(vocabulary))
        return Evaluator(model, settings.task, settings.train, dtype, self.mesh)


def mixture(start: Params, result: Params, alpha: float, fresh: tuple[str, ...]) -> Params:
    """Return `alpha` times the result plus the rest of the start (WiSE-FT, Wortsman et al. 2022).

    Args:
      start: parameters at the start of a stage.
      result: parameters at its end, of the same shapes.
      alpha: weight of the result.
      fresh: patterns of parameters without a start to be mixed with; they are the result's.
    """

    def mix(path: Any, first: jax.Array, last: jax.Array) -> jax.Array:
        if any(re.search(pattern, path_name(path)) for pattern in fresh):
            return last
        return (1 - alpha) * first + alpha * last

    mixed: Params = jax.tree.map_with_path(mix, start, result)
    return mixed
