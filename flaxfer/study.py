"""A study: every path and seed of a config, from the pretrained encoder to the report.

Stages lie in a store, WORKDIR/stages/<identity>. The identity hashes all that the result of a
stage depends on, its start included, so paths share what they have in common, a finished stage is
never repeated, and a changed one never takes the place of an old one.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer import config_build, platform, report, sharding, stage, state, workdirs
from flaxfer.checkpoint import write_atomically
from flaxfer.config import Config, Stage
from flaxfer.data import sources, tokenize
from flaxfer.data.loader import TrainPlan
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluate import Evaluator, write_predictions
from flaxfer.metrics import METRICS as LARGER_IS_BETTER
from flaxfer.metrics import task_metrics
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.heads import HEAD_OF
from flaxfer.optim import Params
from flaxfer.progress import say, table
from flaxfer.vocabulary import Vocabulary

STORE_VERSION = 3
"""Part of every stage's identity: raised when the same settings would give other results."""

Splits = Mapping[str, Tokenized]
"""The splits of a stage: train, dev, perhaps test, and the sets of `Stage.evaluate`."""


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
    runs = [record for seed in config.seeds for record in study.run_seed(seed)]
    write_atomically(
        workdir / "study.json",
        json.dumps(study.summary(runs, command, time.monotonic() - began), indent=1),
    )
    html = report.write_report(workdir)[0]
    say(f"report: {html.absolute()}")
    return html


class Study:
    """What the stages of a study share: the model's weights, the data, the mesh."""

    def __init__(self, config: Config, workdir: Path, cache: Path):
        self.config, self.workdir = config, workdir
        self.stages: dict[str, Stage] = {"target": config.target}
        if config.intermediate is not None and "staged" in config.paths:
            self.stages = {"intermediate": config.intermediate, **self.stages}
        self.mesh = sharding.make_mesh(config.mesh)
        self.folder = pretrained.resolve(config.model)
        tokenizer = tokenize.load_tokenizer(config.model)
        self.tokenizer_fingerprint = tokenize.tokenizer_fingerprint(tokenizer)
        self.encoder = pretrained.load_encoder_config(self.folder)
        if config.model.dropout is not None:
            self.encoder = self.encoder.with_dropout(config.model.dropout)
        self.data: dict[str, Splits] = {
            name: _read(settings, config.data_dir, tokenizer, cache)
            for name, settings in self.stages.items()
        }
        self.vocabulary_size = self.encoder.vocab_size
        self.vocabulary = self._vocabulary()
        self.encoder = dataclasses.replace(self.encoder, vocab_size=len(self.vocabulary))
        self.data = {
            name: {split: self.vocabulary.cut(data) for split, data in splits.items()}
            for name, splits in self.data.items()
        }

    @functools.cache  # noqa: B019 - a study lives as long as its process.
    def weights(self, head: str) -> Params:
        """The pretrained parameters: `encoder`, and what the file has of the head so named."""
        whole = dataclasses.replace(self.encoder, vocab_size=self.vocabulary_size)
        loaded = pretrained.load_pretrained(self.folder, whole, head=head)
        word = loaded["encoder"]["embeddings"]["word"]
        word["embedding"] = word["embedding"][self.vocabulary.ids]
        return loaded

    @functools.cached_property
    def weights_fingerprint(self) -> str:
        """Of the weight files and the model's settings."""
        return weights_fingerprint(self.folder, self.encoder)

    def run_seed(self, seed: int) -> Iterator[dict[str, Any]]:
        """Runs the stages of every path with one seed; yields a record of each."""
        for path in self.config.paths:
            start = {"direct": "pretrained", "staged": "intermediate", "scratch": "random"}[path]
            parent = None
            if path == "staged":
                parent = self._stage(path, "intermediate", seed, "pretrained", None)
                yield self._finish(path, seed, "intermediate", parent, None)
            yield self._finish(
                path, seed, "target", self._stage(path, "target", seed, start, parent), parent
            )

    def _stage(
        self, path: str, name: str, seed: int, start: str, parent: stage.StageRun | None
    ) -> stage.StageRun:
        settings, splits = self.stages[name], self.data[name]
        identity = {
            "version": STORE_VERSION,
            "task": dataclasses.asdict(settings.task),
            "optimizer": dataclasses.asdict(settings.optimizer),
            "train": dataclasses.asdict(settings.train),
            "dtype": str(platform.compute_dtype(settings.train)),
            "train_data": splits["train"].fingerprint,
            "dev_data": splits["dev"].fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "model": self.weights_fingerprint,
            "seed": seed,
            "start": parent.folder.name if parent else start,
        }
        text = json.dumps(identity, sort_keys=True)
        model = (self.encoder, settings.task.num_outputs)
        head = HEAD_OF[settings.task.kind]
        made = stage.StageRun(
            title=f"{path}/{name} seed {seed}",
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
            dropout=self.encoder != self.encoder.with_dropout(0.0),
            tracker_names=self.config.trackers,
        )
        made.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(made.folder / "identity.json", json.dumps(identity, indent=1))
        self._note_origin(made, name)
        stage.train(made, lambda: self._start_params(name, seed, start, parent))
        return made

    def _note_origin(self, made: stage.StageRun, name: str) -> None:
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
        self.vocabulary.save(made.folder / "vocabulary.npy")
        write_atomically(file, json.dumps(origin, indent=1))

    def _start_params(
        self, name: str, seed: int, start: str, parent: stage.StageRun | None
    ) -> Params:
        """Fresh parameters, with those of the start put in their place.

        The head of the stage before is kept if it answers the same question, the same classes in
        the same order; otherwise it is new but for parts that were pretrained (BERT's pooler),
        which come from the stage before if it has them, and else from the pretrained weights.
        """
        settings = self.stages[name]
        task = settings.task
        head = HEAD_OF[task.kind]
        fresh = state.random_params(self.encoder, task.num_outputs, seed, head)
        if settings.train.output_bias == "mean":
            mean = self.data[name]["train"].label.mean(dtype=np.float32)
            fresh["head"]["output"]["bias"] = np.full(1, mean, np.float32)
        if parent is not None:
            given = parent.best_params()
            same = (parent.settings.task.kind, parent.settings.task.labels) == (
                task.kind,
                task.labels,
            )
            if not same:
                parts = FAMILIES[self.encoder.family].heads[head].pretrained_names
                kept = {path.split("/")[1] for _, path, _ in parts}
                trained = {k: v for k, v in given["head"].items() if k in kept}
                given["head"] = self.weights(head).get("head", {}) | trained
        elif start == "pretrained":
            given = self.weights(head)
        else:
            given = {}
        return _merge(fresh, given)

    def _finish(
        self,
        path: str,
        seed: int,
        name: str,
        made: stage.StageRun,
        parent: stage.StageRun | None,
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
            params = made.best_params()
            (made.folder / "evaluations").mkdir(exist_ok=True)
            for k in missing:
                outputs, _ = made.evaluator.predict(params, sets[k])
                predictions = made.folder / "predictions" / f"{files[k].stem}.jsonl"
                write_predictions(predictions, made.settings.task, sets[k], outputs)
                entries = made.evaluator.report(k, sets[k], outputs)
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

    def introduce(self) -> None:
        """Prints what will be done: model, devices, data, steps."""
        machine = platform.machine()
        model = self.model_summary()
        mesh = ", ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items())
        used, whole = model["vocabulary_in_use"], model["vocabulary"]
        table(
            f"study {self.config.name}",
            None,
            [
                ("model", f"{model['source']} ({model['family']})"),
                ("parameters", f"{model['parameters']:,}"),
                ("in use", f"{model['parameters_in_use']:,}, {used:,} of {whole:,} tokens"),
                ("devices", f"{machine['devices']}, mesh {mesh}"),
                ("paths", ", ".join(self.config.paths)),
                ("seeds", ", ".join(map(str, self.config.seeds))),
                ("workdir", str(self.workdir)),
            ],
        )
        columns = ["stage", "split", "examples", "tokens", "mean", "cut", "padding", "steps"]
        rows = []
        for entry in self.data_summary():
            settings = self.stages[entry["stage"]].train
            plan = self._plan(entry["stage"]) if entry["split"] == "train" else None
            rows.append(
                [entry[key] for key in ("stage", "split", "examples", "tokens")]
                + [
                    round(entry["tokens"] / entry["examples"], 1),
                    entry["truncated"],
                    f"{plan.padding_share():.1%}" if plan else "",
                    f"{plan.total_steps} x {settings.batch_size}" if plan else "",
                ]
            )
        table("data", columns, rows)

    def _plan(self, name: str) -> TrainPlan:
        return TrainPlan.make(
            self.data[name]["train"],
            self.stages[name].train,
            self.config.seeds[0],
            self.encoder.pad_token_id,
            sharding.row_shards(self.mesh),
        )

    def model_summary(self) -> dict[str, Any]:
        """Where the model comes from, and its size with and without the tokens never used."""
        in_use = sum(
            math.prod(leaf.shape) for leaf in jax.tree.leaves(state.param_shapes(self.encoder, 1))
        )
        unused = self.vocabulary_size - len(self.vocabulary)
        return {
            "source": self.config.model.hub or self.folder.name,
            "family": self.encoder.family,
            "parameters": in_use + unused * self.encoder.hidden_size,
            "parameters_in_use": in_use,
            "vocabulary": self.vocabulary_size,
            "vocabulary_in_use": len(self.vocabulary),
            "fingerprint": self.weights_fingerprint,
        }

    def data_summary(self) -> list[dict[str, Any]]:
        """One record a split of a stage."""
        return [
            {
                "stage": name,
                "split": split,
                "examples": len(data.id),
                "tokens": int(data.lengths.sum()),
                "truncated": data.truncated,
                "languages": dict(sorted(collections.Counter(data.language).items())),
                "fingerprint": data.fingerprint,
            }
            for name, splits in self.data.items()
            for split, data in splits.items()
        ]

    def summary(self, runs: list[dict[str, Any]], command: str, seconds: float) -> dict[str, Any]:
        """The contents of study.json, which the report is made from."""
        config = self.config
        task = config.target.task
        intermediate = self.stages.get("intermediate")
        return {
            "name": config.name,
            "metric": task.metric,
            "metrics": list(task_metrics(task.kind)),
            "larger_is_better": LARGER_IS_BETTER[task.metric],
            "task": dataclasses.asdict(task),
            "intermediate_task": dataclasses.asdict(intermediate.task) if intermediate else None,
            "paths": list(config.paths),
            "seeds": list(config.seeds),
            "model": self.model_summary(),
            "config": config_build.to_dict(config),
            "versions": platform.versions(),
            "machine": platform.machine(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
            "git": workdirs.git_state(),
            "seconds": seconds,
            "data": self.data_summary(),
            "runs": runs,
        }

    def _vocabulary(self) -> Vocabulary:
        size, pad_id = self.encoder.vocab_size, self.encoder.pad_token_id
        if any(settings.optimizer.name == "adafactor" for settings in self.stages.values()):
            # Its step depends on the mean over all rows of a matrix, unused ones included.
            return Vocabulary.whole(size)
        every = [data for splits in self.data.values() for data in splits.values()]
        return Vocabulary.used(every, size, pad_id)


def _read(settings: Stage, data_dir: str, tokenizer: Any, cache: Path) -> dict[str, Tokenized]:
    """Reads and tokenises the splits of a stage and the sets it is evaluated on."""
    splits = sources.load_splits(settings.data, settings.task, data_dir)
    for name, source in settings.evaluate.items():
        splits[name] = sources.read_source(
            source, settings.task, data_dir, settings.data.split_seed
        )
    train, folder = settings.train, cache / "tokenized"
    return {
        name: tokenize.tokenize(examples, tokenizer, train.max_length, folder, train.doc_stride)
        for name, examples in splits.items()
    }


def weights_fingerprint(folder: Path, encoder: EncoderConfig) -> str:
    """Of the weight files in a folder, and of the encoder that they are read into."""
    digest = hashlib.sha256(repr(encoder).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


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
