"""Names and layouts of parameters in Hugging Face checkpoints, for reading and writing.

PyTorch stores the kernel of an affine map as (outputs, inputs), with heads joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Layout of a parameter in a checkpoint.

    Attributes:
      inputs: number of leading axes that are stored behind the others.
      joined: whether these axes, and the others, are each stored as one.
    """

    inputs: int
    joined: bool


class ArrayName(NamedTuple):
    """A parameter in a checkpoint; `*` in both names is the number of a layer.

    Attributes:
      stored: name in the checkpoint.
      path: path of the parameter.
      layout: layout in the checkpoint.
    """

    stored: str
    path: str
    layout: Layout


Names = tuple[ArrayName, ...]
Kind = tuple[ArrayName, ...]
"""Arrays of a module, by what is appended to the names of the module."""

_BIAS = ArrayName(".bias", "/bias", Layout(0, joined=True))
_ARRAY: Kind = (ArrayName("", "", Layout(0, joined=False)),)
_EMBEDDING: Kind = (ArrayName(".weight", "/embedding", Layout(0, joined=False)),)
_LINEAR: Kind = (ArrayName(".weight", "/kernel", Layout(1, joined=True)), _BIAS)
_JOINING: Kind = (ArrayName(".weight", "/kernel", Layout(2, joined=True)), _BIAS)
_NORM: Kind = (ArrayName(".weight", "/scale", Layout(0, joined=True)), _BIAS)
_OUTPUTS_FIRST: Kind = (ArrayName("", "", Layout(2, joined=False)),)


def _names(modules: Mapping[str, tuple[str, Kind]], stored: str = "", path: str = "") -> Names:
    """Return the arrays of modules, given as {name in checkpoints: (path, kind)}, with prefixes."""
    return tuple(
        ArrayName(stored + module + array.stored, path + place + array.path, array.layout)
        for module, (place, kind) in modules.items()
        for array in kind
    )


BERT = _names(
    {
        "word_embeddings": ("word", _EMBEDDING),
        "position_embeddings": ("position", _EMBEDDING),
        "token_type_embeddings": ("type", _EMBEDDING),
        "LayerNorm": ("norm", _NORM),
    },
    "embeddings.",
    "encoder/embeddings/",
) + _names(
    {
        "attention.self.query": ("attention/query", _LINEAR),
        "attention.self.key": ("attention/key", _LINEAR),
        "attention.self.value": ("attention/value", _LINEAR),
        "attention.output.dense": ("attention/output", _JOINING),
        "attention.output.LayerNorm": ("attention_norm", _NORM),
        "intermediate.dense": ("feed_forward/up", _LINEAR),
        "output.dense": ("feed_forward/down", _LINEAR),
        "output.LayerNorm": ("feed_forward_norm", _NORM),
    },
    "encoder.layer.*.",
    "encoder/layers/*/",
)
XLNET = _names({"word_embedding": ("encoder/embeddings/word", _EMBEDDING)}) + _names(
    {
        "rel_attn.q": ("attention/query/kernel", _ARRAY),
        "rel_attn.k": ("attention/key/kernel", _ARRAY),
        "rel_attn.v": ("attention/value/kernel", _ARRAY),
        "rel_attn.r": ("attention/position/kernel", _ARRAY),
        "rel_attn.o": ("attention/output/kernel", _OUTPUTS_FIRST),
        "rel_attn.r_w_bias": ("attention/content_bias/bias", _ARRAY),
        "rel_attn.r_r_bias": ("attention/position_bias/bias", _ARRAY),
        "rel_attn.r_s_bias": ("attention/type_bias/bias", _ARRAY),
        "rel_attn.seg_embed": ("attention/type_embedding", _ARRAY),
        "rel_attn.layer_norm": ("attention_norm", _NORM),
        "ff.layer_1": ("feed_forward/up", _LINEAR),
        "ff.layer_2": ("feed_forward/down", _LINEAR),
        "ff.layer_norm": ("feed_forward_norm", _NORM),
    },
    "layer.*.",
    "encoder/layers/*/",
)
POOLER = _names({"pooler.dense": ("head/pooler", _LINEAR)})
CLASSIFIER = _names({"classifier": ("head/output", _LINEAR)})
SPAN = _names({"qa_outputs": ("head/output", _LINEAR)})
DENSE = _names(
    {
        "classifier.dense": ("head/dense", _LINEAR),
        "classifier.out_proj": ("head/output", _LINEAR),
    }
)
SCALE = _names({"logit_scale": ("head/log_scale/bias", _ARRAY)})
SUMMARY_POOLER = _names({"sequence_summary.summary": ("head/pooler", _LINEAR)})
SUMMARY = _names(
    {
        "sequence_summary.summary": ("head/dense", _LINEAR),
        "logits_proj": ("head/output", _LINEAR),
    }
)


def expand(table: Names, prefix: str, num_layers: int) -> Iterator[ArrayName]:
    """Yield the names with a prefix in the checkpoint, those with a `*` once per layer."""
    for stored, path, layout in table:
        for layer in range(num_layers if "*" in stored else 1):
            number = str(layer)
            yield ArrayName(prefix + stored.replace("*", number), path.replace("*", number), layout)


def stored_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Return the shape in a checkpoint of a parameter of `shape`."""
    inputs, outputs = shape[: layout.inputs], shape[layout.inputs :]
    if not layout.joined:
        return outputs + inputs
    return tuple(math.prod(axes) for axes in (outputs, inputs) if axes)


def from_stored(array: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    """Return the parameter, float32 of `shape`, from the array of a checkpoint."""
    array = array.reshape(shape[layout.inputs :] + shape[: layout.inputs])
    return np.ascontiguousarray(_rotated(array, len(shape) - layout.inputs), np.float32)


def to_stored(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the array of a checkpoint from a parameter; the inverse of `from_stored`."""
    stored = np.ascontiguousarray(_rotated(array, layout.inputs))
    return stored.reshape(stored_shape(array.shape, layout))


def _rotated(array: np.ndarray, axes: int) -> np.ndarray:
    """Return the array with its first axes behind the others."""
    return array.transpose(*range(axes, array.ndim), *range(axes))
