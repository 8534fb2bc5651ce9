"""Names and layouts of parameters in Hugging Face checkpoints, for reading and writing.

PyTorch stores the kernel of an affine map as (outputs, inputs), with heads joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

Layout = Literal["same", "vector", "kernel", "joining kernel", "outputs first"]
"""How a checkpoint stores a parameter: unchanged, with its axes joined, as the transposed matrix of
a kernel with one or two input axes, or with the last axis first."""

INPUT_AXES: Mapping[Layout, int] = {"kernel": 1, "joining kernel": 2}


class ArrayName(NamedTuple):
    """A parameter in a checkpoint; `*` in both names is the number of a layer.

    Attributes:
      stored: name in the checkpoint.
      path: path of the parameter.
      layout: layout in the checkpoint.
    """

    stored: str
    path: str
    layout: Layout


Names = tuple[ArrayName, ...]
Kind = tuple[ArrayName, ...]
"""Arrays of a module, by what is appended to the names of the module."""

ARRAY: Kind = (ArrayName("", "", "same"),)
EMBEDDING: Kind = (ArrayName(".weight", "/embedding", "same"),)
LINEAR: Kind = (ArrayName(".weight", "/kernel", "kernel"), ArrayName(".bias", "/bias", "vector"))
JOINING: Kind = (ArrayName(".weight", "/kernel", "joining kernel"), LINEAR[1])
NORM: Kind = (ArrayName(".weight", "/scale", "vector"), LINEAR[1])
OUTPUTS_FIRST: Kind = (ArrayName("", "", "outputs first"),)


def names(modules: Mapping[str, tuple[str, Kind]], stored: str = "", path: str = "") -> Names:
    """Return the arrays of modules, given as {name in checkpoints: (path, kind)}.

    Args:
      modules: modules by their names in checkpoints.
      stored: prepended to the names in checkpoints.
      path: prepended to the paths.
    """
    return tuple(
        ArrayName(stored + module + array.stored, path + place + array.path, array.layout)
        for module, (place, kind) in modules.items()
        for array in kind
    )


def expand(table: Names, prefix: str, num_layers: int) -> Iterator[ArrayName]:
    """Yield the names with a prefix in the checkpoint, those with a `*` once per layer."""
    for stored, path, layout in table:
        for layer in range(num_layers if "*" in stored else 1):
            number = str(layer)
            yield ArrayName(prefix + stored.replace("*", number), path.replace("*", number), layout)


def stored_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Return the shape in a checkpoint of a parameter of `shape`."""
    if inputs := INPUT_AXES.get(layout):
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    if layout == "outputs first":
        return shape[-1:] + shape[:-1]
    return shape if layout == "same" else (math.prod(shape),)


def from_stored(array: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    """Return the parameter, float32 of `shape`, from the array of a checkpoint."""
    if layout in INPUT_AXES:
        array = array.T
    elif layout == "outputs first":
        array = np.moveaxis(array, 0, -1)
    return np.ascontiguousarray(array, np.float32).reshape(shape)


def to_stored(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the array of a checkpoint from a parameter; the inverse of `from_stored`."""
    shape = stored_shape(array.shape, layout)
    if layout in INPUT_AXES:
        return np.ascontiguousarray(array.reshape(shape[::-1]).T)
    if layout == "outputs first":
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array.reshape(shape)
