"""Packing: several examples in a row, and the few row counts that steps are compiled for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from flaxfer.errors import DataError

if TYPE_CHECKING:
    from flaxfer.data.tokenize import Tokenized

Batch = dict[str, np.ndarray]
Array = TypeVar("Array")

REHEARSED = "rehearsed"
"""What the names of a rehearsed task's arrays begin with in a batch; and the key of that task's
head among the parameters.
"""

# What `max_examples` looks at: batches of a usual size, enough of them for the rows to average out.
_SAMPLE_BATCH = 64
_SAMPLE_BATCHES = 32


def pack(lengths: np.ndarray, row_length: int, max_examples: int) -> list[list[int]]:
    """Places every example in a row: best fit decreasing (Johnson 1974, J. Comput. Syst. Sci. 8).

    Args:
      lengths: (m,) int, tokens of each example.
      row_length: tokens a row holds.
      max_examples: examples a row holds.

    Returns:
      Rows of indices into `lengths`, longest example first; the same rows for the same lengths.

    Raises:
      DataError: an example is longer than a row, or has no token.
    """
    lengths = np.asarray(lengths)
    _check(lengths, row_length)
    rows: list[list[int]] = []
    # Open rows by the space left in them, and the set of spaces with an open row as the bits of an
    # integer: the tightest fit for an example is then the lowest bit from its length on.
    open_rows: list[list[list[int]]] = [[] for _ in range(row_length + 1)]
    spaces = 0
    order = np.argsort(-lengths, kind="stable")
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[space].pop()
            if not open_rows[space]:
                spaces ^= 1 << space
        else:
            space, row = row_length, []
            rows.append(row)
        row.append(index)
        if len(row) < max_examples:
            open_rows[space - length].append(row)
            spaces |= 1 << (space - length)
    return rows


def rows_needed(
    lengths: np.ndarray,
    batches: np.ndarray | Sequence[np.ndarray],
    row_length: int,
    max_examples: int,
) -> np.ndarray:
    """Counts the rows `pack` needs for every batch.

    Args:
      lengths: (n,) int, tokens of each example of the data set.
      batches: (steps, batch) example indices, or a sequence of index arrays of any sizes.
      row_length: tokens a row holds.
      max_examples: examples a row holds.

    Returns:
      (steps,) int64.

    Raises:
      DataError: as `pack`.
    """
    needed = [len(pack(lengths[batch], row_length, max_examples)) for batch in batches]
    return np.array(needed, np.int64)


def bucket_sizes(needed: np.ndarray, limit: int = 6, multiple: int = 1) -> tuple[int, ...]:
    """Chooses the row counts to compile, so that rounding up to them adds the fewest rows in all.

    An exact dynamic programme over the histogram of `needed`.

    Args:
      needed: (steps,) int, rows that each batch needs; at least one batch.
      limit: the most sizes.
      multiple: every size is a multiple of it.

    Returns:
      At most `limit` sizes, ascending; the last one is at least `max(needed)`.
    """
    size, weight = np.unique(-(-np.asarray(needed) // multiple) * multiple, return_counts=True)
    batches = np.concatenate([[0], np.cumsum(weight)])  # [j]: of the j smallest sizes
    # cost[j]: rows of these batches with the sizes chosen so far, the largest being size[j - 1].
    cost = np.where(batches == 0, 0.0, np.inf)
    previous: list[np.ndarray] = []
    for _ in range(min(limit, len(size))):
        # total[i, j]: the same with size[j - 1] chosen on top of size[i - 1].
        total = cost[:, None] + (batches - batches[:, None]) * np.concatenate([[0], size])
        total[np.tril_indices(len(total))] = np.inf
        previous.append(total.argmin(axis=0))
        cost = total.min(axis=0)
    chosen = [len(size)]
    for best in reversed(previous[1:]):
        chosen.append(int(best[chosen[-1]]))
    return tuple(int(size[j - 1]) for j in reversed(chosen))


def max_examples(lengths: np.ndarray, row_length: int, limit: int = 64) -> int:
    """Chooses the examples a row has slots for: the fewest that cost no row.

    Every slot costs the head's computation, used or not, and no more. Counted on a sample of
    batches spread evenly over the data set.

    Args:
      lengths: (n,) int, tokens of each example of the data set.
      row_length: tokens a row holds.
      limit: the most slots.

    Raises:
      DataError: as `pack`.
    """
    n = len(lengths)
    every = max(1, round(n / _SAMPLE_BATCH))
    batches = [np.arange(i, n, every) for i in range(0, every, -(-every // _SAMPLE_BATCHES))]
    fewest = rows_needed(lengths, batches, row_length, limit).sum()
    for slots in range(1, limit):
        if rows_needed(lengths, batches, row_length, slots).sum() <= fewest:
            return slots
    return limit


def best_row_length(
    lengths: np.ndarray, batch: int, longest: int, width: int, limit: int = 64
) -> int:
    """Chooses the tokens of a row: the multiple of 64 whose batches cost the fewest operations.

    Longer rows pad less, but attention costs their square. A slot costs a layer of the usual shape
    24 D^2 + 4 T D operations in its products, in a ratio of 6 D + T. Counted on a sample of
    shuffled batches; of equals the shortest is taken.

    Args:
      lengths: (n,) int, tokens of each example of the data set.
      batch: examples of a batch.
      longest: tokens that any example may have; no row is shorter.
      width: of the model, D.
      limit: examples a row may hold.

    Raises:
      DataError: as `pack`.
    """
    order = np.random.default_rng(0).permutation(len(lengths))
    parts = max(1, len(order) // batch)
    batches = np.array_split(order, parts)[:_SAMPLE_BATCHES]
    shortest = -(-longest // 64) * 64
    candidates = range(shortest, 4 * shortest + 1, 64)
    return min(
        candidates,
        key=lambda row: rows_needed(lengths, batches, row, limit).sum() * row * (6 * width + row),
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions of m sequences in the rows of a packed batch.

    Attributes:
      sequence: (m,) index of each sequence in the data set.
      token: (tokens,) index of each of their tokens in `Tokenized.token`.
      start: (m,) first position of each sequence in its row.
      token_place, slot_place: Flat indices of the tokens and slots in the arrays of the batch.
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
    """Builds the arrays of a packed batch.

    Args:
      tokenized: the data set.
      indices: (m,) int, sequences of the batch.
      rows: of `pack`: for each row, positions in `indices`.
      n_rows: rows of the batch (B); those after `rows` are padding.
      row_length: tokens a row holds (T).
      max_examples: sequences a row holds (E).
      pad_id: token of the padding.

    Returns:
      int32 token_BT, type_BT, position_BT (0.. in each sequence), segment_BT (1.. in each row, 0
      for padding), cls_BE (place of the CLS token in its row), index_BE (-1 for an empty
      slot); float32 mask_BE, 1 for a sequence, 0 for an empty slot; and the targets, see
      `flaxfer.tasks.base.TaskType.targets`.

    Raises:
      DataError: the rows do not fit.
    """
    counts = np.array([len(row) for row in rows], np.int64)
    sequence = np.asarray(indices)[np.fromiter(chain.from_iterable(rows), np.int64)]
    length = tokenized.lengths[sequence].astype(np.int64)
    row = np.repeat(np.arange(len(rows)), counts)
    slot = _restarted(counts)
    # Tokens of the sequences before it, in the batch and in its row.
    before = np.cumsum(length) - length
    start = before - np.repeat(before[np.cumsum(counts) - counts], counts)
    most, longest = (max(x.tolist(), default=0) for x in (counts, start + length))
    if len(rows) > n_rows or most > max_examples or longest > row_length:
        raise DataError(
            f"{len(rows)} rows of up to {most} examples and {longest} tokens do not fit into"
            f" {n_rows} rows of {max_examples} examples and {row_length} tokens",
            where="packed batch",
            hint="plan the run with the lengths of the tokenised data it is trained on",
        )

    position = _restarted(length)
    layout = Layout(
        sequence,
        np.repeat(tokenized.offset[sequence], length) + position,
        start,
        np.repeat(row * row_length + start, length) + position,
        row * max_examples + slot,
        (n_rows, row_length),
        (n_rows, max_examples),
    )
    batch = {
        "token_BT": layout.tokens(tokenized.token[layout.token], padding=pad_id),
        "type_BT": layout.tokens(tokenized.type[layout.token]),
        "position_BT": layout.tokens(position),
        "segment_BT": layout.tokens(np.repeat(slot + 1, length)),
        "cls_BE": layout.slots(start + tokenized.cls[sequence]),
        "mask_BE": layout.slots(np.ones(len(sequence)), dtype=np.float32),
        "index_BE": layout.slots(sequence, padding=-1),
    }
    return batch | tokenized.task_type.targets(tokenized, layout)


def by_task(batch: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays of a batch's own task, and by the same names those of the task it rehearses."""
    start = f"{REHEARSED}/"
    own = {name: array for name, array in batch.items() if not name.startswith(start)}
    other = {name.removeprefix(start): batch[name] for name in batch if name not in own}
    return own, other


def _check(lengths: np.ndarray, row_length: int) -> None:
    wrong = np.flatnonzero((lengths < 1) | (lengths > row_length))
    if wrong.size:
        raise DataError(
            f"{wrong.size} of {len(lengths)} examples do not fit a row of {row_length} tokens",
            where="lengths",
            hint="set train.max_length to train.row_length at most, and leave out empty examples",
            details=[f"example {i} has {lengths[i]} tokens" for i in wrong],
        )


def _restarted(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, .. count - 1 for each count, end to end."""
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
