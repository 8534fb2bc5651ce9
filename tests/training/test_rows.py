"""Rows of the word embedding that stages had cut away."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import optax
import pytest

from flaxfer.config import Optimizer
from flaxfer.models.families import read_config
from flaxfer.models.spec import ModelSpec
from flaxfer.training.vocabulary import (
    Vocabulary,
    recover_rows,
    row_decay,
    with_word_table,
    word_table,
)

Json = dict[str, Any]


def product(rates: list[float], decay: float, factor: float = 1.0) -> float:
    return math.prod(1 - rate * decay * factor for rate in rates)


LINEAR = [5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3, 0.0]  # Steps 1 to 6 of 2 warm-up steps and 4 down.


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, product([0.0, *LINEAR[:4]], 0.1)),
        ({"name": "lion"}, product([0.0, *LINEAR[:4]], 0.1)),
        ({"schedule": "constant", "warmup": 0}, product([1e-2] * 5, 0.1)),
        ({"clip_norm": 0}, product([0.0, *LINEAR[:4]], 0.1)),
        # Two layers, the embeddings under them and the head above: decay to the power of 3.
        ({"layer_decay": 0.5}, product([0.0, *LINEAR[:4]], 0.1, 0.5**3)),
        ({"weight_decay": 0.0}, 1.0),
        ({"no_decay": ("embedding$",)}, 1.0),
        ({"freeze": ("/word/",)}, 1.0),
    ],
)
def test_what_decay_does_to_a_row_without_gradient(changes: Json, wanted: float) -> None:
    settings = {"learning_rate": 1e-2, "weight_decay": 0.1, "warmup": 2} | changes
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = read_config({"model_type": "bert", "num_hidden_layers": 2, **sizes})
    shapes = ModelSpec(config, num_outputs=1).param_shapes()
    factor = row_decay(Optimizer(**settings), 5, 6, shapes)
    assert factor == pytest.approx(wanted, rel=1e-8)


def test_small_decays_are_not_lost_to_rounding() -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = read_config({"model_type": "bert", "num_hidden_layers": 1, **sizes})
    shapes = ModelSpec(config).param_shapes()
    # A single step is 1e-8, below what float32 can tell from 1.
    optimizer = Optimizer(learning_rate=1e-6, warmup=0, schedule="constant")
    assert 1 - row_decay(optimizer, 1000, 1000, shapes) == pytest.approx(1e-5, rel=1e-4)


SIZE, WIDTH, STEPS = 40, 3, 7


@dataclasses.dataclass(frozen=True)
class Stage:
    """Part of a stage's record that `recover_rows` reads."""

    ids: Vocabulary
    settings: Optimizer
    best_step: int
    params: Json

    def vocabulary(self) -> Vocabulary:
        return self.ids

    def optimizer(self) -> Optimizer:
        return self.settings

    def done(self) -> Json:
        return {"best_step": self.best_step, "total_steps": STEPS}


def whole_training(
    optimizer: Optimizer, table: np.ndarray, ids: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """The whole table after every step of optax's AdamW, with gradients of the rows `ids` alone."""
    rate = optax.linear_schedule(optimizer.learning_rate, 0.0, STEPS)
    real = optax.adamw(rate, b2=0.999, weight_decay=optimizer.weight_decay)
    params, tables = table, [table]
    moments = real.init(params)
    for _ in range(STEPS):
        gradient = np.zeros_like(table)
        gradient[ids] = rng.normal(size=(len(ids), WIDTH))
        updates, moments = real.update(gradient, moments, params)
        params = np.asarray(optax.apply_updates(params, updates))
        tables.append(params)
    return tables


def params_of(table: np.ndarray) -> Json:
    return {"encoder": {"embeddings": {"word": {"embedding": table}}}, "head": {}}


def test_rows_are_those_of_a_training_with_the_whole_table() -> None:
    """Three stages, each with its own ids, optimiser and best step."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(SIZE, WIDTH)).astype(np.float32)
    stages, table, seen = [], start, []
    for best, decay in ((7, 0.5), (3, 2.0), (5, 1.0)):
        ids = np.sort(rng.choice(SIZE, 15, replace=False))
        optimizer = Optimizer(
            learning_rate=3e-2, warmup=0, schedule="linear", weight_decay=decay, no_decay=()
        )
        table = whole_training(optimizer, table, ids, rng)[best]
        stages.append(Stage(Vocabulary(ids), optimizer, best, params_of(table[ids])))
        seen.append(set(ids.tolist()))
        order = rng.permutation(SIZE)
        rows = recover_rows(order, stages, lambda ids: start[ids], lambda stage: stage.params)
        np.testing.assert_allclose(rows, table[order], rtol=1e-6, atol=0)
    first, second, third = seen
    kinds = [third - first - second, second - third, first - second - third]
    untouched = sorted(set(range(SIZE)) - first - second - third)
    assert all(kinds) and untouched
    assert np.abs(table[untouched] / start[untouched] - 1).min() > 0.05


def test_what_is_not_needed_is_not_read() -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("is read")

    ids, table = np.array([2, 5]), np.eye(2, dtype=np.float32)
    adafactor = Optimizer(name="adafactor")
    older = Stage(Vocabulary(ids), adafactor, 1, {})
    last = Stage(Vocabulary(ids), adafactor, 1, params_of(table))

    def params_of_last(stage: Any) -> Any:
        assert stage is last, "the parameters of the older stage are not needed"
        return stage.params

    rows = recover_rows(np.array([5, 2, 5]), [older, last], refuse, params_of_last)
    np.testing.assert_array_equal(rows, table[[1, 0, 1]])


def test_a_random_row_depends_on_seed_and_id_alone() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = read_config({"model_type": "bert", "vocab_size": 9, "intermediate_size": 8, **sizes})
    model = ModelSpec(config, num_outputs=2)
    table = word_table(model.random_params(3))
    assert table.shape == (9, 8)
    np.testing.assert_array_equal(table, word_table(model.random_params(3)))
    assert not np.allclose(table, word_table(model.random_params(4)))


def test_the_table_is_replaced_in_a_copy() -> None:
    params = {"encoder": {"embeddings": {"word": {"embedding": 1}, "type": 2}, "x": 3}, "head": 4}
    made = with_word_table(params, np.zeros(2))
    assert params["encoder"]["embeddings"]["word"] == {"embedding": 1}
    np.testing.assert_array_equal(word_table(made), np.zeros(2, np.float32))
    made["encoder"]["embeddings"]["word"] = {"embedding": 1}
    assert made == params
