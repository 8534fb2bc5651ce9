"""The pull towards the start, against updates written out in numpy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.config import Optimizer
from flaxfer.training.vocabulary import row_decay
from tests.training import optimizers
from tests.training.optimizers import (
    SHAPES,
    TOTAL,
    Rule,
    Tree,
    adam,
    closed_form,
    draw,
    lion,
    nested,
)

NEW = (r"^head/output/",)
PULLED = [path for path in SHAPES if not path.startswith("head/")]
OPTIMIZER = Optimizer(
    learning_rate=1e-2,
    b1=0.8,
    b2=0.95,
    eps=1e-2,
    weight_decay=0.3,
    warmup=2.0,
    clip_norm=0.0,
    l2_sp=0.7,
)


def run(optimizer: Optimizer, start: Tree, gradients: list[Tree]) -> tuple[Tree, Any]:
    return optimizers.run(optimizer, start, gradients, NEW)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "rule"), [("adamw", adam), ("lion", lion)])
def test_what_has_a_start_is_pulled_and_what_is_new_decays(name: Any, rule: Rule) -> None:
    optimizer = dataclasses.replace(OPTIMIZER, name=name)
    start, gradients = draw(0), [draw(seed, 0.1 * seed) for seed in range(1, 9)]
    wanted = {path: value.copy() for path, value in start.items()}
    memory: dict[str, dict[str, Any]] = {path: {} for path in wanted}
    for step, gradient in enumerate(gradients):
        rate = closed_form(optimizer, step, TOTAL)
        for path, g in gradient.items():
            update = rule(optimizer, g, memory[path], step + 1)
            if path in PULLED:
                update = update + 0.7 * (wanted[path] - start[path])
            elif path == "head/output/kernel":
                update = update + 0.3 * wanted[path]
            wanted[path] = wanted[path] - rate * update
    found, _ = run(optimizer, start, gradients)
    free, _ = run(dataclasses.replace(optimizer, l2_sp=0.0), start, gradients)
    for path in SHAPES:
        np.testing.assert_allclose(found[path], wanted[path], rtol=0, atol=1e-8, err_msg=path)
        assert (np.abs(found[path] - free[path]).max() > 1e-4) == (path in PULLED)


def test_a_strong_pull_holds_what_it_pulls_at_its_start() -> None:
    optimizer = dataclasses.replace(OPTIMIZER, schedule="constant", warmup=0.0, l2_sp=50.0)
    start = draw(0)
    found, _ = run(optimizer, start, [draw(1)] * 200)
    for path in PULLED:
        # Where the step of Adam, at most one, and the pull are in balance.
        assert np.abs(found[path] - start[path]).max() < 1 / 50 + 1e-5
    assert np.abs(found["head/output/kernel"] - start["head/output/kernel"]).max() > 0.2


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_what_has_no_gradient_stays_to_the_bit(name: Any) -> None:
    optimizer = dataclasses.replace(OPTIMIZER, name=name, layer_decay=0.5)
    start = draw(0)
    found, _ = run(optimizer, start, [{path: 0 * value for path, value in start.items()}] * 5)
    for path in PULLED:
        np.testing.assert_array_equal(found[path], np.float32(start[path]))
    shapes = nested(start)
    assert row_decay(optimizer, 5, TOTAL, shapes) == 1
    assert row_decay(dataclasses.replace(optimizer, l2_sp=0.0), 5, TOTAL, shapes) < 1


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_the_start_is_kept_once_for_what_is_pulled_and_trained(name: Any) -> None:
    frozen = ("embeddings/",)
    start, gradients = draw(0), [draw(seed) for seed in range(1, 4)]

    def sizes(**changes: Any) -> int:
        optimizer = dataclasses.replace(OPTIMIZER, name=name, freeze=frozen, **changes)
        found, moments = run(optimizer, start, gradients)
        assert found[PULLED[0]].tobytes() == np.float32(start[PULLED[0]]).tobytes()
        return sum(leaf.size for leaf in jax.tree.leaves(moments))

    kept = [path for path in PULLED if not path.startswith("encoder/embeddings/")]
    assert sizes() - sizes(l2_sp=0.0) == sum(start[path].size for path in kept)
