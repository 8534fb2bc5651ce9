"""Hugging Face folders of tiny models, to read, damage and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxfer.errors import CheckpointError
from flaxfer.models.families import read_config
from flaxfer.models.names import stored_shape
from flaxfer.models.pretrained import (
    load_encoder_config,
    load_pretrained,
    parameter_names,
    parameter_shapes,
)
from tests.models import tiny

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"

Arrays = dict[str, np.ndarray]


def write_folder(folder: Path, family: str, head: str) -> Arrays:
    """Write a Hugging Face folder with random weights; return them."""
    settings = tiny.settings(family)
    config = read_config(settings)
    shapes = parameter_shapes(config, tiny.OUTPUTS[head], head)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(stored_shape(shapes[path], layout)).astype(np.float32)
        for name, path, layout in parameter_names(config, head)
    }
    save_file(arrays, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(settings))
    return arrays


def change(folder: Path, function: Callable[[Arrays], Arrays | None]) -> None:
    """Rewrite the weights of a folder."""
    arrays = load_file(folder / WEIGHTS)
    save_file(function(arrays) or arrays, folder / WEIGHTS)


def load(folder: Path, outputs: int = 0) -> dict[str, Any]:
    config = load_encoder_config(folder)
    return load_pretrained(folder, config, outputs=outputs)


def refusal(folder: Path, outputs: int = 0) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load(folder, outputs)
    assert caught.value.hint and str(folder) in str(caught.value.where)
    return caught.value


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
