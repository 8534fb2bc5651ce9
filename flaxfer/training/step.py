"""The train step, jitted: gradient accumulation, optimizer update, metrics.

Axes: A micro-batches, B rows, T tokens, E sequences a row, C classes, D model width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from flaxfer.config import Optimizer, Task
from flaxfer.data.packing import REHEARSED, by_task
from flaxfer.models.layers import Attention, Execution, Remat
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.platform import compiler_options
from flaxfer.runtime.sharding import SEED, tree_shardings
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.training.optimizer import make_optimizer, make_schedule, trained_part
from flaxfer.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = tuple[jax.Array, jax.Array]
"""Sum of losses, and their number."""
Outputs = Callable[[Params, Batch, jax.typing.ArrayLike], jax.Array]
"""Function from parameters, a micro-batch and its number to the outputs of the model."""


class TrainStep(Protocol):
    """A jitted train step."""

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Return the next state and the metrics."""

    def lower(self, state: Any, batch: Any, key: Any) -> jax.stages.Lowered:
        """Lower the step for arrays, or `ShapeDtypeStruct` with shardings."""


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """A second task on the encoder of a step, with arrays of its own in the batch.

    Attributes:
      model, task, label_smoothing: as in `StepSpec`.
      fraction: weight in the mean of both losses; its fraction of the batch.
    """

    model: ModelSpec
    task: Task
    label_smoothing: float
    fraction: float


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """All that is baked into a compiled train step.

    Attributes:
      model: encoder and head.
      task: what is learned.
      optimizer: settings of the optimizer.
      total_steps: optimizer updates of the stage, for the schedule.
      label_smoothing: see `Train`.
      dtype: of the matmuls.
      remat: what layers recompute in the backward pass.
      attention: implementation of attention.
      batched_seeds: whether several seeds run in one program.
      rehearsed: a rehearsed task.
      fresh: patterns of parameters without a pretrained start, see `make_optimizer`.
      skip_nonfinite: leave parameters and moments as they are in a step whose loss or gradient is
        not finite. Counts advance, so that the schedule keeps in step.
    """

    model: ModelSpec
    task: Task
    optimizer: Optimizer
    total_steps: int
    label_smoothing: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"
    attention: Attention = "auto"
    batched_seeds: bool = False
    rehearsed: Rehearsed | None = None
    fresh: tuple[str, ...] = ()
    skip_nonfinite: bool = False

    def param_shapes(self) -> Params:
        """Return the trained parameters as `ShapeDtypeStruct`, a rehearsed head included."""
        shapes = self.model.param_shapes()
        if self.rehearsed is not None:
            shapes[REHEARSED] = self.rehearsed.model.param_shapes()["head"]
        return shapes


# Cached: one compiled program serves every seed and condition whose specs are equal.
@functools.cache
def make_train_step(spec: StepSpec, mesh: jax.sharding.Mesh) -> TrainStep:
    """Return a jitted `(state, batch, key) -> (state, metrics)` that donates its state.

    The arrays of `batch` lead with an axis A of micro-batches. The gradient is that of the mean
    loss over all micro-batches, however many losses each of them holds; losses of contrastive task
    types compare the sequences of all micro-batches. The dropout key of a step
    is derived from `key` and the step, so a resumed run needs no random state. With
    `batched_seeds`, on a mesh of `sharding.seed_mesh`, state, batch, key and metrics lead with an
    axis of seeds, which are independent of each other. With `rehearsed`, the minimised loss is the
    mean of both tasks' losses, weighted by their fractions of the batch.

    Metrics (float32 scalars): `loss`, `gradient_norm` of the parameters that are not frozen, before
    clipping, `learning_rate`; with a rehearsed task, `rehearsed_loss`.
    """
    execution = Execution(spec.dtype, spec.remat, spec.attention, mesh)
    mean_gradient = functools.partial(_mean_gradient, execution)

    update = _make_update(spec)

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        target, rehearsed = by_task(batch)
        loss, gradient = mean_gradient(spec, "head", state.params, target, step_key)
        metrics = {"loss": loss}
        if spec.rehearsed is not None:
            # Another key than those of the micro-batches, which are numbered from 0.
            rehearsed_key = jax.random.fold_in(step_key, target["token_BT"].shape[0])
            metrics["rehearsed_loss"], rehearsed_gradient = mean_gradient(
                spec.rehearsed, REHEARSED, state.params, rehearsed, rehearsed_key
            )
            fraction = spec.rehearsed.fraction
            gradient = jax.tree.map(
                lambda g, r: (1 - fraction) * g + fraction * r, gradient, rehearsed_gradient
            )
        state, metrics = update(state, gradient, metrics)
        # Unconstrained, the compiler may place the new state elsewhere than the old one, and the
        # next step would be compiled again.
        return jax.lax.with_sharding_constraint(state, tree_shardings(state, mesh)), metrics

    step = jax.vmap(train_step, spmd_axis_name=SEED) if spec.batched_seeds else train_step
    options = compiler_options(mesh.devices.flat[0])
    jitted: TrainStep = jax.jit(step, donate_argnums=0, compiler_options=options)
    return jitted


def _make_update(spec: StepSpec) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return a function of state, gradient and metrics to the next state and all metrics.

    It is jitted so that the programs of all bucket sizes share its trace.
    """
    schedule = make_schedule(spec.optimizer, spec.total_steps)

    @jax.jit
    def update(state: TrainState, gradient: Params, metrics: Metrics) -> tuple[TrainState, Metrics]:
        transform = make_optimizer(spec.optimizer, spec.total_steps, state.params, spec.fresh)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        metrics = metrics | {
            "gradient_norm": optax.tree.norm(trained_part(spec.optimizer, gradient)),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        params = optax.apply_updates(state.params, updates)
        if spec.skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            old = (state.params, state.opt_state)
            params, opt_state = _where_float(finite, (params, opt_state), old)
        return TrainState(state.step + 1, params, opt_state), metrics

    return update


def compiled_programs(step: Callable[..., Any]) -> int:
    """Return how many programs a jitted step has compiled: one for each shape of batch."""
    return int(step._cache_size())  # type: ignore[attr-defined]


def _where_float(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return `new` where `condition` holds, else `old`; of arrays of integers always `new`."""

    def choose(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(condition, x, y) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(choose, new, old)


def _mean_gradient(
    execution: Execution,
    objective: StepSpec | Rehearsed,
    head: str,
    params: Params,
    batch: Batch,
    key: jax.Array,
) -> tuple[jax.Array, Params]:
    """Return the mean loss of a batch and its gradient.

    Args:
      execution: how the layers compute.
      objective: model, task and label smoothing.
      head: key of the objective's head among the parameters.
      params: all trained parameters.
      batch: arrays that lead with A micro-batches.
      key: dropout key of the batch.
    """
    model, micro_batches = objective.model, batch["token_BT"].shape[0]
    form = task_type(objective.task)

    def outputs_of(params: Params, micro: Batch, index: jax.typing.ArrayLike) -> jax.Array:
        micro_key = jax.random.fold_in(key, index) if model.has_dropout else None
        model_params = {"encoder": params["encoder"], "head": params[head]}
        return model.apply(model_params, micro, micro_key, execution)

    def loss_of(outputs: jax.Array, batch: Batch) -> Loss:
        return form.loss(objective.task, outputs, batch, objective.label_smoothing)

    if micro_batches == 1:
        micro = jax.tree.map(lambda x: x[0], batch)
        total = _gradient(outputs_of, loss_of, params, micro, 0)
    else:
        accumulated = _contrastive_gradient if form.contrastive else _accumulated_gradient
        total = accumulated(outputs_of, loss_of, params, batch)
    (loss, count), gradient = total
    return loss / count, jax.tree.map(lambda g: g / count, gradient)


def _gradient(
    outputs_of: Outputs,
    loss_of: Callable[..., Loss],
    params: Params,
    micro: Batch,
    index: jax.typing.ArrayLike,
) -> tuple[Loss, Params]:
    """Return the loss of a micro-batch and its gradient."""

    def loss(params: Params) -> Loss:
        return loss_of(outputs_of(params, micro, index), micro)

    return jax.value_and_grad(loss, has_aux=True)(params)


def _accumulated_gradient(
    outputs_of: Outputs, loss_of: Callable[..., Loss], params: Params, batch: Batch
) -> tuple[Loss, Params]:
    """Return the sums over all micro-batches of their loss and gradient."""

    def accumulate(total: Any, item: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        added = _gradient(outputs_of, loss_of, params, *item)
        return jax.tree.map(jnp.add, total, added), None

    zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    total: tuple[Loss, Params] = jax.lax.scan(accumulate, zero, _numbered(batch))[0]
    return total


def _contrastive_gradient(
    outputs_of: Outputs, loss_of: Callable[..., Loss], params: Params, batch: Batch
) -> tuple[Loss, Params]:
    """Return the loss that compares the sequences of all micro-batches, and its gradient.

    GradCache (Gao et al. 2021, arXiv 2101.06983): the outputs of all micro-batches are computed
    without storing activations, then the gradient of the loss with respect to them; each
    micro-batch is computed again, with the same dropout, to propagate its part.
    """
    outputs_ABED = jax.lax.map(lambda item: outputs_of(params, *item), _numbered(batch))
    loss, cotangent_ABED = jax.value_and_grad(loss_of, has_aux=True)(outputs_ABED, batch)

    def accumulate(total: Params, item: Any) -> tuple[Params, None]:
        numbered, cotangent_BED = item
        _, pullback = jax.vjp(lambda params: outputs_of(params, *numbered), params)
        return jax.tree.map(jnp.add, total, pullback(cotangent_BED)[0]), None

    zero = jax.tree.map(jnp.zeros_like, params)
    gradient, _ = jax.lax.scan(accumulate, zero, (_numbered(batch), cotangent_ABED))
    return loss, gradient


def _numbered(batch: Batch) -> tuple[Batch, jax.Array]:
    """Return arrays that lead with micro-batches, with the numbers of these."""
    return batch, jnp.arange(batch["token_BT"].shape[0])
