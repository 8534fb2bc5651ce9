"""A study: every condition and seed of a config, from the pretrained encoder to the report.

Stages lie in a store, STORE/<identity>. The identity hashes all that the result of a
stage depends on, its start included, so paths share what they have in common, a finished stage is
never repeated, and a changed one never takes the place of an old one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from flaxfer.config import Stage
from flaxfer.data.loader import total_steps, train_examples
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ClaimLostError, DivergedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.runtime import platform
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.runtime.trees import Params
from flaxfer.study import graph, transferability
from flaxfer.study.claims import Claims
from flaxfer.study.inputs import TRAINED
from flaxfer.study.scorer import Scorer
from flaxfer.tasks.models import model_spec
from flaxfer.training import loop, rehearsal, retention
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.stage_run import StageRun
from flaxfer.training.vocabulary import Vocabulary

STORE_VERSION = 5
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
"""What the target begins with, by condition."""

Runs = dict[int, StageRun]
"""The runs of a stage by seed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage of a condition for a group of seeds, which are trained as one program.

    Attributes:
      condition, stage: of the study.
      runs: by seed.
      nodes: the same as nodes of the graph.
    """

    condition: str
    stage: str
    runs: Runs
    nodes: tuple[graph.Node, ...]


class Study(Scorer):
    """Runs the stages of a study."""

    def cell(self) -> graph.Cell:
        """The study as a part of a graph, without its data."""
        return graph.Cell(self.config, [job.nodes for job in self.jobs], self.facts())

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
        sequences = train.batch_size / train.gradient_accumulation_steps * data.choices
        return sequences * float(data.lengths.mean()) * self.encoder.hidden_size

    @functools.cached_property
    def jobs(self) -> list[Job]:
        """The stages of every condition and group of seeds in topological order."""
        found = []
        for seeds in self.groups():
            for condition in self.config.conditions:
                before: Runs = {}
                for name in ("intermediate", "target") if condition == "staged" else ("target",):
                    start = STARTS[condition] if name == "target" else "pretrained"
                    runs = {
                        seed: self._run_of(condition, name, seed, start, before.get(seed))
                        for seed in seeds
                    }
                    nodes = tuple(
                        self._node(condition, name, runs[s], before.get(s)) for s in seeds
                    )
                    found.append(Job(condition, name, runs, nodes))
                    before = runs
        return found

    def _node(
        self, condition: str, name: str, run: StageRun, parent: StageRun | None
    ) -> graph.Node:
        data, train = run.train, run.settings.train
        steps = total_steps(data, rehearsal.own_part(train, run.rehearsal))
        mean = len(data.token) / train_examples(data)
        return graph.Node(
            condition=condition,
            seed=run.seed,
            stage=name,
            folder=run.folder,
            parent=parent.folder if parent else None,
            scores={
                k: run.folder / "evaluations" / f"{k}-{own.fingerprint[:12]}.json"
                for k, own in self.data[name].items()
                if k not in TRAINED
            },
            notes=self.notes(name, run),
            steps=steps,
            tokens=steps * train.batch_size * mean,
            start_scores=transferability.file_of(run, self.config.transferability)
            if name == "target"
            else None,
        )

    def work(self, job: Job, claims: Claims) -> bool:
        """Trains and scores what is left of a job, unless others do; gives whether it did."""
        if not (left := graph.ready(job.nodes, claims)):
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
                say(f"{job.condition}/{job.stage}: {error}")
                return False
        return bool(mine)

    def _train(self, job: Job, runs: Runs) -> None:
        for run in runs.values():
            self._note(run, job.stage)
        starts = {
            seed: functools.partial(self._start_params, job.stage, run)
            for seed, run in runs.items()
        }
        for node in job.nodes:
            if node.start_scores and node.seed in runs:
                self._score_start(node.start_scores, runs[node.seed], starts[node.seed])
        try:
            loop.train([(run, starts[seed]) for seed, run in runs.items()])
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
        self, condition: str, name: str, seed: int, start: str, parent: StageRun | None
    ) -> StageRun:
        settings = self.stages[name]
        if start == "random":  # That is nothing to be pulled to.
            optimizer = dataclasses.replace(settings.optimizer, l2_sp=0.0)
            settings = dataclasses.replace(settings, optimizer=optimizer)
        vocabulary, train, dev, other = self.read_by(name, parent)
        rehearsed = self._rehearsal(vocabulary, other) if other else None
        identity = {
            "version": STORE_VERSION,
            "task": dataclasses.asdict(settings.task),
            "optimizer": dataclasses.asdict(settings.optimizer),
            "train": dataclasses.asdict(settings.train),
            "dtype": str(platform.compute_dtype(settings.train.compute_dtype)),
            "train_data": train.fingerprint,
            "dev_data": dev.fingerprint,
            "vocabulary": vocabulary.fingerprint,
            "model": self.weights_fingerprint,
            "seed": seed,
            "start": parent.folder.name if parent else start,
            **({"rehearse": rehearsed.examples} if rehearsed else {}),
            **({"restarts": settings.restarts} if settings.restarts else {}),
        }
        text = json.dumps(identity, sort_keys=True)
        model = model_spec(self.encoder_with(vocabulary), settings.task)
        before = parent.settings.task if parent else None
        made = StageRun(
            name=f"{condition}/{name}",
            folder=Path(self.config.stages) / hashlib.sha256(text.encode()).hexdigest()[:16],
            settings=settings,
            seed=seed,
            train=train,
            dev=dev,
            evaluator=Evaluator(
                model=model,
                task=settings.task,
                train=settings.train,
                dtype=platform.compute_dtype(settings.train.compute_dtype),
                mesh=self.mesh,
            ),
            vocabulary=vocabulary,
            start=parent or start,
            rehearsal=rehearsed,
            new=retention.new_parts(self.encoder.family, settings.task, before),
            tracker_names=self.config.trackers,
            identity=identity,
        )
        return made

    def _rehearsal(self, vocabulary: Vocabulary, data: Tokenized) -> Rehearsal:
        """Of the intermediate task, in the target stage."""
        task, train = self.stages["intermediate"].task, self.stages["intermediate"].train
        model = model_spec(self.encoder_with(vocabulary), task)
        return Rehearsal(
            examples=self.stages["target"].rehearse,
            data=data,
            task=task,
            train=train,
            model=model,
        )

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


def _source_names(settings: Stage) -> dict[str, list[str]]:
    """Names of the files or of the hub's data sets that each split is read from."""
    data = settings.data
    splits = {"train": data.train, "dev": data.dev, "test": data.test}
    splits |= {name: (source,) for name, source in settings.evaluate.items()}
    return {
        split: [source.hub or Path(source.path).name for source in sources]
        for split, sources in splits.items()
    }
