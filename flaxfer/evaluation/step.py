"""The eval step, jitted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from flaxfer.models.layers import Attention, Execution
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.platform import compiler_options
from flaxfer.runtime.sharding import SEED
from flaxfer.runtime.trees import Params
from flaxfer.tasks import metrics

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """All that is baked into a compiled eval step.

    Attributes:
      model: encoder and head.
      dtype: of the matmuls.
      attention: implementation of attention.
      batched_seeds: whether several seeds run in one program.
    """

    model: ModelSpec
    dtype: Any
    attention: Attention = "auto"
    batched_seeds: bool = False


@functools.cache
def cast_for_eval(dtype: Any) -> Callable[[Params], Params]:
    """Return a jitted function from parameters to those that an eval step takes.

    The encoder's kernels are cast to the dtype of the matmuls once instead of in every step, with
    the same result. Everything else stays float32.
    """

    def narrow(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[0].key == "encoder" and path[-1].key == "kernel" else leaf

    return jax.jit(functools.partial(jax.tree.map_with_path, narrow))


@functools.cache
def make_eval_step(
    spec: EvalSpec, mesh: jax.sharding.Mesh
) -> Callable[[Params, Batch, Any], tuple[Any, jax.Array]]:
    """Return a jitted `(params, batch, metrics) -> (metrics, logits)`.

    `params` come from `cast_for_eval`. `metrics` are those of `TaskType.device_metrics`, which the
    batch is merged into; the logits are for the predictions. With `batched_seeds`, on a mesh of
    `sharding.seed_mesh`, everything but the batch leads with an axis of seeds.
    """
    execution = Execution(spec.dtype, attention=spec.attention, mesh=mesh)

    def eval_step(params: Params, batch: Batch, accumulated: Any) -> tuple[Any, jax.Array]:
        logits = spec.model.apply(params, batch, None, execution)
        return metrics.accumulate(accumulated, logits, batch), logits

    step = (
        jax.vmap(eval_step, (0, None, 0), spmd_axis_name=SEED) if spec.batched_seeds else eval_step
    )
    options = compiler_options(mesh.devices.flat[0])
    return jax.jit(step, donate_argnums=2, compiler_options=options)
