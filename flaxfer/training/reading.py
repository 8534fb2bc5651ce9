"""Read the data of a study's stages: check for overlap, tokenise and renumber."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxfer.config import Config, Stage
from flaxfer.config.validation import check_steps
from flaxfer.data import tokenize
from flaxfer.data.clusters import clusters
from flaxfer.data.examples import Examples, excerpts
from flaxfer.data.loader import train_examples
from flaxfer.data.overlap import Keys, examine
from flaxfer.data.packing import best_row_length
from flaxfer.data.sources import Pool
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError
from flaxfer.models import lora, pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.tasks import task_type
from flaxfer.training.candidates import check_memory
from flaxfer.training.data import Draw, StageData, StudyData
from flaxfer.training.record import TRAINED_ON
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.vocabulary import Vocabulary


def read_study_data(config: Config, cache: Path) -> StudyData:
    """Read the data of a study's stages, and the config of its model.

    Args:
      config: of the study.
      cache: folder for tokenised data.

    Raises:
      FlaxferError: data, tokenizer or config.json cannot be used. Weights are not read.
    """
    settings = {"target": config.target}
    if config.intermediate is not None and "staged" in config.conditions:
        settings = {"intermediate": config.intermediate, **settings}
    folder = pretrained.resolve(config.model)
    encoder = pretrained.load_encoder_config(folder)
    tokenizer = tokenize.load_tokenizer(dataclasses.replace(config.model, path=str(folder)))
    encoder = encoder.with_dropout(config.model.dropout, config.model.attention_dropout)
    for name, stage in settings.items():
        check_layers(name, stage, encoder)
    drawing = _Drawing(config, settings, encoder, tokenizer, cache / "tokenized")
    by_seed = any(stage.data.split_seed == "seed" for stage in settings.values())
    first, *others = config.run_seeds
    draw = drawing.draw(first)
    data = StudyData(
        config=config,
        folder=folder,
        encoder=encoder,
        tokenizer=tokenize.tokenizer_fingerprint(tokenizer),
        draws={first: draw} | {s: drawing.draw(s) if by_seed else draw for s in others},
    )
    _check_steps(data)
    return data


class _Drawing:
    """Draws the data of a study's stages; what several seeds share is read and encoded once."""

    def __init__(
        self,
        config: Config,
        settings: Mapping[str, Stage],
        encoder: EncoderConfig,
        tokenizer: Any,
        cache: Path,
    ):
        self._mode, self._settings, self._encoder = config.overlap, settings, encoder
        self._tokenizer, self._cache = tokenizer, cache
        self._pools = {
            name: Pool.read(stage, task_type(stage.task), config.data_dir)
            for name, stage in settings.items()
        }
        self._examples: dict[tuple[str, str], Examples] = {}
        self._keys: dict[tuple[str, Examples], Keys] = {}
        self._tokenized: dict[tuple[str, str, Examples], Tokenized] = {}
        self._stages: dict[tuple[object, ...], StageData] = {}

    def draw(self, seed: int) -> Draw:
        """Return the data of all stages for a seed."""
        drawn = {name: self._shared(name, pool.splits(seed)) for name, pool in self._pools.items()}
        tasks = {name: stage.task for name, stage in self._settings.items()}
        examples, records = examine(drawn, tasks, self._mode, self._keys)
        tokenized = {
            name: {split: self._tokenize(name, split, one) for split, one in splits.items()}
            for name, splits in ((name, self._shared(name, of)) for name, of in examples.items())
        }
        stages = {name: self._stage(name, splits) for name, splits in tokenized.items()}
        return Draw(stages, _rehearsing(stages, tokenized), records)

    def _shared(self, name: str, splits: Mapping[str, Examples]) -> dict[str, Examples]:
        """Return the splits of a stage, those that an earlier seed had as the same objects."""
        return {
            split: self._examples.setdefault((name, examples.fingerprint), examples)
            for split, examples in splits.items()
        }

    def _tokenize(self, name: str, split: str, examples: Examples) -> Tokenized:
        train, key = self._settings[name].train, (name, split, examples)
        if key not in self._tokenized:
            tokenized = tokenize.tokenize(
                examples, self._tokenizer, train.max_length, self._cache, train.doc_stride
            )
            self._tokenized[key] = dataclasses.replace(
                tokenized,
                fingerprint=_scored(tokenized.fingerprint, self._settings[name], split),
                cluster=() if split in TRAINED_ON else clusters(examples),
                text=() if split in TRAINED_ON else excerpts(examples),
            )
        return self._tokenized[key]

    def _stage(self, name: str, splits: Mapping[str, Tokenized]) -> StageData:
        key = (name, *splits.values())
        if key not in self._stages:
            self._stages[key] = _stage(self._settings[name], self._encoder, splits)
        return self._stages[key]


def _stage(settings: Stage, encoder: EncoderConfig, splits: Mapping[str, Tokenized]) -> StageData:
    """Renumber the tokens of a stage by its vocabularies, and resolve its row length."""
    trained_on = {name: splits[name] for name in TRAINED_ON}
    vocabulary = _vocabulary(settings, encoder, trained_on.values())
    scoring = _vocabulary(settings, encoder, splits.values())
    evaluated = {name: data for name, data in splits.items() if name not in TRAINED_ON}
    for name, data in evaluated.items():
        check_memory(name, data, encoder.hidden_size)
    return StageData(
        settings=_with_row_length(settings, encoder, splits["train"]),
        encoder=encoder,
        vocabulary=vocabulary,
        splits={name: vocabulary.cut(data) for name, data in trained_on.items()},
        scoring_vocabulary=scoring,
        evaluated={name: scoring.cut(data) for name, data in evaluated.items()},
    )


def _scored(fingerprint: str, stage: Stage, split: str) -> str:
    """Return the hash of a set with its own way of scoring, if it differs from the task's."""
    task = stage.task_of(split)
    if task == stage.task:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {task}".encode()).hexdigest()


def _rehearsing(
    stages: Mapping[str, StageData], tokenized: Mapping[str, Mapping[str, Tokenized]]
) -> StageData | None:
    """Return the data of a target stage that rehearses the intermediate one."""
    target, intermediate = stages["target"], stages.get("intermediate")
    if intermediate is None or not target.settings.rehearsal_examples:
        return None
    trained_on = {name: tokenized["target"][name] for name in TRAINED_ON}
    rehearsed = tokenized["intermediate"]["train"]
    vocabulary = _vocabulary(target.settings, target.encoder, [*trained_on.values(), rehearsed])
    rehearsal = Rehearsal(
        examples=target.settings.rehearsal_examples,
        data=vocabulary.cut(rehearsed),
        task=intermediate.settings.task,
        train=intermediate.settings.train,
        model=intermediate.model.with_vocabulary(len(vocabulary)),
    )
    return dataclasses.replace(
        target,
        vocabulary=vocabulary,
        splits={name: vocabulary.cut(data) for name, data in trained_on.items()},
        rehearsal=rehearsal,
    )


def check_layers(name: str, stage: Stage, encoder: EncoderConfig) -> None:
    """Check that an encoder has the layers that a stage names.

    Raises:
      ConfigError: it has fewer.
    """
    if stage.lora is not None:
        lora.check_layers(f"{name}.lora.layers", stage.lora, encoder.num_layers)
    if (stage.task.embedding_layer or 0) > encoder.num_layers:
        raise ConfigError(
            f"is {stage.task.embedding_layer}, but the encoder has {encoder.num_layers} layers",
            where=f"{name}.task.embedding_layer",
            hint=f"name a layer from 1 to {encoder.num_layers}, or leave it out for the last one.",
        )


def _check_steps(data: StudyData) -> None:
    """Check the settings that count steps, now that the numbers of steps are known.

    Raises:
      ConfigError: they do not fit.
    """
    stages = []
    for draw in data.draws.values():
        stages += [("target", draw.rehearsing)] if draw.rehearsing else []
        always_rehearsed = draw.rehearsing and set(data.config.conditions) == {"staged"}
        for name, stage in draw.stages.items():
            if name != "target" or not always_rehearsed:
                stages.append((name, stage))
    details: dict[str, None] = {}
    for name, stage in stages:
        train, steps = stage.settings.train, stage.total_steps()
        words = f"the {steps} steps of {train.epochs:g} epochs of {train_examples(stage.train)}"
        of_steps = f"max_steps {steps}" if train.max_steps else f"{words} examples"
        for _, text in check_steps(stage.settings.optimizer, train, steps, of_steps):
            details[f"{name}.{text}"] = None
    if details:
        raise ConfigError(
            "settings do not fit the number of steps",
            where=data.config.name,
            details=list(details),
            hint="give fractions instead of steps (optimizer.warmup below 1), evaluate once per "
            "epoch (train.eval_every=0), or train for longer (train.epochs, train.max_steps).",
        )


def _with_row_length(settings: Stage, encoder: EncoderConfig, data: Tokenized) -> Stage:
    """Return the settings with the row length chosen if it is `auto`."""
    train = settings.train
    if train.row_length:
        return settings
    length = train.max_length
    if train.packing:
        sequences = len(data) / train_examples(data)
        batch = round(train.batch_size / train.gradient_accumulation_steps * sequences)
        length = best_row_length(data.lengths, batch, length, encoder.hidden_size)
    return dataclasses.replace(settings, train=dataclasses.replace(train, row_length=length))


def _vocabulary(settings: Stage, encoder: EncoderConfig, data: Iterable[Tokenized]) -> Vocabulary:
    if settings.optimizer.name == "adafactor":
        # Its step depends on the mean over all rows of a matrix, unused ones included.
        return Vocabulary.whole(encoder.vocab_size)
    return Vocabulary.used(data, encoder.vocab_size, encoder.pad_token_id)
