"""LoRA (Hu et al. 2021): low-rank adapters of linear maps, as in peft's `LoraConfig`.

An adapter adds `alpha / rank * dropout(x) a b` to the output of its map. It lies among the map's
parameters under the key `lora`. Merging adds the product to the kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from flaxfer.config import Lora
from flaxfer.errors import ConfigError
from flaxfer.models import ops
from flaxfer.models.layers import Keys, Linear
from flaxfer.runtime.trees import Params

KEY = "lora"
"""Key of an adapter beside the kernel of its map."""

BLOCK = {
    "query": "attention",
    "key": "attention",
    "value": "attention",
    "output": "attention",
    "up": "feed_forward",
    "down": "feed_forward",
}
"""Block of a layer by the names of its linear maps, see `config.Lora.modules`."""

FIRST_KEY = 2**31
"""Folded into the key of new parameters for those of adapters, whose number changes no others."""


class Adapter(nnx.Module):
    """The low-rank update of a linear map.

    Attributes:
      a: float32 (*inputs, rank), uniform within 1 / sqrt(inputs) of zero, as
        `kaiming_uniform_(a=sqrt(5))` of PyTorch.
      b: float32 (rank, *outputs), zeros.
    """

    def __init__(self, linear: Linear, settings: Lora, *, rngs: Keys):
        shape = linear.kernel.shape
        inputs, outputs = shape[: linear.input_axes], shape[linear.input_axes :]
        bound = math.prod(inputs) ** -0.5
        uniform = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        self.a = nnx.Param(uniform(rngs.params(), (*inputs, settings.rank)))
        self.b = nnx.Param(jnp.zeros((settings.rank, *outputs)))
        self.scale = settings.alpha / settings.rank
        self.rate = settings.dropout

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Map (..., *inputs) to (..., *outputs) in the dtype of x."""
        a, b = self.a[...].astype(x.dtype), self.b[...].astype(x.dtype)
        batch = x.shape[: x.ndim - a.ndim + 1]
        x = ops.dropout(x, self.rate, dropout_key)
        narrow = ops.project(x, batch, a.reshape(-1, a.shape[-1]))
        y = ops.project(narrow, batch, b.reshape(len(b), -1))
        return self.scale * y.reshape(*batch, *b.shape[1:])


def add_adapters(encoder: Any, settings: Lora, rngs: Keys) -> None:
    """Give an adapter to each map of an encoder that the settings name."""
    for number in adapted_layers(settings, len(encoder.layers)):
        for name in settings.modules:
            linear = getattr(getattr(encoder.layers[number], BLOCK[name]), name)
            linear.lora = Adapter(linear, settings, rngs=rngs)


def adapted_layers(settings: Lora, num_layers: int) -> range:
    """Return the numbers of the layers with adapters."""
    return range(*(settings.layers or (0, num_layers)))


def check_layers(where: str, settings: Lora, num_layers: int) -> None:
    """Check that an encoder has the layers that are to get adapters.

    Raises:
      ConfigError: it has fewer.
    """
    end = adapted_layers(settings, num_layers).stop
    if end > num_layers:
        raise ConfigError(
            f"ends after layer {end - 1}, but the encoder has {num_layers} layers, numbered from 0",
            where=where,
            hint=f"let it end at {num_layers} at most, or leave it out for all layers.",
        )


def adapters(params: Params) -> Params:
    """Return the adapters among parameters, at their paths."""
    return _unflatten({path: x for path, x in _flatten(params) if KEY in path})


def without_adapters(params: Params) -> Params:
    """Return parameters, or their shapes, without adapters."""
    return _unflatten({path: x for path, x in _flatten(params) if KEY not in path})


def with_adapters(params: Params, adapters: Params) -> Params:
    """Return parameters with adapters at their paths."""
    return _unflatten(dict([*_flatten(params), *_flatten(adapters)]))


def merged(params: Params, settings: Lora) -> Params:
    """Return parameters with each adapter added to its kernel.

    The results are placed like the kernels. Further leading axes, such as one of seeds, are kept.

    Args:
      params: arrays on devices; or `ShapeDtypeStruct`, whose kernels are as before.
      settings: of the adapters.
    """
    flat = dict(_flatten(params))
    for path in [path[:-2] for path in flat if path[-2:] == (KEY, "a")]:
        kernel = flat[*path, "kernel"]
        if isinstance(kernel, jax.ShapeDtypeStruct):
            continue
        a, b = (flat[*path, KEY, name] for name in ("a", "b"))
        total = _add_product(kernel, a, b, settings.alpha / settings.rank)
        flat[*path, "kernel"] = jax.device_put(total, kernel.sharding)
    return without_adapters(_unflatten(flat))


@jax.jit
def _add_product(
    kernel: jax.Array, a: jax.Array, b: jax.Array, scale: jax.typing.ArrayLike
) -> jax.Array:
    leading = a.ndim + b.ndim - 2 - kernel.ndim
    rank, batch = a.shape[-1], a.shape[:leading]
    product = jnp.matmul(
        a.reshape(*batch, -1, rank), b.reshape(*batch, rank, -1), precision="highest"
    )
    return kernel + scale * product.reshape(kernel.shape)


def _flatten(params: Params) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield from traverse_util.flatten_dict(params).items()


def _unflatten(flat: dict[tuple[Any, ...], Any]) -> Params:
    params: Params = traverse_util.unflatten_dict(flat)
    return params
