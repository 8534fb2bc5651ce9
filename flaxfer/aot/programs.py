"""The train and eval step of a config, compiled for devices that need not be present.

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from flaxfer.aot.flops import Work
from flaxfer.config import Config, Stage
from flaxfer.data import packing
from flaxfer.data.loader import TrainPlan, eval_batches
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.step import EvalSpec, cast_for_eval, make_eval_step
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
"""Steps of a stage without data; the number is only a constant of the schedule."""

Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Assumed:
    """Assumptions in place of data.

    Attributes:
      rows: rows of a micro-batch (B).
      sequences_per_row: sequences in each row (E), which fill it.
      vocabulary: rows of the word embedding; 0 for the model's vocabulary.
    """

    rows: int
    sequences_per_row: int
    vocabulary: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """The work of a stage, independent of the mesh.

    Attributes:
      settings: settings of the stage.
      model: encoder and head; the vocabulary is cut to the ids in use.
      vocabulary: size of the uncut vocabulary.
      train, dev: the splits, or None if they are assumed.
      assumed: assumptions in place of the splits.
      fixed_rows: rows of a micro-batch (B); 0 for the largest bucket size of the plan.
    """

    settings: Stage
    model: ModelSpec
    vocabulary: int
    train: Tokenized | None = None
    dev: Tokenized | None = None
    assumed: Assumed | None = None
    fixed_rows: int = 0

    @property
    def examples(self) -> float:
        """Examples of a step; with assumed data, sequences."""
        return self.settings.train.batch_size if self.train else self.useful().sequences

    @property
    def dtype(self) -> Any:
        """The dtype of the matmuls on an accelerator."""
        return platform.compute_dtype(self.settings.train.compute_dtype, "tpu")

    @functools.cache  # noqa: B019 - a workload lives as long as its process.
    def plan(self, row_shards: int) -> TrainPlan | None:
        """Return the plan of the stage's steps, or None with assumed data."""
        if self.train is None:
            return None
        pad_id = self.model.encoder.pad_token_id
        return TrainPlan.make(self.train, self.settings.train, (0,), pad_id, row_shards)

    def rows(self, row_shards: int) -> int:
        """Return B of the largest train program, which needs the most memory."""
        plan = self.plan(row_shards)
        planned = plan.bucket_sizes[-1] if plan else self._assumed.rows
        return math.ceil((self.fixed_rows or planned) / row_shards) * row_shards

    def train_shapes(self, row_shards: int) -> Shapes:
        """Return the shapes of a train batch; they lead with A."""
        plan = self.plan(row_shards)
        slots = plan.slots if plan else self._assumed.sequences_per_row
        batch = empty_batch(self, self.rows(row_shards), slots)
        lead = self.settings.train.gradient_accumulation_steps
        return {k: jax.ShapeDtypeStruct((lead, *x.shape), x.dtype) for k, x in batch.items()}

    def eval_shapes(self, row_shards: int) -> Shapes:
        """Return the shapes of an eval batch."""
        settings, pad_id = self.settings.train, self.model.encoder.pad_token_id
        if self.dev is not None:
            batch = next(eval_batches(self.dev, settings, pad_id, row_shards))
        else:
            slots = 1 << (self._assumed.sequences_per_row - 1).bit_length()
            batch = empty_batch(self, settings.eval_rows * row_shards, slots)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}

    def useful(self) -> Work:
        """Return the work of a train step without padding, on average over the train split."""
        settings = self.settings.train
        if self.train is None:
            rows = self._assumed.rows * settings.gradient_accumulation_steps
            sequences = rows * self._assumed.sequences_per_row
            tokens = rows * settings.row_length
            return Work(sequences, tokens, tokens * tokens / sequences)
        lengths = self.train.lengths.astype(np.float64)
        sequences = settings.batch_size * self.train.choices
        mean, square = float(lengths.mean()), float(np.square(lengths).mean())
        return Work(sequences, sequences * mean, sequences * square)

    def padded(self, row_shards: int) -> Work:
        """Return the work of a train step with padding and empty slots."""
        shapes = self.train_shapes(row_shards)
        micro_batches, rows, tokens = shapes["token_BT"].shape
        rows *= micro_batches
        return Work(rows * shapes["cls_BE"].shape[2], rows * tokens, rows * tokens * tokens)

    def train_spec(self, row_shards: int) -> StepSpec:
        """Return the spec of the train step."""
        settings, plan = self.settings.train, self.plan(row_shards)
        return StepSpec(
            model=self.model,
            task=self.settings.task,
            label_smoothing=settings.label_smoothing,
            optimizer=self.settings.optimizer,
            total_steps=plan.total_steps if plan else ASSUMED_STEPS,
            dtype=self.dtype,
            remat=settings.remat,
            attention=settings.attention,
        )

    @property
    def _assumed(self) -> Assumed:
        assert self.assumed is not None
        return self.assumed


def read_workload(config: Config, stage: str, rows: int) -> Workload:
    """Read the data and the vocabulary of a stage, as a study does.

    Raises:
      FlaxferError: data, tokenizer or config.json cannot be read. Weights are not needed.
    """
    stage_settings(config, stage)
    data = read_study_data(config, platform.cache_dir(config.cache))
    spec = data.stages[stage]
    return Workload(
        settings=spec.settings,
        model=spec.model,
        vocabulary=data.encoder.vocab_size,
        train=spec.train,
        dev=spec.dev,
        fixed_rows=rows,
    )


def assumed_workload(config: Config, stage: str, file: Path, assumed: Assumed) -> Workload:
    """Return the workload of a stage with the model of a config.json and no data.

    Raises:
      DataError: there is no such file.
      ConfigError: its model is not supported.
    """
    encoder = read_config(read_json(file, DataError), str(file))
    encoder = encoder.with_dropout(config.model.dropout, config.model.attention_dropout)
    settings = stage_settings(config, stage)
    if not settings.train.row_length:  # Without data there is nothing to choose it by.
        train = dataclasses.replace(settings.train, row_length=settings.train.max_length)
        settings = dataclasses.replace(settings, train=train)
    model = model_spec(encoder, settings.task)
    model = model.with_vocabulary(assumed.vocabulary or encoder.vocab_size)
    return Workload(settings, model, encoder.vocab_size, assumed=assumed)


def stage_settings(config: Config, stage: str) -> Stage:
    """Return the settings of a stage.

    Raises:
      ConfigError: the config does not have the stage.
    """
    if stage == "target":
        return config.target
    if config.intermediate is None or "staged" not in config.conditions:
        raise ConfigError(
            "this config has no intermediate stage",
            where="--stage",
            hint="leave the option out, or use a config with the condition staged.",
        )
    return config.intermediate


def empty_batch(work: Workload, rows: int, slots: int) -> packing.Batch:
    """Return a batch without any sequence; its arrays have the shapes of a full one."""
    task = task_type(work.settings.task)
    shape = task.encoded_label_shape(1, 1)
    one = np.zeros(1, np.int32)
    data = Tokenized(
        token=one,
        type=one.astype(np.uint8),
        offset=np.array([0, 1]),
        cls=one,
        label=np.zeros(shape if shape[0] else 1, task.label_dtype),
        id=("",),
        language=("",),
        domain=("",),
        truncated=0,
        fingerprint="",
        task_type=task,
    )
    length, pad_id = work.settings.train.row_length, work.model.encoder.pad_token_id
    return packing.build_rows(data, np.zeros(0, np.int64), [], rows, length, slots, pad_id)


def state_shapes(work: Workload, mesh: Mesh) -> TrainState:
    """Return the shapes of the train state, with their shardings on the mesh."""
    params = work.model.param_shapes()
    optimizer = make_optimizer(work.settings.optimizer, ASSUMED_STEPS, params)
    shapes = jax.eval_shape(
        lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p)), params
    )
    state: TrainState = placed(shapes, mesh)
    return state


def compile_train(work: Workload, mesh: Mesh) -> jax.stages.Compiled:
    """Compile the train step for the largest number of rows."""
    row_shards = sharding.row_shards(mesh)
    step: Any = make_train_step(work.train_spec(row_shards), mesh)
    rows = NamedSharding(mesh, PartitionSpec(None, *sharding.ROWS))
    batch = _with_sharding(work.train_shapes(row_shards), rows)
    backend = mesh.devices.flat[0].platform
    key = jax.eval_shape(lambda: dropout_key(0, backend, mesh.size))
    key = _with_sharding(key, sharding.whole(mesh))
    compiled: jax.stages.Compiled = step.lower(state_shapes(work, mesh), batch, key).compile()
    return compiled


def compile_eval(work: Workload, mesh: Mesh) -> jax.stages.Compiled:
    """Compile the eval step with which dev is scored."""
    task = work.settings.task
    spec = EvalSpec(work.model, work.dtype, work.settings.train.attention)
    step: Any = make_eval_step(spec, mesh)
    params = placed(jax.eval_shape(cast_for_eval(work.dtype), work.model.param_shapes()), mesh)
    empty = jax.eval_shape(lambda: task_type(task).device_metrics(task))
    accumulated = _with_sharding(empty, sharding.whole(mesh))
    shapes = work.eval_shapes(sharding.row_shards(mesh))
    batch = _with_sharding(shapes, NamedSharding(mesh, sharding.ROWS))
    compiled: jax.stages.Compiled = step.lower(params, batch, accumulated).compile()
    return compiled


def bytes_on_chip(tree: Any) -> int:
    """Return the bytes that a tree of shapes with shardings takes on one chip."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def summary(work: Workload, row_shards: int) -> dict[str, Any]:
    """Return the compiled shapes as JSON values."""
    plan, encoder = work.plan(row_shards), work.model.encoder
    return {
        "train": {k: list(x.shape) for k, x in work.train_shapes(row_shards).items()},
        "eval": {k: list(x.shape) for k, x in work.eval_shapes(row_shards).items()},
        "bucket_sizes": list(plan.bucket_sizes) if plan else [],
        "batch_size": work.settings.train.batch_size,
        "vocabulary": work.vocabulary,
        "vocabulary_in_use": encoder.vocab_size,
        "encoder": json.loads(json.dumps(dataclasses.asdict(encoder))),
        "compute_dtype": str(work.dtype),
    }


def _with_sharding(tree: Any, where: Sharding) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        tree,
    )
