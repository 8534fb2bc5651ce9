"""Rehearsal: batches that mix in examples of the stage before, with that stage's own head.

Experience replay (Rolnick et al. 2019; mix-review of He et al. 2021 for fine-tuning). The two tasks
share the encoder, the optimizer and the step; their heads may be of different types. The other head
is trained further, under the key `rehearsed` of the parameters and of the checkpoints.
"""

from __future__ import annotations

import dataclasses

from flaxfer.config import Lora, Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.data.tokenize import Tokenized
from flaxfer.models.spec import ModelSpec
from flaxfer.training.step import Rehearsed


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """Task, data and model that a stage rehearses.

    Attributes:
      examples: rehearsed examples of each batch.
      data: the train split of the stage before.
      task, train: settings of the stage before.
      model: the encoder of this stage with the head of the stage before.
    """

    examples: int
    data: Tokenized
    task: Task
    train: Train
    model: ModelSpec

    def objective(self, train: Train, lora: Lora | None = None) -> Rehearsed:
        """Return the second loss of the step; `train` and `lora` are of the rehearsing stage."""
        fraction = self.examples / train.batch_size
        model = dataclasses.replace(self.model, lora=lora)
        return Rehearsed(model, self.task, self.train.label_smoothing, fraction)

    def rest(self, train: Train) -> Train:
        """Return the settings of the rehearsing stage for its own part of each batch."""
        return dataclasses.replace(train, batch_size=train.batch_size - self.examples)

    def plan(
        self, data: Tokenized, train: Train, seeds: tuple[int, ...], pad_id: int, multiple: int
    ) -> TrainPlan:
        """Return the plan of a stage, as `TrainPlan.make`, with the rehearsed examples.

        They follow the order that the stage before has for the same seed, in batches of one shape,
        so that no more programs are compiled than without them.
        """
        plan = TrainPlan.make(data, self.rest(train), seeds, pad_id, multiple)
        rehearsed_part = dataclasses.replace(
            self.train,
            batch_size=self.examples,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            packing=train.packing,
            max_steps=plan.total_steps,
            max_bucket_sizes=1,
        )
        rehearsed = TrainPlan.make(self.data, rehearsed_part, seeds, pad_id, multiple)
        return dataclasses.replace(plan, rehearsed=rehearsed)
