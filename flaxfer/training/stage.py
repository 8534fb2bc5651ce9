"""A stage to be trained, as a value whose content hash is its identity."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxfer import config
from flaxfer.models.spec import ModelSpec
from flaxfer.training import handover, restarts
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.record import StageRecord, content_hash

STORE_VERSION = 7
"""Part of every identity; raised when the same settings would give other results."""

SAVING = ("log_every", "save_every", "save_minutes")
"""Settings of `Train` that change no result, and so no identity."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Something measured of a trained stage, kept in a file of its folder as a list of records.

    Attributes:
      key: `evaluations`, `wise_ft` or `retained`, the key of the records in study.json.
      file: path within the stage's folder; its name holds the content hash of the data.
      name: evaluated set; for `wise_ft` the mixing weight.
    """

    key: str
    file: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One fine-tuning of one seed: what is trained, from which start, on which data.

    Attributes:
      condition: `direct`, `staged` or `scratch`.
      name: `intermediate` or `target`.
      seed: of data order, new heads and dropout.
      settings: the stage's section of the config, with all choices resolved.
      model: encoder, its embedding cut to the stage's vocabulary, and head.
      dtype: of the matmuls.
      start: `pretrained`, `random`, or the stage whose best parameters this one starts from.
      hashes: content hashes by name: `train_data`, `dev_data`, `vocabulary`, and `model` for the
        pretrained weights.
      store: folder of the stages.
      total_steps: optimizer updates without early stopping.
      tokens: of the examples of all these steps, for estimates of time.
      measurements: what is measured once the stage is trained.
      loaded: parts of the head that the pretrained weights contain.
      start_scores: file in the stage's folder for scores of its start, empty for none.
    """

    condition: str
    name: str
    seed: int
    settings: config.Stage
    model: ModelSpec
    dtype: str
    start: StageSpec | str
    hashes: Mapping[str, str]
    store: Path
    total_steps: int
    tokens: float = 0.0
    measurements: tuple[Measurement, ...] = ()
    loaded: frozenset[str] = frozenset()
    start_scores: str = ""

    @property
    def parent(self) -> StageSpec | None:
        """The stage that this one starts from, if it starts from one."""
        return self.start if isinstance(self.start, StageSpec) else None

    @property
    def lineage(self) -> list[StageSpec]:
        """All stages up to this one, the first one first."""
        return [*(self.parent.lineage if self.parent else ()), self]

    @property
    def title(self) -> str:
        """Condition, stage and seed, for people."""
        return f"{self.condition}/{self.name} seed {self.seed}"

    @property
    def rehearses(self) -> bool:
        """Return whether its batches hold examples of the intermediate task."""
        return self.parent is not None and self.settings.rehearsal_examples > 0

    @property
    def trained_model(self) -> ModelSpec:
        """The model while it is trained, with its adapters."""
        return dataclasses.replace(self.model, lora=self.settings.lora)

    @property
    def fresh(self) -> tuple[str, ...]:
        """Patterns of the parameters that start neither pretrained nor from another stage."""
        before = self.parent.settings.task if self.parent else None
        family = self.model.encoder.family
        return handover.fresh_patterns(family, self.settings.task, before, self.loaded)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        settings, train = self.settings, dataclasses.asdict(self.settings.train)
        return {
            "version": STORE_VERSION,
            "task": dataclasses.asdict(settings.task),
            "optimizer": dataclasses.asdict(settings.optimizer),
            "train": {k: v for k, v in train.items() if k not in SAVING},
            "dtype": self.dtype,
            **self.hashes,
            "seed": self.seed,
            "start": self.parent.folder.name if self.parent else self.start,
            **({"rehearsal_examples": settings.rehearsal_examples} if self.rehearses else {}),
            **({"lora": dataclasses.asdict(settings.lora)} if settings.lora else {}),
            **({"max_restarts": settings.max_restarts} if settings.max_restarts else {}),
        }

    @functools.cached_property
    def folder(self) -> Path:
        """Folder in the store, named by the content hash of the identity."""
        return self.store / content_hash(self.identity)

    @property
    def record(self) -> StageRecord:
        """Record of what the stage has left on disk so far."""
        return StageRecord(self.folder)

    @property
    def checkpoints(self) -> CheckpointStore:
        """Store of its checkpoints."""
        return self.record.checkpoints(self.settings.task)

    def attempt_seed(self) -> int:
        """Return the seed of the current attempt, see `flaxfer.training.restarts`."""
        return restarts.attempt_seed(self.seed, len(self.record.attempts()))

    def is_complete(self) -> bool:
        """Return whether the stage is trained and everything is measured."""
        return self.record.is_trained() and not self.missing()

    def missing(self) -> list[Measurement]:
        """Return what is still to be measured."""
        return [one for one in self.measurements if not (self.folder / one.file).exists()]

    def failure(self) -> str:
        """Return why the stage cannot be trained; empty if it can."""
        if self.parent is not None and self.parent.record.failure():
            return f"the stage that it starts from, {self.parent.folder.name}, has diverged"
        return self.record.failure()

    def is_settled(self) -> bool:
        """Return whether nothing is left to be done."""
        return self.is_complete() or bool(self.failure())
