"""Meshes over eight devices: arrays are split, and training gives the same results."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flaxfer import config
from flaxfer.config import Optimizer, Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.errors import ConfigError
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import TrainState, init_state
from flaxfer.training.step import StepSpec, compiled_programs, make_train_step
from tests.helpers import encoder_config, mesh_of, random_tokenized

TASK = Task("score", "regression", "pearson")
TRAIN = Train(batch_size=16, row_length=32, max_bucket_sizes=1)
# A large eps, so that rounding in gradients of zero does not become a step.
OPTIMIZER = Optimizer(learning_rate=3e-2, eps=1e-3, warmup=1)
ENCODER = encoder_config(layers=1)
STEPS = 4
MESHES = [(8, 1, 1), (2, 2, 2), (1, 8, 1), (2, 1, 4)]


def train(sizes: tuple[int, int, int]) -> tuple[list[dict[str, float]], TrainState, int]:
    """Return the metrics of steps on a mesh, the final state, and the number of programs."""
    mesh = mesh_of(*sizes)
    plan = TrainPlan.make(random_tokenized(40), TRAIN, seeds=(0,), pad_id=0, multiple=8)
    model = ModelSpec(ENCODER)
    spec = StepSpec(model, TASK, optimizer=OPTIMIZER, total_steps=10, dtype=jnp.dtype("float32"))
    function = make_train_step(spec, mesh)
    params = model.random_params(0)
    state = init_state(params, make_optimizer(OPTIMIZER, 10, params), mesh)
    placement = jax.tree.map(lambda x: x.sharding, state)
    history = []
    for _, batch in plan.batches(0, mesh):
        state, metrics = function(state, batch, jax.random.key(0, impl="rbg"))
        assert jax.tree.map(lambda x: x.sharding, state) == placement
        history.append({name: float(value) for name, value in metrics.items()})
        if len(history) == STEPS:
            break
    return history, state, compiled_programs(function)


@pytest.fixture(scope="module")
def on_one_device() -> tuple[list[dict[str, float]], TrainState, int]:
    return train((1, 1, 1))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_training_on_a_mesh_equals_one_device(sizes: Any, on_one_device: Any) -> None:
    expected, expected_state, _ = on_one_device
    history, state, programs = train(sizes)
    assert programs == 1, "the output state has the shardings of the input state"
    assert len({values["loss"] for values in expected}) == STEPS
    for values, want in zip(history, expected, strict=True):
        assert values == pytest.approx(want, rel=1e-5, abs=1e-5)
    for leaf, want in zip(*map(jax.tree.leaves, (state, expected_state)), strict=True):
        np.testing.assert_allclose(leaf, want, atol=1e-5)
    _, fsdp, tensor = sizes
    layer = state.params["encoder"]["layers"][0]
    for kernel, parts in (
        (layer["attention"]["query"]["kernel"], fsdp * tensor),
        (layer["attention"]["output"]["kernel"], fsdp * tensor),
        (layer["feed_forward"]["up"]["kernel"], fsdp * tensor),
        (layer["feed_forward"]["down"]["kernel"], fsdp * tensor),
        (state.params["encoder"]["embeddings"]["word"]["embedding"], fsdp * tensor),
        (layer["attention_norm"]["scale"], 1),
    ):
        sizes_of_shards = {math.prod(shard.data.shape) for shard in kernel.addressable_shards}
        assert sizes_of_shards == {kernel.size // parts}
    moments = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.opt_state)
        if jax.tree_util.keystr(path).endswith("['feed_forward']['up']['kernel']")
    ]
    assert len(moments) == 2
    assert {m.sharding.spec for m in moments} == {
        layer["feed_forward"]["up"]["kernel"].sharding.spec
    }


def test_parameters_are_split_by_their_logical_axes() -> None:
    mesh = mesh_of(2, 2, 2)
    shardings = sharding.tree_shardings(ModelSpec(ENCODER, num_outputs=3).param_shapes(), mesh)
    specs = {name: leaf.spec for name, leaf in leaves_by_name(shardings).items()}
    layer = "encoder/layers/0"
    assert {name: spec for name, spec in specs.items() if spec != PartitionSpec()} == {
        "encoder/embeddings/word/embedding": PartitionSpec("tensor", "fsdp"),
        **{
            f"{layer}/attention/{name}/{part}": spec
            for name in ("query", "key", "value")
            for part, spec in (
                ("kernel", PartitionSpec("fsdp", "tensor")),
                ("bias", PartitionSpec("tensor")),
            )
        },
        f"{layer}/attention/output/kernel": PartitionSpec("tensor", None, "fsdp"),
        f"{layer}/feed_forward/up/kernel": PartitionSpec("fsdp", "tensor"),
        f"{layer}/feed_forward/up/bias": PartitionSpec("tensor"),
        f"{layer}/feed_forward/down/kernel": PartitionSpec("tensor", "fsdp"),
    }


def test_an_axis_that_does_not_divide_is_not_split() -> None:
    specs = sharding.tree_shardings(ModelSpec(ENCODER).param_shapes(), mesh_of(1, 1, 8))
    layer = specs["encoder"]["layers"][0]
    assert layer["attention"]["query"]["kernel"].spec == PartitionSpec(), "four heads, eight ways"
    assert layer["feed_forward"]["up"]["kernel"].spec == PartitionSpec(None, "tensor")


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (config.Mesh(), (8, 1, 1)),
        (config.Mesh(data=-1, fsdp=2, tensor=2), (2, 2, 2)),
        (config.Mesh(data=1, fsdp=-1), (1, 8, 1)),
        (config.Mesh(data=2, fsdp=1, tensor=-1), (2, 1, 4)),
    ],
)
def test_a_mesh_covers_all_devices(sizes: config.Mesh, shape: tuple[int, int, int]) -> None:
    mesh = sharding.make_mesh(*sizes.sizes)
    assert tuple(mesh.shape.values()) == shape
    assert tuple(mesh.shape) == ("data", "fsdp", "tensor")
    assert sharding.row_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize(
    "sizes", [config.Mesh(data=3), config.Mesh(data=4), config.Mesh(fsdp=16), config.Mesh(fsdp=3)]
)
def test_a_mesh_that_does_not_cover_all_devices_is_refused(sizes: config.Mesh) -> None:
    with pytest.raises(ConfigError, match=r"does not cover 8 device\(s\)"):
        sharding.make_mesh(*sizes.sizes)
