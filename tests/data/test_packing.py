from __future__ import annotations

import csv
import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxfer.data import bins, packing
from flaxfer.data.tokenize import Tokenized
from flaxfer.tasks import TASK_TYPES

ROW = 128
# Tokens of a sentence pair in a mixture of captions, forum posts and news, like the data sets of
# sentence similarity: (tokens, of how many pairs in a thousand).
HISTOGRAM = {
    12: 15, 14: 45, 15: 60, 16: 70, 17: 70, 18: 65, 19: 60, 20: 55, 21: 50, 22: 50, 23: 45, 24: 40,
    26: 60, 28: 50, 30: 40, 33: 40, 37: 35, 42: 30, 48: 30, 54: 30, 60: 25, 66: 15, 74: 10, 85: 6,
    100: 3, 120: 1,
}  # fmt: skip

problems = st.tuples(
    st.integers(1, 48).flatmap(
        lambda row: st.tuples(st.just(row), st.lists(st.integers(1, row), max_size=60))
    ),
    st.integers(1, 12),
).map(lambda x: (x[0][0], np.array(x[0][1], np.int32), x[1]))


def plain_best_fit(lengths: np.ndarray, row_length: int, max_examples: int) -> int:
    """Rows of best-fit decreasing as the textbook states it, without any index."""
    rows: list[list[int]] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [r for r in rows if sum(r) + length <= row_length and len(r) < max_examples]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    return len(rows)


def fewest_rows(lengths: np.ndarray, row_length: int) -> int:
    """The optimum, by search over every assignment to rows."""
    items = sorted(lengths.tolist(), reverse=True)

    def fits(index: int, space: tuple[int, ...]) -> bool:
        if index == len(items):
            return True
        return any(
            fits(index + 1, (*space[:i], left - items[index], *space[i + 1 :]))
            for i, left in enumerate(space)
            if left >= items[index] and left not in space[:i]
        )

    return next(n for n in itertools.count() if fits(0, (row_length,) * n))


@settings(deadline=None)
@given(problems)
def test_every_example_has_one_place_and_no_row_overflows(problem):
    row_length, lengths, max_examples = problem
    rows = bins.pack(lengths, row_length, max_examples)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(0 < len(row) <= max_examples for row in rows)
    assert all(lengths[row].sum() <= row_length for row in rows)
    assert len(rows) >= -(-lengths.sum() // row_length)
    assert len(rows) >= -(-len(lengths) // max_examples)
    assert rows == bins.pack(lengths.copy(), row_length, max_examples)


@settings(deadline=None)
@given(problems)
def test_pack_is_never_worse_than_best_fit(problem):
    row_length, lengths, max_examples = problem
    best_fit = plain_best_fit(lengths, row_length, max_examples)
    assert len(bins.pack(lengths, row_length, max_examples)) <= best_fit
    assert len(bins._best_fit(lengths, row_length, max_examples)) == best_fit


@settings(deadline=None)
@given(problems)
def test_packing_by_length_is_best_fit_decreasing(problem):
    row_length, lengths, max_examples = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bins, "MANY", 1)
        rows = bins.pack(lengths, row_length, max_examples)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(0 < len(row) <= max_examples and lengths[row].sum() <= row_length for row in rows)
    assert all((np.diff(lengths[row]) <= 0).all() for row in rows)
    assert len(rows) == plain_best_fit(lengths, row_length, max_examples)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), max_size=10).map(lambda x: sorted(x, reverse=True)),
    st.integers(0, 60),
    st.integers(0, 10),
)
def test_a_row_is_filled_as_far_as_possible(lengths, space, most):
    chosen = bins._fullest(lengths, space, most)
    best = max(
        sum(choice)
        for n in range(min(most, len(lengths)) + 1)
        for choice in itertools.combinations(lengths, n)
        if sum(choice) <= space
    )
    assert chosen == sorted(set(chosen)) and len(chosen) <= most
    assert sum(lengths[i] for i in chosen) == best


def test_a_row_that_best_fit_wastes_is_saved():
    lengths = np.array([5, 4, 4, 3, 2, 2])  # 5 3 2, 4 4 2; best fit puts 5 and 4 together.
    assert plain_best_fit(lengths, 10, 6) == 3
    assert bins.pack(lengths, 10, 6) == [[0, 3, 4], [1, 2, 5]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), max_size=9), st.integers(20, 30))
def test_rows_stay_near_the_optimum(lengths, row_length):
    best = fewest_rows(np.array(lengths, int), row_length)
    rows = bins.pack(np.array(lengths, int), row_length, max_examples=9)
    assert best <= len(rows) <= 11 / 9 * best + 1


@pytest.mark.parametrize("length", [0, 9])
def test_an_example_that_fits_no_row_is_an_error(length):
    with pytest.raises(AssertionError):
        bins.pack(np.array([3, length, 8]), row_length=8, max_examples=4)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=80),
    st.integers(1, 4),
    st.sampled_from([1, 2, 8]),
)
def test_row_counts_are_the_cheapest(needed, limit, multiple):
    needed = np.array(needed)
    sizes = packing.bucket_sizes(needed, limit, multiple)
    assert list(sizes) == sorted(set(sizes)) and len(sizes) <= limit
    assert all(size % multiple == 0 for size in sizes) and sizes[-1] >= needed.max()

    def total(sizes: tuple[int, ...]) -> int:
        return np.array(sizes)[np.searchsorted(sizes, needed)].sum()

    top = -(-needed.max() // multiple)
    # More than three sizes of up to forty are too many to try: all of them for small limits.
    smaller = range(multiple, top * multiple, multiple)
    for more in range(min(limit, 3)):
        for choice in itertools.combinations(smaller, more):
            assert total(sizes) <= total((*choice, top * multiple))


def test_rows_needed_counts_the_packed_rows_of_every_batch():
    lengths = synthetic_lengths(640)
    batches = np.random.default_rng(1).permutation(640).reshape(20, 32)
    needed = packing.rows_needed(lengths, batches, ROW, 8)
    assert needed.tolist() == [len(bins.pack(lengths[b], ROW, 8)) for b in batches]


def test_best_row_length_costs_least():
    """Against a plain count of what each length costs a layer, at widths that weigh it apart."""
    lengths = np.random.default_rng(0).integers(20, 120, 640)
    order = np.random.default_rng(0).permutation(640)

    def operations(row_length, width):
        rows = sum(plain_best_fit(lengths[b], row_length, 64) for b in order.reshape(40, 16)[:32])
        return rows * row_length * (24 * width**2 + 4 * row_length * width)

    found = {width: packing.best_row_length(lengths, 16, 120, width) for width in (16, 768)}
    for width, best in found.items():
        cost = {row: operations(row, width) for row in range(128, 513, 64)}
        assert cost[best] == min(cost.values())
    assert found[16] < found[768], "a wide model's attention is cheap beside its other products"


@pytest.mark.parametrize("row_length", [64, 128, 512])
def test_max_examples_is_the_fewest_that_cost_no_row(row_length):
    lengths = np.sort(np.minimum(synthetic_lengths(2000), 64))
    slots = packing.max_examples(lengths, row_length)
    batches = [np.arange(i, 2000, 31) for i in range(31)]

    def rows(slots: int) -> int:
        return packing.rows_needed(lengths, batches, row_length, slots).sum()

    assert rows(slots) == rows(row_length) < rows(slots - 1)


def test_max_examples_at_its_ends():
    assert packing.max_examples(np.full(100, ROW), ROW) == 1
    assert packing.max_examples(np.full(100, 64), ROW) == 2
    assert packing.max_examples(np.full(640, 4), ROW) == 32
    assert packing.max_examples(np.array([5]), ROW) == 1


def synthetic_lengths(n: int) -> np.ndarray:
    values, weights = np.array(list(HISTOGRAM.items())).T
    return np.random.default_rng(0).choice(values, n, p=weights / weights.sum()).astype(np.int32)


def fill(lengths: np.ndarray, batch_size: int) -> float:
    """Share of the computed tokens that are real, over three epochs, rounding of rows included."""
    slots = packing.max_examples(lengths, ROW)
    assert slots <= 12
    rng, steps = np.random.default_rng(0), len(lengths) // batch_size
    batches = np.concatenate(
        [
            rng.permutation(len(lengths))[: steps * batch_size].reshape(steps, batch_size)
            for _ in range(3)
        ]
    )
    needed = packing.rows_needed(lengths, batches, ROW, slots)
    sizes = packing.bucket_sizes(needed, limit=6, multiple=1)
    rows = np.array(sizes)[np.searchsorted(sizes, needed)]
    assert len(sizes) <= 6
    return lengths[batches].sum() / (rows.sum() * ROW)


@pytest.mark.parametrize(("batch_size", "least"), [(32, 0.92), (64, 0.96)])
def test_fill(batch_size, least):
    assert fill(synthetic_lengths(5749), batch_size) >= least


@pytest.mark.parametrize("tokenizer", ["tokenizers/bert-base-uncased", "me5-small-32k-xlmr"])
def test_fill_of_real_pairs(shared: Path, tokenizer: str):
    transformers = pytest.importorskip("transformers")
    with open(shared / "data/stsb-multi-mt/stsb-en-train.csv", newline="", encoding="utf-8") as f:
        text_a, text_b, _ = zip(*csv.reader(f), strict=True)
    folder = shared / "models" / tokenizer
    if tokenizer.endswith("uncased"):
        load = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    else:
        load = transformers.AutoTokenizer.from_pretrained(folder)
    token = load(list(text_a), list(text_b), truncation=True, max_length=ROW)["input_ids"]
    lengths = np.array([len(t) for t in token])
    assert len(lengths) == 5749
    assert fill(lengths, 32) >= 0.925
    assert fill(lengths, 64) >= 0.96


@pytest.mark.parametrize(("n", "seconds"), [(32, 2e-3), (256, 1e-2), (200_000, 1.0)])
def test_packing_is_fast_enough_for_the_input_pipeline(n: int, seconds: float):
    lengths = synthetic_lengths(n)
    times = []
    for _ in range(5):
        start = time.thread_time()
        bins.pack(lengths, ROW, 8)
        times.append(time.thread_time() - start)
    assert min(times) < seconds


def tokenized(
    lengths: np.ndarray, label: np.ndarray, last: bool = False, task_type="regression", **more
) -> Tokenized:
    """No token, type or label equals that of its neighbours."""
    total, names = int(lengths.sum()), ("",) * len(lengths)
    return Tokenized(
        token=np.arange(100, 100 + total, dtype=np.int32),
        type=(np.arange(total) % 3).astype(np.uint8),
        offset=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        cls=(lengths - 1 if last else np.zeros_like(lengths)).astype(np.int32),
        label=label,
        id=names,
        language=names,
        domain=names,
        truncated=0,
        fingerprint="",
        task_type=TASK_TYPES[task_type],
        **more,
    )


@settings(max_examples=60, deadline=None)
@given(problems, st.integers(0, 3), st.booleans(), st.randoms(use_true_random=False))
def test_rows_hold_the_examples_unchanged(problem, spare, last, random):
    row_length, lengths, max_examples = problem
    if not len(lengths):
        return
    data = tokenized(lengths, np.arange(len(lengths), dtype=np.float32) / 7, last)
    indices = np.array(random.sample(range(len(lengths)), random.randint(1, len(lengths))))
    rows = bins.pack(lengths[indices], row_length, max_examples)
    shape = (len(rows) + spare, row_length)
    batch = packing.build_rows(data, indices, rows, shape[0], row_length, max_examples, pad_id=1)

    # The same, example by example.
    expected = {
        "token_BT": np.full(shape, 1),
        **{name: np.zeros(shape) for name in ("type_BT", "position_BT", "segment_BT")},
        **{name: np.zeros((shape[0], max_examples)) for name in ("cls_BE", "mask_BE")},
        "label_BE": np.zeros((shape[0], max_examples), np.float32),
        "index_BE": np.full((shape[0], max_examples), -1),
    }
    for b, row in enumerate(rows):
        start = 0
        for e, position in enumerate(row):
            i = indices[position]
            here, there = slice(start, start + lengths[i]), slice(*data.offset[i : i + 2])
            expected["token_BT"][b, here] = data.token[there]
            expected["type_BT"][b, here] = data.type[there]
            expected["position_BT"][b, here] = range(lengths[i])
            expected["segment_BT"][b, here] = e + 1
            expected["cls_BE"][b, e] = start + data.cls[i]
            expected["label_BE"][b, e] = data.label[i]
            expected["mask_BE"][b, e] = 1
            expected["index_BE"][b, e] = i
            start += lengths[i]
    assert batch.keys() == expected.keys()
    for name, array in batch.items():
        dtype = np.float32 if name in ("mask_BE", "label_BE") else np.int32
        assert array.dtype == dtype, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_class_labels_stay_integers_and_an_empty_batch_is_padding():
    data = tokenized(np.array([3, 2]), np.array([4, 5], np.int32))
    batch = packing.build_rows(data, np.array([1, 0]), [[1, 0]], 1, 8, 3, pad_id=0)
    assert batch["label_BE"].dtype == np.int32
    assert batch["label_BE"].tolist() == [[4, 5, 0]]
    empty = packing.build_rows(data, np.array([], int), [], 2, 8, 3, pad_id=7)
    assert (empty["token_BT"] == 7).all() and not empty["mask_BE"].any()
    assert (empty["index_BE"] == -1).all() and not empty["segment_BT"].any()


@pytest.mark.parametrize(
    ("rows", "n_rows", "row_length", "max_examples"),
    [([[0], [1]], 1, 8, 3), ([[0, 1]], 1, 4, 3), ([[0, 1]], 2, 8, 1)],
)
def test_rows_that_do_not_fit_are_an_error(rows, n_rows, row_length, max_examples):
    data = tokenized(np.array([3, 2]), np.array([4, 5], np.int32))
    with pytest.raises(AssertionError):
        packing.build_rows(data, np.array([0, 1]), rows, n_rows, row_length, max_examples, 0)


LENGTHS = np.array([3, 4, 2, 5], np.int32)
ROWS = [[2, 0], [1]]  # Of the sequences 3, 0, 2: row 0 holds 2 and 3, row 1 holds 0.


def rows_of(data: Tokenized) -> dict[str, np.ndarray]:
    return packing.build_rows(data, np.array([3, 0, 2]), ROWS, 3, 8, 2, pad_id=1)


def test_tags_lie_at_their_tokens():
    label = np.array([-1, 4, -1, 0, 1, 2, 3, -1, 5, 6, -1, 7, 8, -1], np.int32)
    batch = rows_of(tokenized(LENGTHS, label, task_type="tagging"))
    rows = [[-1, 5, 6, -1, 7, 8, -1, -1], [-1, 4, -1] + 5 * [-1], 8 * [-1]]
    np.testing.assert_array_equal(batch["label_BT"], rows)
    assert batch["label_BT"].dtype == np.int32 and "label_BE" not in batch


def test_answers_lie_at_places_in_the_row():
    label = np.array([[1, 2], [3, 3], [0, 0], [1, 4]], np.int32)
    batch = rows_of(tokenized(LENGTHS, label, task_type="question_answering"))
    np.testing.assert_array_equal(batch["start_BE"], [[0, 2 + 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(batch["end_BE"], [[0, 2 + 4], [2, 0], [0, 0]])


def test_choices_know_their_example_and_which_is_right():
    own = {
        "task_type": "multiple_choice",
        "choices": 2,
        "example": np.array([0, 0, 1, 1], np.int32),
    }
    data = tokenized(LENGTHS, np.array([0, 1], np.int32), **own)
    batch = packing.build_rows(data, np.arange(4), [[3, 0], [2, 1]], 2, 8, 2, pad_id=1)
    np.testing.assert_array_equal(batch["index_BE"], [[3, 0], [2, 1]])
    np.testing.assert_array_equal(batch["unit_BE"], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(batch["label_BE"], [[1, 1], [0, 0]])
