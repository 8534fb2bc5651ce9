"""A study: every path and seed of a config, from the pretrained encoder to the report.

Stages lie in a store, STORE/<identity>. The identity hashes all that the result of a
stage depends on, its start included, so paths share what they have in common, a finished stage is
never repeated, and a changed one never takes the place of an old one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer import (
    grid,
    platform,
    rows,
    sharding,
    stage,
    state,
    transferability,
)
from flaxfer.claims import Claims
from flaxfer.config import Stage
from flaxfer.data.loader import total_steps, train_examples
from flaxfer.errors import ClaimLostError, DivergedError
from flaxfer.evaluate import Evaluator, write_predictions
from flaxfer.files import write_atomically
from flaxfer.inputs import TRAINED, Inputs
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

STARTS = {"direct": "pretrained", "staged": "intermediate", "scratch": "random"}
"""What the target begins with, by path."""

Runs = dict[int, StageRun]
"""The runs of a stage by seed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage of a path for a group of seeds, which are trained as one program.

    Attributes:
      path, stage: of the study.
      start: `pretrained`, `intermediate` or `random`.
      runs: by seed.
      before: by seed, the runs of the stage that it begins with.
      nodes: the same as nodes of the graph.
    """

    path: str
    stage: str
    start: str
    runs: Runs
    before: Runs
    nodes: tuple[grid.Node, ...]


class Study(Inputs):
    """Runs the stages of a study."""

    def cell(self) -> grid.Cell:
        """The study as a part of a graph, without its data."""
        return grid.Cell(self.config, [job.nodes for job in self.jobs], self.facts())

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

    @functools.cached_property
    def jobs(self) -> list[Job]:
        """The stages of every path and group of seeds, a stage after the one it begins with."""
        found = []
        for seeds in self.groups():
            for path in self.config.paths:
                before: Runs = {}
                for name in ("intermediate", "target") if path == "staged" else ("target",):
                    start = STARTS[path] if name == "target" else "pretrained"
                    runs = {
                        seed: self._run_of(path, name, seed, start, before.get(seed))
                        for seed in seeds
                    }
                    nodes = tuple(self._node(path, name, runs[s], before.get(s)) for s in seeds)
                    found.append(Job(path, name, start, runs, before, nodes))
                    before = runs
        return found

    def _node(self, path: str, name: str, run: StageRun, parent: StageRun | None) -> grid.Node:
        data, train = self.data[name]["train"], self.stages[name].train
        steps = total_steps(data, train)
        mean = len(data.token) / train_examples(data)
        return grid.Node(
            path=path,
            seed=run.seed,
            stage=name,
            folder=run.folder,
            parent=parent.folder if parent else None,
            scores={
                k: run.folder / "evaluations" / f"{k}-{own.fingerprint[:12]}.json"
                for k, own in self.data[name].items()
                if k not in TRAINED
            },
            steps=steps,
            tokens=steps * train.batch_size * mean,
            start_scores=transferability.file_of(run, self.config.transferability)
            if name == "target"
            else None,
        )

    def work(self, job: Job, claims: Claims) -> bool:
        """Trains and scores what is left of a job, unless others do; gives whether it did."""
        if not (left := grid.ready(job.nodes, claims)):
            return False
        with claims.taking([node.folder for node in left]) as taken:
            # Others may have settled some of it just before it was ours.
            mine = {
                node.seed: dataclasses.replace(job.runs[node.seed], confirm=claim.confirm)
                for node, claim in zip(left, taken, strict=False)
                if not node.settled
            }
            try:
                self._train(job, mine)
                for node in left:
                    if node.trained and node.seed in mine:
                        self._score(job.stage, node, mine[node.seed])
            except ClaimLostError as error:
                say(f"{job.path}/{job.stage}: {error}")
                return False
        return bool(mine)

    def _train(self, job: Job, runs: Runs) -> None:
        for run in runs.values():
            self._note(run, job.stage)
        starts = {
            seed: functools.partial(
                self._start_params, job.stage, seed, job.start, job.before.get(seed)
            )
            for seed in runs
        }
        for node in job.nodes:
            if node.start_scores and node.seed in runs:
                self._score_start(node.start_scores, runs[node.seed], starts[node.seed])
        try:
            stage.train([(run, starts[seed]) for seed, run in runs.items()])
        except DivergedError as error:  # Noted in the folders; the rest of the graph goes on.
            say(f"diverged: {error}")

    def _score_start(self, file: Path, run: StageRun, params: Callable[[], Params]) -> None:
        """Notes how well a start suits its target, unless it is noted or no longer needed."""
        if file.exists() or run.done is not None:
            return
        start = run.start if isinstance(run.start, str) else run.start.folder.name
        if start not in self._start_scores:  # Seeds have the pretrained one in common.
            say(f"{run.title}  scores its start")
            examples = self.config.transferability
            scores = transferability.score(run, params(), self.encoder, examples)
            self._start_scores[start] = scores
        run.confirm()
        write_atomically(file, json.dumps(self._start_scores[start]))

    def keep(self, claims: Claims) -> None:
        """Completes what finished stages left, if a kill or an older version left it incomplete."""
        for job in self.jobs:
            for run in job.runs.values():
                if run.done is None:
                    continue
                self._note(run, job.stage)
                if any(run.folder.glob("checkpoints/*/opt_state")):
                    with claims.taking([run.folder]) as taken:
                        if taken:
                            run.store.finish()

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
            folder=Path(self.config.stages) / hashlib.sha256(text.encode()).hexdigest()[:16],
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
            identity=identity,
        )
        return made

    def _note(self, made: StageRun, name: str) -> None:
        """Writes the identity, and what an export needs; to train again is not needed for it."""
        write_atomically(made.folder / "identity.json", json.dumps(made.identity, indent=1))
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

    def _score(self, name: str, node: grid.Node, made: StageRun) -> None:
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
