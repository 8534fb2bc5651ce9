"""Attribution of instructions to parts of the model, and to the forward or backward pass."""

from __future__ import annotations

import re

from flaxfer.aot.hlo import Instruction, Module

# Patterns for "file:function" of a stack frame. The first rule that matches any frame of an
# instruction's stack wins, so the more specific rules come first.
RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern))
    for part, pattern in (
        # Before the optimizer: optax has losses, too.
        ("loss", r"/flaxfer/tasks/(losses\.py:|\w+\.py:\w+\.loss$)"),
        ("optimizer", r"/flaxfer/training/optimizer\.py:|/optax/"),
        ("metrics", r"/flaxfer/tasks/|/clu/"),
        ("adapters", r"/models/lora\.py:"),
        (
            "attention",
            r"/models/(attention|short_rows)\.py:|:distance_scores|_type_scores"
            r"|:dot_product_attention",
        ),
        ("attention projections", r":\w*Attention\."),
        ("feed_forward", r":FeedForward\."),
        ("embeddings", r":Embeddings?\."),
        ("head", r":\w*Head\."),
        ("layer norm", r":LayerNorm\."),
        ("dropout", r":dropout"),
        ("residual", r":(Layer|Encoder)\."),
    )
)


def part_of(module: Module, item: Instruction) -> tuple[str, str]:
    """Return the part and the direction of an instruction; each is empty if unknown.

    A fusion without metadata takes those of the last operation in it that has any.
    """
    candidates = [item, *reversed(module.inner(item))]
    source = next((x for x in candidates if x.frame or x.op_name), item)
    direction = "forward" if "jvp(" in source.op_name else ""
    if "transpose(" in source.op_name:
        direction = "backward"
    stack = module.frames.get(source.frame, ())
    frames = [f"{file}:{function}" for file, function in stack]
    for part, pattern in RULES:
        if any(map(pattern.search, frames)):
            return part, direction
    return "step" if frames else "other", direction
