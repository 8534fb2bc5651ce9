"""FLOPs of a model's matmuls, counted from its definition and not from its program.

A matmul of (m, k) and (k, n) counts 2 m n k, and the backward pass twice as much as the forward
pass (Kaplan et al. 2020, section 2.1). Recomputation and padding count nothing.
"""

from __future__ import annotations

import dataclasses
import math

from flaxfer.models.families import FAMILIES
from flaxfer.models.lora import adapted_layers
from flaxfer.models.spec import ModelSpec

INPUT_MAPS = ("query", "key", "value")
"""Linear maps of a layer's input."""


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
    return sum(x.forward for x in _layer_flops(model, work)) + _head_flops(model, work)


def train_flops(model: ModelSpec, work: Work) -> float:
    """Return the FLOPs of a train step: a forward pass, and a backward pass of twice as many.

    With adapters, the encoder's kernels have no gradient, and nothing below the lowest adapters
    has one. The layer with these counts as if each of its maps had one.
    """
    forward = forward_flops(model, work)
    if model.lora is None:
        return 3 * forward
    first = adapted_layers(model.lora, model.encoder.num_layers).start
    layers = _layer_flops(model, work)[first:]
    backward = sum(x.maps + 2 * (x.attention + x.adapters) for x in layers)
    return forward + backward - layers[0].input_gradient + 2 * _head_flops(model, work)


@dataclasses.dataclass(frozen=True)
class _LayerFlops:
    """FLOPs of a layer: of its forward pass by part, and of the gradient of its input."""

    maps: float
    attention: float
    adapters: float
    input_gradient: float

    @property
    def forward(self) -> float:
        return self.maps + self.attention + self.adapters


def _layer_flops(model: ModelSpec, work: Work) -> list[_LayerFlops]:
    """Return the FLOPs of every layer up to the one that the head reads."""
    encoder, number = model.encoder, model.layer or model.encoder.num_layers
    width, inner = encoder.hidden_size, encoder.intermediate_size
    relative = 2 if encoder.family == "xlnet" else 1  # Scores by content, and by distance.
    adapted = adapted_layers(model.lora, encoder.num_layers) if model.lora else ()
    layers = []
    for layer in range(number):
        queries = work.tokens
        if layer == number - 1 and not _reads_every_token(model) and work.tokens:
            queries = work.sequences  # The head reads CLS tokens alone.
        # Tokens, inputs and outputs.
        maps = {
            "query": (queries, width, width),
            "key": (work.tokens, width, width),
            "value": (work.tokens, width, width),
            "output": (queries, width, width),
            "up": (queries, width, inner),
            "down": (queries, inner, width),
        }
        share = queries / work.tokens if work.tokens else 1.0
        attention = share * 2 * (relative + 1) * width * work.pairs
        input_gradient = sum(2 * math.prod(maps[name]) for name in INPUT_MAPS)
        adapters = 0.0
        if model.lora is not None and layer in adapted:
            rank = model.lora.rank
            for name in model.lora.modules:
                tokens, inputs, outputs = maps[name]
                adapters += 2 * tokens * rank * (inputs + outputs)
                input_gradient += 2 * tokens * rank * inputs * (name in INPUT_MAPS)
        every_map = sum(2 * math.prod(shape) for shape in maps.values())
        layers.append(_LayerFlops(every_map, attention, adapters, input_gradient))
    return layers


def _head_flops(model: ModelSpec, work: Work) -> float:
    width = model.encoder.hidden_size
    read = work.tokens if _reads_every_token(model) else work.sequences
    dense = width * width if model.head in ("sequence", "choice", "pooler_embedding") else 0
    # Embeddings are what the head reads.
    outputs = 0 if model.head.endswith("_embedding") else width * model.num_outputs
    return 2 * read * (dense + outputs)


def _reads_every_token(model: ModelSpec) -> bool:
    return FAMILIES[model.encoder.family].heads[model.head].reads_every_token
