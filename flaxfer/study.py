"""A study: every path and seed of a config, from the pretrained encoder to the report.

Stages lie in a store, WORKDIR/stages/<identity>. The identity hashes all that the result of a
stage depends on, its start included, so paths share what they have in common, a finished stage is
never repeated, and a changed one never takes the place of an old one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer import platform, report, rows, sharding, stage, state, workdirs
from flaxfer.checkpoint import write_atomically
from flaxfer.config import Config, Stage
from flaxfer.evaluate import Evaluator, write_predictions
from flaxfer.inputs import Inputs
from flaxfer.models.families import FAMILIES
from flaxfer.models.heads import HEAD_OF
from flaxfer.optim import Params
from flaxfer.progress import say
from flaxfer.stage_run import StageRun
from flaxfer.vocabulary import Vocabulary

STORE_VERSION = 4
"""Part of every stage's identity: raised when the same settings would give other results."""

GROUP = 8
"""Seeds that train at once where that is faster."""

SMALL_WORK = 2**13
"""`Study._work` up to which it is.

`benchmarks/seeds.py`, float32, 2 cores of an AMD EPYC shared with other work, November 2026; work:
together over one by one. 7,000: 2.2 (width 32, batch 8). 28,000: 0.8 (width 128, batch 8). 57,000:
0.7 (width 64, batch 32), 1.0 (width 256, batch 8). 114,000: 1.0 (width 128, batch 32). 342,000: 1.0
(all-MiniLM-L6-v2, batch 32).
"""

Runs = dict[int, StageRun]
"""The runs of a stage by seed."""


def run(config: Config, command: str) -> Path:
    """Runs what is left of a study and returns its report.

    Args:
      config: from `config_build.load`.
      command: how it was started, for the report.

    Raises:
      FlaxferError: of the kind of what is wrong; what was finished by then is kept.
    """
    began = time.monotonic()
    platform.keep_memory()
    platform.choose_compiler_options(config.compiler_options)
    workdir = workdirs.prepare(config, command)
    cache = platform.cache_dir(config.cache)
    platform.use_compilation_cache(cache)
    study = Study(config, workdir, cache)
    study.introduce()
    runs = [record for seeds in study.groups() for record in study.run_seeds(seeds)]
    write_atomically(
        workdir / "study.json",
        json.dumps(study.summary(runs, command, time.monotonic() - began), indent=1),
    )
    html = report.write_report(workdir)[0]
    say(f"report: {html.absolute()}")
    return html


class Study(Inputs):
    """Runs the stages of a study."""

    def groups(self) -> list[tuple[int, ...]]:
        """The seeds in groups that are trained as one program, by `Config.seeds_at_once`."""
        seeds = self.config.seeds
        size = self.config.seeds_at_once
        if not size:
            work = max(self._work(name) for name in self.stages)
            size = GROUP if work <= SMALL_WORK else 1
        return [seeds[i : i + size] for i in range(0, len(seeds), size)]

    def _work(self, name: str) -> float:
        """Tokens of a micro-batch of a stage times the width of the model."""
        data, train = self.data[name]["train"], self.stages[name].train
        sequences = train.batch_size / train.accumulation * data.choices
        return sequences * float(data.lengths.mean()) * self.encoder.hidden_size

    def run_seeds(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Runs the stages of every path, each of all seeds at once; gives a record of each run, by
        seed.
        """
        records: dict[int, list[dict[str, Any]]] = {seed: [] for seed in seeds}
        for path in self.config.paths:
            start = {"direct": "pretrained", "staged": "intermediate", "scratch": "random"}[path]
            before: Runs = {}
            names = ("intermediate", "target") if path == "staged" else ("target",)
            for name in names:
                begin = start if name == "target" else "pretrained"
                made = self._stage(path, name, seeds, begin, before)
                for seed, run in made.items():
                    record = self._finish(path, seed, name, run, before.get(seed))
                    records[seed].append(record)
                before = made
        return [record for own in records.values() for record in own]

    def _stage(self, path: str, name: str, seeds: Sequence[int], start: str, before: Runs) -> Runs:
        """Trains a stage of a path with some seeds; `before` holds the runs of the stage before."""
        made = {seed: self._run_of(path, name, seed, start, before.get(seed)) for seed in seeds}
        stage.train(
            [
                (run, functools.partial(self._start_params, name, seed, start, before.get(seed)))
                for seed, run in made.items()
            ]
        )
        return made

    def _run_of(
        self, path: str, name: str, seed: int, start: str, parent: StageRun | None
    ) -> StageRun:
        settings, splits = self.stages[name], self.data[name]
        identity = {
            "version": STORE_VERSION,
            "task": dataclasses.asdict(settings.task),
            "optimizer": dataclasses.asdict(settings.optimizer),
            "train": dataclasses.asdict(settings.train),
            "dtype": str(platform.compute_dtype(settings.train)),
            "train_data": splits["train"].fingerprint,
            "dev_data": splits["dev"].fingerprint,
            "vocabulary": self.vocabularies[name].fingerprint,
            "model": self.weights_fingerprint,
            "seed": seed,
            "start": parent.folder.name if parent else start,
        }
        text = json.dumps(identity, sort_keys=True)
        vocabulary, head = self.vocabularies[name], HEAD_OF[settings.task.kind]
        model = (self.encoder_with(vocabulary), settings.task.num_outputs)
        made = StageRun(
            name=f"{path}/{name}",
            folder=self.workdir / "stages" / hashlib.sha256(text.encode()).hexdigest()[:16],
            settings=settings,
            seed=seed,
            train=splits["train"],
            dev=splits["dev"],
            evaluator=Evaluator(
                graph=state.graph(*model, head),
                task=settings.task,
                train=settings.train,
                dtype=platform.compute_dtype(settings.train),
                mesh=self.mesh,
                pad_id=self.encoder.pad_token_id,
            ),
            param_shapes=state.param_shapes(*model, head),
            vocabulary=vocabulary,
            start=parent or start,
            dropout=self.encoder != self.encoder.with_dropout(0.0),
            tracker_names=self.config.trackers,
        )
        made.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(made.folder / "identity.json", json.dumps(identity, indent=1))
        self._note_origin(made, name)
        return made

    def _note_origin(self, made: StageRun, name: str) -> None:
        """Writes what an export needs beside the identity; to train again is not needed for it."""
        file = made.folder / "origin.json"
        versions = platform.versions()
        if made.done is not None:  # They may have changed since it was trained.
            versions = json.loads(file.read_text())["versions"] if file.exists() else {}
        names = _source_names(self.stages[name])
        data = [
            {**entry, "sources": names.get(entry["split"], [])}
            for entry in self.data_summary()
            if entry["stage"] == name
        ]
        origin = {
            "stage": name,
            "model": dataclasses.asdict(self.config.model)
            | {"folder": str(self.folder.absolute())},
            "tokenizer": self.tokenizer_fingerprint,
            "data": data,
            "versions": versions,
        }
        made.vocabulary.save(made.folder / "vocabulary.npy")
        write_atomically(file, json.dumps(origin, indent=1))

    def _start_params(self, name: str, seed: int, start: str, parent: StageRun | None) -> Params:
        """Fresh parameters, with those of the start put in their place.

        The head of the stage before is kept if it answers the same question, the same classes in
        the same order; otherwise it is new but for parts that were pretrained (BERT's pooler),
        which come from the stage before if it has them, and else from the pretrained weights.
        """
        settings, vocabulary = self.stages[name], self.vocabularies[name]
        task = settings.task
        head = HEAD_OF[task.kind]
        fresh = state.random_params(self.encoder_with(vocabulary), task.num_outputs, seed, head)
        if settings.train.output_bias == "mean":
            mean = self.data[name]["train"].label.mean(dtype=np.float32)
            fresh["head"]["output"]["bias"] = np.full(1, mean, np.float32)
        if parent is not None:
            given = parent.best_params()
            table = self._rows(vocabulary.ids, parent, given)
            same = (parent.settings.task.kind, parent.settings.task.labels) == (
                task.kind,
                task.labels,
            )
            if not same:
                parts = FAMILIES[self.encoder.family].heads[head].pretrained_names
                kept = {path.split("/")[1] for _, path, _ in parts}
                trained = {k: v for k, v in given["head"].items() if k in kept}
                given["head"] = self.weights(head).get("head", {}) | trained
        else:
            given = self.weights(head) if start == "pretrained" else fresh
            table = self.first_rows(start, task, seed)(vocabulary.ids)
        return _merge(fresh, rows.with_table(given, table))

    def _rows(self, ids: np.ndarray, last: StageRun, params: Params) -> np.ndarray:
        """Rows of the word embedding as a finished run left them; `params` are its best."""
        runs = last.lineage
        stages = [run.trained for run in runs]
        stages[-1] = dataclasses.replace(stages[-1], params=lambda: params)  # Not read again.
        first = runs[0]
        assert isinstance(first.start, str)
        start = self.first_rows(first.start, first.settings.task, first.seed)
        return rows.rows_after(ids, stages, start)

    def _scorer(self, run: StageRun, vocabulary: Vocabulary) -> tuple[Evaluator, Params]:
        """What scores data whose tokens are numbered by `vocabulary` with a finished run."""
        task, params = run.settings.task, run.best_params()
        graph = state.graph(self.encoder_with(vocabulary), task.num_outputs, HEAD_OF[task.kind])
        params = rows.with_table(params, self._rows(vocabulary.ids, run, params))
        placed = jax.device_put(params, sharding.tree_shardings(params, self.mesh))
        return dataclasses.replace(run.evaluator, graph=graph), placed

    def _finish(
        self,
        path: str,
        seed: int,
        name: str,
        made: StageRun,
        parent: StageRun | None,
    ) -> dict[str, Any]:
        """Scores every set that the stage is not trained on, and gives the stage's record."""
        done = made.done
        assert done is not None
        sets = {k: v for k, v in self.data[name].items() if k not in ("train", "dev")}
        files = {
            k: made.folder / "evaluations" / f"{k}-{data.fingerprint[:12]}.json"
            for k, data in sets.items()
        }
        missing = [k for k, file in files.items() if not file.exists()]
        if missing:
            say(f"{made.title}  evaluates {', '.join(missing)}")
            evaluator, params = self._scorer(made, self.scoring[name])
            (made.folder / "evaluations").mkdir(exist_ok=True)
            for k in missing:
                outputs, _ = evaluator.predict(params, sets[k])
                predictions = made.folder / "predictions" / f"{files[k].stem}.jsonl"
                write_predictions(predictions, made.settings.task, sets[k], outputs)
                entries = evaluator.report(k, sets[k], outputs)
                write_atomically(files[k], json.dumps(entries, indent=1))
        return {
            "path": path,
            "seed": seed,
            "stage": name,
            "id": made.folder.name,
            "dir": f"stages/{made.folder.name}",
            "parent": parent.folder.name if parent else None,
            **done,
            "evaluations": [entry for k in sets for entry in json.loads(files[k].read_text())],
        }


def _source_names(settings: Stage) -> dict[str, list[str]]:
    """Names of the files or of the hub's data sets that each split is read from."""
    data = settings.data
    splits = {"train": data.train, "dev": data.dev, "test": data.test}
    splits |= {name: (source,) for name, source in settings.evaluate.items()}
    return {
        split: [source.hub or Path(source.path).name for source in sources]
        for split, sources in splits.items()
    }


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
