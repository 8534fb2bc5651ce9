"""What the stages of a study share, and what is told of it before and after."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer.config import Config, Stage, Task, Train, loading
from flaxfer.data import overlap, sources, tokenize
from flaxfer.data.examples import Examples
from flaxfer.data.loader import TrainPlan
from flaxfer.data.packing import best_row_length
from flaxfer.data.tokenize import Tokenized
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.progress import say, table
from flaxfer.runtime.trees import Params
from flaxfer.study import workdirs
from flaxfer.tasks import task_type
from flaxfer.training import rows
from flaxfer.training.vocabulary import Vocabulary

TRAINED = ("train", "dev")
"""The splits that a stage's training reads."""

SIZE_RATIO = 10
"""Train examples of the intermediate task for one of the target, at least: so the design of
Mohapatra & Mohapatra (2022) has it.
"""

Splits = Mapping[str, Tokenized]
"""The splits of a stage: train, dev, perhaps test, and the sets of `Stage.evaluate`."""


@dataclasses.dataclass(frozen=True)
class Rehearsing:
    """What the target stage reads where it rehearses the intermediate task.

    Attributes:
      vocabulary: the ids in all of it, by which its tokens are numbered.
      train, dev: of the target.
      rehearsed: the train split of the intermediate stage.
    """

    vocabulary: Vocabulary
    train: Tokenized
    dev: Tokenized
    rehearsed: Tokenized


class Inputs:
    """The model's weights, the data, the mesh.

    Attributes:
      encoder: of the model, with its whole vocabulary.
      stages: their settings by name.
      data: their splits by name; tokens are numbered by `vocabularies` in train and dev, and by
        `scoring` in the other sets.
      vocabularies: by stage, the ids in its train and dev splits: what its embedding is cut to.
      scoring: by stage, the ids in all its splits: what it is scored with.
      rehearsing: what the target reads on the path `staged` if it rehearses, else None.
    """

    def __init__(self, config: Config, workdir: Path, cache: Path):
        self.config, self.workdir = config, workdir
        self.introduced = False
        self._weights: dict[str, Params] = {}
        self._start_scores: dict[str, dict[str, Any]] = {}
        self.stages: dict[str, Stage] = {"target": config.target}
        if config.intermediate is not None and "staged" in config.conditions:
            self.stages = {"intermediate": config.intermediate, **self.stages}
        self.mesh = sharding.make_mesh(*config.mesh.sizes)
        self.folder = pretrained.resolve(config.model)
        tokenizer = tokenize.load_tokenizer(config.model)
        self.tokenizer_fingerprint = tokenize.tokenizer_fingerprint(tokenizer)
        self.encoder = pretrained.load_encoder_config(self.folder)
        rates = config.model.dropout, config.model.attention_dropout
        self.encoder = self.encoder.with_dropout(*rates)
        examples, self.overlap = overlap.examine(
            {name: _read(settings, config.data_dir) for name, settings in self.stages.items()},
            {name: settings.task for name, settings in self.stages.items()},
            config.overlap,
        )
        self.data: dict[str, Splits] = {}
        self.vocabularies: dict[str, Vocabulary] = {}
        self.scoring: dict[str, Vocabulary] = {}
        read: dict[str, dict[str, Tokenized]] = {}
        for name, settings in self.stages.items():
            splits = read[name] = _tokenize(examples[name], settings.train, tokenizer, cache)
            own = self.vocabularies[name] = self._vocabulary(
                settings, [splits[split] for split in TRAINED]
            )
            every = self.scoring[name] = self._vocabulary(settings, splits.values())
            self.data[name] = {
                split: (own if split in TRAINED else every).cut(data)
                for split, data in splits.items()
            }
        self.rehearsing: Rehearsing | None = None
        if "intermediate" in self.stages and config.target.rehearse:
            splits = read["target"]
            sets = splits["train"], splits["dev"], read["intermediate"]["train"]
            vocabulary = self._vocabulary(config.target, sets)
            self.rehearsing = Rehearsing(vocabulary, *map(vocabulary.cut, sets))
        self.stages = {name: self._with_row_length(name) for name in self.stages}

    def _with_row_length(self, name: str) -> Stage:
        """The settings of a stage, the length of its rows chosen if that is `auto`."""
        settings, data = self.stages[name], self.data[name]["train"]
        train = settings.train
        if train.row_length:
            return settings
        length = train.max_length
        if train.packing:
            batch = train.batch_size // train.gradient_accumulation_steps * data.choices
            length = best_row_length(data.lengths, batch, length, self.encoder.hidden_size)
        return dataclasses.replace(settings, train=dataclasses.replace(train, row_length=length))

    def encoder_with(self, vocabulary: Vocabulary) -> EncoderConfig:
        """The encoder with an embedding cut to some ids."""
        return dataclasses.replace(self.encoder, vocab_size=len(vocabulary))

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        """Ids, ascending, that a stage may ask the pretrained weights for."""
        every = [*self.vocabularies.values(), *self.scoring.values()]
        every += [self.rehearsing.vocabulary] if self.rehearsing else []
        return np.unique(np.concatenate([vocabulary.ids for vocabulary in every]))

    def weights(self, head: str) -> Params:
        """The pretrained parameters: `encoder`, and what the file has of the head so named.

        The word embedding has the rows that a stage may ask `first_rows` for, and no others.
        """
        if head not in self._weights:  # Kept here, so that they go with the study.
            loaded = pretrained.load_pretrained(self.folder, self.encoder, head=head)
            table = rows.word_table(loaded)[self._ids]
            self._weights[head] = rows.with_table(loaded, table)
        return self._weights[head]

    def first_rows(self, start: str, task: Task, seed: int) -> rows.Rows:
        """What gives the rows of the word embedding that a stage without a parent begins with."""

        def given(ids: np.ndarray) -> np.ndarray:
            if start == "random":
                return rows.random_table(self.encoder, task, seed)[ids]
            table = rows.word_table(self.weights(task_type(task).head))
            return table[np.searchsorted(self._ids, ids)]

        return given

    @functools.cached_property
    def weights_fingerprint(self) -> str:
        """Of the weight files and the model's settings."""
        return pretrained.weights_fingerprint(self.folder, self.encoder)

    def introduce(self) -> None:
        """Prints what will be done: model, devices, data, steps."""
        self.introduced = True
        machine = platform.machine()
        model = self.model_summary()
        dtype = platform.compute_dtype(self.config.target.train.compute_dtype)
        mesh = ", ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items())
        table(
            f"study {self.config.name}",
            None,
            [
                ("model", f"{model['source']} ({model['family']})"),
                ("parameters", f"{model['parameters']:,}, {model['vocabulary']:,} tokens"),
                *(
                    (f"{name} trains", f"{size:,}, {model['vocabulary_in_use'][name]:,} tokens")
                    for name, size in model["parameters_in_use"].items()
                ),
                ("devices", f"{machine['devices']}, mesh {mesh}"),
                ("compiler", platform.describe_compiler(self.mesh.devices.flat[0], dtype)),
                ("conditions", ", ".join(self.config.conditions)),
                ("seeds", ", ".join(map(str, self.config.seeds))),
                ("workdir", str(self.workdir)),
            ],
        )
        columns = [
            "stage",
            "split",
            "examples",
            "tokens",
            "mean",
            "cut",
            "rows of",
            "padding",
            "steps",
        ]
        rows = []
        for entry in self.data_summary():
            settings = self.stages[entry["stage"]].train
            plan = self._plan(entry["stage"]) if entry["split"] == "train" else None
            rows.append(
                [entry[key] for key in ("stage", "split", "examples", "tokens")]
                + [
                    round(entry["tokens"] / entry["examples"], 1),
                    entry["truncated"],
                    settings.row_length,
                    f"{plan.padding_share():.1%}" if plan else "",
                    f"{plan.total_steps} x {settings.batch_size}" if plan else "",
                ]
            )
        table("data", columns, rows)
        if shared := list(overlap.rows(self.overlap)):
            table("overlap", overlap.COLUMNS, shared)
        rule = self.size_rule()
        if rule is not None and not rule["holds"]:
            say(
                f"warning: the intermediate task has {rule['intermediate']:,} examples to train "
                f"on, {rule['ratio']:.1f} times the target's {rule['target']:,}; the published "
                f"design has at least {SIZE_RATIO} times as many"
            )

    def size_rule(self) -> dict[str, Any] | None:
        """Train examples of both tasks, their ratio, and whether it holds to `SIZE_RATIO`; None
        without an intermediate task.
        """
        if "intermediate" not in self.stages:
            return None
        sizes = {name: len(self.data[name]["train"].id) for name in ("intermediate", "target")}
        ratio = sizes["intermediate"] / sizes["target"]
        return {**sizes, "ratio": ratio, "holds": ratio >= SIZE_RATIO}

    def _plan(self, name: str) -> TrainPlan:
        return TrainPlan.make(
            self.data[name]["train"],
            self.stages[name].train,
            self.config.seeds[:1],
            self.encoder.pad_token_id,
            sharding.row_shards(self.mesh),
        )

    def model_summary(self) -> dict[str, Any]:
        """Where the model comes from, and its size, by stage without the tokens it never trains."""
        sizes = {name: len(vocabulary) for name, vocabulary in self.vocabularies.items()}
        shapes = ModelSpec(self.encoder, num_outputs=1).param_shapes()
        whole = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        size, width = self.encoder.vocab_size, self.encoder.hidden_size
        return {
            "source": self.config.model.hub or self.folder.name,
            "family": self.encoder.family,
            "parameters": whole,
            "parameters_in_use": {
                name: whole - (size - used) * width for name, used in sizes.items()
            },
            "vocabulary": size,
            "vocabulary_in_use": sizes,
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

    def facts(self) -> dict[str, Any]:
        """What study.json, which the report is made from, says beside the runs."""
        config = self.config
        task = config.target.task
        intermediate = self.stages.get("intermediate")
        return {
            "name": config.name,
            "metric": task.metric,
            "metrics": list(task_type(task).metrics),
            "larger_is_better": task_type(task).larger_is_better(task.metric),
            "task": dataclasses.asdict(task),
            "intermediate_task": dataclasses.asdict(intermediate.task) if intermediate else None,
            "conditions": list(config.conditions),
            "seeds": list(config.seeds),
            "model": self.model_summary(),
            "config": loading.to_dict(config),
            "versions": platform.versions(),
            "machine": platform.machine(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "git": workdirs.git_state(),
            "data": self.data_summary(),
            "overlap": [dataclasses.asdict(record) for record in self.overlap],
            "size_rule": self.size_rule(),
        }

    def _vocabulary(self, settings: Stage, data: Iterable[Tokenized]) -> Vocabulary:
        """The ids that a stage has rows for if it is to read some data."""
        if settings.optimizer.name == "adafactor":
            # Its step depends on the mean over all rows of a matrix, unused ones included.
            return Vocabulary.whole(self.encoder.vocab_size)
        return Vocabulary.used(data, self.encoder.vocab_size, self.encoder.pad_token_id)


def _read(settings: Stage, data_dir: str) -> dict[str, Examples]:
    """Reads the splits of a stage and the sets it is evaluated on."""
    form = task_type(settings.task)
    splits = sources.load_splits(settings.data, settings.task, form, data_dir)
    for name, source in settings.evaluate.items():
        splits[name] = sources.read_source(
            source, settings.task, form, data_dir, settings.data.split_seed
        )
    return splits


def _tokenize(
    splits: Mapping[str, Examples], train: Train, tokenizer: Any, cache: Path
) -> dict[str, Tokenized]:
    folder = cache / "tokenized"
    return {
        name: tokenize.tokenize(examples, tokenizer, train.max_length, folder, train.doc_stride)
        for name, examples in splits.items()
    }
