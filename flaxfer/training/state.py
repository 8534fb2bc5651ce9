"""The train state: what a step reads and writes, and where it lies on the mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxfer.config import Lora
from flaxfer.models import lora
from flaxfer.runtime.sharding import group_shardings, tree_shardings
from flaxfer.runtime.trees import Params, leaves_by_name

MODEL = ("encoder", "head")
"""Keys of the model among the parameters; a rehearsed task's head lies beside them."""

ADAPTERS = "adapters"
"""Item of a checkpoint with the adapters of the model."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state after `step` optimizer updates; everything but `step` (int32) is float32."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState

    def items(self, settings: Lora | None = None) -> dict[str, Any]:
        """Return the items of a checkpoint: those of `param_items`, and `opt_state`."""
        return {**param_items(self.params, settings), "opt_state": self.opt_state}


def param_items(params: Params, settings: Lora | None = None) -> dict[str, Any]:
    """Return parameters as items of a checkpoint: the model's under `params`, others beside it.

    Adapters are merged into the model, and are an item of their own.

    Args:
      params: arrays, or `ShapeDtypeStruct`.
      settings: of the adapters, if there are some.
    """
    model = {name: params[name] for name in MODEL}
    others = {name: part for name, part in params.items() if name not in MODEL}
    if settings is None:
        return {"params": model, **others}
    return {"params": lora.merged(model, settings), ADAPTERS: lora.adapters(model), **others}


def from_items(
    step: jax.Array, items: dict[str, Any], start: Callable[[], Params] | None = None
) -> TrainState:
    """Return the state whose `items` were saved.

    Args:
      step: its step.
      items: of `TrainState.items`.
      start: returns the parameters at step 0, placed, which the frozen encoder of a model with
        adapters is taken from; not called without adapters.
    """
    others = {
        name: item for name, item in items.items() if name not in ("params", ADAPTERS, "opt_state")
    }
    params = items["params"]
    if ADAPTERS in items:
        assert start is not None
        base = {"encoder": start()["encoder"], "head": params["head"]}
        params = lora.with_adapters(base, items[ADAPTERS])
    return TrainState(step, {**params, **others}, items["opt_state"])


def init_state(
    params: Params, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Return the state at step 0, every array placed on `mesh`.

    The step donates its state, so `params` are copied: the caller may use them again.
    """

    def create(params: Params) -> TrainState:
        copied = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), copied, optimizer.init(copied))

    shardings = tree_shardings(jax.eval_shape(create, params), mesh)
    return jax.jit(create, out_shardings=shardings)(params)


def stack(states: Sequence[TrainState], mesh: jax.sharding.Mesh) -> TrainState:
    """Return the states of several seeds as one, every array with a leading axis of seeds.

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
    """Return one seed's part of a stacked tree, placed on the whole mesh.

    Args:
      tree: parameters or optimizer state of several seeds.
      number: index of the seed.
      mesh: the mesh that `sharding.seed_mesh` was derived from.
    """
    part = _take(tree, number)
    return jax.device_put(part, tree_shardings(part, mesh))


def nonfinite(items: Mapping[str, Any]) -> list[str]:
    """Return the names of the arrays that hold NaN or infinity, such as params/encoder/...."""
    finite = leaves_by_name(jax.device_get(jax.tree.map(_is_finite, dict(items))))
    return [name for name, all_finite in finite.items() if not all_finite]


@jax.jit
def _is_finite(x: jax.Array) -> jax.Array:
    """Return whether an array is finite; one program of all arrays takes seconds to compile."""
    return jnp.isfinite(x).all()


@jax.jit
def _take(tree: Any, number: jax.typing.ArrayLike) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), tree)
