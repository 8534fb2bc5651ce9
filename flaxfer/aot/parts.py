"""Which part of the model an instruction belongs to, and whether it goes forward or backward."""

from __future__ import annotations

import re

from flaxfer.aot.hlo import Frames, Instruction, Module

# By the functions of a stack and the files they stand in, "file:function"; the first rule that
# fits any of them wins, so what is most telling comes first.
RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("optimiser", re.compile(r"^optim:|/optax/")),
    ("loss", re.compile(r"^losses:")),
    ("metrics", re.compile(r"^metrics:")),
    ("attention", re.compile(r"^attention:|:distance_scores|_type_scores|:dot_product_attention")),
    ("attention projections", re.compile(r":\w*Attention\.")),
    ("feed_forward", re.compile(r":FeedForward\.")),
    ("embeddings", re.compile(r":Embeddings?\.")),
    ("head", re.compile(r":\w*Head\.")),
    ("layer norm", re.compile(r":LayerNorm\.")),
    ("dropout", re.compile(r":dropout")),
    ("residual", re.compile(r":(Layer|Encoder)\.")),
)


def part_of(module: Module, item: Instruction) -> tuple[str, str]:
    """Part and direction, either of them empty if nothing tells.

    A fusion is what its own metadata says, or else the last of the operations within that has any.
    """
    sources = [item, *reversed(module.inner(item))]
    told = next((x for x in sources if x.frame or x.op_name), item)
    return _part(module.frames.get(told.frame, ())), _direction(told.op_name)


def _part(stack: Frames) -> str:
    names = []
    for file, function in stack:
        stem = file.rpartition("/")[2].removesuffix(".py")
        names.append(("/optax/" if "/optax/" in file else "") + f"{stem}:{function}")
    for part, pattern in RULES:
        if any(pattern.search(name) for name in names):
            return part
    return "step" if names else "other"


def _direction(op_name: str) -> str:
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else ""
