"""Packing: several examples in a row, and the few row counts that steps are compiled for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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
      slot); float32 mask_BE, 1 for a sequence, 0 for an empty slot; and what is to be predicted, by
      the kind of task:
      classification, regression: label_BE, as `tokenized.label`;
      multiple choice: label_BE, float32 1 for the right choice, and unit_BE, int32 number of the
      example within the batch;
      tagging: label_BT, int32, -1 for tokens that do not count;
      question answering: start_BE and end_BE, int32 places in the row.

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
    source = np.repeat(tokenized.offset[sequence], length) + position
    target = np.repeat(row * row_length + start, length) + position
    place = row * max_examples + slot

    tokens = functools.partial(_scatter, target, (n_rows, row_length))
    slots = functools.partial(_scatter, place, (n_rows, max_examples))
    batch = {
        "token_BT": tokens(tokenized.token[source], padding=pad_id),
        "type_BT": tokens(tokenized.type[source]),
        "position_BT": tokens(position),
        "segment_BT": tokens(np.repeat(slot + 1, length)),
        "cls_BE": slots(start + tokenized.cls[sequence]),
        "mask_BE": slots(np.ones(len(sequence)), dtype=np.float32),
        "index_BE": slots(sequence, padding=-1),
    }
    return batch | _targets(tokenized, sequence, source, start, tokens, slots)


def by_task(batch: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays of a batch's own task, and by the same names those of the task it rehearses."""
    start = f"{REHEARSED}/"
    own = {name: array for name, array in batch.items() if not name.startswith(start)}
    other = {name.removeprefix(start): batch[name] for name in batch if name not in own}
    return own, other


def _targets(
    tokenized: Tokenized,
    sequence: np.ndarray,
    source: np.ndarray,
    start: np.ndarray,
    tokens: Callable[..., np.ndarray],
    slots: Callable[..., np.ndarray],
) -> Batch:
    """What is to be predicted of a batch.

    Args:
      tokenized: the data set.
      sequence: (m,) the sequences of the batch.
      source: (tokens,) their tokens, as numbers in the data set.
      start: (m,) where in its row each begins.
      tokens: puts a value a token into rows.
      slots: puts a value a sequence into slots.
    """
    label = tokenized.label
    if tokenized.kind == "tagging":
        return {"label_BT": tokens(label[source], padding=-1)}
    if tokenized.kind == "question_answering":
        first, last = (start[:, None] + label[sequence]).T
        return {"start_BE": slots(first), "end_BE": slots(last)}
    if tokenized.kind == "multiple_choice":
        example = tokenized.example[sequence]
        right = label[example] == sequence % tokenized.choices
        unit = np.unique(example, return_inverse=True)[1]
        return {"label_BE": slots(right, dtype=np.float32), "unit_BE": slots(unit)}
    return {"label_BE": slots(label[sequence], dtype=label.dtype)}


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
    padding: int = 0,
    dtype: np.typing.DTypeLike = np.int32,
) -> np.ndarray:
    array = np.full(shape, padding, dtype)
    array.reshape(-1)[places] = values
    return array
