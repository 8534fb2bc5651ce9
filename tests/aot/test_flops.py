"""The count of operations by definition, against the products that the model's own trace has."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flaxfer.aot.flops import Work, forward_flops, train_flops
from flaxfer.models.families import read_config
from flaxfer.models.spec import ModelSpec

SIZES = {
    "num_hidden_layers": 3,
    "vocab_size": 50,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
ROWS, TOKENS, SLOTS = 4, 8, 2


def traced_flops(jaxpr: Any) -> int:
    """2 m n k of every product in a trace."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                total += traced_flops(value.jaxpr)
    return total


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("head", "outputs"), [("sequence", 3), ("token", 5), ("span", 2), ("choice", 1)]
)
def test_full_rows_count_what_is_computed(family: str, head: str, outputs: int) -> None:
    encoder = read_config({"model_type": family, "pad_token_id": 1, **SIZES})
    model = ModelSpec(encoder, head, outputs)
    params = model.param_shapes()
    names = ("token_BT", "type_BT", "position_BT", "segment_BT", "cls_BE")
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, SLOTS if name[-1] == "E" else TOKENS), jnp.int32)
        for name in names
    }

    def logits(params: Any, batch: Any) -> jax.Array:
        return model.apply(params, batch)

    traced = traced_flops(jax.make_jaxpr(logits)(params, batch).jaxpr)
    # Every query of a row meets every key of it, its own sequence's or not.
    full = Work(ROWS * SLOTS, ROWS * TOKENS, ROWS * TOKENS**2)
    assert forward_flops(encoder, head, outputs, full) == traced
    assert train_flops(encoder, head, outputs, full) == 3 * traced


def test_padding_and_other_sequences_count_nothing() -> None:
    encoder = read_config({"model_type": "bert", **SIZES})
    one = forward_flops(encoder, "token", 2, Work(1, 5, 25))
    # Two sequences of five tokens, however they are packed.
    assert forward_flops(encoder, "token", 2, Work(2, 10, 50)) == 2 * one
    width, inner = 16, 48
    layer = 2 * 5 * (4 * width * width + 2 * width * inner) + 2 * 2 * 25 * width
    assert one == 3 * layer + 2 * 5 * width * 2


def test_xlnet_has_scores_by_distance_too() -> None:
    settings = {"model_type": "xlnet", "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 48}
    xlnet = read_config({**settings, "vocab_size": 50})
    bert = read_config({"model_type": "bert", **SIZES})
    work = Work(2, 10, 50)
    extra = forward_flops(xlnet, "token", 2, work) - forward_flops(bert, "token", 2, work)
    assert extra == 3 * 2 * 50 * 16
