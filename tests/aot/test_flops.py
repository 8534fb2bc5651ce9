"""FLOPs by definition, against the matmuls in the model's jaxpr."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from flaxfer.aot.flops import Work, forward_flops, train_flops
from flaxfer.config import Lora
from flaxfer.models.families import read_config
from flaxfer.models.lora import BLOCK, adapters, with_adapters, without_adapters
from flaxfer.models.spec import ModelSpec

SIZES = {
    "num_hidden_layers": 3,
    "vocab_size": 50,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
ROWS, TOKENS, SLOTS = 4, 8, 2
BATCH = {
    name: jax.ShapeDtypeStruct((ROWS, SLOTS if name[-1] == "E" else TOKENS), jnp.int32)
    for name in ("token_BT", "type_BT", "position_BT", "segment_BT", "cls_BE")
}
# Attention computes every pair of a row, within one sequence or not.
FULL = Work(ROWS * SLOTS, ROWS * TOKENS, ROWS * TOKENS**2)


def traced_flops(jaxpr: Any) -> int:
    """Sum 2 m n k over the matmuls of a jaxpr."""
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
def test_full_rows_count_every_matmul(family: str, head: str, outputs: int) -> None:
    encoder = read_config({"model_type": family, "pad_token_id": 1, **SIZES})
    model = ModelSpec(encoder, head, outputs)
    params = model.param_shapes()

    def logits(params: Any, batch: Any) -> jax.Array:
        return model.apply(params, batch)

    traced = traced_flops(jax.make_jaxpr(logits)(params, BATCH).jaxpr)
    assert forward_flops(model, FULL) == traced
    assert train_flops(model, FULL) == 3 * traced


@pytest.mark.parametrize("layers", [None, (1, 3), (0, 2)])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_training_adapters_counts_the_matmuls_of_their_gradient(head: str, layers: Any) -> None:
    settings = Lora(rank=3, layers=layers, modules=tuple(BLOCK))
    model = ModelSpec(read_config({"model_type": "bert", **SIZES}), head, 3, settings)
    params = model.param_shapes()
    trained = {"head": params["head"], "encoder": adapters(params["encoder"])}

    def total(trained: Any, base: Any, batch: Any) -> jax.Array:
        encoder = with_adapters(base, trained["encoder"])
        return model.apply({"encoder": encoder, "head": trained["head"]}, batch).sum()

    jaxpr = jax.make_jaxpr(jax.value_and_grad(total))(
        trained, without_adapters(params["encoder"]), BATCH
    )
    # Custom gradients compute all of theirs; the compiler drops what nothing reads.
    needed, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    assert train_flops(model, FULL) == traced_flops(needed)


def test_padding_and_other_sequences_count_nothing() -> None:
    model = ModelSpec(read_config({"model_type": "bert", **SIZES}), "token", 2)
    one = forward_flops(model, Work(1, 5, 25))
    # Two sequences of five tokens, however they are packed.
    assert forward_flops(model, Work(2, 10, 50)) == 2 * one
    width, inner = 16, 48
    layer = 2 * 5 * (4 * width * width + 2 * width * inner) + 2 * 2 * 25 * width
    assert one == 3 * layer + 2 * 5 * width * 2


def test_xlnet_has_scores_by_distance_as_well() -> None:
    settings = {"model_type": "xlnet", "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 48}
    xlnet = ModelSpec(read_config({**settings, "vocab_size": 50}), "token", 2)
    bert = ModelSpec(read_config({"model_type": "bert", **SIZES}), "token", 2)
    work = Work(2, 10, 50)
    extra = forward_flops(xlnet, work) - forward_flops(bert, work)
    assert extra == 3 * 2 * 50 * 16
