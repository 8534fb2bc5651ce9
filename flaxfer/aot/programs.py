"""The train and eval step of a config, compiled for devices that need not be present.

Axes: A micro-batches, B rows, T tokens, E sequences a row.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from flaxfer.aot.flops import Work
from flaxfer.config import Config, Optimizer, Stage, Task
from flaxfer.data import packing
from flaxfer.data.json_files import read_json
from flaxfer.data.loader import TrainPlan, eval_batches, train_examples
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.step import EvalSpec, cast_for_eval, make_eval_step
from flaxfer.models.families import read_config
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import host, platform, sharding
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.optimizer import make_optimizer, with_frozen_parts
from flaxfer.training.reading import check_layers, read_study_data
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


class Splits(NamedTuple):
    """Tokenised data of a stage."""

    train: Tokenized
    dev: Tokenized


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """The work of a stage, independent of the mesh.

    Attributes:
      settings: settings of the stage.
      model: encoder and head; the vocabulary is cut to the ids in use.
      vocabulary: size of the uncut vocabulary.
      data: the splits, or assumptions in their place.
      fixed_rows: rows of a micro-batch (B); 0 for the largest bucket size of the plan.
    """

    settings: Stage
    model: ModelSpec
    vocabulary: int
    data: Splits | Assumed
    fixed_rows: int = 0

    @property
    def examples(self) -> float:
        """Examples of a step; with assumed data, sequences."""
        if isinstance(self.data, Assumed):
            return self.useful().sequences
        return self.settings.train.batch_size

    @property
    def trained_model(self) -> ModelSpec:
        """The model while it is trained, with its adapters."""
        return dataclasses.replace(self.model, lora=self.settings.lora)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, which freezes all that the stage does not train."""
        return with_frozen_parts(self.settings, self.model.encoder.num_layers).optimizer

    @property
    def dtype(self) -> Any:
        """The dtype of the matmuls on an accelerator."""
        return platform.compute_dtype(self.settings.train.compute_dtype, "tpu")

    @functools.cache  # noqa: B019 - a workload lives as long as its process.
    def plan(self, row_shards: int) -> TrainPlan:
        """Return the plan of the stage's steps; with assumed data, it has no batches."""
        settings, pad_id = self.settings.train, self.model.encoder.pad_token_id
        if isinstance(self.data, Splits):
            return TrainPlan.make(self.data.train, settings, (0,), pad_id, row_shards)
        rows, slots = self.data.rows, self.data.sequences_per_row
        none = _no_sequences(self.settings.task)
        return TrainPlan(none, settings, (0,), ASSUMED_STEPS, (rows,), slots, row_shards, pad_id)

    def rows(self, row_shards: int) -> int:
        """Return B of the largest train program, which needs the most memory.

        Raises:
          ConfigError: every batch needs more than `fixed_rows`.
        """
        sizes = self.plan(row_shards).bucket_sizes
        rows = math.ceil((self.fixed_rows or sizes[-1]) / row_shards) * row_shards
        if rows < sizes[0]:
            what, hint = f"no micro-batch fits into {rows} rows", f"name at least {sizes[0]}."
            raise ConfigError(what, where="--rows", hint=hint)
        return rows

    def train_shapes(self, row_shards: int) -> Shapes:
        """Return the shapes of a train batch; they lead with A."""
        batch = empty_batch(self, self.rows(row_shards), self.plan(row_shards).slots)
        lead = self.settings.train.gradient_accumulation_steps
        return {k: jax.ShapeDtypeStruct((lead, *x.shape), x.dtype) for k, x in batch.items()}

    def eval_shapes(self, row_shards: int) -> Shapes:
        """Return the shapes of an eval batch."""
        settings = self.settings.train
        if isinstance(self.data, Splits):
            pad_id = self.model.encoder.pad_token_id
            batch = next(eval_batches(self.data.dev, settings, pad_id, row_shards))
        else:
            slots = 1 << (self.data.sequences_per_row - 1).bit_length()
            batch = empty_batch(self, settings.eval_rows * row_shards, slots)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}

    def useful(self) -> Work:
        """Return the work of a train step without padding, on average over the train split."""
        settings = self.settings.train
        if isinstance(self.data, Assumed):
            rows = self.data.rows * settings.gradient_accumulation_steps
            sequences = rows * self.data.sequences_per_row
            tokens = rows * settings.row_length
            return Work(sequences, tokens, tokens * tokens / sequences)
        lengths = self.data.train.lengths.astype(np.float64)
        each = len(lengths) / train_examples(self.data.train)
        mean, square = float(lengths.mean()), float(np.square(lengths).mean())
        return Work(*(settings.batch_size * each * value for value in (1.0, mean, square)))

    def padded(self, row_shards: int) -> Work:
        """Return the work of a train step with padding and empty slots."""
        shapes = self.train_shapes(row_shards)
        micro_batches, rows, tokens = shapes["token_BT"].shape
        rows *= micro_batches
        return Work(rows * shapes["cls_BE"].shape[2], rows * tokens, rows * tokens * tokens)


def read_workload(config: Config, stage: str, rows: int) -> Workload:
    """Read the data and the vocabulary of a stage, as a study does.

    Raises:
      FlaxferError: data, tokenizer or config.json cannot be read. Weights are not needed.
    """
    stage_settings(config, stage)
    study = read_study_data(config, host.cache_dir(config.cache))
    data = study.stages[stage]
    splits = Splits(data.train, data.dev)
    return Workload(data.settings, data.model, study.encoder.vocab_size, splits, rows)


def assumed_workload(config: Config, stage: str, file: Path, assumed: Assumed) -> Workload:
    """Return the workload of a stage with the model of a config.json and no data.

    Raises:
      DataError: there is no such file.
      ConfigError: its model is not supported, or has fewer layers than the stage names.
    """
    encoder = read_config(read_json(file, DataError), str(file))
    encoder = encoder.with_dropout(config.model.dropout, config.model.attention_dropout)
    settings = stage_settings(config, stage)
    if not settings.train.row_length:  # Without data there is nothing to choose it by.
        train = dataclasses.replace(settings.train, row_length=settings.train.max_length)
        settings = dataclasses.replace(settings, train=train)
    check_layers(stage, settings, encoder)
    model = model_spec(encoder, settings.task)
    model = model.with_vocabulary(assumed.vocabulary or encoder.vocab_size)
    return Workload(settings, model, encoder.vocab_size, assumed)


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
    length, pad_id = work.settings.train.row_length, work.model.encoder.pad_token_id
    none = _no_sequences(work.settings.task)
    return packing.build_rows(none, np.zeros(0, np.int64), [], rows, length, slots, pad_id)


def _no_sequences(task: Task) -> Tokenized:
    """Return data of a task whose arrays have the dtypes of its real data."""
    form, one = task_type(task), np.zeros(1, np.int32)
    shape = form.encoded_label_shape(1, 1)
    return Tokenized(
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


def state_shapes(work: Workload, mesh: Mesh) -> TrainState:
    """Return the shapes of the train state, with their shardings on the mesh."""
    params = work.trained_model.param_shapes()
    optimizer = make_optimizer(work.optimizer, ASSUMED_STEPS, params)
    shapes = jax.eval_shape(
        lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p)), params
    )
    state: TrainState = placed(shapes, mesh)
    return state


def merged_bytes(work: Workload, mesh: Mesh) -> int:
    """Return the bytes on a chip of the kernels with their adapters, which evaluation reads."""
    shapes = leaves_by_name(placed(work.trained_model.param_shapes(), mesh))
    adapters = (name.removesuffix("lora/a") for name in shapes if name.endswith("/lora/a"))
    return bytes_on_chip([shapes[f"{name}kernel"] for name in adapters])


def compile_train(work: Workload, mesh: Mesh) -> jax.stages.Compiled:
    """Compile the train step for the largest number of rows."""
    row_shards, settings = sharding.row_shards(mesh), work.settings.train
    spec = StepSpec(
        model=work.trained_model,
        task=work.settings.task,
        label_smoothing=settings.label_smoothing,
        optimizer=work.optimizer,
        total_steps=work.plan(row_shards).total_steps,
        dtype=work.dtype,
        remat=settings.remat,
        attention=settings.attention,
    )
    step: Any = make_train_step(spec, mesh)
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
    encoder = work.model.encoder
    planned = isinstance(work.data, Splits)
    return {
        "train": {k: list(x.shape) for k, x in work.train_shapes(row_shards).items()},
        "eval": {k: list(x.shape) for k, x in work.eval_shapes(row_shards).items()},
        "bucket_sizes": list(work.plan(row_shards).bucket_sizes) if planned else [],
        "batch_size": work.settings.train.batch_size,
        "vocabulary": work.vocabulary,
        "vocabulary_in_use": encoder.vocab_size,
        "encoder": json.loads(json.dumps(dataclasses.asdict(encoder))),
        "compute_dtype": str(work.dtype),
    }


def _with_sharding(tree: Any, where: Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
