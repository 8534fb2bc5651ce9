"""Operations of a model's matrix products, by definition and not by how they are computed.

A product of (m, k) and (k, n) counts 2 m n k; the backward pass counts twice the forward pass
(Kaplan et al. 2020, section 2.1). What is recomputed does not count, nor what padding costs.
"""

from __future__ import annotations

import dataclasses

from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES

BACKWARD = 2


@dataclasses.dataclass(frozen=True)
class Work:
    """What a batch holds, useful or in all.

    Attributes:
      sequences: of the batch; without padding, or as many as its rows have slots for.
      tokens: of all sequences.
      pairs: of a query and a key of one sequence: the sum of squared lengths.
    """

    sequences: float
    tokens: float
    pairs: float


def forward_flops(encoder: EncoderConfig, head: str, outputs: int, work: Work) -> float:
    """Of one pass over the work, head included; embeddings are looked up and count nothing."""
    width, inner = encoder.hidden_size, encoder.intermediate_size
    every = FAMILIES[encoder.family].heads[head].reads_every_token
    # A head over CLS tokens leaves the last layer no other queries.
    share = 1.0 if every or not work.tokens else work.sequences / work.tokens
    relative = 2 if encoder.family == "xlnet" else 1  # Scores by content, and by distance.
    per_query = 2 * (2 * width * width + 2 * width * inner)
    keys = 2 * 2 * width * width * work.tokens
    products = 2 * (relative + 1) * width * work.pairs
    whole = per_query * work.tokens + keys + products
    last = share * (per_query * work.tokens + products) + keys
    read = work.tokens if every else work.sequences
    dense = 0 if head in ("token", "span") else width * width
    return (encoder.num_layers - 1) * whole + last + 2 * read * (dense + width * outputs)


def train_flops(encoder: EncoderConfig, head: str, outputs: int, work: Work) -> float:
    """Of a training step over the work: forward and backward."""
    return (1 + BACKWARD) * forward_flops(encoder, head, outputs, work)
