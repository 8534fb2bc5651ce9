"""Why the weights of a folder cannot be used, and how to correct it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxfer.errors import CheckpointError
from flaxfer.models import settings
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.weights import Stored

LISTED = 10
"""Findings of one kind that are listed; the others are counted."""

EXAMPLES = 2
"""Findings of one kind that are listed when their common cause is known."""

LARGEST = float.fromhex("0x1.fep127")
"""Largest number of bfloat16: larger ones of float32 would become infinite in its matmuls."""

QUANTISED_NAMES = re.compile(
    r".*\.(SCB|absmax|quant_map|quant_state\S*|qweight|qzeros|scales|g_idx|weight_scale\S*)$"
)
"""Arrays that belong to quantised kernels in the formats of bitsandbytes, GPTQ, AWQ and others."""

SAME_MODEL = "use config.json and weights of the same model."


class Finding(NamedTuple):
    """A cause of names that do not fit, and its remedy."""

    what: str
    hint: str


def listed(kind: str, lines: Sequence[str], most: int = LISTED) -> list[str]:
    """Return the first lines of a kind of finding, and the number of the others."""
    rest = len(lines) - most
    return [f"{kind}{line}" for line in lines[:most]] + (
        [f"{kind}{rest:,} more"] if rest > 0 else []
    )


def names_error(
    folder: Path,
    config: EncoderConfig,
    missing: Sequence[str],
    unexpected: Sequence[str],
    stored: Mapping[str, Stored],
) -> CheckpointError:
    """Return the error of weights whose names are not those of the model."""
    found = (
        _quantised(stored, missing)
        or _adapted(stored)
        or _prefixed(folder, config, stored)
        or _of_another_library(stored)
        or _other_layers(config, stored)
    )
    most = EXAMPLES if found else LISTED
    return CheckpointError(
        found.what if found else "the weights do not belong to the encoder in config.json",
        where=str(folder),
        details=listed("missing: ", missing, most) + listed("unexpected: ", unexpected, most),
        hint=found.hint if found else SAME_MODEL,
    )


def other_sizes(
    config: EncoderConfig, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> str:
    """Return the settings of config.json that disagree with the weights, as a clause.

    Args:
      config: of the encoder.
      shapes: by path, the shapes that differ: stored, and wanted.
    """
    axes = {
        "encoder/embeddings/word/embedding": ("vocab_size", "hidden_size"),
        "encoder/embeddings/position/embedding": ("max_position_embeddings", "hidden_size"),
        "encoder/embeddings/type/embedding": ("type_vocab_size", "hidden_size"),
        "encoder/layers/0/feed_forward/up/kernel": ("intermediate_size", "hidden_size"),
        "head/output/bias": ("number of classes",),
    }
    keys = _keys(config)
    found = {
        f"{keys.get(name, name)} is {want} in config.json and {have} in the weights"
        for path, names in axes.items()
        if path in shapes and len(shapes[path][0]) == len(names)
        for name, have, want in zip(names, *shapes[path], strict=True)
        if have != want
    }
    return "".join(f"; {clause}" for clause in sorted(found))


def value_fault(array: np.ndarray, path: str) -> str | None:
    """Return why the values of a parameter, float32, cannot be pretrained ones."""
    if not array.size:
        return None
    low, high = array.min(), array.max()
    if not (low >= -LARGEST and high <= LARGEST):  # NaN is neither.
        bad = np.count_nonzero(~(np.abs(array) <= LARGEST))
        return f"{bad:,} of {array.size:,} values are NaN, infinite or beyond {LARGEST:.3g}"
    kernel = path.startswith("encoder/") and path.endswith(("/kernel", "/word/embedding"))
    if kernel and low == high == 0:
        return f"all {array.size:,} values are zero, as after an unfinished download"
    return None


def _quantised(stored: Mapping[str, Stored], missing: Sequence[str]) -> Finding | None:
    """Recognise weights whose kernels are integers, or have scales of their own."""
    names = [name for name in stored if QUANTISED_NAMES.match(name)]
    kernels = [
        header
        for name, header in stored.items()
        if re.match(r"U?I\d+$|F[48]_|F[48]$|I4", header.dtype)
        and len(header.shape) > 1
        and not name.endswith(("position_ids", "token_type_ids"))
    ]
    if not names and not (kernels and missing):
        return None
    dtypes = ", ".join(sorted({header.dtype for header in kernels})) or "arrays such as " + names[0]
    return Finding(
        f"the weights are quantised ({dtypes}), and quantised weights are not read",
        "use the original weights, in float32, float16 or bfloat16.",
    )


def _adapted(stored: Collection[str]) -> Finding | None:
    """Recognise a model that was saved with an adapter of peft inside."""
    if not any(re.search(r"\.(lora_\w+|base_layer|modules_to_save)\.", name) for name in stored):
        return None
    return Finding(
        "the weights contain an adapter of peft that is not merged",
        "load them as they were trained, and write model.merge_and_unload().save_pretrained(OUT).",
    )


def _prefixed(folder: Path, config: EncoderConfig, stored: Mapping[str, Stored]) -> Finding | None:
    """Recognise names with the prefix of a wrapper, or of another family."""
    family = FAMILIES[config.family]
    anchor = family.encoder_names[0].stored
    heads = [n.removesuffix(anchor) for n in stored if re.search(rf"(^|\.){re.escape(anchor)}$", n)]
    if len(heads) != 1 or heads[0] in ("", family.prefix):
        return None
    (head,) = heads
    if others := [name for name, other in FAMILIES.items() if other.prefix == head]:
        return Finding(
            f"the names of the weights begin with {head!r}, but model_type is {config.family!r}",
            f"set model_type to {' or '.join(map(repr, others))} in config.json, if the weights "
            "are right; or use config.json and weights of the same model.",
        )
    inner = {other.prefix for other in FAMILIES.values() if head.endswith("." + other.prefix)}
    prefix = head.removesuffix(max(inner, key=len, default=""))
    count = sum(name.startswith(prefix) for name in stored)
    share = "every name" if count == len(stored) else f"{count} of {len(stored)} names"
    verb = "begins" if count == len(stored) else "begin"
    twice = " twice" if prefix == family.prefix else ", the name of a wrapper"
    # A single file takes precedence over shards and their index; ml_dtypes has bfloat16.
    code = (
        "import sys, ml_dtypes; from safetensors.numpy import load_file, save_file; "
        "arrays = {name: array for file in sys.argv[2:] for name, array in load_file(file).items()}"
        f"; save_file({{name.removeprefix({prefix!r}): array for name, array in arrays.items()}}, "
        "sys.argv[1], metadata={'format': 'pt'})"
    )
    files = sorted({str(header.file) for header in stored.values()})
    return Finding(
        f"{share} of the weights {verb} with {prefix!r}{twice}",
        "strip it with: "
        + shlex.join(["python", "-c", code, str(folder / "model.safetensors"), *files]),
    )


def _of_another_library(stored: Collection[str]) -> Finding | None:
    if not any(name.endswith((".kernel", "/kernel", "/kernel:0")) for name in stored):
        return None
    return Finding(
        "the names of the weights are those of Flax or TensorFlow",
        "write the model with save_pretrained of a PyTorch class of transformers.",
    )


def _other_layers(config: EncoderConfig, stored: Collection[str]) -> Finding | None:
    """Recognise weights with more or fewer layers than the config."""
    names = (name for name, _, _ in FAMILIES[config.family].encoder_names if "*" in name)
    pattern = re.compile(rf"(.*\.)?{re.escape(next(names).partition('*')[0])}(\d+)\.")
    numbers = {int(match[2]) for name in stored if (match := pattern.match(name))}
    if not numbers or len(numbers) == config.num_layers or max(numbers) + 1 != len(numbers):
        return None
    return Finding(
        f"{_keys(config)['num_layers']} is {config.num_layers} in config.json, but the weights "
        f"have {len(numbers)} layer(s)",
        SAME_MODEL,
    )


def _keys(config: EncoderConfig) -> dict[str, str]:
    """Return the names in config.json of the fields of an EncoderConfig."""
    xlnet = config.family == "xlnet"
    table = settings.XLNET_SETTINGS if xlnet else settings.BERT_SETTINGS
    return {field: setting.key for setting in table for field in setting.fields}
