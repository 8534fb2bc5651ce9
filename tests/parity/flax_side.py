"""Results of flaxfer for a batch, by names of a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file

from flaxfer.config import Data, Lora, Optimizer, Stage, Task
from flaxfer.interop.adapter import PREFIX, adapter_arrays
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import read_config
from flaxfer.models.names import stored_shape
from flaxfer.models.pretrained import (
    checkpoint_arrays,
    load_pretrained,
    parameter_names,
    parameter_shapes,
)
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.trees import leaves_by_name, map_names
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.optimizer import make_optimizer, with_frozen_parts
from tests.parity.cases import Batch, Case, weight

Params = dict[str, Any]

# Code generation takes most of the time of a test with a tiny model.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Model:
    """A model and its task; its functions are compiled once for each shape of batch."""

    def __init__(self, config: EncoderConfig, params: Params, task: Task, lora: Lora | None = None):
        self.config, self.params, self.task, self.lora = config, params, task, lora
        model = dataclasses.replace(model_spec(config, task), lora=lora)
        self.head, self.graph = model.head, model.graph()
        self._results = jit(jax.value_and_grad(self._loss, has_aux=True))

    def forward(self, batch: Batch) -> Batch:
        """Return what `measure` returns without gradients, computed without jit."""
        params, arrays = jax.tree.map(jnp.asarray, (self.params, batch))
        return self._results_of(*self._loss(params, arrays), batch)

    def measure(self, batch: Batch) -> Batch:
        """Return the arrays of `torch_side.measure` by the same names."""
        (loss, outputs), gradient = self._results(self.params, batch)
        return self._results_of(loss, outputs, batch) | self._named("gradient", gradient)

    def train(self, batches: list[Batch], optimizer: Optimizer, total_steps: int) -> Batch:
        """Return the arrays of `torch_side.train` by the same names."""
        stage = Stage(self.task, Data(()), optimizer=optimizer, lora=self.lora)
        optimizer = with_frozen_parts(stage, self.config.num_layers).optimizer
        transform = make_optimizer(optimizer, total_steps, self.params)

        @jit
        def update(gradient: Params, opt_state: Any, params: Params) -> Any:
            updates, opt_state = transform.update(gradient, opt_state, params)
            return opt_state, optax.apply_updates(params, updates)

        params, opt_state, losses = self.params, jit(transform.init)(self.params), []
        for batch in batches:
            (loss, _), gradient = self._results(params, batch)
            opt_state, params = update(gradient, opt_state, params)
            losses.append(np.asarray(loss))
        return {"losses": np.stack(losses)} | self._named("stepped", params)

    def _named(self, prefix: str, params: Params) -> Batch:
        """Return trained parameters or gradients by their names in a checkpoint or adapter."""
        if self.lora is not None:
            arrays = adapter_arrays(jax.device_get(params), self.config, self.head)
            return {f"{prefix}/{n.removeprefix(PREFIX)}": x for n, x in arrays.items()}
        arrays = checkpoint_arrays(jax.device_get(params), self.config, self.head)
        # Checkpoints also contain arrays that only pretraining reads.
        return {f"{prefix}/{n}": arrays[n] for n, _, _ in parameter_names(self.config, self.head)}

    def _loss(self, params: Params, batch: Any) -> tuple[jax.Array, Any]:
        """Return the loss, and hidden states, input of the last projection and logits."""
        model = nnx.merge(self.graph, params)
        hidden = model.encoder.hidden_states(batch)
        pooled: list[jax.Array] = []
        project = model.head.output

        def spy(x: jax.Array) -> jax.Array:
            pooled.append(x)
            return project(x)

        model.head.output = spy
        logits = model(batch)
        total, count = task_type(self.task).loss(self.task, logits, batch, 0.0)
        return total / count, (hidden, pooled[0], logits)

    def _results_of(self, loss: jax.Array, outputs: Any, batch: Batch) -> Batch:
        hidden, pooled, logits = jax.device_get(outputs)
        token, example = batch["segment_BT"] > 0, batch["mask_BE"] > 0
        arrays = {f"hidden/{n}": x[token] for n, x in enumerate(hidden)}
        if self.head in ("token", "span"):
            arrays["logits"] = logits[token]
        else:
            arrays |= {"pooled": pooled[example], "logits": logits[example]}
        return arrays | {"loss": np.asarray(loss)}


def tiny_model(case: Case, folder: Path) -> Model:
    """Return the model of a case with its weights, read from a checkpoint in `folder`."""
    write_folder(case, folder)
    model = load(folder, case.task)
    if case.lora is None:
        return model
    leaves = leaves_by_name(model.params)
    spec = dataclasses.replace(model_spec(model.config, case.task), lora=case.lora)
    shapes = leaves_by_name(spec.param_shapes())
    for name, path in adapter_names(spec):
        shape = shapes[path].shape
        axis = -1 if path.endswith("a") else 0  # Of the rank, which is first or last when stored.
        inner = (shape[axis], math.prod(shape) // shape[axis])[:: -1 if axis == 0 else 1]
        leaves[path] = weight(case, name, inner).T.reshape(shape)
    params = map_names(lambda path: jnp.asarray(leaves[path]), spec.param_shapes())
    return Model(model.config, params, case.task, case.lora)


def adapter_names(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Yield the name in peft's files and the path of each array of an adapter."""
    shapes = leaves_by_name(spec.param_shapes())
    for stored, path, _ in parameter_names(spec.encoder):
        module = f"{path.removesuffix('kernel')}lora/"
        for part in "ab" if f"{module}a" in shapes else "":
            yield f"{stored.removesuffix('weight')}lora_{part.upper()}.weight", module + part


def load(folder: Path, task: Task, **changes: Any) -> Model:
    """Return the model of a folder, with its head and changed settings."""
    config = read_config(json.loads((folder / "config.json").read_text()) | changes)
    model = model_spec(config, task)
    params = load_pretrained(folder, config, head=model.head, outputs=model.num_outputs)
    return Model(config, params, task)


def write_folder(case: Case, folder: Path) -> None:
    """Write a Hugging Face folder with the weights of a case."""
    config = read_config(case.settings)
    shapes = parameter_shapes(config, case.outputs, case.head)
    arrays = {
        name: weight(case, name, stored_shape(shapes[path], layout))
        for name, path, layout in parameter_names(config, case.head)
    }
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(case.settings))
