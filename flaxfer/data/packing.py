"""Packing of several examples into rows, and the bucket sizes that steps are compiled for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from flaxfer.data.bins import pack

if TYPE_CHECKING:
    from flaxfer.data.tokenize import Tokenized

Batch = dict[str, np.ndarray]
Array = TypeVar("Array")

REHEARSED = "rehearsed"
"""Prefix of a rehearsed task's arrays in a batch, and key of its head among the parameters."""

MOST_EXAMPLES = 64
"""Maximum number of examples of a row."""

MOST_SIZES = 6
"""Maximum number of bucket sizes that are chosen automatically."""

PROGRAM_STEPS = 20
"""Steps that take as long as compiling a program: more than the 14 that were measured in float32 on
a CPU without AVX-512, and far fewer than on accelerators, where padding costs little."""

# The sample of `max_examples`: batches of a usual size, and enough of them for a stable average.
_SAMPLE_BATCH = 64
_SAMPLE_BATCHES = 32


def rows_needed(
    lengths: np.ndarray,
    batches: np.ndarray | Sequence[np.ndarray],
    row_length: int,
    max_examples: int,
) -> np.ndarray:
    """Return the number of rows that `pack` needs for each batch, (steps,) int64.

    `lengths`, (n,) int, are those of all examples; `batches` are arrays of example indices.
    """
    needed = [len(pack(lengths[batch], row_length, max_examples)) for batch in batches]
    return np.array(needed, np.int64)


def bucket_sizes(needed: np.ndarray, limit: int, multiple: int) -> tuple[int, ...]:
    """Choose bucket sizes so that rounding batches up to them adds as few rows as possible.

    Solved exactly, by dynamic programming over the histogram of `needed`.

    Args:
      needed: (steps,) int, number of rows of each batch.
      limit: Maximum number of sizes.
      multiple: Factor of all sizes.

    Returns:
      At most `limit` sizes, ascending; the last one is at least `max(needed)`.
    """
    size, weight = np.unique(-(-needed // multiple) * multiple, return_counts=True)
    batches = np.concatenate([[0], np.cumsum(weight)])  # [j]: with one of the j smallest sizes.
    # cost[j]: rows of these batches for the best choice whose largest size is size[j - 1].
    cost = np.where(batches == 0, 0.0, np.inf)
    previous: list[np.ndarray] = []
    for _ in range(min(limit, len(size))):
        # total[i, j]: the same if size[j - 1] is chosen after size[i - 1].
        total = cost[:, None] + (batches - batches[:, None]) * np.concatenate([[0], size])
        total[np.tril_indices(len(total))] = np.inf
        previous.append(total.argmin(axis=0))
        cost = total.min(axis=0)
    chosen = [len(size)]
    for best in reversed(previous[1:]):
        chosen.append(int(best[chosen[-1]]))
    return tuple(int(size[j - 1]) for j in reversed(chosen))


def affordable_sizes(needed: np.ndarray, steps: int, multiple: int) -> int:
    """Return how many bucket sizes save more time in steps than their programs take to compile.

    Depends on no clock, so a study has the same batches on every machine.

    Args:
      needed: (planned steps,) int, number of rows of each batch.
      steps: Number of steps of the stage.
      multiple: Factor of all sizes.
    """

    def cost(limit: int) -> float:
        sizes = np.array(bucket_sizes(needed, limit, multiple))
        rows = sizes[np.searchsorted(sizes, needed)]
        return steps * float(rows.mean() / needed.mean()) + PROGRAM_STEPS * limit

    return min(range(1, MOST_SIZES + 1), key=cost)


def max_examples(lengths: np.ndarray, row_length: int) -> int:
    """Choose the number of example slots of a row: the smallest that costs no batch more rows.

    Every slot costs the computation of the head, whether it is used or not. Determined on a sample
    of batches spread evenly over the data set, whose examples have `lengths`, (n,) int.
    """
    n = len(lengths)
    every = max(1, round(n / _SAMPLE_BATCH))
    batches = [np.arange(i, n, every) for i in range(0, every, -(-every // _SAMPLE_BATCHES))]

    needed = rows_needed(lengths, batches, row_length, MOST_EXAMPLES)
    # With fewer slots, the examples of some batch would not fit into its rows.
    least = max(-(-len(batch) // rows) for batch, rows in zip(batches, needed, strict=True))

    def is_enough(slots: int) -> bool:
        return all(
            len(pack(lengths[batch], row_length, slots)) <= rows
            for batch, rows in zip(batches, needed, strict=True)
        )

    return next(slots for slots in range(least, MOST_EXAMPLES + 1) if is_enough(slots))


def best_row_length(lengths: np.ndarray, batch: int, longest: int, width: int) -> int:
    """Choose the number of tokens of a row: the multiple of 64 with the fewest operations.

    Longer rows have less padding, but the cost of attention is quadratic. The matmuls of a layer
    of the usual shape take 24 D^2 + 4 T D operations per token, which is proportional to 6 D + T.
    Determined on a sample of shuffled batches; the shortest of equally good lengths is chosen.

    Args:
      lengths: (n,) int, number of tokens of each example of the data set.
      batch: Number of examples of a batch.
      longest: Minimum length of a row, for the longest possible example.
      width: Width D of the model.
    """
    order = np.random.default_rng(0).permutation(len(lengths))
    parts = max(1, len(order) // batch)
    batches = np.array_split(order, parts)[:_SAMPLE_BATCHES]
    shortest = -(-longest // 64) * 64

    def operations(row_length: int) -> int:
        rows = rows_needed(lengths, batches, row_length, MOST_EXAMPLES).sum()
        return int(rows) * row_length * (6 * width + row_length)

    return min(range(shortest, 4 * shortest + 1, 64), key=operations)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions of m sequences in the rows of a packed batch.

    Attributes:
      sequence: (m,) index of each sequence in the data set.
      token: (tokens,) index of each of their tokens in `Tokenized.token`.
      start: (m,) first position of each sequence in its row.
      token_place: (B * T,) bool, places of the tokens in the flat arrays of the batch.
      slot_place: (m,) places of the slots in the flat arrays of the batch.
      token_shape, slot_shape: Shapes (B, T) and (B, E) of these arrays.
    """

    sequence: np.ndarray
    token: np.ndarray
    start: np.ndarray
    token_place: np.ndarray
    slot_place: np.ndarray
    token_shape: tuple[int, int]
    slot_shape: tuple[int, int]

    def tokens(self, values: np.ndarray, padding: int = 0) -> np.ndarray:
        """Return an int32 array (B, T) with one of `values` per token."""
        return _scatter(self.token_place, self.token_shape, values, padding, np.int32)

    def slots(
        self, values: np.ndarray, padding: int = 0, dtype: np.typing.DTypeLike = np.int32
    ) -> np.ndarray:
        """Return an array (B, E, ...) with one of `values` per sequence."""
        return _scatter(self.slot_place, self.slot_shape, values, padding, dtype)


def build_rows(
    tokenized: Tokenized,
    indices: np.ndarray,
    rows: Sequence[Sequence[int]],
    n_rows: int,
    row_length: int,
    max_examples: int,
    pad_id: int,
) -> Batch:
    """Build the arrays of a packed batch.

    Args:
      tokenized: The data set.
      indices: (m,) int, sequences of the batch.
      rows: Rows from `pack`, of positions in `indices`.
      n_rows: Number of rows of the batch (B); those after `rows` are padding.
      row_length: Tokens of a row (T).
      max_examples: Maximum number of sequences of a row (E).
      pad_id: Token id of padding.

    Returns:
      int32 token_BT, type_BT, position_BT (0.. in each sequence, -1 for `Tokenized.unplaced`),
      segment_BT (1.. in each row, 0 for padding), cls_BE (position of the CLS token in its row),
      index_BE (-1 for an empty slot); float32 mask_BE, 1 for a sequence, 0 for an empty slot; and
      the targets, see `flaxfer.tasks.base.TaskType.targets`.
    """
    counts = np.array([len(row) for row in rows], np.int64)
    sequence = np.asarray(indices)[np.fromiter(chain.from_iterable(rows), np.int64)]
    length = tokenized.lengths[sequence].astype(np.int64)
    row, slot = np.repeat(np.arange(len(rows)), counts), _restarted(counts)
    # Number of tokens before each sequence, in the batch and in its row.
    before = np.cumsum(length) - length
    start = before - np.repeat(before[np.cumsum(counts) - counts], counts)
    assert len(rows) <= n_rows and np.max(counts, initial=0) <= max_examples, (counts, n_rows)
    assert np.max(start + length, initial=0) <= row_length
    position = _restarted(length)
    filled = np.bincount(row, weights=length, minlength=n_rows)
    layout = Layout(
        sequence,
        np.repeat(tokenized.offset[sequence], length) + position,
        start,
        (np.arange(row_length) < filled[:, None]).ravel(),
        row * max_examples + slot,
        (n_rows, row_length),
        (n_rows, max_examples),
    )
    batch = {
        "token_BT": layout.tokens(tokenized.token[layout.token], padding=pad_id),
        "type_BT": layout.tokens(tokenized.type[layout.token]),
        "position_BT": layout.tokens(_placed(tokenized, layout.token, position, length)),
        "segment_BT": layout.tokens(np.repeat(slot + 1, length)),
        "cls_BE": layout.slots(start + tokenized.cls[sequence]),
        "mask_BE": layout.slots(np.ones(len(sequence)), dtype=np.float32),
        "index_BE": layout.slots(sequence, padding=-1),
    }
    return batch | tokenized.task_type.targets(tokenized, layout)


def _placed(
    tokenized: Tokenized, token: np.ndarray, position: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Return positions that do not count the tokens without one, whose own is -1.

    Args:
      tokenized: The data set.
      token: (tokens,) index of each token.
      position: (tokens,) position of each token in its sequence.
      length: (m,) number of tokens of each sequence.
    """
    if tokenized.unplaced < 0:
        return position
    skipped = tokenized.token[token] == tokenized.unplaced
    total = np.append(0, np.cumsum(skipped))
    before = np.repeat(total[np.cumsum(length) - length], length)
    return np.where(skipped, -1, position - (total[1:] - before))


def by_task(batch: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the arrays of a batch's target task, and those of its rehearsed task."""
    prefix = f"{REHEARSED}/"
    target = {name: array for name, array in batch.items() if not name.startswith(prefix)}
    rehearsed = {name.removeprefix(prefix): batch[name] for name in batch if name not in target}
    return target, rehearsed


def _restarted(counts: np.ndarray) -> np.ndarray:
    """Return the concatenated ranges 0, 1, .., count - 1 of all counts."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _scatter(
    places: np.ndarray,
    shape: tuple[int, int],
    values: np.ndarray,
    padding: int,
    dtype: np.typing.DTypeLike,
) -> np.ndarray:
    array = np.full((shape[0] * shape[1], *values.shape[1:]), padding, dtype)
    array[places] = values
    return array.reshape(*shape, *values.shape[1:])
