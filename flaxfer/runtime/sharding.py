"""One mesh with the axes data, fsdp and tensor, and where each array lies on it."""

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
"""The mesh axis that the seeds of a group are split over, on the mesh of `seed_mesh`."""

ROWS = PartitionSpec(("data", "fsdp"))
"""Packed rows are split over both axes; the tensor axis holds copies."""

LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/word/embedding$", ("vocabulary", "width")),
    (r"/(query|key|value|position)/kernel$", ("width", "heads", None)),
    (r"/(query|key|value)/bias$", ("heads", None)),
    (r"/attention/output/kernel$", ("heads", None, "width")),
    (r"/feed_forward/up/kernel$", ("width", "feed_forward")),
    (r"/feed_forward/up/bias$", ("feed_forward",)),
    (r"/feed_forward/down/kernel$", ("feed_forward", "width")),
)
"""What the axes of a parameter are, by the end of its path; others are whole on every device."""

MESH_AXES = {
    "vocabulary": "tensor",
    "width": "fsdp",
    "heads": "tensor",
    "feed_forward": "tensor",
}
"""Which mesh axis splits a logical axis (Shoeybi et al. 2019 for `tensor`, ZeRO-3 for `fsdp`)."""


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Return the mesh over some devices, by default all of them; a size of -1 takes the rest.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    wanted = [data, fsdp, tensor]
    count = jax.device_count() if devices is None else len(devices)
    if -1 in wanted:
        fixed = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = count // fixed
    if math.prod(wanted) != count:
        raise ConfigError(
            f"a mesh of data {data}, fsdp {fsdp}, tensor {tensor} does not cover {count} device(s)",
            where="mesh",
            hint="let the product of the three equal the number of devices, or one of them be -1.",
        )
    return jax.make_mesh(
        tuple(wanted), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=devices
    )


def seed_mesh(mesh: jax.sharding.Mesh, seeds: int) -> jax.sharding.Mesh:
    """The mesh for a group of seeds: its first axis, `seed`, is what divides them of `data`.

    Seeds on devices of their own have nothing to tell each other, rows split over `data` have.
    """
    split = math.gcd(mesh.shape["data"], seeds)
    devices = mesh.devices.reshape(split, -1, *mesh.devices.shape[1:])
    names = (SEED, *mesh.axis_names)
    return jax.sharding.Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))


def row_shards(mesh: jax.sharding.Mesh) -> int:
    """How many ways rows are split: their number must be a multiple."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole(mesh: jax.sharding.Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A sharding for each leaf of parameters, or of optimiser state that mirrors them.

    The moments of a parameter stand in the state under the same path with the same shape, so one
    table serves both. An axis that its mesh axis does not divide stays whole. Specs are written as
    XLA writes those of its results, so that a step's output is of the very type of its input.
    """

    def splits(axis: str | None, size: int) -> str | None:
        name = MESH_AXES[axis] if axis else ""
        return name if name and mesh.shape[name] > 1 and not size % mesh.shape[name] else None

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, logical in LOGICAL_AXES:
            if re.search(pattern, name) and len(leaf.shape) == len(logical):
                spec = [splits(*pair) for pair in zip(logical, leaf.shape, strict=True)]
                while spec and spec[-1] is None:
                    spec.pop()
                return NamedSharding(mesh, PartitionSpec(*spec))
        return whole(mesh)

    return jax.tree.map_with_path(sharding, tree)


def group_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """As `tree_shardings`, on a mesh of `seed_mesh`, for leaves that lead with an axis of seeds."""

    def sharding(own: NamedSharding) -> NamedSharding:
        spec = [SEED if mesh.shape[SEED] > 1 else None, *own.spec]
        while spec and spec[-1] is None:
            spec.pop()
        return NamedSharding(mesh, PartitionSpec(*spec))

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    return jax.tree.map(sharding, tree_shardings(one, mesh))
