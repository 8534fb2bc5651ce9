"""Tiny models whose weights and inputs are generated from a seed; only results are stored."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxfer.config import Lora, Optimizer, Task
from flaxfer.tasks import TASK_TYPES

Batch = dict[str, np.ndarray]
Layout = tuple[tuple[tuple[int, int], ...], ...]
"""Start and length of the examples of each row."""

# Decay, clipping, warm-up and the linear schedule all act within ten steps. `eps` is far above the
# rounding noise of gradients, which Adam turns into steps of up to noise / eps: with 1e-8,
# gradients that are mathematically zero, such as those of a key's bias, would become whole steps in
# arbitrary directions. tests/parity/test_optim.py has the usual eps.
STEPS, TOTAL_STEPS = 10, 12
OPTIMIZER = Optimizer(
    learning_rate=1e-2, eps=1e-3, weight_decay=0.1, warmup=2, clip_norm=0.2, schedule="linear"
)
# Gradients of real models are far smaller, and weights better placed.
REAL_OPTIMIZER = dataclasses.replace(OPTIMIZER, learning_rate=1e-4, eps=1e-5)

CHOICES = 2
OUTPUTS = {
    "classification": 3,
    "regression": 1,
    "tagging": 3,
    "question_answering": 2,
    "multiple_choice": 1,
}
"""Outputs of the head by task type."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model: its config.json, task type, random seed and adapters, if it has some."""

    name: str
    settings: dict[str, Any]
    seed: int
    task_type: str = "classification"
    lora: Lora | None = None

    @property
    def family(self) -> str:
        return self.settings["model_type"]

    @property
    def head(self) -> str:
        return TASK_TYPES[self.task_type].head

    @property
    def outputs(self) -> int:
        return OUTPUTS[self.task_type]

    @property
    def task(self) -> Task:
        return task(self.task_type, self.outputs)

    @property
    def width(self) -> int:
        """Tokens of the longest example that has positions; XLNet has no limit."""
        if self.family == "xlnet":
            return 16
        first = 0 if self.family in ("bert", "ernie") else self.settings["pad_token_id"] + 1
        return self.settings["max_position_embeddings"] - first


def task(task_type: str, outputs: int) -> Task:
    """Return a task of a type, without names."""
    labels = tuple(f"label {i}" for i in range(outputs))
    return Task("", task_type, metric="", labels=labels)


def settings(family: str, width: int, heads: int, layers: int, inner: int) -> dict[str, Any]:
    """Return the config.json of a small model with the defaults of its family."""
    if family == "xlnet":
        sizes = {"d_model": width, "n_head": heads, "n_layer": layers, "d_inner": inner}
        return sizes | {"model_type": family, "vocab_size": 30, "pad_token_id": 5}
    pad = 0 if family in ("bert", "ernie") else 1
    return {
        "model_type": family,
        "vocab_size": 30,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": 16 + 2 * pad,
        "type_vocab_size": 2 - pad,
        "pad_token_id": pad,
        "bos_token_id": None,
        "eos_token_id": None,
    }


# The eps of the norms differ enough for a wrong one to be noticed. No seed leads to a norm of
# nearly equal numbers, which would amplify earlier rounding.
CASES = (
    Case("bert", settings("bert", 16, 4, 2, 24), seed=1),
    Case(
        "bert-gelu-new",
        settings("bert", 16, 4, 2, 24) | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2},
        seed=2,
        task_type="regression",
    ),
    Case(
        "roberta",
        settings("roberta", 16, 4, 2, 24) | {"layer_norm_eps": 1e-5},
        seed=3,
        task_type="regression",
    ),
    Case(
        "xlm-roberta",
        settings("xlm-roberta", 16, 4, 2, 24)
        | {
            "hidden_act": "relu",
            "type_vocab_size": 2,
            "pad_token_id": 3,
            "max_position_embeddings": 20,
            "layer_norm_eps": 3e-2,
        },
        seed=4,
    ),
    Case("xlnet", settings("xlnet", 16, 4, 2, 24), seed=5),
    Case(
        "xlnet-clamped",
        settings("xlnet", 16, 4, 2, 24)
        | {"ff_activation": "gelu_new", "layer_norm_eps": 1e-2, "clamp_len": 4},
        seed=6,
        task_type="regression",
    ),
    *(
        Case(
            f"{family}-{TASK_TYPES[task_type].head}", settings(family, 8, 2, 1, 12), seed, task_type
        )
        for family, seed in (("bert", 10), ("roberta", 20), ("xlnet", 30))
        for task_type in ("tagging", "question_answering", "multiple_choice")
    ),
    Case(
        "bert-lora",
        settings("bert", 16, 4, 2, 24),
        seed=40,
        lora=Lora(3, 12.0, layers=(1, 2), modules=("query", "value", "output", "up", "down")),
    ),
)

SHAPES = (
    *(
        Case(f"{family}-{width}-{layers}", settings(family, width, heads, layers, inner), seed=7)
        for family in ("bert", "roberta", "xlnet")
        for width, heads, layers, inner in ((24, 3, 1, 20), (32, 4, 4, 64))
    ),
    *(
        Case(family, settings(family, 12, 3, 2, 16), seed=8)
        for family in ("ernie", "camembert", "data2vec-text")
    ),
)
"""More shapes, and families that equal others: only compared with PyTorch live."""


def named(name: str) -> Case:
    """Return the case of a name."""
    return next(case for case in CASES if case.name == name)


def weight(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight by its name in a checkpoint.

    Weights are large enough for every part to affect the result, but no larger: if attention
    concentrates on a single token, gradients vanish into rounding.
    """
    rng = np.random.Generator(np.random.PCG64([case.seed, zlib.crc32(name.encode())]))
    noise = rng.standard_normal(shape)
    if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
        array = 1 + 0.3 * noise
    elif name.endswith("bias"):
        array = 0.2 * noise
    elif "embedding" in name:
        array = 0.1 * noise
    else:
        # XLNet's attention has kernels of (D, H, K), whether D is the input or the output.
        inputs = shape[0] if len(shape) == 3 else shape[-1]
        array = noise * inputs**-0.5
    return array.astype(np.float32)


def every_padding(width: int) -> Layout:
    """Return rows without padding, padded right or left, with one token, and packed with a gap."""
    return (
        ((0, width),),
        ((0, 5),),
        ((width - 6, 6),),
        ((0, 1),),
        ((width - 1, 1),),
        ((0, 4), (4, 3), (9, 2)),
    )


def batches(case: Case) -> list[Batch]:
    """Return the batches of the training steps, all of one shape."""
    return [batch(case, every_padding(case.width), case.width, draw) for draw in range(STEPS)]


def batch(case: Case, layout: Layout, width: int, draw: int = 0) -> Batch:
    """Return random examples and labels as a batch of `flaxfer.data.packing.build_rows`."""
    rng = np.random.Generator(np.random.PCG64([case.seed, draw]))
    pad = case.settings["pad_token_id"]
    types = 3 if case.family == "xlnet" else case.settings["type_vocab_size"]
    not_padding = np.delete(np.arange(case.settings["vocab_size"]), pad)
    lengths = [length for _, _, _, length in places(layout)]
    tokens = [rng.choice(not_padding, length) for length in lengths]
    type_ids = [np.arange(length) * types // length for length in lengths]
    arrays = lay_out(tokens, type_ids, layout, width, pad, cls_last=case.family == "xlnet")
    return arrays | labels(case.task_type, case.outputs, layout, arrays, rng)


def lay_out(
    tokens: Sequence[np.ndarray],
    types: Sequence[np.ndarray],
    layout: Layout,
    width: int,
    pad: int,
    *,
    cls_last: bool,
) -> Batch:
    """Return a batch without its labels."""
    rows, slots = len(layout), max(map(len, layout))
    arrays = {
        name: np.full((rows, width), pad if name == "token_BT" else 0, np.int32)
        for name in ("token_BT", "type_BT", "position_BT", "segment_BT")
    }
    arrays["cls_BE"] = np.zeros((rows, slots), np.int32)
    arrays["mask_BE"] = np.zeros((rows, slots), np.float32)
    for (row, slot, start, length), token, type_id in zip(
        places(layout), tokens, types, strict=True
    ):
        inside = slice(start, start + length)
        arrays["token_BT"][row, inside] = token
        arrays["type_BT"][row, inside] = type_id
        arrays["position_BT"][row, inside] = np.arange(length)
        arrays["segment_BT"][row, inside] = slot + 1
        arrays["cls_BE"][row, slot] = start + (length - 1) * cls_last
        arrays["mask_BE"][row, slot] = 1
    return arrays


def places(layout: Layout) -> list[tuple[int, int, int, int]]:
    """Return row, slot, start and length of every example, in order."""
    return [
        (row, slot, start, length)
        for row, examples in enumerate(layout)
        for slot, (start, length) in enumerate(examples)
    ]


def labels(
    task_type: str, outputs: int, layout: Layout, arrays: Batch, rng: np.random.Generator
) -> Batch:
    """Return random labels for a batch, by the task type."""
    if task_type == "tagging":
        # About every fourth token has no tag, but the first of an example has one.
        label_BT = rng.integers(-1, outputs, arrays["token_BT"].shape)
        label_BT = np.where(arrays["position_BT"] == 0, np.maximum(label_BT, 0), label_BT)
        return {"label_BT": np.where(arrays["segment_BT"] > 0, label_BT, -1).astype(np.int32)}
    shape = arrays["mask_BE"].shape
    row, slot, start, length = np.array(places(layout)).T
    number = np.arange(len(row))

    def by_example(values: np.ndarray, dtype: Any = np.int32) -> np.ndarray:
        array = np.zeros(shape, dtype)
        array[row, slot] = values
        return array

    if task_type == "question_answering":
        first, last = np.sort(rng.integers(0, length, (2, len(row))), axis=0)
        return {"start_BE": by_example(start + first), "end_BE": by_example(start + last)}
    if task_type == "multiple_choice":
        unit = number // CHOICES
        right = rng.integers(0, CHOICES, len(row))[unit] == number % CHOICES
        return {"label_BE": by_example(right, np.float32), "unit_BE": by_example(unit)}
    if task_type == "regression":
        return {"label_BE": by_example(rng.uniform(0, 5, len(row)), np.float32)}
    return {"label_BE": by_example(rng.integers(0, outputs, len(row)))}
