"""Schedules and optimisers against optax, closed forms, and updates written out in numpy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxfer.config import Optimizer
from flaxfer.errors import ConfigError
from flaxfer.models.families import read_config
from flaxfer.models.spec import ModelSpec
from flaxfer.training.optimizer import (
    make_optimizer,
    make_schedule,
    warmup_steps,
)
from tests.training.optimizers import (
    FROZEN,
    PEAK,
    SHAPES,
    STEPS,
    TOTAL,
    Rule,
    Tree,
    adam,
    closed_form,
    draw,
    flat,
    lion,
    nested,
    rates,
    run,
)

# --- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.33, 1.0, 17.0])
@pytest.mark.parametrize("end_factor", [0.0, 0.1])
def test_schedules_are_their_closed_forms(schedule: Any, warmup: float, end_factor: float) -> None:
    optimizer = Optimizer(
        learning_rate=PEAK, schedule=schedule, warmup=warmup, end_factor=end_factor, power=1.5
    )
    wanted = [closed_form(optimizer, step, TOTAL) for step in STEPS]
    np.testing.assert_allclose(rates(optimizer), wanted, rtol=1e-5, atol=PEAK * 1e-6)


@pytest.mark.parametrize("warmup", [0.1, 0.33, 1.0, 17.0])
def test_inverse_sqrt_is_its_closed_form(warmup: float) -> None:
    optimizer = Optimizer(learning_rate=PEAK, schedule="inverse_sqrt", warmup=warmup)
    steps = np.append(STEPS, [1000, 100_000])
    wanted = [closed_form(optimizer, int(step), TOTAL) for step in steps]
    np.testing.assert_allclose(rates(optimizer, steps), wanted, rtol=1e-5)


def test_schedules_equal_those_of_optax() -> None:
    warm = Optimizer(learning_rate=PEAK, warmup=6.0, end_factor=0.1)
    pairs = {
        "cosine": optax.warmup_cosine_decay_schedule(0.0, PEAK, 6, TOTAL, PEAK * 0.1),
        "constant": optax.warmup_constant_schedule(0.0, PEAK, 6),
        "linear": lambda step: np.interp(step, [0, 6, 60], [0, PEAK, PEAK * 0.1]),
    }
    for name, theirs in pairs.items():
        ours = rates(dataclasses.replace(warm, schedule=name))
        wanted = [float(theirs(step)) for step in STEPS]
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("schedule", "last", "end"),
    [
        ("linear", 1 / 54, 0.0),
        ("cosine", (1 - math.cos(math.pi / 54)) / 2, 0.0),
        ("polynomial", (1 / 54) ** 1.5, 0.0),
        ("constant", 1.0, 1.0),
        ("inverse_sqrt", math.sqrt(6 / 59), math.sqrt(6 / 60)),
        ("wsd", 1 / 12, 0.0),
    ],
)
def test_first_largest_and_last_rate(schedule: Any, last: float, end: float) -> None:
    optimizer = Optimizer(learning_rate=PEAK, schedule=schedule, warmup=0.1, power=1.5)
    # Compiled and one by one, as the train step has it; rounding is not that of the loose calls.
    one = jax.jit(make_schedule(optimizer, TOTAL))
    found = np.array([one(jnp.int32(step)) for step in STEPS]) / PEAK
    np.testing.assert_allclose(found, rates(optimizer) / PEAK, rtol=1e-5, atol=1e-6)
    assert found[0] == 0
    assert np.argmax(found) == 6
    np.testing.assert_allclose(found[[6, TOTAL - 1, TOTAL]], [1, last, end], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial", "constant", "wsd"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (1, 0.1), (3, 5.0), (2, 0.9)])
def test_the_shortest_runs_have_a_rate(schedule: Any, total: int, warmup: float) -> None:
    optimizer = Optimizer(learning_rate=PEAK, schedule=schedule, warmup=warmup)
    found = rates(optimizer, np.arange(total), total)
    assert np.isfinite(found).all()
    assert (found >= 0).all() and (np.float32(found) <= np.float32(PEAK)).all()
    if not warmup:
        assert np.float32(found[0]) == np.float32(PEAK)


def test_a_share_of_warmup_is_rounded_up() -> None:
    for total in (1, 3, 10, 30, 99, 100, 1001):
        for share in (0.0, 0.05, 0.06, 0.1, 0.3, 0.999):
            steps = warmup_steps(Optimizer(warmup=share), total)
            assert steps == math.ceil(share * total)
    assert warmup_steps(Optimizer(warmup=1.0), 100) == 1
    assert warmup_steps(Optimizer(warmup=500.0), 100) == 500


# --- updates -----------------------------------------------------------------------------------


def by_hand(
    optimizer: Optimizer, rule: Rule, start: Tree, gradients: list[Tree], no_decay: set[str]
) -> Tree:
    """Parameters after the gradients: clip by the norm of all, rule, decoupled decay, rate."""
    params = {path: value.copy() for path, value in start.items()}
    memory: dict[str, dict[str, Any]] = {path: {} for path in params}
    for step, gradient in enumerate(gradients):
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in gradient.values()))
        clip = min(1.0, optimizer.clip_norm / norm) if optimizer.clip_norm else 1.0
        rate = closed_form(optimizer, step, TOTAL)
        for path, g in gradient.items():
            update = rule(optimizer, clip * g, memory[path], step + 1)
            if path not in no_decay:
                update = update + optimizer.weight_decay * params[path]
            params[path] = params[path] - rate * update
    return params


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e6])
@pytest.mark.parametrize(("name", "rule"), [("adamw", adam), ("lion", lion)])
def test_updates_are_those_written_out(name: Any, rule: Rule, clip_norm: float) -> None:
    optimizer = Optimizer(
        name=name,
        learning_rate=1e-2,
        b1=0.8,
        b2=0.95,
        eps=1e-2,  # Large, so that clipping and its place in the formula are seen.
        weight_decay=0.3,
        warmup=2.0,
        clip_norm=clip_norm,
    )
    start, gradients = draw(0), [draw(seed, 0.1 * seed) for seed in range(1, 9)]
    no_decay = {path for path in SHAPES if path.endswith(("bias", "norm/scale"))}
    assert len(no_decay) == 4
    wanted = by_hand(optimizer, rule, start, gradients, no_decay)
    found, _ = run(optimizer, start, gradients)
    for path in SHAPES:
        # The rate alone is a float32.
        np.testing.assert_allclose(found[path], wanted[path], rtol=0, atol=1e-8, err_msg=path)
        assert np.abs(found[path] - start[path]).max() > 1e-2


@pytest.mark.usefixtures("x64")
def test_adafactor_is_that_of_optax() -> None:
    optimizer = Optimizer(
        name="adafactor", learning_rate=1e-2, weight_decay=0.0, clip_norm=0.0, warmup=2.0
    )
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(160, 130))), "b": jnp.ones(130)}
    ours, theirs = (
        make_optimizer(optimizer, TOTAL, params),
        optax.adafactor(make_schedule(optimizer, TOTAL), weight_decay_rate=None),
    )
    found, wanted = params, params
    states = ours.init(params), theirs.init(params)
    # One dimension of the matrix is kept at a time: far less than its size.
    assert sum(leaf.size for leaf in jax.tree.leaves(states[0])) < 1000
    for _ in range(5):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        updates, first = ours.update(gradient, states[0], found)
        found = optax.apply_updates(found, updates)
        updates, second = theirs.update(gradient, states[1], wanted)
        wanted = optax.apply_updates(wanted, updates)
        states = first, second
    for name in params:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)
        assert not np.array_equal(found[name], params[name])


def test_decay_goes_by_pattern() -> None:
    still = [{path: np.zeros(shape) for path, shape in SHAPES.items()}]
    start = draw(0)
    optimizer = Optimizer(
        learning_rate=0.1, weight_decay=0.5, warmup=0.0, no_decay=("layers/1/", "^head/")
    )
    found, _ = run(optimizer, start, still)
    for path, value in start.items():
        kept = 1.0 if path.startswith(("encoder/layers/1/", "head/")) else 1 - 0.1 * 0.5
        np.testing.assert_allclose(found[path], kept * value, rtol=1e-6, err_msg=path)
    unchanged, _ = run(dataclasses.replace(optimizer, weight_decay=0.0), start, still)
    assert all(np.array_equal(unchanged[path], np.float32(start[path])) for path in SHAPES)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_frozen_parameters_stay_to_the_bit_and_cost_nothing(name: Any) -> None:
    optimizer = Optimizer(
        name=name, learning_rate=1e-2, eps=1e-2, warmup=0.0, clip_norm=0.1, freeze=FROZEN
    )
    frozen = {
        "encoder/embeddings/word/embedding",
        "encoder/embeddings/norm/scale",
        "encoder/layers/0/attention/query/kernel",
    }
    start, gradients = draw(0), [draw(seed) for seed in range(1, 5)]
    huge = [
        {path: g * (1e6 if path in frozen else 1) for path, g in gradient.items()}
        for gradient in gradients
    ]
    found, moments = run(optimizer, start, huge)
    for path in frozen:
        assert found[path].tobytes() == start[path].tobytes()
    # Without them in the tree at all, the others go the same way: they are not in the norm either.
    trained = [path for path in SHAPES if path not in frozen]
    only = [{path: gradient[path] for path in trained} for gradient in gradients]
    alone = dataclasses.replace(optimizer, freeze=())
    wanted, moments_alone = run(alone, {path: start[path] for path in trained}, only)
    for path in trained:
        np.testing.assert_allclose(found[path], wanted[path], rtol=1e-12, err_msg=path)
        assert not np.array_equal(found[path], start[path])
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (moments, moments_alone)]
    assert sizes[0] == sizes[1]


def test_a_pattern_that_freezes_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'embedings/' matches no parameter") as caught:
        make_optimizer(Optimizer(freeze=("layers/", "embedings/")), TOTAL, nested(draw(0)))
    assert caught.value.where == "optimizer.freeze"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("freeze", [(), FROZEN, ("layers/1/",)])
def test_layer_decay_goes_by_depth(freeze: tuple[str, ...]) -> None:
    plain = Optimizer(learning_rate=1e-2, warmup=0.0, weight_decay=0.3, freeze=freeze)
    start, gradients = draw(0), [draw(1)]
    usual, _ = run(plain, start, gradients)
    slower, _ = run(dataclasses.replace(plain, layer_decay=0.5), start, gradients)
    factors = {
        "encoder/embeddings": 1 / 8,
        "encoder/layers/0": 1 / 4,
        "encoder/layers/1": 1 / 2,
        "head": 1,
    }
    seen = set()
    for path in SHAPES:
        (part,) = [part for part in factors if path.startswith(f"{part}/")]
        moved = usual[path] - start[path]
        if moved.any():
            seen.add(part)
        np.testing.assert_allclose(
            slower[path] - start[path], factors[part] * moved, rtol=1e-10, err_msg=path
        )
    lost = {(): set(), FROZEN: {"encoder/embeddings"}, ("layers/1/",): {"encoder/layers/1"}}
    assert seen == set(factors) - lost[freeze]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_usual_patterns_fit_the_models(family: str) -> None:
    config = read_config(
        {
            "model_type": family,
            "vocab_size": 10,
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 12,
            "max_position_embeddings": 16,
            "type_vocab_size": 2,
            "pad_token_id": 0,
        },
        "a test",
    )
    # One number for each parameter: it is their paths that count.
    params = jax.tree.map(lambda _: jnp.ones(()), ModelSpec(config, num_outputs=2).param_shapes())
    still = jax.tree.map(jnp.zeros_like, params)
    optimizer = Optimizer(learning_rate=1.0, weight_decay=1.0, warmup=0.0, layer_decay=0.5)
    transform = make_optimizer(optimizer, TOTAL, params)
    updates, _ = transform.update(still, transform.init(params), params)
    factors = {path: -float(update) for path, update in flat(updates).items()}
    for path, factor in factors.items():
        if path.endswith(("/bias", "/scale")):
            assert factor == 0, path
        elif path.startswith("encoder/embeddings/"):
            assert factor == 0.5**3, path
        elif path.startswith("encoder/layers/"):
            assert factor == 0.5 ** (2 - int(path.split("/")[2])), path
        else:
            assert path.startswith("head/") and factor == 1, path
    kernels_a_layer, embeddings, head = 6, 3, 2
    decayed = sum(factor > 0 for factor in factors.values())
    assert decayed == 2 * kernels_a_layer + embeddings + head
