"""Modules that encoders and heads are made of.

Parameters are float32; matmuls run in the dtype of their input.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from flaxfer.models import ops
from flaxfer.models.encoders import ACTIVATIONS, EncoderConfig
from flaxfer.runtime.platform import backend_of
from flaxfer.runtime.sharding import ROWS

Remat = Literal["none", "matmuls", "full"]
"""Remat policy of a layer: keep everything for the backward pass, keep the results of matmuls with
kernels and recompute the rest, or keep the layer's input and recompute everything."""

Attention = Literal["auto", "xla", "cudnn", "splash", "short_rows"]
"""Implementation of attention, see `flaxfer.models.attention`."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """Settings of the computation, which change time and memory, and values only by rounding.

    Attributes:
      dtype: float32 or bfloat16, dtype of the matmuls and of the activations between the matmuls of
        a block. Residual sums and their normalisation are float32: more exact, and 4 to 15 % fewer
        TPU cycles (ada5ad2).
      remat: remat policy of the layers.
      attention: implementation of attention.
      mesh: rows are split over `data` and `fsdp`, heads over `tensor`; None for a single device of
        unknown platform.
    """

    dtype: Any = jnp.float32
    remat: Remat = "none"
    attention: Attention = "xla"
    mesh: jax.sharding.Mesh | None = None

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`; empty if unknown."""
        return "" if self.mesh is None else backend_of(self.mesh.devices.flat[0])


def at(x: jax.Array, place_BT: jax.Array | None) -> jax.Array:
    """Return what an array, (B, S, ...), holds at some places of its rows; without places, all."""
    if place_BT is None:
        return x
    return jnp.take_along_axis(x, jnp.expand_dims(place_BT, tuple(range(2, x.ndim))), axis=1)


def run_layer(layer: nnx.Module, execution: Execution, *arrays: jax.Array | None) -> jax.Array:
    """Return a layer's output; layers that differ in their parameters alone share one trace.

    Tracing and lowering are half of a warm start, and otherwise repeated for every layer. Programs
    for accelerators have no calls: with them, the step of BERT-base takes 11 % more TPU cycles,
    although the compiler inlines them. On CPUs they make a step 5 % faster (3efa33d).

    Args:
      layer: module that is called with `arrays` and `execution`.
      execution: how it computes; activations are recomputed by its remat policy.
      *arrays: inputs of the layer.
    """
    graph, params = nnx.split(layer)
    run = _called if execution.platform == "cpu" else _inlined
    output: jax.Array = run(graph, execution, params, *arrays)
    return output


def _run_layer(
    graph: nnx.GraphDef[Any], execution: Execution, params: nnx.State, *arrays: jax.Array | None
) -> jax.Array:
    def run(params: nnx.State, *arrays: jax.Array | None) -> jax.Array:
        output: jax.Array = nnx.merge(graph, params)(*arrays, execution=execution)
        return output

    if execution.remat == "none":
        return run(params, *arrays)
    # Recompute activations (Chen et al. 2016).
    policies = jax.checkpoint_policies
    saveable = policies.dots_with_no_batch_dims_saveable if execution.remat == "matmuls" else None
    return jax.checkpoint(run, policy=saveable)(params, *arrays)


_called = jax.jit(_run_layer, static_argnums=(0, 1))
_inlined = jax.jit(_run_layer, static_argnums=(0, 1), inline=True)


def split_rows(x_BTD: jax.Array, execution: Execution) -> jax.Array:
    """Return the activations with their rows split over the mesh.

    Unconstrained, XLA may split them by width, as `fsdp` splits kernels, and then sums partial
    matmuls over the chips instead of gathering kernels, which are smaller. With fsdp 4 this halves
    the TPU cycles (8b7b32b).
    """
    if execution.mesh is None:
        return x_BTD
    return jax.lax.with_sharding_constraint(x_BTD, NamedSharding(execution.mesh, ROWS))


@dataclasses.dataclass
class Keys:
    """Keys of new parameters, which count themselves; otherwise as `nnx.Rngs(key)`.

    Attributes:
      key: key that each draw's number is folded into.
      drawn: number of keys drawn.
    """

    key: jax.Array
    drawn: int = 0

    def params(self) -> jax.Array:
        """Draw the next key."""
        self.drawn += 1
        return jax.random.fold_in(self.key, self.drawn - 1)


class Linear(nnx.Module):
    """An affine map over the last axes of its input: one, or several such as heads.

    Attributes:
      kernel: float32 (*inputs, *outputs), normally distributed.
      bias: float32 (*outputs,), zeros; None for a linear map.
      lora: adapter, see `flaxfer.models.lora`; None for none.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        std: float,
        rngs: Keys,
        bias: bool = True,
    ):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (*inputs, *outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.input_axes = len(inputs)
        self.lora: nnx.Module | None = nnx.data(None)

    def __call__(self, x: jax.Array, lora_key: jax.Array | None = None) -> jax.Array:
        """Map (..., *inputs) to (..., *outputs) in the dtype of x.

        Args:
          x: inputs.
          lora_key: dropout key of the adapter; None for no dropout.
        """
        kernel = self.kernel[...].astype(x.dtype)
        inputs, outputs = kernel.shape[: self.input_axes], kernel.shape[self.input_axes :]
        batch = x.shape[: x.ndim - self.input_axes]
        y = ops.project(x, batch, kernel.reshape(math.prod(inputs), -1))
        if self.bias is not None:
            y = ops.add_bias(y, self.bias[...].reshape(-1))
        y = y.reshape(*batch, *outputs)
        return y if self.lora is None else y + self.lora(x, lora_key)


class FeedForward(nnx.Module):
    """Two affine maps with an activation, and in XLNet a dropout, between them."""

    def __init__(self, config: EncoderConfig, *, rngs: Keys, dropout_rate: float = 0.0):
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.up = Linear((width,), (inner,), std=std, rngs=rngs)
        self.down = Linear((inner,), (width,), std=std, rngs=rngs)
        self.activation = config.activation
        self.rate = dropout_rate

    def __call__(
        self,
        x_BTD: jax.Array,
        dropout_key: jax.Array | None = None,
        lora_key: jax.Array | None = None,
    ) -> jax.Array:
        """Return `y_BTD`."""
        inner_BTF = ACTIVATIONS[self.activation](self.up(x_BTD, ops.dropout_site(lora_key, 0)))
        inner_BTF = ops.dropout(inner_BTF, self.rate, dropout_key)
        return self.down(inner_BTF, ops.dropout_site(lora_key, 1))


def queries_keys_values(
    maps: Sequence[Linear],
    query_BTD: jax.Array,
    x_BSD: jax.Array,
    execution: Execution,
    lora_key: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `query_BTHK`, `key_BSHK` and `value_BSHK`, from one matmul if all tokens are queries.

    Args:
      maps: those of queries, keys and values.
      query_BTD: hidden states that attend; x_BSD itself if all do.
      x_BSD: hidden states that are attended to.
      execution: has the dtype of the results.
      lora_key: dropout key of the adapters.
    """
    narrow_BSD = x_BSD.astype(execution.dtype)
    keys = [ops.dropout_site(lora_key, site) for site in range(len(maps))]
    if query_BTD is x_BSD:
        query_BTHK, key_BSHK, value_BSHK = fused(maps, narrow_BSD, execution.platform, keys)
    else:
        query_BTHK = maps[0](query_BTD.astype(execution.dtype), keys[0])
        key_BSHK, value_BSHK = fused(maps[1:], narrow_BSD, execution.platform, keys[1:])
    return query_BTHK, key_BSHK, value_BSHK


def fused(
    maps: Sequence[Linear], x: jax.Array, platform: str, lora_keys: Sequence[jax.Array | None]
) -> tuple[jax.Array, ...]:
    """Return the results of maps with equal axes by a single matmul; on CPUs by one matmul each.

    On a CPU, stacking costs more than it saves (48f5ddd). Adapters are added apart.
    """
    if platform == "cpu":
        return tuple(linear(x, key) for linear, key in zip(maps, lora_keys, strict=True))
    first, *rest = maps[0].kernel[...].shape[1:]
    y = stacked(maps, x).reshape(*x.shape[:-1], first, len(maps), *rest)
    outputs = [y[..., i, :] for i in range(len(maps))]
    for i, (linear, key) in enumerate(zip(maps, lora_keys, strict=True)):
        if linear.bias is not None:
            outputs[i] = ops.add_bias(outputs[i], linear.bias[...])
        if linear.lora is not None:
            outputs[i] += linear.lora(x, key)
    return tuple(outputs)


def stacked(maps: Sequence[Linear], x: jax.Array, group: int = 1) -> jax.Array:
    """Return the results of maps to (H, K), before bias and adapter, by one matmul: (..., X).

    The last axis holds, for each group of heads, the results of all maps. Kernels are stacked
    behind their first output axis, so that a mesh that splits this axis splits the stacked kernel
    at the same places.
    """
    kernels = [linear.kernel[...].astype(x.dtype) for linear in maps]
    width, heads, *_ = kernels[0].shape
    grouped = [kernel.reshape(width, heads // group, -1) for kernel in kernels]
    y = ops.project(x, x.shape[:-1], jnp.stack(grouped, axis=2).reshape(width, -1))
    return y.reshape(*x.shape[:-1], -1)


def stacked_bias(maps: Sequence[Linear], group: int) -> jax.Array:
    """Return the bias of `stacked`, float32 (X,)."""
    biases = [linear.bias[...] for linear in maps if linear.bias is not None]
    return jnp.stack([x.reshape(len(x) // group, -1) for x in biases], axis=1).reshape(-1)


class Bias(nnx.Module):
    """A vector added to the last axes of its input.

    Attributes:
      bias: float32 (*shape,), normally distributed.
    """

    def __init__(self, shape: tuple[int, ...], *, std: float, rngs: Keys):
        self.bias = nnx.Param(std * jax.random.normal(rngs.params(), shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the sum in the dtype of x."""
        return ops.add_bias(x, self.bias[...])


class Embedding(nnx.Module):
    """A table of rows.

    Attributes:
      embedding: float32 (rows, D), normally distributed; the padding row is zero.
    """

    def __init__(
        self, rows: int, width: int, *, std: float, rngs: Keys, padding: int | None = None
    ):
        table = std * jax.random.normal(rngs.params(), (rows, width))
        self.embedding = nnx.Param(table if padding is None else table.at[padding].set(0.0))

    def __call__(self, index: jax.Array) -> jax.Array:
        """Return rows, float32; NaN for an index outside the table, so that it is noticed."""
        return self.embedding[...].at[index].get(mode="fill", fill_value=jnp.nan)


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016) of a sum, in float32.

    Attributes:
      scale: float32 (D,), ones.
      bias: float32 (D,), zeros.
    """

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, *summands: jax.Array) -> jax.Array:
        """Return the normalised sum, float32; the summands may have any dtype."""
        x = functools.reduce(jnp.add, (summand.astype(jnp.float32) for summand in summands))
        return ops.normalise(x, self.eps) * self.scale[...] + self.bias[...]
