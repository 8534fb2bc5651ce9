"""Exact search for the candidates with the largest dot products, on all local devices.

Candidates are split over the devices, which go through them block by block and keep the best of
each query in float32. The host computes those again in float64, and looks again, for more
candidates, for each query where rounding may have left a better one out. So the result does not
depend on devices and blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flaxfer.errors import DataError

DEVICES = "devices"
"""Mesh axis over which candidates are split."""

GROUP = 128
"""Candidates of which only the best is compared at first."""

BLOCK = 1 << 15
"""Candidates of a device that are compared at a time."""

QUERIES = 1 << 10
"""Most queries that are compared at a time."""

KEPT_OF_PART, KEPT = 1 << 16, 1 << 26
"""Most candidates that are kept on a device: of the queries that are compared at a time, unless one
query has more, and of those that go through all candidates together."""

RESCORED = 1 << 25
"""Elements of candidates that the host computes with at a time."""


def top_k(
    query_nD: np.ndarray,
    candidate_mD: np.ndarray,
    k: int,
    *,
    block: int = BLOCK,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k candidates of each query with the largest dot products, the largest first.

    Of equal candidates, the one with the lower row comes first. See `device_bytes` for the memory
    that a device needs. The host needs a block for each device, 0.5 GiB to compute in float64, and
    about 50 bytes for each candidate that is kept, of at most `KEPT` on each device.

    Args:
      query_nD: float32 (n, D).
      candidate_mD: float32 (m, D), less than 2 ** 31 of them.
      k: Number of candidates; k is at most m.
      block: Candidates of a device that are compared at a time, rounded up to a multiple of
        `GROUP`.
      devices: Devices to use; all local ones by default.

    Returns:
      Rows of candidates, int64 (n, k), and their dot products, float64 (n, k): those of the float32
      embeddings, summed in float64.

    Raises:
      DataError: An embedding is not finite, or there are fewer than k candidates.
    """
    n, m = len(query_nD), len(candidate_mD)
    if not 0 < k <= m:
        raise DataError(
            f"the best {k} of {m} candidates cannot be found",
            where="search",
            hint="search for at least one candidate, and at most as many as there are.",
        )
    query_nD, candidate_mD = (np.asarray(each, np.float32) for each in (query_nD, candidate_mD))
    length_n, length_m = _lengths(query_nD, "query"), _lengths(candidate_mD, "candidate")
    row_nk, score_nk = np.empty((n, k), np.int64), np.empty((n, k))
    mesh = _mesh(devices)
    pending, width = np.arange(n), min(_first(k), m)
    while pending.size:
        unsure = []
        for group in np.array_split(pending, math.ceil(pending.size * width / KEPT)):
            for chosen, least, row_qw in _passes(query_nD, candidate_mD, group, width, block, mesh):
                exact = _rescore(query_nD[chosen], candidate_mD, row_qw)
                order = np.lexsort((row_qw, -exact))[:, :k]
                row_nk[chosen] = np.take_along_axis(row_qw, order, axis=1)
                score_nk[chosen] = np.take_along_axis(exact, order, axis=1)
                # What is left out is at most as good as the last one that is kept, and rounding.
                bound = least + _rounding(length_n[chosen] * length_m.max(), query_nD.shape[1])
                unsure.append(chosen[(score_nk[chosen, -1] <= bound) & (width < m)])
        pending, width = np.concatenate(unsure), min(8 * width, m)
    return row_nk, score_nk


def device_bytes(
    queries: int, candidates: int, width: int, k: int, *, block: int = BLOCK, devices: int = 1
) -> int:
    """Return the bytes of memory that `top_k` needs on each device.

    Args:
      queries: Number of queries.
      candidates: Number of candidates.
      width: Width of the embeddings, D.
      k: As in `top_k`.
      block: As in `top_k`.
      devices: Number of devices.
    """
    rows, kept = _block_rows(candidates, block, devices), _first(k)
    size = _part_size(queries, kept)
    # Two blocks, as one is transferred while the other is used; two copies of the similarities.
    values = 2 * rows * width + size * (width + 2 * rows)
    # Of the best groups, similarities and rows, before and after sorting; the best of all queries,
    # and of a part, before and after it is merged.
    values += 4 * size * min(kept * GROUP, rows) + 2 * (min(queries * kept, KEPT) + 2 * size * kept)
    return 4 * values


def _first(k: int) -> int:
    """Return the number of candidates of each query that are kept at first."""
    return 2 * k + 8


def _part_size(queries: int, width: int) -> int:
    """Return how many queries are compared at a time if `width` candidates of each are kept."""
    return min(QUERIES, max(KEPT_OF_PART // width, 1), 1 << (queries - 1).bit_length())


def _mesh(devices: Sequence[jax.Device] | None) -> jax.sharding.Mesh:
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DEVICES,), (AxisType.Auto,), devices=devices)


def _block_rows(candidates: int, block: int, devices: int) -> int:
    """Return the candidates of a device that are compared at a time, a multiple of `GROUP`."""
    return GROUP * math.ceil(min(block, candidates / devices) / GROUP)


def _passes(
    query_nD: np.ndarray,
    candidate_mD: np.ndarray,
    pending: np.ndarray,
    width: int,
    block: int,
    mesh: jax.sharding.Mesh,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield queries, and the least float32 dot product and rows of their `width` best candidates.

    Queries are compared in parts; the last part is filled up to the size of the others, so that one
    program serves all.
    """
    size = _part_size(len(pending), width)
    parts = np.split(pending, range(size, len(pending), size))
    split, copies = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((DEVICES,), ()))
    empty = (
        np.full((mesh.size, size, width), -np.inf, np.float32),
        np.full((mesh.size, size, width), -1, np.int32),
    )
    best = [jax.device_put(empty, split) for _ in parts]
    rows = _block_rows(len(candidate_mD), block, mesh.size)
    for first in range(0, len(candidate_mD), rows * mesh.size):
        candidate_bD = _filled(candidate_mD[first : first + rows * mesh.size], rows * mesh.size)
        on_device = jax.device_put(candidate_bD, split)
        end = np.int32(len(candidate_mD))
        for number, part in enumerate(parts):
            query_qD = jax.device_put(_filled(query_nD[part], size), copies)
            best[number] = _merge(best[number], query_qD, on_device, np.int32(first), end, mesh)
    for part, (value, row) in zip(parts, best, strict=True):
        value_qe, row_qe = (
            np.concatenate(list(np.asarray(each)), axis=1)[: len(part)] for each in (value, row)
        )
        order = np.argsort(-value_qe, axis=1, kind="stable")[:, :width]
        row_qw = np.take_along_axis(row_qe, order, axis=1).astype(np.int64)
        yield part, np.take_along_axis(value_qe, order[:, -1:], axis=1)[:, 0], row_qw


def _filled(vectors: np.ndarray, rows: int) -> np.ndarray:
    """Return float32 vectors with rows of zeros at the end, if there are fewer."""
    if len(vectors) == rows:
        return vectors
    filled = np.zeros((rows, vectors.shape[1]), np.float32)
    filled[: len(vectors)] = vectors
    return filled


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _merge(
    best: tuple[jax.Array, jax.Array],
    query_qD: jax.Array,
    candidate_bD: jax.Array,
    first: jax.Array,
    end: jax.Array,
    mesh: jax.sharding.Mesh,
) -> tuple[jax.Array, jax.Array]:
    """Return the best candidates so far and of a block, on each device.

    Args:
      best: Dot products and rows, (devices, q, width).
      query_qD: A copy on each device.
      candidate_bD: The block, split over the devices.
      first: Row of the first candidate of the block.
      end: Number of candidates; later rows are filling.
      mesh: The devices.
    """

    def on_device(
        best: tuple[jax.Array, jax.Array],
        query_qD: jax.Array,
        candidate_bD: jax.Array,
        first: jax.Array,
        end: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        value_qw, row_qw = (each[0] for each in best)
        rows, width = len(candidate_bD), value_qw.shape[1]
        row_b = first + jax.lax.axis_index(DEVICES) * rows + jnp.arange(rows, dtype=jnp.int32)
        score_qb = jnp.matmul(query_qD, candidate_bD.T, precision="highest")
        score_qb = jnp.where(row_b < end, score_qb, -jnp.inf)
        # The best candidates are in the groups with the best ones. Sorting all would take longer.
        score_qgG = score_qb.reshape(len(query_qD), -1, GROUP)
        _, group_qw = jax.lax.top_k(score_qgG.max(axis=-1), min(width, score_qgG.shape[1]))
        score_qwG = jnp.take_along_axis(score_qgG, group_qw[:, :, None], axis=1)
        row_qwG = row_b.reshape(-1, GROUP)[group_qw]
        value = jnp.concatenate([value_qw, score_qwG.reshape(len(query_qD), -1)], axis=1)
        row = jnp.concatenate([row_qw, row_qwG.reshape(len(query_qD), -1)], axis=1)
        value_qw, place_qw = jax.lax.top_k(value, width)
        return value_qw[None], jnp.take_along_axis(row, place_qw, axis=1)[None]

    split, copies = PartitionSpec(DEVICES), PartitionSpec()
    merged: tuple[jax.Array, jax.Array] = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=((split, split), copies, split, copies, copies),
        out_specs=(split, split),
    )(best, query_qD, candidate_bD, first, end)
    return merged


def _rescore(query_qD: np.ndarray, candidate_mD: np.ndarray, row_qw: np.ndarray) -> np.ndarray:
    """Return the dot products with the candidates of each query, float64 (q, w)."""
    exact = np.empty(row_qw.shape)
    columns = max(RESCORED // query_qD.size, 1)
    for begin in range(0, row_qw.shape[1], columns):
        here = slice(begin, begin + columns)
        candidate_qwD = candidate_mD[row_qw[:, here]].astype(np.float64)
        exact[:, here] = np.einsum("qD,qwD->qw", query_qD.astype(np.float64), candidate_qwD)
    return exact


def _lengths(vectors: np.ndarray, what: str) -> np.ndarray:
    """Return the lengths of vectors, float64 (n,), or raise an error if one is not finite."""
    length = np.sqrt(np.einsum("nD,nD->n", vectors, vectors, dtype=np.float64))
    bad = np.flatnonzero(~np.isfinite(length))
    if bad.size:
        raise DataError(
            f"{bad.size} {what} embeddings are not finite, the first in row {bad[0]}",
            where="search",
            hint="the model may have diverged, or its dtype may be too narrow.",
        )
    return length


def _rounding(lengths: np.ndarray, width: int) -> np.ndarray:
    """Return bounds on the rounding errors of float32 dot products (Higham 2002, section 3.1).

    Args:
      lengths: Products of the lengths of two vectors.
      width: Number of their components.
    """
    gamma = width * np.finfo(np.float32).eps  # Of twice the unit roundoff, to be safe.
    return gamma / (1 - gamma) * lengths + width * 2.0**-126  # Small products may underflow.
