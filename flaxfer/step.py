"""Loss, train step and eval step: pure functions, and the only place that jits them.

Axes: A micro-batches, B rows, T tokens, E examples a row, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flaxfer.config import Optimizer, Task
from flaxfer.models.heads import SequenceClassifier
from flaxfer.optim import Params, make_optimizer, make_schedule
from flaxfer.sharding import tree_shardings
from flaxfer.state import TrainState

Batch = dict[str, jax.Array]
Graph = nnx.GraphDef[SequenceClassifier]


def example_losses(
    task: Task, label_smoothing: float, logits_BEC: jax.Array, label_BE: jax.Array
) -> jax.Array:
    """The loss of each example, float32 (B, E): cross-entropy, or squared error of the score."""
    if task.kind == "regression":
        return jnp.square(logits_BEC[..., 0] - label_BE)
    target_BEC = optax.smooth_labels(
        jax.nn.one_hot(label_BE, logits_BEC.shape[-1]), label_smoothing
    )
    return optax.softmax_cross_entropy(logits_BEC, target_BEC)


def apply(
    graph: Graph, params: Params, batch: Batch, dtype: jnp.dtype, dropout_key: jax.Array | None
) -> jax.Array:
    """Logits of a batch of packed rows, float32 (B, E, C); deterministic without a key."""
    model = nnx.merge(graph, params)
    logits_BEC: jax.Array = model(
        batch["token_BT"],
        batch["type_BT"],
        batch["position_BT"],
        batch["segment_BT"],
        batch["summary_BE"],
        dropout_key=dropout_key,
        dtype=dtype,
    )
    return logits_BEC


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
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted `(state, batch, key) -> (state, metrics)` that donates its state.

    The arrays of `batch` lead with an axis A of micro-batches. The gradient is that of the mean
    loss over the examples of all micro-batches, whatever number each of them holds. The dropout
    key of a step is derived from `key` and the step, so a resumed run needs no random state.

    Metrics (float32 scalars): `loss`, `gradient_norm` before clipping, `learning_rate`.
    """
    schedule = make_schedule(optimizer, total_steps)

    def loss_sum(params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
        logits_BEC = apply(graph, params, batch, dtype, key)
        loss_BE = example_losses(task, label_smoothing, logits_BEC, batch["label_BE"])
        return jnp.sum(loss_BE * batch["mask_BE"])

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        transform = make_optimizer(optimizer, total_steps, state.params)
        micro_batches = batch["token_BT"].shape[0]
        step_key = jax.random.fold_in(key, state.step)

        def micro_step(index: jax.typing.ArrayLike, micro: Batch) -> tuple[jax.Array, Params]:
            micro_key = jax.random.fold_in(step_key, index) if dropout else None
            return jax.value_and_grad(loss_sum)(state.params, micro, micro_key)

        if micro_batches == 1:
            loss, gradient = micro_step(0, jax.tree.map(lambda x: x[0], batch))
        else:

            def accumulate(total: Any, item: tuple[jax.Array, Batch]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, micro_step(*item)), None

            zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
            (loss, gradient), _ = jax.lax.scan(accumulate, zero, (jnp.arange(micro_batches), batch))
        examples = jnp.sum(batch["mask_BE"])
        gradient = jax.tree.map(lambda g: g / examples, gradient)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        metrics = {
            "loss": loss / examples,
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state)
        # Left to itself the compiler may place the new state elsewhere than the old one, and the
        # next step would be compiled again.
        return jax.lax.with_sharding_constraint(state, tree_shardings(state, mesh)), metrics

    return jax.jit(train_step, donate_argnums=0)


@functools.cache
def make_eval_step(
    graph: Graph, task: Task, dtype: Any
) -> Callable[[Params, Batch, Any], tuple[Any, jax.Array]]:
    """A jitted `(params, batch, metrics) -> (metrics, logits_BEC)`.

    `metrics` is a `clu.metrics.Collection` that has the batch merged into it on the device; the
    logits are for the predictions file.
    """

    def eval_step(params: Params, batch: Batch, metrics: Any) -> tuple[Any, jax.Array]:
        logits_BEC = apply(graph, params, batch, dtype, None)
        update = type(metrics).single_from_model_output(
            logits=logits_BEC, label=batch["label_BE"], mask=batch["mask_BE"]
        )
        return metrics.merge(update), logits_BEC

    return jax.jit(eval_step, donate_argnums=2)
