"""Stages and sources with what surrounds them in a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flaxfer.config import Source, Stage, Task
from flaxfer.config.task_types import TaskType


class Place(NamedTuple):
    """A stage in its study.

    Attributes:
      stage: The stage.
      task_type: Its type, or any if that is unknown.
      target: Whether it is a target stage.
      staged: Whether it is trained after an intermediate stage in some condition.
      pretrained: Whether it starts from other than random weights in some condition.
      fractions: Fractions of its training split in the cells of a grid.
    """

    stage: Stage
    task_type: TaskType
    target: bool = True
    staged: bool = True
    pretrained: bool = True
    fractions: tuple[float, ...] = (1.0,)

    @property
    def sources(self) -> Sequence[Source]:
        """All sources of the stage."""
        data = self.stage.data
        return [*data.train, *data.dev, *data.test, *self.stage.evaluate.values()]

    def samples(self) -> bool:
        """Return whether `data.split_seed` divides or samples anything."""
        data = self.stage.data
        sources = [*data.train, *data.dev] if data.split_seed == "seed" else self.sources
        fractions = [source.fraction for source in sources]
        fractions += [data.train_fraction, *self.fractions]
        return not data.dev or min(fractions) < 1

    def evaluations(self) -> float:
        """Return the number of evaluations on dev if it does not depend on data, else infinity."""
        train = self.stage.train
        if train.max_steps and train.eval_every:
            return -(-train.max_steps // train.eval_every)
        if not train.max_steps and not train.eval_every:
            return -(-train.epochs // 1)
        return float("inf")


class SourcePlace(NamedTuple):
    """A source with the task of its stage; `evaluated` says whether it is a set of `evaluate`."""

    source: Source
    task: Task
    task_type: TaskType
    evaluated: bool = False

    @property
    def format(self) -> str:
        """Format of the file; `hub` for the hub, empty if unknown."""
        return "hub" if self.source.hub else self.source.file_format

    @property
    def roles(self) -> set[str]:
        """All roles that the source has."""
        return {*self.source.roles, *self.source.aligned}

    def is_file(self, *formats: str) -> bool:
        """Return whether the source is a file of one of the formats, or of an unknown one."""
        return self.format in (*formats, "")
