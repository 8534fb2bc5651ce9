"""FLOPs of a model's matmuls, counted from its definition and not from its program.

A matmul of (m, k) and (k, n) counts 2 m n k, and the backward pass twice as much as the forward
pass (Kaplan et al. 2020, section 2.1). Recomputation and padding count nothing.
"""

from __future__ import annotations

import dataclasses

from flaxfer.models.families import FAMILIES
from flaxfer.models.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class Work:
    """Size of a batch, with or without its padding.

    Attributes:
      sequences: number of sequences, or of the slots for them.
      tokens: tokens of all sequences.
      pairs: pairs of a query and a key in one sequence: the sum of squared lengths.
    """

    sequences: float
    tokens: float
    pairs: float


def forward_flops(model: ModelSpec, work: Work) -> float:
    """Return the FLOPs of a forward pass; embeddings are lookups and count nothing."""
    encoder = model.encoder
    width, inner = encoder.hidden_size, encoder.intermediate_size
    every_token = FAMILIES[encoder.family].heads[model.head].reads_every_token
    # A head that reads CLS tokens leaves the last layer no other queries.
    share = 1.0 if every_token or not work.tokens else work.sequences / work.tokens
    relative = 2 if encoder.family == "xlnet" else 1  # Scores by content, and by distance.
    per_query = 2 * (2 * width * width + 2 * width * inner)
    keys = 2 * 2 * width * width * work.tokens
    attention = 2 * (relative + 1) * width * work.pairs
    layer = per_query * work.tokens + keys + attention
    last_layer = share * (per_query * work.tokens + attention) + keys
    read = work.tokens if every_token else work.sequences
    dense = width * width if model.head in ("sequence", "choice", "pooler_embedding") else 0
    # Embeddings are what the head reads.
    outputs = 0 if model.head.endswith("_embedding") else width * model.num_outputs
    head = 2 * read * (dense + outputs)
    return ((model.layer or encoder.num_layers) - 1) * layer + last_layer + head


def train_flops(model: ModelSpec, work: Work) -> float:
    """Return the FLOPs of a train step: a forward pass, and a backward pass of twice as many."""
    return 3 * forward_flops(model, work)
