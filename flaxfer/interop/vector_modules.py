"""Modules of sentence-transformers behind the pooling: functions of the vectors of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from flaxfer.data.json_files import read_json
from flaxfer.data.model_folder import CONFIG
from flaxfer.errors import CheckpointError, ConfigError, DataError
from flaxfer.models.faults import value_fault
from flaxfer.models.weights import WEIGHTS, open_safetensors

LAYER_NORM_EPS = 1e-5
"""Default of torch.nn.LayerNorm."""

ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": scipy.special.expit,
    "GELU": lambda x: x * scipy.special.ndtr(x),
}
"""Activations of dense modules, by the names of their classes in torch.nn."""


class Module(NamedTuple):
    """A function of vectors.

    Attributes:
      kind: class in sentence-transformers.
      inputs: width of the vectors that it takes; 0 for any.
      outputs: width of those that it returns; 0 for the same.
      apply: maps float32 (..., inputs) to float32 (..., outputs).
    """

    kind: str
    inputs: int
    outputs: int
    apply: Callable[[np.ndarray], np.ndarray]


def normalised(x_LnD: np.ndarray) -> np.ndarray:
    """Return vectors of length 1; a zero vector stays one."""
    length_Ln1 = np.linalg.norm(x_LnD, axis=-1, keepdims=True)
    unit_LnD: np.ndarray = x_LnD / np.maximum(length_Ln1, 1e-12)
    return unit_LnD


def _normalize(folder: Path) -> Module:
    settings = read_json(folder / CONFIG, DataError) if (folder / CONFIG).exists() else {}
    _check_names(settings, folder)
    return Module("Normalize", 0, 0, normalised)


def _dropout(folder: Path) -> Module:
    return Module("Dropout", 0, 0, lambda x: x)  # It acts in training only.


def _layer_norm(folder: Path) -> Module:
    width = _width(read_json(folder / CONFIG, DataError), "dimension", folder)
    arrays = _arrays(folder, {"norm.weight": (width,), "norm.bias": (width,)})
    scale_D, bias_D = arrays["norm.weight"], arrays["norm.bias"]

    def apply(x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: np.ndarray = centred / np.sqrt(variance + LAYER_NORM_EPS) * scale_D + bias_D
        return scaled

    return Module("LayerNorm", width, width, apply)


def _dense(folder: Path) -> Module:
    settings = read_json(folder / CONFIG, DataError)
    _check_names(settings, folder)
    inputs, outputs = (_width(settings, f"{side}_features", folder) for side in ("in", "out"))
    path = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, name = path.rpartition(".")
    if package.split(".")[:2] != ["torch", "nn"] or name not in ACTIVATIONS:
        _refuse(f"activation_function {path!r:.80} is none of {', '.join(ACTIVATIONS)}", folder)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
    if settings.get("bias", True):
        shapes["linear.bias"] = (outputs,)
    arrays, activation = _arrays(folder, shapes), ACTIVATIONS[name]

    def apply(x: np.ndarray) -> np.ndarray:
        return activation(x @ arrays["linear.weight"].T + arrays.get("linear.bias", 0))

    return Module("Dense", inputs, outputs, apply)


MODULE_READERS: Mapping[str, Callable[[Path], Module]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
}
"""Functions that read a module from its folder, by its class."""


def _check_names(settings: Mapping[str, Any], folder: Path) -> None:
    """Check that a module reads and replaces the vector of a text, and nothing else."""
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            _refuse(f"{key} {settings[key]!r:.80} is not implemented", folder)
    if settings.get("use_residual"):
        _refuse("use_residual is not implemented", folder)


def _width(settings: Mapping[str, Any], key: str, folder: Path) -> int:
    value = settings.get(key)
    if type(value) is not int or value < 1:
        _refuse(f"{key} has to be a positive integer, not {value!r:.80}", folder)
    width: int = value  # type: ignore[assignment]
    return width


def _arrays(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the arrays of a module, float32."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(
            f"there is no {WEIGHTS} of the module",
            where=str(folder),
            hint="load the model with sentence-transformers, and save it again: current versions "
            "write safetensors.",
        )
    with open_safetensors(file) as reader:
        arrays = {name: reader.get_tensor(name).astype(np.float32) for name in reader.keys()}  # noqa: SIM118 - no dict
    problems = [f"missing: {name}" for name in sorted(shapes.keys() - arrays.keys())]
    problems += [f"unexpected: {name}" for name in sorted(arrays.keys() - shapes.keys())]
    for name in shapes.keys() & arrays.keys():
        if arrays[name].shape != shapes[name]:
            problems.append(f"{name}: have {arrays[name].shape} / want {shapes[name]}")
        elif fault := value_fault(arrays[name], name):
            problems.append(f"{name}: {fault}")
    if problems:
        raise CheckpointError(
            "the weights do not fit the config.json of the module",
            where=str(file),
            details=sorted(problems),
            hint="copy both again from where the model is published.",
        )
    return arrays


def _refuse(what: str, folder: Path) -> None:
    raise ConfigError(
        what,
        where=str(folder / CONFIG),
        hint="--plain reads none of the files of sentence-transformers.",
    )
