"""Attribution by the files and functions where the code actually is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import optax
import pytest
from clu import metrics as clu_metrics

from flaxfer.aot import hlo, parts
from flaxfer.models import attention, bert, layers
from flaxfer.models.lora import Adapter
from flaxfer.tasks import losses, metrics
from flaxfer.tasks.regression import Regression
from flaxfer.training import optimizer, step

Functions = tuple[Callable[..., Any], ...]


def part(*functions: Callable[..., Any]) -> str:
    """Return the part of an instruction with this stack, outermost function first."""
    item = hlo.Instruction("a", "add", "f32[]", (), ', metadata={op_name="a" stack_frame_id=1}')
    stack = tuple((inspect.getfile(f), f.__qualname__) for f in functions)
    return parts.part_of(hlo.Module({}, "main", {1: stack}), item)[0]


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ((optimizer.make_optimizer, optax.apply_updates), "optimizer"),
        ((optimizer.make_schedule,), "optimizer"),
        ((optax.apply_updates,), "optimizer"),
        ((Regression.loss,), "loss"),
        ((losses.class_loss, optax.softmax_cross_entropy), "loss"),
        ((metrics.accumulate,), "metrics"),
        ((clu_metrics.Metric.reduce,), "metrics"),
        ((bert.Layer.__call__, bert.SelfAttention.__call__, attention.attention), "attention"),
        ((bert.Layer.__call__, bert.SelfAttention.__call__), "attention projections"),
        (
            (bert.Layer.__call__, layers.FeedForward.__call__, layers.Linear.__call__),
            "feed_forward",
        ),
        ((layers.FeedForward.__call__, layers.Linear.__call__, Adapter.__call__), "adapters"),
        ((bert.Encoder.__call__, bert.Embeddings.__call__), "embeddings"),
        ((bert.PoolerHead.__call__,), "head"),
        ((bert.Layer.__call__, layers.LayerNorm.__call__), "layer norm"),
        ((bert.Encoder.__call__, bert.Layer.__call__), "residual"),
        ((), "step"),
    ],
)
def test_a_stack_belongs_to_the_part_of_its_functions(functions: Functions, expected: str) -> None:
    assert part(step.compiled_programs, *functions) == expected


def test_an_instruction_without_a_stack_belongs_to_no_part() -> None:
    item = hlo.Instruction("a", "add", "f32[]", (), "")
    assert parts.part_of(hlo.Module({}, "main", {}), item) == ("other", "")
