"""Bin packing: examples into rows of a number of tokens and a maximum number of examples."""

from __future__ import annotations

from itertools import chain

import numpy as np

FEW = 256
"""Number of examples up to which a row that best fit wastes is searched for: a row of more examples
is hardly worth the time."""

MANY = 4096
"""Number of examples from which on they are packed by length instead of one by one."""


def pack(lengths: np.ndarray, row_length: int, max_examples: int) -> list[list[int]]:
    """Assign examples to rows, in few rows.

    Best fit decreasing (Johnson 1974, J. Comput. Syst. Sci. 8) or, if that may waste a row of a
    batch of at most `FEW` examples and has more rows, minimum bin slack (see `_least_slack`).

    Args:
      lengths: (m,) int, number of tokens of each example, from 1 to `row_length`.
      row_length: Tokens of a row.
      max_examples: Maximum number of examples of a row.

    Returns:
      Rows of indices into `lengths`, longest example first; a function of the lengths.
    """
    assert ((lengths > 0) & (lengths <= row_length)).all(), (lengths, row_length)
    if len(lengths) >= MANY:
        return _best_fit_by_length(lengths, row_length, max_examples)
    rows = _best_fit(lengths, row_length, max_examples)
    if len(lengths) > FEW or len(rows) <= fewest_rows(lengths, row_length, max_examples):
        return rows
    return min(rows, _least_slack(lengths, row_length, max_examples), key=len)


def fewest_rows(lengths: np.ndarray, row_length: int, max_examples: int) -> int:
    """Return a lower bound of the number of rows: of all tokens, and of all examples."""
    return max(-(-int(lengths.sum()) // row_length), -(-len(lengths) // max_examples))


def _best_fit(lengths: np.ndarray, row_length: int, max_examples: int) -> list[list[int]]:
    """Put every example, the longest first, into the fullest row that has room for it."""
    rows: list[list[int]] = []
    # Open rows by free space, and the set of free spaces as the bits of an integer, in which the
    # tightest fit for an example is the lowest bit from its length on.
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


def _best_fit_by_length(lengths: np.ndarray, row_length: int, max_examples: int) -> list[list[int]]:
    """Do what `_best_fit` does, with all examples of a length and all rows of a space at once.

    A row that is the tightest fit for an example is so for the next one of the same length, until
    it has no room for it. So rows of the same space and number of examples get the same: groups of
    k such rows are arrays (k, examples) of indices.
    """
    order = np.argsort(-lengths, kind="stable")
    size, first = np.unique(-lengths[order], return_index=True)
    full: list[np.ndarray] = []
    groups: list[list[np.ndarray]] = [[] for _ in range(row_length + 1)]
    groups[row_length].append(np.zeros((len(lengths), 0), order.dtype))  # Rows not yet opened.
    for length, left in zip((-size).tolist(), np.split(order, first[1:]), strict=True):
        # Rows that get examples of this length have no room for another of them.
        for space in range(length, row_length + 1):
            while groups[space] and len(left):
                group = groups[space].pop()
                each = min(space // length, max_examples - group.shape[1])
                whole = min(len(group), len(left) // each)
                taken, left = np.split(left, [whole * each])
                grown = [np.hstack([group[:whole], taken.reshape(whole, each)])]
                group = group[whole:]
                if len(group) and len(left):  # One row gets the rest, and has room for more.
                    grown.append(np.hstack([group[:1], left[None]]))
                    group, left = group[1:], left[:0]
                if len(group):
                    groups[space].append(group)
                for each_group in filter(len, grown):
                    done = each_group.shape[1] == max_examples
                    added = each_group.shape[1] - group.shape[1]
                    place = full if done else groups[space - added * length]
                    place.append(each_group)
            if not len(left):
                break
    groups[row_length].clear()
    return [row for group in chain(full, *groups) for row in group.tolist()]


def _least_slack(lengths: np.ndarray, row_length: int, max_examples: int) -> list[list[int]]:
    """Fill one row after another as far as possible: minimum bin slack, as MBS' of Fleszar & Hindi.

    A row gets the longest example that is left, and the others that leave the least space (Gupta &
    Ho 1999, Prod. Plan. Control 10; Fleszar & Hindi 2002, Comput. Oper. Res. 29).
    """
    sorted_indices = np.argsort(-lengths, kind="stable")
    indices, left, rows = sorted_indices.tolist(), lengths[sorted_indices].tolist(), []
    while left:
        others = _fullest(left[1:], row_length - left[0], max_examples - 1)
        chosen = [0, *(i + 1 for i in others)]
        rows.append([indices[i] for i in chosen])
        for i in reversed(chosen):
            del indices[i], left[i]
    return rows


def _fullest(lengths: list[int], space: int, most: int) -> list[int]:
    """Return the indices, ascending, of at most `most` lengths with the largest sum up to `space`.

    Exactly, by dynamic programming over the sums that each number of the lengths, which descend,
    can have: bit `number * (space + 1) + total` of an integer. Of equally good choices, it is one
    with few examples, which are long.
    """
    width = space + 1
    numbers = ((1 << (most * width)) - 1) // ((1 << width) - 1)  # One bit for each but the last.
    reached, before = 1, []
    perfect = ((numbers << width) | 1) << space
    same = last = 0
    for i, length in enumerate(lengths):
        same, last = same + 1 if length == last else 1, length
        if same * length > space:  # So many of this length do not fit.
            continue
        if reached & perfect:
            break
        before.append((i, length, reached))
        # Those with room for it: no bit moves into the place of another number.
        reached |= (reached & (((1 << (width - length)) - 1) * numbers)) << (width + length)
    total, best = space, reached & perfect
    while not best:
        total, perfect = total - 1, perfect >> 1
        best = reached & perfect
    state = (best & -best).bit_length() - 1
    chosen = []
    for i, length, reached in reversed(before):
        if not reached >> state & 1:
            chosen.append(i)
            state -= width + length
    return chosen[::-1]
