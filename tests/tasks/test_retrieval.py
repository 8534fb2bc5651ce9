"""Retrieval: examples, passages that are one, the loss in float64, and rankings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import average_precision_score

from flaxfer.config import Data, Model, Source, Stage, Task
from flaxfer.data import packing
from flaxfer.data.tokenize import load_tokenizer, tokenize
from flaxfer.tasks import task_type
from flaxfer.tasks.measuring import measure
from flaxfer.training.handover import same_question
from tests.data.helpers import read, refusal, text_file
from tests.helpers import random_queries, tiny_tokenizer

FIND = Task("find", "retrieval", "map_at_20")
BOTH = dataclasses.replace(FIND, symmetric_loss=True)
TRIPLETS = Task("align", "retrieval", "accuracy_at_1", triplet_margin=2.0)
BOTH_TRIPLETS = dataclasses.replace(TRIPLETS, symmetric_loss=True)
COLUMNS: dict[str, str | int] = {"query": "q", "passage": "p", "negative": "n"}
ROWS: list[dict[str, Any]] = [
    {"q": "a man", "p": "the man eats", "n": ["a dog", "the cat plays"]},
    {"q": "a dog", "p": ["the dog runs", "A dog!"], "n": "the man eats"},
    {"q": "is a man", "p": "The man eats.", "n": None},
]


def source(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Source:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return Source(text_file(folder, text, "data.jsonl"), columns=COLUMNS, **settings)


def test_passages_are_texts_or_lists(tmp_path: Path) -> None:
    examples = read(source(tmp_path, ROWS), FIND)
    assert examples.text_a == ("a man", "a dog", "is a man")
    assert examples.text_b == ("the man eats", "the dog runs", "The man eats.")
    assert examples.label == (
        ((), ("a dog", "the cat plays")),
        (("A dog!",), ("the man eats",)),
        ((), ()),
    )
    csv = Source(text_file(tmp_path, "q,p,n\na man,a dog,\n", "data.csv"), columns=COLUMNS)
    assert read(csv, FIND).label == (((), ()),)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"p": []}, "column 'p': holds no passage"),
        ({"p": ""}, "column 'p': holds no passage"),
        ({"p": " "}, "column 'p': is empty"),
        ({"p": ["a", 3]}, "column 'p': item 2: is of type int, not a text"),
        ({"n": ["a", None]}, "column 'n': item 2: is missing"),
        ({"n": "THE DOG RUNS"}, "column 'n': is a right passage, too"),
        ({"q": None}, "column 'q': is missing"),
    ],
)
def test_invalid_passages_are_named_with_their_line(
    change: dict[str, Any], finding: str, tmp_path: Path
) -> None:
    (detail,) = refusal(source(tmp_path, [ROWS[0], ROWS[1] | change]), FIND).details
    assert detail == f"data.jsonl:2: {finding}"


def test_queries_without_a_passage_are_left_out_if_that_is_wanted(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1] | {"p": []}, ROWS[2]]
    examples = read(source(tmp_path, rows, drop_unlabeled=True), FIND)
    assert examples.id == ("data:1", "data:3")


def test_a_passage_is_encoded_once(tmp_path: Path) -> None:
    """Passages whose normal forms are equal are one, the first of them."""
    tokenizer = load_tokenizer(Model(path=str(tiny_tokenizer(tmp_path / "model"))))
    examples = read(source(tmp_path, ROWS), FIND)
    data = tokenize(examples, tokenizer, 16, None)
    texts = [
        *("a man", "a dog", "is a man"),
        *("the man eats", "a dog", "the cat plays", "the dog runs"),
    ]
    sequences = np.split(data.token, data.offset[1:-1])
    assert [each.tolist() for each in sequences] == [tokenizer(text)["input_ids"] for text in texts]
    assert data.label.tolist() == [[0, -1], [3, 1], [0, -1], [0, -1], [1, -1], [2, -1], [3, -1]]
    assert data.reference == (((0,), (1, 2)), ((3, 1), (0,)), ((0,), ()))
    assert data.example.tolist() == [0, 1, 2, 0, 0, 0, 1]
    assert data.id == ("data:1", "data:2", "data:3")


def test_candidates_are_searched_and_named(tmp_path: Path) -> None:
    """They are distinct by their ids; scores are those of NumPy over all of them."""
    rng = np.random.default_rng(0)
    lines = ["id\tpassage", "d0\ta man", "d1\tA man.", *(f"d{i}\ta dog" for i in range(2, 40))]
    table = text_file(tmp_path, "\n".join(lines) + "\n", "docs.tsv")
    right = [[f"d{i}" for i in rng.choice(40, 1 + i % 3, replace=False)] for i in range(12)]
    rows = [{"q": "a man", "p": names, "n": None} for names in right]
    columns: dict[str, str | int] = {"query": "q", "passage": "p"}
    queries = dataclasses.replace(source(tmp_path, rows), columns=columns, candidates=table)
    tokenizer = load_tokenizer(Model(path=str(tiny_tokenizer(tmp_path / "model"))))
    data = tokenize(read(queries, FIND), tokenizer, 16, tmp_path / "cache")
    assert len(data) == 12 + 40 and data.label[12:, 0].tolist() == [*range(40)]
    assert data.offset[13] - data.offset[12] == len(tokenizer("a man")["input_ids"])
    again = tokenize(read(queries, FIND), tokenizer, 16, tmp_path / "cache")
    assert again.candidates == data.candidates == tuple(f"d{i}" for i in range(40))
    outputs = rng.normal(size=(52, 8)).astype(np.float32)
    predictions = data.task_type.predictions(FIND, data, outputs)
    unit = outputs.astype(np.float64) / np.linalg.norm(outputs.astype(np.float64), axis=1)[:, None]
    order = np.argsort(-(unit[:12] @ unit[12:].T), axis=1)
    expected = []
    for i, names in enumerate(right):
        hits = np.isin(order[i, :20], [int(name[1:]) for name in names])
        precision = np.cumsum(hits) / np.arange(1, 21)
        expected.append((precision * hits).sum() / len(names))
        record = predictions.record(i)
        assert record["prediction"] == [f"d{row}" for row in order[i, :20]]
        assert record["passages"] == names
    scores = predictions.scores(np.ones(12, bool))
    assert scores["map_at_20"] == pytest.approx(np.mean(expected))
    assert 0 < scores["map_at_20"] < 1


def test_a_batch_has_its_queries_and_the_distinct_passages_of_all() -> None:
    data = random_queries(9, 7)
    form = data.task_type
    indices = np.array([3, 8, 3, 1])
    wanted = {9 + n for i in indices for n in (data.reference[i][0][0], *data.reference[i][1])}
    (whole,) = form.micro_batches(data, indices, 1)
    assert sorted(whole) == sorted([*indices, *wanted])
    parts = form.micro_batches(data, indices, 3)
    assert sorted(np.concatenate(parts)) == sorted(whole)
    sizes, tokens = [len(part) for part in parts], [data.lengths[part].sum() for part in parts]
    assert max(sizes) - min(sizes) <= 1 and max(tokens) - min(tokens) <= data.lengths.max()


def batch_of(data: Any, sequences: np.ndarray) -> dict[str, np.ndarray]:
    """Sequences in rows of two slots, with empty ones."""
    rows = [[i, i + 1] if i + 1 < len(sequences) else [i] for i in range(0, len(sequences), 2)]
    return packing.build_rows(data, sequences, rows, len(rows) + 1, 32, 2, pad_id=0)


def triplets(
    task: Task,
    query: int,
    right: int,
    vectors: dict[int, np.ndarray],
    counted: list[int],
    indices: np.ndarray,
    data: Any,
) -> float:
    """The mean of the hinges of a query with the nearest wrong passage, and of its passage."""
    own = vectors[query] @ vectors[right]
    hardest = [max(vectors[query] @ vectors[n] for n in counted if n != right)]
    if task.symmetric_loss:
        others = [j for j in indices if right - 9 not in data.reference[j].right]
        hardest.append(max(vectors[j] @ vectors[right] for j in others))
    return float(np.mean([max(0.0, task.triplet_margin + wrong - own) for wrong in hardest]))


@pytest.mark.parametrize("task", [FIND, BOTH, TRIPLETS, BOTH_TRIPLETS])
def test_loss(task: Task) -> None:
    data = random_queries(9, 7)
    indices = np.array([0, 2, 3, 4, 7])
    (sequences,) = data.task_type.micro_batches(data, indices, 1)
    batch = batch_of(data, sequences)
    rng = np.random.default_rng(1)
    embedding_BED = rng.normal(size=(*batch["mask_BE"].shape, 5)).astype(np.float32)
    places = {int(n): place for place, n in np.ndenumerate(batch["index_BE"]) if n >= 0}
    passages = [n for n in places if n >= 9]
    first = [data.reference[i].right[0] + 9 for i in indices]
    # So near to each other that a margin separates them from the others.
    embedding_BED[places[indices[1]]] = 9 * embedding_BED[places[first[1]]]
    vectors = {n: embedding_BED[place].astype(np.float64) for n, place in places.items()}
    assert len(set(first)) < len(first), "two queries have the same passage"
    losses = []
    for i, right in zip(indices, first, strict=True):
        others = {n + 9 for n in data.reference[i].right} - {right}
        counted = [n for n in passages if n not in others]
        if task.triplet_margin:
            losses.append(triplets(task, i, right, vectors, counted, indices, data))
            continue
        log_p = log_softmax([vectors[i] @ vectors[n] for n in counted])
        loss = -log_p[counted.index(right)]
        if task.symmetric_loss:
            queries = [j for j in indices if j == i or right - 9 not in data.reference[j].right]
            scores = {j: vectors[j] @ vectors[right] for j in queries}
            loss = (loss + logsumexp([*scores.values()]) - scores[i]) / 2
        losses.append(loss)
    assert not task.triplet_margin or 0 < losses.count(0.0) < len(losses)
    left_out = {n + 9 for i in indices for n in data.reference[i].right[1:]} & {*passages}
    assert left_out, "a passage is right for a query, but not the one to learn"

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return task_type(task).loss(task, x, batch, 0.0)

    (loss, gradient) = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.array(embedding_BED))
    np.testing.assert_allclose(loss[0], sum(losses), rtol=2e-6)
    assert loss[1] == len(indices)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[batch["mask_BE"] == 0].any()


def test_a_query_without_a_wrong_passage_has_no_loss_of_triplets() -> None:
    batch = {
        "query_BE": np.array([[1, 0, 0]], np.float32),
        "passage_BEP": np.array([[[3], [3], [-1]]], np.int32),
    }
    embedding_BED = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert task_type(TRIPLETS).loss(TRIPLETS, embedding_BED, batch, 0.0) == (0, 1)


def test_the_scale_of_cosines_starts_as_the_task_says() -> None:
    for task, scale in ((FIND, 100.0), (TRIPLETS, 1.0)):
        stage = Stage(task, Data(()))
        head = task_type(task).start_head(stage, random_queries(2, 2), {})
        assert float(np.exp(head["log_scale"]["bias"][0])) == pytest.approx(scale)
    assert not same_question(FIND, TRIPLETS)


def test_rankings_and_their_scores() -> None:
    """Against a sort of all cosines, and scikit-learn's average precision of whole rankings."""
    data, form = random_queries(9, 15), task_type(FIND)
    rng = np.random.default_rng(2)
    outputs = rng.normal(size=(24, 4)).astype(np.float32)
    unit = outputs / np.linalg.norm(outputs.astype(np.float64), axis=1, keepdims=True)
    cosine_nm = unit[:9] @ unit[9:].T
    predictions = form.predictions(FIND, data, outputs)
    records = [predictions.record(i) for i in range(9)]
    names: dict[int, str] = {}
    for identity, (right, wrong) in zip(data.id, data.reference, strict=True):
        for place, number in enumerate((*right, *wrong)):
            names.setdefault(number, f"{identity}/{place}")
    assert len(names) == 15
    values = []
    for record, cosine_m, numbers in zip(records, cosine_nm, data.reference, strict=True):
        order = np.argsort(-cosine_m)
        assert record["prediction"] == [names[n] for n in order]
        assert record["passages"] == [names[n] for n in numbers.right]
        np.testing.assert_allclose(record["cosines"], cosine_m[order], atol=1e-6)
        precision = average_precision_score(np.isin(np.arange(15), numbers.right), cosine_m)
        rank = 1 + min(order.tolist().index(n) for n in numbers.right)
        values.append((precision, 1 / rank, float(rank == 1)))
        assert form.showing.quality(FIND, "en", record["passages"], record["prediction"]) == (
            pytest.approx(precision)
        )
    chosen = np.arange(9) % 2 == 0
    scores = predictions.scores(chosen)
    assert list(scores) == list(form.metrics)
    wanted = np.mean(values, axis=0, where=chosen[:, None])
    np.testing.assert_allclose(list(scores.values()), wanted)
    gold, ranked = ([record[key] for record in records] for key in ("passages", "prediction"))
    for metric, value in zip(form.metrics, np.mean(values, axis=0), strict=True):
        measured, (learning,) = measure(FIND, metric, "en", gold, [ranked])
        np.testing.assert_allclose(measured.observed(), [value])
        assert learning.score == pytest.approx(np.mean([each[2] for each in values]))
        assert not learning.constant
    same = [records[0]["prediction"]] * 9
    assert form.constant(same, gold) == "one prediction for 100.0% of the examples"
    assert [form.record_fault(*pair) for pair in (("a", ["a"]), (["a"], [1]), (["a"], ["b"]))] == [
        "'a' is no list of passages",
        "[1] is no list of names",
        "",
    ]
