"""The inputs of a flaxfer stage for one file, assembled as a study does."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from flaxfer import config
from flaxfer.config import Optimizer, Source, Task, Train
from flaxfer.data import sources, tokenize
from flaxfer.data.loader import TrainPlan
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models import pretrained
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.trees import Params
from flaxfer.tasks import TASK_TYPES
from flaxfer.tasks.models import model_spec
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import TrainState, init_state, stack
from flaxfer.training.step import StepSpec, TrainStep, make_train_step
from flaxfer.training.vocabulary import Vocabulary

PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "numpy")
EPOCHS = 3
OPTIMIZER = Optimizer(learning_rate=5e-5)


@dataclasses.dataclass(frozen=True)
class StageInputs:
    """Data and parameters, with the vocabulary cut to the ids in use, and the evaluator."""

    data: Tokenized
    params: Params
    evaluator: Evaluator

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Mesh of the evaluator."""
        return self.evaluator.mesh

    @property
    def row_shards(self) -> int:
        """Number of devices that rows are split over."""
        return sharding.row_shards(self.mesh)

    def plan(self, seeds: tuple[int, ...], steps: int, **changes: Any) -> TrainPlan:
        """Return the plan of the train steps; `changes` replace fields of `Train`.

        Raises:
          ConfigError: the data are too few for so many steps.
        """
        train = dataclasses.replace(self.evaluator.train, **changes)
        pad_id = self.evaluator.model.encoder.pad_token_id
        plan = TrainPlan.make(self.data, train, seeds, pad_id, self.row_shards)
        if steps > plan.total_steps:
            raise ConfigError(
                f"the data are enough for {plan.total_steps} steps, {steps} are needed",
                hint=f"lower --steps by {steps - plan.total_steps}, or pass more data.",
            )
        return plan

    def start(self, plan: TrainPlan) -> tuple[TrainStep, TrainState, jax.Array]:
        """Return the train step of a plan, its initial state, and its dropout key.

        Several seeds are batched: their states and keys are stacked.
        """
        batched = len(plan.seeds) > 1
        spec = StepSpec(
            model=self.evaluator.model,
            task=self.evaluator.task,
            label_smoothing=plan.train.label_smoothing,
            optimizer=OPTIMIZER,
            total_steps=plan.total_steps,
            dtype=self.evaluator.dtype,
            attention=self.evaluator.train.attention,
            batched_seeds=batched,
        )
        optimizer = make_optimizer(OPTIMIZER, plan.total_steps, self.params)
        states = [init_state(self.params, optimizer, self.mesh) for _ in plan.seeds]
        keys = [dropout_key(seed, jax.default_backend(), jax.device_count()) for seed in plan.seeds]
        state, key = (
            (stack(states, self.mesh), jnp.stack(keys)) if batched else (states[0], keys[0])
        )
        return make_train_step(spec, self.mesh), state, key

    def placed_params(self) -> Params:
        """Return the parameters on the devices of the mesh."""
        shardings = sharding.tree_shardings(self.params, self.mesh)
        params: Params = jax.device_put(self.params, shardings)
        return params


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of flaxfer's scripts."""
    options = common.parser(doc)
    options.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    return options


def prepare(
    options: argparse.Namespace, limit: int = 0, mesh: jax.sharding.Mesh | None = None
) -> StageInputs:
    """Read the weights and the data, for a mesh of all devices by default.

    Args:
      options: options of `parser`.
      limit: number of examples to read; 0 for all.
      mesh: the mesh.

    Raises:
      FlaxferError: an option, the data or the model is wrong.
    """
    platform.keep_memory()
    options.cache_state = common.cache_state(options.cache)
    if options.cache:
        platform.use_compilation_cache(options.cache)
    layout = common.read(options.data, options.columns, options.task).layout
    task_type = TASK_TYPES[layout.task_type]
    metric = task_type.metrics[0]
    task = Task("benchmark", layout.task_type, metric, layout.labels, layout.score_range)
    source = Source(path=str(options.data.absolute()), header=layout.header, columns=layout.columns)
    train = Train(
        batch_size=options.batch,
        epochs=EPOCHS,
        max_length=options.length,
        # As long as the config's default, but at least as long as an example.
        row_length=max(Train().row_length, options.length),
        compute_dtype=options.dtype,
    )
    examples = sources.read_source(source, task, task_type)
    if limit:
        examples = examples.take(np.arange(min(limit, len(examples))))
    model = config.Model(path=options.model)
    folder, tokenizer = pretrained.resolve(model), tokenize.load_tokenizer(model)
    data = tokenize.tokenize(examples, tokenizer, train.max_length, None)
    encoder = pretrained.load_encoder_config(folder)
    vocabulary = Vocabulary.used([data], encoder.vocab_size, encoder.pad_token_id)
    spec = model_spec(encoder, task)
    spec = spec.with_vocabulary(len(vocabulary))
    evaluator = Evaluator(
        model=spec,
        task=task,
        train=train,
        dtype=platform.compute_dtype(train.compute_dtype),
        mesh=mesh or sharding.make_mesh(),
    )
    options.dtype, options.row_length = str(evaluator.dtype), train.row_length
    loaded = pretrained.load_pretrained(folder, encoder, head=spec.head)
    word = loaded["encoder"]["embeddings"]["word"]
    word["embedding"] = word["embedding"][vocabulary.ids]
    random = spec.random_params(options.seed)
    params = random | loaded | {"head": random["head"] | loaded.get("head", {})}
    return StageInputs(vocabulary.cut(data), params, evaluator)


def devices() -> dict[str, Any]:
    """Return JAX's devices as an entry of the JSON line."""
    return {"devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
