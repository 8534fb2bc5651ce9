"""Train step, eval step and embed step: pure functions, and the only place that jits them.

Axes: A micro-batches, B rows, T tokens, E examples a row, C classes, D model width, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flaxfer.config import Optimizer, Task
from flaxfer.data.packing import REHEARSED, by_task
from flaxfer.models.heads import EncoderModel
from flaxfer.models.layers import Attention, Execution, Remat
from flaxfer.runtime.platform import compiler_options
from flaxfer.runtime.sharding import SEED, tree_shardings
from flaxfer.tasks.losses import loss_sum
from flaxfer.training.optimizer import Params, make_optimizer, make_schedule
from flaxfer.training.state import TrainState

Batch = dict[str, jax.Array]
Pooling = Literal["mean", "cls"]
Graph = nnx.GraphDef[EncoderModel]
LossOf = Callable[[Params, Batch, jax.Array | None], tuple[jax.Array, jax.Array]]
"""Parameters, a micro-batch and a dropout key in; the sum of the losses and their number out."""


class OtherTask(NamedTuple):
    """A task that is rehearsed: its head on the same encoder, and its share of a batch."""

    graph: Graph
    task: Task
    label_smoothing: float
    share: float


def apply(
    graph: Graph,
    params: Params,
    batch: Batch,
    dropout_key: jax.Array | None,
    execution: Execution = Execution(),
) -> jax.Array:
    """Logits of a batch of packed rows, float32 (B, E, C), or (B, T, C) of heads that read every
    token; deterministic without a key.
    """
    model = nnx.merge(graph, params)
    logits: jax.Array = model(
        batch["token_BT"],
        batch["type_BT"],
        batch["position_BT"],
        batch["segment_BT"],
        batch["cls_BE"],
        dropout_key=dropout_key,
        execution=execution,
    )
    return logits


def programs(step: Callable[..., Any]) -> int:
    """How many programs a jitted step has compiled: one for each shape of batch."""
    return int(step._cache_size())  # type: ignore[attr-defined]


# One compiled program serves every seed and path whose settings are equal, so the factories are
# cached on all that is baked into the program.
@functools.cache
def make_train_step(
    graph: Graph,
    task: Task,
    optimizer: Optimizer,
    total_steps: int,
    label_smoothing: float,
    dtype: Any,
    dropout: bool,
    mesh: jax.sharding.Mesh,
    *,
    remat: Remat = "none",
    attention: Attention = "auto",
    batched_seeds: bool = False,
    rehearsed: OtherTask | None = None,
    new: tuple[str, ...] = (),
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted `(state, batch, key) -> (state, metrics)` that donates its state.

    The arrays of `batch` lead with an axis A of micro-batches. The gradient is that of the mean
    loss over all micro-batches, whatever number of losses each of them holds. The dropout
    key of a step is derived from `key` and the step, so a resumed run needs no random state.
    `batched_seeds`: for a group of seeds, on a mesh of `sharding.seed_mesh`; state, batch, key and
    metrics lead with an axis of seeds, which have nothing else to do with each other.
    `rehearsed`: another task with arrays of its own in the batch; the loss that is minimised is
    the mean of the two tasks', weighted by their shares of the batch.
    `new`: of `make_optimizer`.

    Metrics (float32 scalars): `loss`, `gradient_norm` before clipping, `learning_rate`; with
    another task, `rehearsed_loss`.
    """
    schedule = make_schedule(optimizer, total_steps)
    execution = Execution(dtype, remat, attention, mesh)

    loss_of = _loss_of(graph, task, label_smoothing, "head", execution)

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        transform = make_optimizer(optimizer, total_steps, state.params, new)
        step_key = jax.random.fold_in(key, state.step)
        own, other = by_task(batch)
        loss, gradient = _mean_gradient(loss_of, state.params, own, step_key if dropout else None)
        metrics = {"loss": loss}
        if rehearsed is not None:
            of = rehearsed.graph, rehearsed.task, rehearsed.label_smoothing
            # Another key than those of the micro-batches, which are numbered from 0.
            other_key = jax.random.fold_in(step_key, own["token_BT"].shape[0])
            metrics["rehearsed_loss"], other_gradient = _mean_gradient(
                _loss_of(*of, REHEARSED, execution),
                state.params,
                other,
                other_key if dropout else None,
            )
            weights = 1 - rehearsed.share, rehearsed.share
            gradient = jax.tree.map(
                lambda g, o: weights[0] * g + weights[1] * o, gradient, other_gradient
            )
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        metrics |= {
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state)
        # Left to itself the compiler may place the new state elsewhere than the old one, and the
        # next step would be compiled again.
        return jax.lax.with_sharding_constraint(state, tree_shardings(state, mesh)), metrics

    step = jax.vmap(train_step, spmd_axis_name=SEED) if batched_seeds else train_step
    options = compiler_options(mesh.devices.flat[0])
    return jax.jit(step, donate_argnums=0, compiler_options=options)


def _loss_of(
    graph: Graph, task: Task, label_smoothing: float, head: str, execution: Execution
) -> LossOf:
    """The loss of a task, whose head lies under the key `head` of the parameters."""

    def loss_of(params: Params, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        own = {"encoder": params["encoder"], "head": params[head]}
        logits = apply(graph, own, batch, key, execution)
        return loss_sum(task, label_smoothing, logits, batch)

    return loss_of


def _mean_gradient(
    loss_of: LossOf, params: Params, batch: Batch, key: jax.Array | None
) -> tuple[jax.Array, Params]:
    """The mean of the losses of a batch and its gradient; arrays lead with A micro-batches."""
    micro_batches = batch["token_BT"].shape[0]

    def micro_step(
        index: jax.typing.ArrayLike, micro: Batch
    ) -> tuple[tuple[jax.Array, jax.Array], Params]:
        micro_key = None if key is None else jax.random.fold_in(key, index)
        return jax.value_and_grad(loss_of, has_aux=True)(params, micro, micro_key)

    if micro_batches == 1:
        (loss, count), gradient = micro_step(0, jax.tree.map(lambda x: x[0], batch))
    else:

        def accumulate(total: Any, item: tuple[jax.Array, Batch]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, micro_step(*item)), None

        zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(accumulate, zero, (jnp.arange(micro_batches), batch))
        (loss, count), gradient = total
    return loss / count, jax.tree.map(lambda g: g / count, gradient)


@functools.cache
def make_for_eval(dtype: Any) -> Callable[[Params], Params]:
    """A jitted function from parameters to those that `make_eval_step` takes.

    The encoder's kernels are brought to the dtype of the products once, where every step would do
    that anew, with the same result. All else stays float32.
    """

    def narrow(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[0].key == "encoder" and path[-1].key == "kernel" else leaf

    return jax.jit(functools.partial(jax.tree.map_with_path, narrow))


@functools.cache
def make_eval_step(
    graph: Graph,
    task: Task,
    dtype: Any,
    mesh: jax.sharding.Mesh,
    *,
    attention: Attention = "auto",
    batched_seeds: bool = False,
) -> Callable[[Params, Batch, Any], tuple[Any, jax.Array]]:
    """A jitted `(params, batch, metrics) -> (metrics, logits)`.

    `params` come from `make_for_eval`. `metrics` is a `clu.metrics.Collection` that has the batch
    merged into it on the device, where the kind of task has metrics that can be accumulated; the
    logits are for the predictions file.
    `batched_seeds`: on a mesh of `sharding.seed_mesh`, for several seeds; all but the batch leads
    with an axis of seeds.
    """
    execution = Execution(dtype, attention=attention, mesh=mesh)

    def eval_step(params: Params, batch: Batch, metrics: Any) -> tuple[Any, jax.Array]:
        logits = apply(graph, params, batch, None, execution)
        if task.kind in ("classification", "regression"):
            update = type(metrics).single_from_model_output(
                logits=logits, label=batch["label_BE"], mask=batch["mask_BE"]
            )
            metrics = metrics.merge(update)
        return metrics, logits

    step = jax.vmap(eval_step, (0, None, 0), spmd_axis_name=SEED) if batched_seeds else eval_step
    options = compiler_options(mesh.devices.flat[0])
    return jax.jit(step, donate_argnums=2, compiler_options=options)


@functools.cache
def make_embed_step(
    graph: nnx.GraphDef[Any], layers: tuple[int, ...], pooling: Pooling
) -> Callable[[Params, Batch], jax.Array]:
    """A jitted `(params, batch) -> vector_LBED`: the embeddings of packed texts, float32.

    Slots without a text hold vectors that mean nothing.

    Args:
      graph: of an encoder.
      layers: places in its `hidden_states`; the compiler leaves out the layers above the highest.
      pooling: `mean` over all tokens of a text, special tokens included; `cls` for the output at
        its CLS token.
    """

    def embed_step(params: Params, batch: Batch) -> jax.Array:
        encoder = nnx.merge(graph, params)
        slot_E = 1 + jnp.arange(batch["cls_BE"].shape[1])
        own_BET = (batch["segment_BT"][:, None] == slot_E[:, None]).astype(jnp.float32)
        share_BET = own_BET / jnp.maximum(own_BET.sum(axis=-1, keepdims=True), 1.0)

        def pool(x_BTD: jax.Array) -> jax.Array:
            if pooling == "mean":
                return jnp.einsum("BET,BTD->BED", share_BET, x_BTD)
            return jnp.take_along_axis(x_BTD, batch["cls_BE"][..., None], axis=1)

        # Else TPUs and GPUs multiply float32 with the precision of shorter types.
        with jax.default_matmul_precision("highest"):
            states = encoder.hidden_states(
                batch["token_BT"], batch["type_BT"], batch["position_BT"], batch["segment_BT"]
            )
            return jnp.stack([pool(states[layer]) for layer in layers])

    return jax.jit(embed_step)


def forget_programs() -> None:
    """Frees all compiled steps, which are kept for stages with equal settings."""
    for factory in (make_train_step, make_for_eval, make_eval_step, make_embed_step):
        factory.cache_clear()
