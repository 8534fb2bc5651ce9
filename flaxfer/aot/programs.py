"""The train and eval step of a config, compiled for devices that need not be there.

Axes: A micro-batches, B rows, T tokens, E sequences a row.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxfer.aot.flops import Work
from flaxfer.config import Config, Stage
from flaxfer.data import packing
from flaxfer.data.loader import TrainPlan, eval_batches
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.step import EvalSpec, cast_for_eval, make_eval_step
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import read_config
from flaxfer.models.spec import ModelSpec
from flaxfer.models.weights import read_json
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.prng import dropout_key
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.data import read_study_data
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.record import placed
from flaxfer.training.state import TrainState
from flaxfer.training.step import StepSpec, make_train_step

ASSUMED_STEPS = 1000
"""Steps of a stage whose data are not read; the number is a constant of the schedule alone."""


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What stands for data that are not read.

    Attributes:
      rows: B of a micro-batch.
      sequences_per_row: E, all slots in use and all rows full.
      vocabulary: rows of the word embedding; 0 for all of the model's.
    """

    rows: int
    sequences_per_row: int
    vocabulary: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """What a stage asks of the devices, whatever their mesh.

    Attributes:
      settings: the stage.
      encoder: with the vocabulary in use.
      vocabulary: rows of the embedding before the cut.
      train, dev: the splits; None if they are assumed.
      assumed: instead of them.
      fixed_rows: B of a micro-batch where the user names it; 0 for the most that the plan needs.
    """

    settings: Stage
    encoder: EncoderConfig
    vocabulary: int
    train: Tokenized | None = None
    dev: Tokenized | None = None
    assumed: Assumed | None = None
    fixed_rows: int = 0

    @property
    def model(self) -> ModelSpec:
        """Encoder and head."""
        return model_spec(self.encoder, self.settings.task)

    @property
    def head(self) -> str:
        """The head of its task type."""
        return task_type(self.settings.task).head

    @property
    def examples(self) -> float:
        """Examples of a step; where data are assumed, sequences."""
        return self.settings.train.batch_size if self.train else self.useful().sequences

    @property
    def dtype(self) -> Any:
        """Of the matrix products: `auto` is bfloat16 on every accelerator."""
        setting = self.settings.train.compute_dtype
        return jnp.dtype("bfloat16" if setting == "auto" else setting)

    @functools.cache  # noqa: B019 - a workload lives as long as its process.
    def plan(self, multiple: int) -> TrainPlan | None:
        """The plan of the stage's steps; None if its data are assumed."""
        if self.train is None:
            return None
        pad = self.encoder.pad_token_id
        return TrainPlan.make(self.train, self.settings.train, (0,), pad, multiple)

    def rows(self, multiple: int) -> int:
        """B of the largest train program, which the others need less memory than."""
        plan = self.plan(multiple)
        wanted = self.fixed_rows or (plan.bucket_sizes[-1] if plan else 0)
        wanted = wanted or (self.assumed.rows if self.assumed else 0)
        return math.ceil(wanted / multiple) * multiple

    def train_shapes(self, multiple: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a train batch, leading with A."""
        settings, plan = self.settings.train, self.plan(multiple)
        slots = plan.slots if plan else self._assumed.sequences_per_row
        batch = empty_batch(self, self.rows(multiple), slots)
        return {
            name: jax.ShapeDtypeStruct(
                (settings.gradient_accumulation_steps, *array.shape), array.dtype
            )
            for name, array in batch.items()
        }

    def eval_shapes(self, multiple: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of an eval batch."""
        settings = self.settings.train
        if self.dev is not None:
            pad = self.encoder.pad_token_id
            batch = next(eval_batches(self.dev, settings, pad, multiple))
        else:
            slots = 1 << (self._assumed.sequences_per_row - 1).bit_length()
            batch = empty_batch(self, settings.eval_rows * multiple, slots)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}

    def useful(self) -> Work:
        """What a train step has to do, on the mean over the train split."""
        if self.train is None:
            assumed, settings = self._assumed, self.settings.train
            rows = assumed.rows * settings.gradient_accumulation_steps
            sequences = rows * assumed.sequences_per_row
            tokens = rows * settings.row_length
            return Work(sequences, tokens, tokens * tokens / sequences)
        lengths = self.train.lengths.astype(np.float64)
        sequences = self.settings.train.batch_size * self.train.choices
        mean, square = float(lengths.mean()), float(np.square(lengths).mean())
        return Work(sequences, sequences * mean, sequences * square)

    def computed(self, multiple: int) -> Work:
        """What the rows of a train step have room for, padding and empty slots included."""
        micro, rows, tokens = self.train_shapes(multiple)["token_BT"].shape
        slots = self.train_shapes(multiple)["cls_BE"].shape[2]
        rows *= micro
        return Work(rows * slots, rows * tokens, rows * tokens * tokens)

    @property
    def _assumed(self) -> Assumed:
        assert self.assumed is not None
        return self.assumed


def read_workload(config: Config, stage: str, rows: int) -> Workload:
    """The workload of a stage with its data and vocabulary, as the study reads them.

    Raises:
      FlaxferError: data, tokenizer or config.json cannot be read. Weights are not needed.
    """
    data = read_study_data(config, platform.cache_dir(config.cache))
    settings = data.stages[stage]
    return Workload(
        settings=settings.settings,
        encoder=settings.model.encoder,
        vocabulary=data.encoder.vocab_size,
        train=settings.train,
        dev=settings.dev,
        fixed_rows=rows,
    )


def assumed_workload(config: Config, stage: str, file: Path, assumed: Assumed) -> Workload:
    """The workload of a stage with the sizes of a config.json, and no data.

    Raises:
      DataError: there is no such file.
      ConfigError: what it describes is not implemented.
    """
    encoder = read_config(read_json(file, DataError), str(file))
    encoder = encoder.with_dropout(config.model.dropout, config.model.attention_dropout)
    size = encoder.vocab_size
    encoder = dataclasses.replace(encoder, vocab_size=assumed.vocabulary or size)
    settings = config.target if stage == "target" else config.intermediate
    assert settings is not None
    if not settings.train.row_length:  # Without data there is nothing to choose it by.
        train = dataclasses.replace(settings.train, row_length=settings.train.max_length)
        settings = dataclasses.replace(settings, train=train)
    return Workload(settings=settings, encoder=encoder, vocabulary=size, assumed=assumed)


def empty_batch(work: Workload, rows: int, slots: int) -> packing.Batch:
    """The host arrays of a batch without any sequence, of the shapes of a full one."""
    form = task_type(work.settings.task)
    shape = form.encoded_label_shape(1, 1)
    one = np.zeros(1, np.int32)
    data = Tokenized(
        token=one,
        type=one.astype(np.uint8),
        offset=np.array([0, 1]),
        cls=one,
        label=np.zeros(shape if shape[0] else 1, form.label_dtype),
        id=("",),
        language=("",),
        domain=("",),
        truncated=0,
        fingerprint="",
        task_type=form,
    )
    length, pad = work.settings.train.row_length, work.encoder.pad_token_id
    return packing.build_rows(data, np.zeros(0, np.int64), [], rows, length, slots, pad)


def state_shapes(work: Workload, mesh: Mesh, total_steps: int) -> TrainState:
    """The train state as shapes with their places on the mesh."""
    params = work.model.param_shapes()
    optimizer = make_optimizer(work.settings.optimizer, total_steps, params)
    shapes = jax.eval_shape(
        lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p)), params
    )
    made: TrainState = placed(shapes, mesh)
    return made


def compile_train(work: Workload, mesh: Mesh) -> jax.stages.Compiled:
    """The train step of the largest number of rows."""
    multiple = sharding.row_shards(mesh)
    plan, task = work.plan(multiple), work.settings.task
    steps = plan.total_steps if plan else ASSUMED_STEPS
    train = work.settings.train
    spec = StepSpec(
        model=work.model,
        task=task,
        label_smoothing=train.label_smoothing,
        optimizer=work.settings.optimizer,
        total_steps=steps,
        dtype=work.dtype,
        remat=train.remat,
        attention=train.attention,
    )
    step: Any = make_train_step(spec, mesh)
    platform = mesh.devices.flat[0].platform
    key = jax.eval_shape(lambda: dropout_key(0, platform, mesh.size))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.whole(mesh))
    batch = _on_rows(work.train_shapes(multiple), mesh, axis=1)
    compiled: jax.stages.Compiled = step.lower(
        state_shapes(work, mesh, steps), batch, key
    ).compile()
    return compiled


def compile_eval(work: Workload, mesh: Mesh) -> jax.stages.Compiled:
    """The eval step, as dev is scored with it."""
    task = work.settings.task
    spec = EvalSpec(work.model, task, work.dtype, work.settings.train.attention)
    step: Any = make_eval_step(spec, mesh)
    params = jax.tree.map(
        lambda whole, narrow: jax.ShapeDtypeStruct(
            narrow.shape, narrow.dtype, sharding=whole.sharding
        ),
        given := state_shapes(work, mesh, ASSUMED_STEPS).params,
        jax.eval_shape(cast_for_eval(work.dtype), given),
    )
    empty = jax.eval_shape(task_type(task).device_metrics(task).empty)
    accumulated = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.whole(mesh)), empty
    )
    batch = _on_rows(work.eval_shapes(sharding.row_shards(mesh)), mesh, axis=0)
    compiled: jax.stages.Compiled = step.lower(params, batch, accumulated).compile()
    return compiled


def bytes_on_chip(tree: Any) -> int:
    """Bytes that a tree of placed shapes has on one chip."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def check_stage(config: Config, stage: str) -> None:
    """Refuses a stage that the config does not have.

    Raises:
      ConfigError: that.
    """
    if stage == "intermediate" and (
        config.intermediate is None or "staged" not in config.conditions
    ):
        raise ConfigError(
            "this config has no intermediate stage",
            where="--stage",
            hint="leave the option out, or name a config with the path staged.",
        )


def summary(work: Workload, multiple: int) -> dict[str, Any]:
    """The shapes that are compiled, for the report."""
    plan = work.plan(multiple)
    encoder, settings = work.encoder, work.settings.train
    return {
        "train": {k: list(v.shape) for k, v in work.train_shapes(multiple).items()},
        "eval": {k: list(v.shape) for k, v in work.eval_shapes(multiple).items()},
        "bucket_sizes": list(plan.bucket_sizes) if plan else [],
        "batch_size": settings.batch_size,
        "vocabulary": work.vocabulary,
        "vocabulary_in_use": encoder.vocab_size,
        "encoder": json.loads(json.dumps(dataclasses.asdict(encoder))),
        "compute_dtype": str(work.dtype),
    }


def _on_rows(
    shapes: dict[str, jax.ShapeDtypeStruct], mesh: Mesh, axis: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Rows, the given axis, split over the mesh as `loader.put_rows` does."""
    spec = PartitionSpec(*(None,) * axis, *sharding.ROWS)
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
        for name, x in shapes.items()
    }
