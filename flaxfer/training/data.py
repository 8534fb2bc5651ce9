"""The data of a study's stages: read, checked for overlap, tokenised and renumbered."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Config, Stage
from flaxfer.config.validation import check_steps
from flaxfer.data import overlap, sources, tokenize
from flaxfer.data.examples import Examples, count_units
from flaxfer.data.loader import TrainPlan, total_steps, train_examples
from flaxfer.data.packing import best_row_length
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.spec import ModelSpec
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.record import TRAINED_ON
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class StageData:
    """The splits of a stage.

    Attributes:
      settings: the stage's section of the config, with the row length resolved.
      encoder: config of the pretrained encoder, with its whole vocabulary.
      vocabulary: ids in train and dev, which the embedding is cut to.
      splits: train and dev, their tokens numbered by `vocabulary`.
      scoring_vocabulary: ids in all splits and evaluated sets.
      evaluated: the other splits and sets, their tokens numbered by `scoring_vocabulary`.
      rehearsal: what of another task is mixed into the batches.
    """

    settings: Stage
    encoder: EncoderConfig
    vocabulary: Vocabulary
    splits: Mapping[str, Tokenized]
    scoring_vocabulary: Vocabulary
    evaluated: Mapping[str, Tokenized]
    rehearsal: Rehearsal | None = None

    @property
    def train(self) -> Tokenized:
        """The split that is trained on."""
        return self.splits["train"]

    @property
    def dev(self) -> Tokenized:
        """The split that chooses the best checkpoint."""
        return self.splits["dev"]

    @property
    def model(self) -> ModelSpec:
        """The model with an embedding cut to `vocabulary`."""
        model = model_spec(self.encoder, self.settings.task)
        return model.with_vocabulary(len(self.vocabulary))

    def plan(self, seeds: tuple[int, ...], multiple: int) -> TrainPlan:
        """Return what every step trains on; the number of rows is a multiple of `multiple`."""
        make = TrainPlan.make if self.rehearsal is None else self.rehearsal.plan
        pad_id = self.encoder.pad_token_id
        return make(self.train, self.settings.train, seeds, pad_id, multiple)

    def total_steps(self) -> int:
        """Return the optimizer updates without early stopping."""
        train = self.settings.train
        return total_steps(self.train, self.rehearsal.rest(train) if self.rehearsal else train)

    def summary(self) -> list[dict[str, Any]]:
        """Return one record for every split and set, for study.json."""
        return [
            {
                "split": split,
                "examples": len(data.id),
                "tokens": int(data.lengths.sum()),
                "truncated": data.truncated,
                "languages": dict(sorted(Counter(data.language).items())),
                "fingerprint": data.fingerprint,
                "units": count_units(data.cluster),
            }
            for split, data in {**self.splits, **self.evaluated}.items()
        ]


@dataclasses.dataclass(frozen=True)
class StudyData:
    """Everything that a study reads before it trains.

    Attributes:
      config: of the study.
      folder: of the pretrained model.
      encoder: its config, with its whole vocabulary and the dropout of the study.
      tokenizer: content hash of the tokenizer.
      stages: data by stage name, `intermediate` first if there is one.
      rehearsing: data of the target stage after the intermediate stage, if it rehearses that.
      overlap: what the splits share.
    """

    config: Config
    folder: Path
    encoder: EncoderConfig
    tokenizer: str
    stages: Mapping[str, StageData]
    rehearsing: StageData | None
    overlap: list[overlap.Overlap]

    def stage(self, name: str, after_intermediate: bool = False) -> StageData:
        """Return the data of a stage."""
        if after_intermediate and self.rehearsing is not None:
            return self.rehearsing
        return self.stages[name]

    @functools.cached_property
    def weights(self) -> str:
        """Content hash of the weight files and the encoder's config."""
        return pretrained.weights_fingerprint(self.folder, self.encoder)

    @functools.cached_property
    def head_parts(self) -> Mapping[str, frozenset[str]]:
        """The parts of each head that the pretrained weights contain."""
        return pretrained.pretrained_head_parts(self.folder, self.encoder)

    def ids(self) -> np.ndarray:
        """Return the ids, ascending, whose pretrained embedding rows a stage may need."""
        data = [*self.stages.values(), *([self.rehearsing] if self.rehearsing else [])]
        ids = [d.vocabulary.ids for d in data] + [d.scoring_vocabulary.ids for d in data]
        return np.unique(np.concatenate(ids))

    def summary(self) -> list[dict[str, Any]]:
        """Return one record for every split of every stage, for study.json."""
        return [
            {"stage": name, **record}
            for name, data in self.stages.items()
            for record in data.summary()
        ]


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
    examples, shared = overlap.examine(
        {name: _read(stage, config.data_dir) for name, stage in settings.items()},
        {name: stage.task for name, stage in settings.items()},
        config.overlap,
    )
    tokenized = {
        name: {
            split: dataclasses.replace(
                tokenize.tokenize(
                    data,
                    tokenizer,
                    stage.train.max_length,
                    cache / "tokenized",
                    stage.train.doc_stride,
                ),
                cluster=() if split in TRAINED_ON else overlap.clusters(data),
            )
            for split, data in examples[name].items()
        }
        for name, stage in settings.items()
    }
    stages = {name: _stage(stage, encoder, tokenized[name]) for name, stage in settings.items()}
    data = StudyData(
        config=config,
        folder=folder,
        encoder=encoder,
        tokenizer=tokenize.tokenizer_fingerprint(tokenizer),
        stages=stages,
        rehearsing=_rehearsing(stages, tokenized),
        overlap=shared,
    )
    _check_steps(data)
    return data


def _read(settings: Stage, data_dir: str) -> dict[str, Examples]:
    """Read the splits of a stage and the sets it is evaluated on."""
    task, form = settings.task, task_type(settings.task)
    splits = sources.load_splits(settings.data, task, form, data_dir)
    for name, source in settings.evaluate.items():
        splits[name] = sources.read_source(source, task, form, data_dir, settings.data.split_seed)
    return splits


def _stage(settings: Stage, encoder: EncoderConfig, splits: Mapping[str, Tokenized]) -> StageData:
    """Renumber the tokens of a stage by its vocabularies, and resolve its row length."""
    trained_on = {name: splits[name] for name in TRAINED_ON}
    vocabulary = _vocabulary(settings, encoder, trained_on.values())
    scoring = _vocabulary(settings, encoder, splits.values())
    evaluated = {name: data for name, data in splits.items() if name not in TRAINED_ON}
    return StageData(
        settings=_with_row_length(settings, encoder, splits["train"]),
        encoder=encoder,
        vocabulary=vocabulary,
        splits={name: vocabulary.cut(data) for name, data in trained_on.items()},
        scoring_vocabulary=scoring,
        evaluated={name: scoring.cut(data) for name, data in evaluated.items()},
    )


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


def _check_steps(data: StudyData) -> None:
    """Check the settings that count steps, now that the numbers of steps are known.

    Raises:
      ConfigError: they do not fit.
    """
    stages = [("target", data.rehearsing)] if data.rehearsing else []
    always_rehearsed = bool(stages) and set(data.config.conditions) == {"staged"}
    for name, stage in data.stages.items():
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
        batch = train.batch_size // train.gradient_accumulation_steps * data.choices
        length = best_row_length(data.lengths, batch, length, encoder.hidden_size)
    return dataclasses.replace(settings, train=dataclasses.replace(train, row_length=length))


def _vocabulary(settings: Stage, encoder: EncoderConfig, data: Iterable[Tokenized]) -> Vocabulary:
    if settings.optimizer.name == "adafactor":
        # Its step depends on the mean over all rows of a matrix, unused ones included.
        return Vocabulary.whole(encoder.vocab_size)
    return Vocabulary.used(data, encoder.vocab_size, encoder.pad_token_id)


def example_ids(plan: TrainPlan, step: int, which: int = 0) -> list[str]:
    """Return the ids of the examples of a batch, those of a rehearsed task last.

    Args:
      plan: of the stage.
      step: steps taken before the batch.
      which: index of the seed among those of the plan.
    """
    data, indices = plan.data, plan.indices(step, which)
    examples = indices if data.choices > 1 else data.example[indices]
    others = example_ids(plan.rehearsed, step, which) if plan.rehearsed else []
    return [data.id[i] for i in dict.fromkeys(examples.tolist())] + others
