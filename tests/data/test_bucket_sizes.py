"""The automatic number of bucket sizes, against all choices of sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flaxfer.config import Train
from flaxfer.data.loader import TrainPlan
from flaxfer.data.packing import MOST_SIZES, PROGRAM_STEPS, affordable_sizes
from tests.helpers import random_tokenized

NEEDED = np.repeat([6, 7, 8, 9, 10, 13], [3, 80, 73, 21, 2, 1])


def cheapest(needed: np.ndarray, steps: int) -> int:
    """Try all sets of sizes: the number of sizes with the least work, in mean steps."""
    costs = {}
    for number in range(1, MOST_SIZES + 1):
        for smaller in itertools.combinations(range(1, needed.max()), number - 1):
            sizes = np.array([*smaller, needed.max()])
            rows = sizes[(needed[:, None] > sizes).sum(axis=1)].sum()
            work = steps * rows / needed.sum() + PROGRAM_STEPS * number
            costs[number] = min(work, costs.get(number, np.inf))
    return min(costs, key=lambda number: costs[number])


@pytest.mark.parametrize("steps", [1, 100, 300, 3000])
def test_a_size_has_to_save_more_steps_than_its_program_costs(steps: int) -> None:
    assert affordable_sizes(NEEDED, steps, 1) == cheapest(NEEDED, steps)


def test_more_steps_afford_more_sizes() -> None:
    steps = (1, 50, 180, 540, 5_000, 10**6)
    assert [affordable_sizes(NEEDED, n, 1) for n in steps] == [1, 2, 2, 4, 5, 6]
    assert affordable_sizes(NEEDED, 10**6, 4) == 3, "only 8, 12 and 16 are possible"
    assert affordable_sizes(np.full(9, 7), 10**6, 1) == 1


def test_a_plan_has_the_affordable_sizes_unless_their_number_is_set() -> None:
    data = random_tokenized(60)

    def sizes(**settings: int) -> int:
        train = Train(batch_size=4, max_length=12, row_length=16, **settings)
        return len(TrainPlan.make(data, train, (0,), 0, 1).bucket_sizes)

    few, many = sizes(max_steps=5), sizes(max_steps=2000)
    assert few == 1 < many
    assert sizes(max_steps=2000, max_bucket_sizes=1) == 1
    assert sizes(max_steps=5, max_bucket_sizes=2) == 2
