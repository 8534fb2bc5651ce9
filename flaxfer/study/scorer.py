"""What a run begins with, and what it is scored with when it is finished."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer.data.packing import REHEARSED
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator, write_predictions
from flaxfer.runtime import sharding
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.runtime.trees import Params
from flaxfer.study import graph
from flaxfer.study.inputs import TRAINED, Inputs, Splits
from flaxfer.tasks.models import model_spec
from flaxfer.training import rehearsal, retention, rows
from flaxfer.training.retention import Scored
from flaxfer.training.stage_run import StageRun
from flaxfer.training.vocabulary import Vocabulary

NOTES = {
    "wise": "evaluates mixtures of its start and result",
    "retained": "evaluates the intermediate task again",
}
"""What is noted of a finished run beside its scores, and how the user is told."""


class Scorer(Inputs):
    """Parameters at the start and at the end of the runs of a study, and their scores."""

    def read_by(
        self, name: str, parent: StageRun | None
    ) -> tuple[Vocabulary, Tokenized, Tokenized, Tokenized | None]:
        """What a stage reads: its vocabulary, train, dev, and what it rehearses if it does."""
        if parent is not None and self.rehearsing is not None:
            own = self.rehearsing
            return own.vocabulary, own.train, own.dev, own.rehearsed
        return self.vocabularies[name], self.data[name]["train"], self.data[name]["dev"], None

    def notes(self, name: str, run: StageRun) -> dict[str, tuple[Path, ...]]:
        """By what is noted of a run beside its scores, the files that hold the records."""
        settings, found = self.stages[name], dict[str, tuple[Path, ...]]()

        def file(key: str, of: str, dev: Tokenized) -> Path:
            text = "".join(data.fingerprint for data in [dev, *self._sets(of).values()])
            digest = hashlib.sha256(text.encode()).hexdigest()
            return run.folder / "notes" / f"{key}-{digest[:12]}.json"

        if settings.wise and run.start != "random":
            found["wise"] = tuple(file(f"wise-{w:g}", name, run.dev) for w in settings.wise)
        if settings.retained and isinstance(run.start, StageRun):
            found["retained"] = (file("retained", "intermediate", run.start.dev),)
        return found

    def _start_params(self, name: str, run: StageRun) -> Params:
        """Fresh parameters of a run, with those of its start put in their place.

        The head of the stage before is kept if it answers the same question, the same classes in
        the same order; otherwise it is new but for parts that were pretrained (BERT's pooler),
        which come from the stage before if it has them, and else from the pretrained weights.
        """
        settings, seed = self.stages[name], run.attempt_seed
        start, parent = run.start, run.start if isinstance(run.start, StageRun) else None
        vocabulary, _, _, rehearsed = self.read_by(name, parent)
        task = settings.task
        model = model_spec(self.encoder_with(vocabulary), task)
        fresh = model.random_params(seed)
        if settings.train.output_bias == "mean":
            mean = self.data[name]["train"].label.mean(dtype=np.float32)
            fresh["head"]["output"]["bias"] = np.full(1, mean, np.float32)
        if isinstance(start, StageRun):
            given = start.best_params()
            if rehearsed is not None:
                fresh[REHEARSED] = given["head"]
            table = self._rows(vocabulary.ids, start, given)
            if not retention.same_question(start.settings.task, task):
                kept = retention.pretrained_parts(self.encoder.family, task)
                trained = {k: v for k, v in given["head"].items() if k in kept}
                given["head"] = self.weights(model.head).get("head", {}) | trained
        else:
            given = self.weights(model.head) if start == "pretrained" else fresh
            table = self.first_rows(start, task, seed)(vocabulary.ids)
        return _merge(fresh, rows.with_table(given, table))

    def _rows(self, ids: np.ndarray, last: StageRun, params: Params) -> np.ndarray:
        """Rows of the word embedding as a finished run left them; `params` are its best."""
        runs = last.lineage
        stages = [run.trained for run in runs]
        stages[-1] = dataclasses.replace(stages[-1], params=lambda: params)  # Not read again.
        first = runs[0]
        assert isinstance(first.start, str)
        start = self.first_rows(first.start, first.settings.task, first.attempt_seed)
        return rows.rows_after(ids, stages, start)

    def _sets(self, name: str) -> Splits:
        """The sets of a stage that it is not trained on."""
        return {k: v for k, v in self.data[name].items() if k not in TRAINED}

    def _scorer(self, run: StageRun, vocabulary: Vocabulary) -> tuple[Evaluator, Params]:
        """What scores data whose tokens are numbered by `vocabulary` with a finished run."""
        params = run.best_params()
        params = rows.with_table(params, self._rows(vocabulary.ids, run, params))
        return self._evaluator(run, vocabulary), self._placed(params)

    def _evaluator(self, run: StageRun, vocabulary: Vocabulary) -> Evaluator:
        """That of a run, for parameters with the rows of `vocabulary`."""
        task = run.settings.task
        model = model_spec(self.encoder_with(vocabulary), task)
        return dataclasses.replace(run.evaluator, model=model)

    def _placed(self, params: Params) -> Params:
        placed: Params = jax.device_put(params, sharding.tree_shardings(params, self.mesh))
        return placed

    def _score(self, name: str, node: graph.Node, made: StageRun) -> None:
        """Scores every set that a trained stage is not trained on, where that is left to do."""
        sets = self.data[name]
        missing = [k for k, file in node.scores.items() if not file.exists()]
        if missing:
            say(f"{made.title}  evaluates {', '.join(missing)}")
            evaluator, params = self._scorer(made, self.scoring[name])
            (made.folder / "evaluations").mkdir(exist_ok=True)
            for k in missing:
                outputs, _ = evaluator.predict(params, sets[k])
                predictions = made.folder / "predictions" / f"{node.scores[k].stem}.jsonl"
                made.confirm()
                write_predictions(predictions, made.settings.task, sets[k], outputs)
                entries = evaluator.report(k, sets[k], outputs)
                write_atomically(node.scores[k], json.dumps(entries, indent=1))
        for key, files in node.notes.items():
            if any(not file.exists() for file in files):
                say(f"{made.title}  {NOTES[key]}")
                notes = self._wise(name, made) if key == "wise" else self._retained(made)
                for file, records in zip(files, notes, strict=True):
                    file.parent.mkdir(exist_ok=True)
                    made.confirm()
                    write_atomically(file, json.dumps(records, indent=1))

    def _parts(self, name: str, run: StageRun) -> list[tuple[Vocabulary, Splits]]:
        """Dev and the other sets of a stage, each with the vocabulary that numbers its tokens."""
        return [(run.vocabulary, {"dev": run.dev}), (self.scoring[name], self._sets(name))]

    def _wise(self, name: str, made: StageRun) -> Iterator[list[dict[str, Any]]]:
        """The record of each mixture of a finished run with its start."""
        parent = made.start if isinstance(made.start, StageRun) else None
        start = self._start_params(name, made)
        start = rehearsal.parted(start)["params"]
        first = self.first_rows("pretrained", made.settings.task, made.attempt_seed)
        given = parent.best_params() if parent else None
        parts = []
        for vocabulary, sets in self._parts(name, made):
            ids = vocabulary.ids
            table = self._rows(ids, parent, given) if parent and given else first(ids)
            begun = self._placed(rows.with_table(start, table))
            parts.append(retention.Mixed(Scored(*self._scorer(made, vocabulary), sets), begun))
        for share in self.stages[name].wise:
            yield [retention.wise(share, made.new, *parts)]

    def _retained(self, made: StageRun) -> Iterator[list[dict[str, Any]]]:
        """The scores of the intermediate task before and after a finished run of the target."""
        parent = made.start
        assert isinstance(parent, StageRun)
        best = made.best_params()
        head = made.rehearsed_head() if made.rehearsal else parent.best_params()["head"]
        records: list[dict[str, Any]] = []
        for vocabulary, sets in self._parts("intermediate", parent):
            evaluator, before = self._scorer(parent, vocabulary)
            after = rows.with_table(best, self._rows(vocabulary.ids, made, best))
            after = self._placed({**after, "head": head})
            records += retention.retained(Scored(evaluator, before, sets), after)
        yield records


def _merge(fresh: Params, given: Mapping[str, Any]) -> Params:
    """`fresh` with the arrays of `given`, which are of the same shapes, in the place of its own."""
    merged = dict(fresh)
    for key, value in given.items():
        if isinstance(value, Mapping):
            merged[key] = _merge(fresh[key], value)
        else:
            assert np.shape(value) == np.shape(fresh[key]), key
            merged[key] = value
    return merged
