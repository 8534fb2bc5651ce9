"""What flaxfer makes of a batch, under the names of a checkpoint."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file

from flaxfer.config import Optimizer
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import read_config
from flaxfer.models.heads import SequenceClassifier
from flaxfer.models.pretrained import (
    checkpoint_arrays,
    load_encoder_config,
    load_pretrained,
    parameter_names,
    parameter_shapes,
    stored_shape,
)
from flaxfer.optim import make_optimizer
from tests.parity.cases import Case, weight

Params = dict[str, Any]

# Most of the time of a test with a tiny model goes into code generation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def write_folder(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """Writes a Hugging Face folder with the weights of a case, and returns them."""
    config = read_config(case.settings)
    shapes = parameter_shapes(config, case.num_outputs)
    arrays = {
        name: weight(case, name, stored_shape(shapes[path], layout))
        for name, path, layout in parameter_names(config)
    }
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(case.settings))
    return arrays


def load(folder: Path, num_outputs: int) -> tuple[EncoderConfig, Params]:
    """The config and the parameters, head included, of a folder."""
    config = load_encoder_config(folder)
    return config, load_pretrained(folder, config, classifier_outputs=num_outputs)


def graph(config: EncoderConfig, num_outputs: int) -> Any:
    model = nnx.eval_shape(lambda: SequenceClassifier(config, num_outputs, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)[0]


def logits_and_loss(
    graphdef: Any, params: Params, batch: dict[str, Any], key: Any = None, dtype: Any = jnp.float32
) -> tuple[jax.Array, jax.Array]:
    """Logits (B, E, C), and the mean loss over the examples; 0 if there are none."""
    rows = {n: batch[n] for n in ("token_BT", "type_BT", "position_BT", "segment_BT", "summary_BE")}
    logits_BEC = nnx.merge(graphdef, params)(*rows.values(), dropout_key=key, dtype=dtype)
    if logits_BEC.shape[-1] == 1:
        loss_BE = jnp.square(logits_BEC[..., 0] - batch["label_BE"])
    else:
        loss_BE = optax.softmax_cross_entropy_with_integer_labels(logits_BEC, batch["label_BE"])
    mask_BE = batch["mask_BE"]
    return logits_BEC, jnp.sum(loss_BE * mask_BE) / jnp.maximum(jnp.sum(mask_BE), 1)


def results(
    config: EncoderConfig,
    params: Params,
    batch: dict[str, np.ndarray],
    optimizer: Optimizer,
    steps: int,
    total_steps: int,
) -> dict[str, np.ndarray]:
    """The same arrays as `torch_side.results`, under the same names."""
    num_outputs = params["head"]["output"]["bias"].shape[0]
    graphdef = graph(config, num_outputs)
    transform = make_optimizer(optimizer, total_steps, params)

    def loss_of(params: Params) -> tuple[jax.Array, jax.Array]:
        logits_BEC, loss = logits_and_loss(graphdef, params, batch)
        return loss, logits_BEC

    @jit
    def step(params: Params, opt_state: Any) -> Any:
        (loss, logits_BEC), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = transform.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, logits_BEC, gradient

    @jit
    def hidden_states(params: Params) -> tuple[jax.Array, ...]:
        names = ("token_BT", "type_BT", "position_BT", "segment_BT")
        encoder = nnx.merge(graphdef, params).encoder
        return encoder.hidden_states(*[jnp.asarray(batch[name]) for name in names])

    valid = batch["segment_BT"] > 0
    found = {f"hidden/{n}": np.asarray(x)[valid] for n, x in enumerate(hidden_states(params))}
    opt_state = jit(transform.init)(params)
    for number in range(steps):
        params, opt_state, loss, logits_BEC, gradient = step(params, opt_state)
        if number == 0:
            found |= {"logits": np.asarray(logits_BEC)[:, 0], "loss": np.asarray(loss)}
            found |= named("gradient", gradient, config)
    return found | named("stepped", params, config)


def named(kind: str, params: Params, config: EncoderConfig) -> dict[str, np.ndarray]:
    arrays = checkpoint_arrays(jax.device_get(params), config)
    return {f"{kind}/{name}": array for name, array in arrays.items()}


def check(found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    """Holds every array to its tolerance; gradients relative to the largest of their parameter.

    A gradient that is zero by the mathematics is measured by the largest of all gradients: what
    is compared there is rounding.
    """
    assert found.keys() == reference.keys()
    gradients = [np.abs(x).max() for name, x in reference.items() if name.startswith("gradient/")]
    problems = []
    for name, want in reference.items():
        kind = name.partition("/")[0]
        largest = np.abs(want).max()
        if kind == "gradient":
            tolerance = 1e-4 * (largest if largest > 1e-6 * max(gradients) else max(gradients))
        else:
            tolerance = {"hidden": 1e-4, "logits": 1e-4, "loss": 1e-5, "stepped": 1e-5}[kind]
        assert found[name].shape == want.shape, name
        error = np.abs(found[name] - want).max()
        if not error <= tolerance:
            problems.append(f"{name}: differs by {error:.2e}, tolerance {tolerance:.2e}")
    assert not problems, "\n".join(problems)
