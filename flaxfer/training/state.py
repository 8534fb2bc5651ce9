"""The train state: what a step reads and writes, and where it lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxfer.runtime.sharding import group_shardings, tree_shardings
from flaxfer.runtime.trees import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state after `step` optimiser updates; everything but `step` (int32) is float32."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def init_state(
    params: Params, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """The state at step 0, every array placed on `mesh`.

    The step donates its state, so `params` are copied: the caller may use them again.
    """
    shapes = jax.eval_shape(
        lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p)), params
    )
    shardings = tree_shardings(shapes, mesh)

    def create(given: Params) -> TrainState:
        copied = jax.tree.map(jnp.copy, given)
        return TrainState(jnp.zeros((), jnp.int32), copied, optimizer.init(copied))

    return jax.jit(create, out_shardings=shardings)(params)


def stack(states: Sequence[TrainState], mesh: jax.sharding.Mesh) -> TrainState:
    """The states of a group of seeds as one, every array with a leading axis of seeds.

    Args:
      states: at the same step.
      mesh: of `sharding.seed_mesh`.
    """

    def stacked(states: Sequence[TrainState]) -> TrainState:
        state: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return state

    shardings = group_shardings(jax.eval_shape(stacked, states), mesh)
    return jax.jit(stacked, out_shardings=shardings)(states)


def unstack(tree: Any, number: int, mesh: jax.sharding.Mesh) -> Any:
    """What a tree of `stack` holds of one seed, placed on the whole mesh.

    Args:
      tree: parameters or optimiser state of a group.
      number: the place of the seed in the group.
      mesh: that the group's was made of.
    """
    own = _take(tree, number)
    return jax.device_put(own, tree_shardings(own, mesh))


@jax.jit
def _take(tree: Any, number: jax.typing.ArrayLike) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), tree)
