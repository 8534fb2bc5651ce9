"""The data of a study's stages, with their tokens renumbered."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flaxfer.config import Config, Stage
from flaxfer.data.examples import count_units
from flaxfer.data.loader import TrainPlan, total_steps
from flaxfer.data.overlap import Overlap
from flaxfer.data.tokenize import Tokenized
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.spec import ModelSpec
from flaxfer.tasks.models import model_spec
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.vocabulary import Vocabulary

T = TypeVar("T")


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
class Draw:
    """The data of a study's stages for one seed.

    Attributes:
      stages: data by stage name, `intermediate` first if there is one.
      rehearsing: data of the target stage after the intermediate stage, if it rehearses that.
      overlap: what the splits share.
    """

    stages: Mapping[str, StageData]
    rehearsing: StageData | None
    overlap: list[Overlap]

    def summary(self) -> list[dict[str, Any]]:
        """Return one record for every split of every stage."""
        return [
            {"stage": name, **record}
            for name, data in self.stages.items()
            for record in data.summary()
        ]


@dataclasses.dataclass(frozen=True)
class StudyData:
    """Everything that a study reads before it trains.

    Attributes:
      config: of the study.
      folder: of the pretrained model.
      encoder: its config, with its whole vocabulary and the dropout of the study.
      tokenizer: content hash of the tokenizer.
      draws: data by seed; the same for all unless a stage has `split_seed="seed"`.
    """

    config: Config
    folder: Path
    encoder: EncoderConfig
    tokenizer: str
    draws: Mapping[int, Draw]

    @property
    def stages(self) -> Mapping[str, StageData]:
        """Data by stage name for the first seed."""
        return self.draws[self.config.run_seeds[0]].stages

    def stage(self, name: str, seed: int, after_intermediate: bool = False) -> StageData:
        """Return the data of a stage in the runs of a seed."""
        draw = self.draws[seed]
        if after_intermediate and draw.rehearsing is not None:
            return draw.rehearsing
        return draw.stages[name]

    @property
    def overlap(self) -> list[Overlap]:
        """Texts that several splits share; one record a seed where seeds differ."""
        records = {seed: draw.overlap for seed, draw in self.draws.items()}
        return _by_seed(records, lambda record, seed: dataclasses.replace(record, seed=seed))

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
        ids = [
            vocabulary.ids
            for draw in self.draws.values()
            for data in (*draw.stages.values(), draw.rehearsing)
            if data is not None
            for vocabulary in (data.vocabulary, data.scoring_vocabulary)
        ]
        return np.unique(np.concatenate(ids))

    def summary(self) -> list[dict[str, Any]]:
        """Return the records of all splits for study.json, with the seed where seeds differ."""
        records = {seed: draw.summary() for seed, draw in self.draws.items()}
        return _by_seed(records, lambda record, seed: {**record, "seed": seed})


def _by_seed(records: Mapping[int, Sequence[T]], mark: Callable[[T, int], T]) -> list[T]:
    """Return what is equal for all seeds once, and what differs once for each seed, marked."""
    merged: list[T] = []
    for of_seeds in zip(*records.values(), strict=True):
        if all(record == of_seeds[0] for record in of_seeds):
            merged.append(of_seeds[0])
        else:
            merged += map(mark, of_seeds, records)
    return merged


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
