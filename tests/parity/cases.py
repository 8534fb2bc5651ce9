"""Tiny models whose weights and inputs follow from a seed, so that only results are stored."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from flaxfer.config import Optimizer

# Decay, clipping, warm-up and the linear descent all act within three steps. `eps` is far above the
# rounding noise of gradients that are zero by the mathematics, as those of a key's bias are: at
# 1e-8 Adam would make whole steps of it, in a direction that no two implementations share.
STEPS, TOTAL_STEPS = 3, 4
OPTIMIZER = Optimizer(
    learning_rate=1e-2, eps=1e-5, weight_decay=0.1, warmup=1, clip_norm=0.5, schedule="linear"
)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": None,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model: its config.json, how many outputs, which random numbers."""

    name: str
    settings: dict[str, Any]
    num_outputs: int
    seed: int


# The eps of the norms are so far apart that a wrong one shows.
CASES = (
    Case(
        "bert",
        SIZES
        | {
            "model_type": "bert",
            "hidden_act": "gelu",
            "type_vocab_size": 2,
            "pad_token_id": 0,
            "layer_norm_eps": 1e-12,
        },
        num_outputs=3,
        seed=1,
    ),
    Case(
        "bert-gelu-new",
        SIZES
        | {
            "model_type": "bert",
            "hidden_act": "gelu_new",
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "type_vocab_size": 2,
            "pad_token_id": 0,
            "layer_norm_eps": 1e-2,
        },
        num_outputs=1,
        seed=2,
    ),
    Case(
        "roberta",
        SIZES
        | {
            "model_type": "roberta",
            "hidden_act": "gelu",
            "type_vocab_size": 1,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-5,
        },
        num_outputs=1,
        seed=3,
    ),
    Case(
        "xlm-roberta",
        SIZES
        | {
            "model_type": "xlm-roberta",
            "hidden_act": "relu",
            "num_attention_heads": 1,
            "type_vocab_size": 2,
            "pad_token_id": 3,
            "layer_norm_eps": 3e-2,
        },
        num_outputs=3,
        seed=4,
    ),
)


def weight(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight by its name in a checkpoint: large enough for every part to shape the result."""
    rng = np.random.Generator(np.random.PCG64([case.seed, zlib.crc32(name.encode())]))
    noise = rng.standard_normal(shape)
    if name.endswith("LayerNorm.weight"):
        array = 1 + 0.3 * noise
    elif name.endswith("bias"):
        array = 0.2 * noise
    elif "embeddings" in name:
        array = 0.1 * noise
    else:
        array = noise * 1.5 * shape[-1] ** -0.5
    return array.astype(np.float32)


def batch(
    case: Case, lengths: tuple[int, ...] = (12, 7, 1, 12, 4), width: int = 12
) -> dict[str, np.ndarray]:
    """Examples without padding, with padding on the right, and of one token; one in each row.

    Returns:
      Arrays of a batch as `flaxfer.data.packing.build_rows` makes them, unpacked.
    """
    rng = np.random.Generator(np.random.PCG64(case.seed))
    pad, rows = case.settings["pad_token_id"], len(lengths)
    mask_BT = np.arange(width) < np.array(lengths)[:, None]
    token_BT = rng.integers(pad + 1, case.settings["vocab_size"], mask_BT.shape)
    second_BT = np.arange(width) >= (np.array(lengths)[:, None] + 1) // 2
    types = case.settings["type_vocab_size"]
    label = (
        rng.uniform(0, 5, rows).astype(np.float32)
        if case.num_outputs == 1
        else rng.integers(0, case.num_outputs, rows).astype(np.int32)
    )
    return {
        "token_BT": np.where(mask_BT, token_BT, pad).astype(np.int32),
        "type_BT": (second_BT & mask_BT & (types > 1)).astype(np.int32),
        "position_BT": (np.arange(width) * mask_BT).astype(np.int32),
        "segment_BT": mask_BT.astype(np.int32),
        "summary_BE": np.zeros((rows, 1), np.int32),
        "label_BE": label[:, None],
        "mask_BE": np.ones((rows, 1), np.float32),
    }
