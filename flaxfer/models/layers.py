"""The parts that encoders and heads are made of.

Parameters are float32; a matrix product runs in the dtype of its input. Axes are those of the
package: B rows, T tokens, D model width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The product of x and the normal distribution function (Hendrycks & Gimpel 2016).

    The backward pass keeps x and nothing else; left to itself JAX computes, and keeps, several
    arrays of its size in float32.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_backward(x: jax.Array, slope: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((slope * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)

Remat = Literal["none", "matmuls", "full"]
"""What a layer keeps for its backward pass: all that it needs; the products with its kernels, the
rest being computed again; or its input alone.
"""

Attention = Literal["auto", "xla", "cudnn", "splash"]
"""What computes attention; see `flaxfer.models.attention`."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How layers compute: it changes time and memory, and values by no more than rounding.

    Attributes:
      dtype: float32 or bfloat16, of the matrix products and of what is between the products of one
        block; the sums that go from block to block, and their normalisation, are float32.
      keep: what each layer keeps for its backward pass.
      attention: what computes attention.
      mesh: of the devices, rows over `data` and `fsdp`, heads over `tensor`; None for one device
        of which nothing is known.
    """

    dtype: Any = jnp.float32
    remat: Remat = "none"
    attention: Attention = "xla"
    mesh: jax.sharding.Mesh | None = None

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`; empty if nothing is known of the device."""
        if self.mesh is None:
            return ""
        platform: str = self.mesh.devices.flat[0].platform
        return {"cuda": "gpu"}.get(platform, platform)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    **dict.fromkeys(("gelu", "gelu_python"), gelu),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
        functools.partial(jax.nn.gelu, approximate=True),
    ),
}
"""By the name that config.json gives them: transformers has several for one function."""


class Linear(nnx.Module):
    """An affine map of the last axes of its input, which may be several, as heads are.

    Attributes:
      kernel: float32 (*inputs, *outputs); drawn from a normal distribution.
      bias: float32 (*outputs,); zeros, or None for a linear map.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        std: float,
        rngs: nnx.Rngs,
        bias: bool = True,
    ):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (*inputs, *outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.input_axes = len(inputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *inputs) -> (..., *outputs) in the dtype of x."""
        kernel = self.kernel[...].astype(x.dtype)
        inputs, outputs = kernel.shape[: self.input_axes], kernel.shape[self.input_axes :]
        batch = x.shape[: x.ndim - self.input_axes]
        y = _product(x, batch, kernel.reshape(math.prod(inputs), -1))
        if self.bias is not None:
            y = _biased(y, self.bias[...].reshape(-1))
        return y.reshape(*batch, *outputs)


def _product(x: jax.Array, batch: tuple[int, ...], kernel: jax.Array) -> jax.Array:
    """The product of x, (*batch, ...), with a plain matrix: (*batch, outputs) or (-1, outputs).

    In float32, which most CPUs compute in, more axes than two cost copies in the backward pass. In
    bfloat16 they cost nothing there, and spare a TPU the copies between rows and tokens.
    """
    if x.dtype == jnp.float32:
        return x.reshape(-1, kernel.shape[0]) @ kernel
    return _matmul(x.reshape(*batch, kernel.shape[0]), kernel)


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(..., inputs) by (inputs, outputs).

    The slope of the kernel is asked for in a form that XLA's library for CPUs takes. It does not
    take the one that JAX derives, a transpose transposed, which is half as fast in bfloat16.
    """
    return x @ kernel


def _matmul_backward(
    kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    return slope @ kernel.T, jax.lax.dot_general(x, slope, ((rows, rows), ((), ())))


_matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


@jax.custom_vjp
def _biased(x: jax.Array, bias: jax.Array) -> jax.Array:
    """The sum of x and a float32 bias of its last axes, in the dtype of x.

    The slope of the bias is summed in float32. JAX sums it in the dtype of x, which rounds it, and
    for which XLA has no fast loop on CPUs.
    """
    return x + bias.astype(x.dtype)


def _biased_backward(bias: jax.Array, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    leading = tuple(range(slope.ndim - bias.ndim))
    return slope, slope.astype(bias.dtype).sum(axis=leading)


_biased.defvjp(lambda x, bias: (_biased(x, bias), bias), _biased_backward)


def fused(maps: Sequence[Linear], x: jax.Array, platform: str) -> tuple[jax.Array, ...]:
    """What each of the maps, which agree in all of their axes, gives of x: one matrix product.

    They are stacked behind the first axis of their outputs, so that a mesh that splits this axis
    splits the stacked kernel in the same places. On CPUs stacking costs more than it saves: there
    each map has a product of its own.
    """
    if platform == "cpu":
        return tuple(linear(x) for linear in maps)
    kernel = jnp.stack([linear.kernel[...].astype(x.dtype) for linear in maps], axis=2)
    width, first, several, *rest = kernel.shape
    y = _product(x, x.shape[:-1], kernel.reshape(width, -1))
    y = y.reshape(*x.shape[:-1], first, several, *rest)
    outputs = [y[..., i, :] for i in range(several)]
    biases = [linear.bias for linear in maps if linear.bias is not None]
    if not biases:
        return tuple(outputs)
    return tuple(_biased(y, bias[...]) for y, bias in zip(outputs, biases, strict=True))


class Bias(nnx.Module):
    """A vector added to the last axes of its input.

    Attributes:
      bias: float32 (*shape,); drawn from a normal distribution.
    """

    def __init__(self, shape: tuple[int, ...], *, std: float, rngs: nnx.Rngs):
        self.bias = nnx.Param(std * jax.random.normal(rngs.params(), shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The sum in the dtype of x."""
        return _biased(x, self.bias[...])


class Embedding(nnx.Module):
    """A table of float32 rows.

    Attributes:
      embedding: float32 (rows, D); drawn from a normal distribution, the padding row zero.
    """

    def __init__(
        self, rows: int, width: int, *, std: float, rngs: nnx.Rngs, padding: int | None = None
    ):
        table = std * jax.random.normal(rngs.params(), (rows, width))
        self.embedding = nnx.Param(table if padding is None else table.at[padding].set(0.0))

    def __call__(self, index: jax.Array) -> jax.Array:
        """The rows, float32; NaN for an index outside the table, so that it cannot go unseen."""
        return self.embedding[...].at[index].get(mode="fill", fill_value=jnp.nan)


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016) of a sum, computed in float32.

    Attributes:
      scale: float32 (D,); ones.
      bias: float32 (D,); zeros.
    """

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, *summands: jax.Array) -> jax.Array:
        """The normalised sum, float32; the summands may be of any dtype."""
        x = functools.reduce(jnp.add, (summand.astype(jnp.float32) for summand in summands))
        return _normalised(x, self.eps) * self.scale[...] + self.bias[...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalised(x: jax.Array, eps: float) -> jax.Array:
    """Less the mean and over the standard deviation of the last axis.

    The slope takes two means at once; JAX by itself takes one after the other, each of them in a
    pass of its own over the activations.
    """
    return _normalised_forward(x, eps)[0]


def _normalised_forward(x: jax.Array, eps: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    normal = centred * inverse
    return normal, (normal, inverse)


def _normalised_backward(
    eps: float, kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array]:
    normal, inverse = kept
    mean = jnp.mean(slope, axis=-1, keepdims=True)
    along = jnp.mean(slope * normal, axis=-1, keepdims=True)
    return (inverse * (slope - mean - along * normal),)


_normalised.defvjp(_normalised_forward, _normalised_backward)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Sets a share of the elements to zero and scales up the rest; without a key, does nothing.

    One random byte decides on an element, which costs a quarter of the bits of a float. So the
    true rate is `true_dropout_rate(rate)`, the nearest multiple of 1/256 that is not 0, and it is
    this rate that the scale makes up for: the mean is exact.
    """
    if key is None or rate == 0.0:
        return x
    scaled = x * dropout_scale(rate, x.dtype)
    keep = _bytes(key, x.shape) >= jnp.uint8(round(true_dropout_rate(rate) * 256))
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))


def dropout_sign(shape: tuple[int, ...], rate: float, key: jax.Array) -> jax.Array:
    """1 for the elements that `dropout` leaves, -1 for those that it drops, float32.

    By arithmetic: where attention compares bytes, a TPU's compiler packs what it found into single
    bits, which takes as long as the softmax.
    """
    threshold = round(true_dropout_rate(rate) * 256)
    return 2 * jnp.clip(_bytes(key, shape).astype(jnp.float32) - (threshold - 1), 0, 1) - 1


def dropout_scale(rate: float, dtype: Any) -> jax.Array:
    """What dropout multiplies the elements by that it leaves."""
    return jnp.asarray(1 / (1 - true_dropout_rate(rate)), dtype)


def _bytes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random bytes that are a function of the key alone, however many keys are mapped over.

    Left to itself `jax.vmap` draws for all rbg keys from the first of them.
    """

    @jax.custom_batching.custom_vmap
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bits(key, shape, jnp.uint8)

    @draw.def_vmap
    def _(size: int, _: Any, keys: jax.Array) -> tuple[jax.Array, bool]:
        return jnp.stack([draw(keys[i]) for i in range(size)]), True

    drawn: jax.Array = draw(key)
    return drawn


def true_dropout_rate(rate: float) -> float:
    """The rate that `dropout` applies when asked for `rate`: 0.1 becomes 26/256."""
    return min(max(round(rate * 256), 1), 255) / 256 if rate else 0.0


def rematerialised(remat: Remat, layer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function of arrays, which keeps so much for its backward pass (Chen et al. 2016)."""
    if remat == "none":
        return layer
    policies = jax.checkpoint_policies
    policy = policies.dots_with_no_batch_dims_saveable if remat == "matmuls" else None
    return jax.checkpoint(layer, policy=policy)


def on_rows(x_BTD: jax.Array, execution: Execution) -> jax.Array:
    """The same activations, split by rows over the mesh.

    Left to itself, XLA may split them as the kernels of `fsdp` are, by width, and then sums partial
    products of activations over the chips where it could gather kernels, which are smaller.
    """
    if execution.mesh is None:
        return x_BTD
    rows = NamedSharding(execution.mesh, PartitionSpec(("data", "fsdp")))
    return jax.lax.with_sharding_constraint(x_BTD, rows)


def dropout_site(key: jax.Array | None, site: int) -> jax.Array | None:
    """The dropout key of one place in the model; none if there is no dropout."""
    return None if key is None else jax.random.fold_in(key, site)
