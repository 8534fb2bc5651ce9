"""Models without weights and examples without text: sizes and lengths are real, the rest random."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("lengths.json")
"""Lengths of real examples, written by `benchmarks.gpu_check.lengths`."""

BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
MODELS: dict[str, dict[str, Any]] = {
    "bert-base": BASE
    | {
        "model_type": "bert",
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    },
    "xlm-roberta-base": BASE
    | {
        "model_type": "xlm-roberta",
        "vocab_size": 250002,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    },
}
"""The config.json of google-bert/bert-base-uncased and FacebookAI/xlm-roberta-base, in short."""

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 2000,
}
"""Sizes with `--tiny`, which replace those of any model."""

EXAMPLES, TINY_EXAMPLES = 5749, 192
"""Examples of the training split of STS-B, and with `--tiny`."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Random examples as token ids.

    Attributes:
      ids: for each example its token ids, 2 or larger; none is padding.
      label: float32 (n,), scores from 0 to 5.
      length: most tokens of an example, and of a row.
      used: number of ids that occur, the smallest ones.
    """

    ids: list[np.ndarray]
    label: np.ndarray
    length: int
    used: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 (n,)."""
        return np.array([len(ids) for ids in self.ids])


def settings(model: str, tiny: bool) -> dict[str, Any]:
    """Return the config.json of a model."""
    return MODELS[model] | (TINY if tiny else {})


def corpus(model: str, data: str, tiny: bool, examples: int = 0) -> Corpus:
    """Return examples with the lengths of STS-B, or full rows; the same for every side.

    Ids are drawn from as many as the real tokenizer uses in such texts: the speed of the embedding
    and of its optimizer depends on their number, and not on which they are.

    Args:
      model: key of `MODELS`.
      data: `stsb` or `full`.
      tiny: fewer and shorter examples.
      examples: number of examples; 0 for that of STS-B.
    """
    stored = json.loads(FILE.read_text(encoding="utf-8"))[model]
    n = examples or (TINY_EXAMPLES if tiny else EXAMPLES)
    rng = np.random.default_rng(0)
    if data == "full":
        length = 64 if tiny else 512
        lengths, used = np.full(n, length), stored["long_ids"]
    else:
        length = 64 if tiny else 128
        values = np.repeat(
            np.array([int(key) for key in stored["lengths"]]), list(stored["lengths"].values())
        )
        lengths, used = np.minimum(rng.choice(values, n), length), stored["ids"]
    used = min(used, settings(model, tiny)["vocab_size"])
    return Corpus(
        ids=[rng.integers(2, used, length) for length in lengths],
        label=rng.uniform(0, 5, n).astype(np.float32),
        length=length,
        used=used,
    )


def steps(batch: int, tiny: bool) -> int:
    """Return the number of timed steps."""
    return 3 if tiny else 24 if batch < 128 else 8
