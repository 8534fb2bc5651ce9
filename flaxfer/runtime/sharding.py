"""The mesh with its axes data, fsdp and tensor, and the shardings of arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flaxfer.errors import ConfigError
from flaxfer.runtime.trees import path_name

SEED = "seed"
"""Mesh axis of batched seeds, see `seed_mesh`."""

ROWS = PartitionSpec(("data", "fsdp"))
"""Sharding of packed rows; the tensor axis holds copies."""

LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/word/embedding$", ("vocabulary", "width")),
    (r"/(query|key|value|position)/kernel$", ("width", "heads", None)),
    (r"/(query|key|value)/bias$", ("heads", None)),
    (r"/attention/output/kernel$", ("heads", None, "width")),
    (r"/feed_forward/up/kernel$", ("width", "feed_forward")),
    (r"/feed_forward/up/bias$", ("feed_forward",)),
    (r"/feed_forward/down/kernel$", ("feed_forward", "width")),
)
"""Logical axes of parameters, by the end of the path; other parameters are replicated."""

MESH_AXES = {"vocabulary": "tensor", "width": "fsdp", "heads": "tensor", "feed_forward": "tensor"}
"""Mesh axes of logical axes (Shoeybi et al. 2019 for `tensor`, ZeRO-3 for `fsdp`)."""


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Return a mesh over devices, by default all; a size of -1 takes the remaining devices.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    sizes = [data, fsdp, tensor]
    count = jax.device_count() if devices is None else len(devices)
    if -1 in sizes:
        fixed = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = count // fixed
    if math.prod(sizes) != count:
        raise ConfigError(
            f"a mesh of data {data}, fsdp {fsdp}, tensor {tensor} does not cover {count} device(s)",
            where="mesh",
            hint="the sizes have to multiply to the number of devices; one of them may be -1.",
        )
    return jax.make_mesh(
        tuple(sizes), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=devices
    )


def seed_mesh(mesh: jax.sharding.Mesh, seeds: int) -> jax.sharding.Mesh:
    """Return the mesh for batched seeds, with a leading axis `seed` split off from `data`.

    As much of `data` as divides the number of seeds: seeds on separate devices need no
    communication, rows split over `data` do.
    """
    split = math.gcd(mesh.shape["data"], seeds)
    devices = mesh.devices.reshape(split, -1, *mesh.devices.shape[1:])
    names = (SEED, *mesh.axis_names)
    return jax.sharding.Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))


def row_shards(mesh: jax.sharding.Mesh) -> int:
    """Return the number of parts of a batch's rows, which it must be divisible by."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the sharding with a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return shardings of parameters, or of optimizer state that mirrors them.

    The moments of a parameter have its path and shape, so one table serves both. An axis that its
    mesh axis does not divide is not split. Specs have the form that XLA gives to its results, so
    that the output of a step has the type of its input.
    """

    def splits(axis: str | None, size: int) -> str | None:
        name = MESH_AXES[axis] if axis else None
        return name if name and mesh.shape[name] > 1 and not size % mesh.shape[name] else None

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, logical in LOGICAL_AXES:
            if re.search(pattern, name) and len(leaf.shape) == len(logical):
                return _sharding(mesh, *map(splits, logical, leaf.shape))
        return whole(mesh)

    return jax.tree.map_with_path(sharding, tree)


def group_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return `tree_shardings` on a mesh of `seed_mesh`, for leaves with a leading axis of seeds."""
    seed = SEED if mesh.shape[SEED] > 1 else None
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    return jax.tree.map(
        lambda sharding: _sharding(mesh, seed, *sharding.spec), tree_shardings(one, mesh)
    )


def placed_shapes(tree: Any) -> Any:
    """Return arrays as `ShapeDtypeStruct`, with their shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _sharding(mesh: jax.sharding.Mesh, *axes: Any) -> NamedSharding:
    while axes and axes[-1] is None:
        axes = axes[:-1]
    return NamedSharding(mesh, PartitionSpec(*axes))
