"""Rehearsal: a stage whose batches hold examples of the stage before, with that one's own head.

Experience replay (Rolnick et al. 2019; mix-review of He et al. 2021 for fine-tuning). The heads of
the two tasks may be of different kinds: they share the encoder, the optimiser and the step. The
other head trains on, and lies beside the parameters in the checkpoints.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flaxfer.config import Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.data.packing import REHEARSED
from flaxfer.data.tokenize import Tokenized
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.trees import Params
from flaxfer.training.step import RehearsedObjective


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
      examples: of each batch that are rehearsed ones.
      data: the train split of the stage before.
      task, train: of the stage before.
      model: its head on the encoder of this stage.
    """

    examples: int
    data: Tokenized
    task: Task
    train: Train
    model: ModelSpec

    @property
    def head_shapes(self) -> Params:
        """Shapes of its head, nested dict of `ShapeDtypeStruct`."""
        shapes: Params = self.model.param_shapes()["head"]
        return shapes

    def objective(self, train: Train) -> RehearsedObjective:
        """What the step has to know; `train` is of the stage that rehearses."""
        share = self.examples / train.batch_size
        return RehearsedObjective(self.model, self.task, self.train.label_smoothing, share)

    def plan(self, plan: TrainPlan, train: Train) -> TrainPlan:
        """`plan` with the rehearsed examples of every step.

        They are taken in the order that the stage before had of the same seed. They have one shape,
        so that no more programs are compiled than without them.
        """
        own = dataclasses.replace(
            self.train,
            batch_size=self.examples,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            packing=train.packing,
            max_steps=plan.total_steps,
            max_bucket_sizes=1,
        )
        other = TrainPlan.make(self.data, own, plan.seeds, plan.pad_id, plan.multiple)
        return dataclasses.replace(plan, rehearsed=other)


def plan(
    data: Tokenized,
    train: Train,
    seeds: tuple[int, ...],
    pad_id: int,
    multiple: int,
    rehearsal: Rehearsal | None,
) -> TrainPlan:
    """`TrainPlan.make`, with room in every batch for what is rehearsed."""
    made = TrainPlan.make(data, own_part(train, rehearsal), seeds, pad_id, multiple)
    return made if rehearsal is None else rehearsal.plan(made, train)


def own_part(train: Train, rehearsal: Rehearsal | None) -> Train:
    """The settings of a stage for the examples of its own task alone."""
    if rehearsal is None:
        return train
    return dataclasses.replace(train, batch_size=train.batch_size - rehearsal.examples)


def with_head(params: Params, rehearsal: Rehearsal | None) -> Params:
    """The shapes of a model with those of the rehearsed head."""
    return params if rehearsal is None else {**params, REHEARSED: rehearsal.head_shapes}


def parted(params: Params) -> dict[str, Any]:
    """What is trained as the items of a checkpoint: the model, and the rehearsed head if any."""
    model = {name: part for name, part in params.items() if name != REHEARSED}
    return {"params": model} | {name: params[name] for name in params if name == REHEARSED}


def joined(items: dict[str, Any]) -> Params:
    """What `parted` parted."""
    others = {name: items[name] for name in items if name == REHEARSED}
    params: Params = {**items["params"], **others}
    return params
