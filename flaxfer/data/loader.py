"""Order, batching and packing of tokenised examples, and their transfer to the devices.

A training batch is a function of (seed, step), so there is no state to save.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import grain
import jax
import numpy as np

from flaxfer.config import Train
from flaxfer.data import bins, packing
from flaxfer.data.tokenize import Tokenized
from flaxfer.runtime import sharding

PLANNED_STEPS = 4096
"""Number of batches that bucket sizes are chosen for; more would hardly change them."""

BATCHES_AHEAD = 8
"""Batches that a background thread builds at a time, while as many are trained on. If batches were
handed over one by one, every step would wait for the thread on machines whose cores all compute."""

BATCHES_AT_ONCE = 16
"""Batches of an evaluation that are built as one, which takes a fifth of the time of one by one."""


class BatchSize(NamedTuple):
    """Numbers of examples, of their tokens, and of the token positions of their rows."""

    examples: int
    tokens: int
    slots: int

    @classmethod
    def of(cls, batch: packing.Batch) -> BatchSize:
        """Return the size of a batch of host arrays, including a rehearsed task."""
        sizes = []
        for arrays in filter(None, packing.by_task(batch)):
            # Exactly one of the choices of an example is correct; one of its texts is the query.
            several = {"unit_BE": "label_BE", "query_BE": "query_BE"}
            counted = next((several[name] for name in several if name in arrays), "mask_BE")
            examples, segment = arrays[counted], arrays["segment_BT"]
            sizes.append((int(examples.sum()), int((segment > 0).sum()), segment.size))
        return cls(*map(sum, zip(*sizes, strict=True)))


def total_steps(data: Tokenized, train: Train) -> int:
    """Return the number of optimizer updates of a stage that does not stop early."""
    return train.max_steps or math.ceil(train.epochs * train_examples(data) / train.batch_size)


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """The batches of a stage.

    Attributes:
      data: The training split; see `TaskType.micro_batches` for the sequences of its examples.
      train: Settings of the training loop.
      seeds: Seeds of the order. With several, the arrays of a batch have a leading axis of seeds.
      total_steps: Number of optimizer updates of the stage.
      bucket_sizes: Possible numbers of rows of a micro-batch; each costs one compiled program.
      slots: Maximum number of sequences of a row, E.
      multiple: Factor of all bucket sizes.
      pad_id: Token id of padding.
      rehearsed: Plan of a rehearsed task, with as many micro-batches and steps.
    """

    data: Tokenized
    train: Train
    seeds: tuple[int, ...]
    total_steps: int
    bucket_sizes: tuple[int, ...]
    slots: int
    multiple: int
    pad_id: int
    rehearsed: TrainPlan | None = None

    @classmethod
    def make(
        cls, data: Tokenized, train: Train, seeds: tuple[int, ...], pad_id: int, multiple: int
    ) -> TrainPlan:
        """Plan the batches of a stage, whose numbers of rows are multiples of `multiple`."""
        steps = total_steps(data, train)
        slots = packing.max_examples(data.lengths, train.row_length) if train.packing else 1
        plan = cls(data, train, seeds, steps, (), slots, multiple, pad_id)
        planned = range(min(steps, PLANNED_STEPS))
        micro = [indices for step in planned for indices in plan._micro_batches(step)]
        needed = packing.rows_needed(data.lengths, micro, train.row_length, slots)
        # The micro-batches of a step have one shape for all seeds.
        needed = needed.reshape(-1, len(seeds) * train.gradient_accumulation_steps).max(axis=1)
        limit = train.max_bucket_sizes or packing.affordable_sizes(needed, steps, multiple)
        counts = packing.bucket_sizes(needed, limit, multiple)
        return dataclasses.replace(plan, bucket_sizes=counts)

    def indices(self, step: int, which: int = 0) -> np.ndarray:
        """Return the examples of a step for a seed of `seeds`, int64 (batch_size,).

        Each epoch is a permutation of the examples.
        """
        size, n = self.train.batch_size, train_examples(self.data)
        start, end = step * size, (step + 1) * size
        parts = [
            _permutation(n, self.seeds[which], epoch)[max(start - epoch * n, 0) : end - epoch * n]
            for epoch in range(start // n, -(-end // n))
        ]
        return np.concatenate(parts, dtype=np.int64)

    def batch(self, step: int) -> packing.Batch:
        """Return the packed arrays of a step, with an axis of micro-batches (see `seeds`)."""
        micro_batches = self._micro_batches(step)
        packed = [
            bins.pack(self.data.lengths[indices], self.train.row_length, self.slots)
            for indices in micro_batches
        ]
        count = self.bucket_size(max(len(rows) for rows in packed))
        micro = [
            packing.build_rows(
                self.data, indices, rows, count, self.train.row_length, self.slots, self.pad_id
            )
            for indices, rows in zip(micro_batches, packed, strict=True)
        ]
        seeds = () if len(self.seeds) == 1 else (len(self.seeds),)
        lead = (*seeds, self.train.gradient_accumulation_steps)
        stacked = {
            key: np.stack([batch[key] for batch in micro]).reshape(*lead, *array.shape)
            for key, array in micro[0].items()
        }
        if self.rehearsed is not None:
            other = self.rehearsed.batch(step)
            stacked |= {f"{packing.REHEARSED}/{key}": array for key, array in other.items()}
        return stacked

    def _micro_batches(self, step: int) -> list[np.ndarray]:
        """Return the sequences of each micro-batch of a step, those of the first seed first."""
        form, parts = self.data.task_type, self.train.gradient_accumulation_steps
        return [
            sequences
            for which in range(len(self.seeds))
            for sequences in form.micro_batches(self.data, self.indices(step, which), parts)
        ]

    def padding_share(self) -> float:
        """Return the share of padding among the token positions of (part of) the first epoch."""
        steps = math.ceil(train_examples(self.data) / self.train.batch_size)
        sizes = [BatchSize.of(self.batch(step)) for step in range(min(steps, self.total_steps, 64))]
        return 1 - sum(size.tokens for size in sizes) / sum(size.slots for size in sizes)

    def bucket_size(self, needed: int) -> int:
        """Return the smallest bucket size for `needed` rows.

        A batch of a long run may need more rows than all planned sizes, and a program of its own.
        """
        beyond = math.ceil(needed / self.multiple) * self.multiple
        return next((count for count in self.bucket_sizes if count >= needed), beyond)

    def shapes(
        self, step: int, mesh: jax.sharding.Mesh
    ) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
        """Yield the batch shape of each bucket size, beginning with that of the step."""
        batch, where = self.batch(step), row_sharding(mesh, *self._lead)
        axis = len(self._lead)

        def shape(key: str, array: np.ndarray, count: int) -> jax.ShapeDtypeStruct:
            rehearsed = key.startswith(f"{packing.REHEARSED}/")  # Of a single bucket size.
            rows = array.shape[axis] if rehearsed else count
            sizes = (*array.shape[:axis], rows, *array.shape[axis + 1 :])
            dtype = jax.dtypes.canonicalize_dtype(array.dtype)
            return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

        for count in dict.fromkeys((batch["token_BT"].shape[axis], *self.bucket_sizes)):
            yield {key: shape(key, array, count) for key, array in batch.items()}

    @property
    def _lead(self) -> tuple[str | None, ...]:
        """Mesh axes of the leading axes: of seeds, if there are several, and micro-batches."""
        return (None,) if len(self.seeds) == 1 else (sharding.SEED, None)

    def batches(
        self, start: int, mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[BatchSize, dict[str, jax.Array]]]:
        """Yield the batches after step `start`, built ahead and transferred to the devices."""

        def ready(first: int) -> list[tuple[BatchSize, dict[str, jax.Array]]]:
            steps = range(first, min(first + BATCHES_AHEAD, self.total_steps))
            batches = [self.batch(step) for step in steps]
            return [(BatchSize.of(batch), put_rows(batch, mesh, *self._lead)) for batch in batches]

        groups = grain.MapDataset.range(start, self.total_steps, BATCHES_AHEAD).map(ready)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        for group in groups.to_iter_dataset(options):
            yield from group


def train_examples(data: Tokenized) -> int:
    """Return the number of examples of an epoch, see `TaskType.train_examples`."""
    return data.task_type.train_examples(data)


def eval_batches(
    data: Tokenized, train: Train, pad_id: int, multiple: int
) -> Iterator[packing.Batch]:
    """Yield every sequence of `data` once, packed into batches of the same shape.

    The whole set is packed at once, so that only the last batch has much padding.
    """
    slots = packing.max_examples(data.lengths, train.row_length) if train.packing else 1
    slots = 1 << (slots - 1).bit_length()  # A power of two, so that sets share a program.
    rows = bins.pack(data.lengths, train.row_length, slots)
    size, indices = train.eval_rows * multiple, np.arange(len(data))
    # Examples of multiple choice are numbered within their batch.
    together = size * (1 if data.choices > 1 else BATCHES_AT_ONCE)
    for start in range(0, len(rows), together):
        chosen = rows[start : start + together]
        count = math.ceil(len(chosen) / size) * size
        built = packing.build_rows(data, indices, chosen, count, train.row_length, slots, pad_id)
        for first in range(0, count, size):
            yield {name: array[first : first + size] for name, array in built.items()}


def put_rows(
    batch: packing.Batch, mesh: jax.sharding.Mesh, *lead: str | None
) -> dict[str, jax.Array]:
    """Transfer a batch to the devices, with rows and leading axes split over the mesh."""
    return jax.device_put(batch, row_sharding(mesh, *lead))


def row_sharding(mesh: jax.sharding.Mesh, *lead: str | None) -> jax.sharding.NamedSharding:
    """Return the sharding of arrays whose rows come after `lead`, axes of the mesh or None."""
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*lead, *sharding.ROWS))


@functools.lru_cache(maxsize=32)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(n)
    return order.astype(np.int32 if n <= np.iinfo(np.int32).max else np.int64)
