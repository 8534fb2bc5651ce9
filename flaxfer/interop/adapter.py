"""Export of a stage's adapters in the format of peft, beside the model that they belong to.

The folder has adapter_config.json and adapter_model.safetensors. The head, which the pretrained
model lacks, is in the latter as peft's `modules_to_save`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from flaxfer.config import Lora
from flaxfer.errors import ConfigError
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.lora import adapted_layers
from flaxfer.models.names import to_stored
from flaxfer.models.pretrained import parameter_names
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params, leaves_by_name
from flaxfer.tasks import task_type
from flaxfer.training.record import StageRecord

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PREFIX = "base_model.model."
"""Prefix of the names of weights: peft's wrappers of the model."""

TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
"""Task types of peft by the suffix of transformers' class; it has none for multiple choice."""

MODULES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
}
"""Ends of names of modules in transformers. `down` is `output.dense`, which is the end of another
one as well, so it is named with its layer."""


def check(stage: StageRecord, encoder: EncoderConfig, base: str) -> None:
    """Check that a stage has adapters which peft can load.

    Args:
      stage: a finished stage.
      encoder: config of its encoder.
      base: the model that the adapters belong to, as named by the user; empty if not named.

    Raises:
      ConfigError: it has none, or the model that they belong to is not known or not supported.
    """
    where, start = str(stage.folder), stage.identity()["start"]
    if stage.lora() is None:
        what = "the stage was trained without adapters"
        hint = "export the whole model, without --adapter, or train with the section lora."
    elif encoder.family == "xlnet":
        what = "the maps of an XLNet are no linear modules in transformers, so peft adapts none"
        hint = "export the whole model, without --adapter: the adapters are merged into it."
    elif task_type(stage.task()).embeds:
        what = "peft has no place for the trained scale of embeddings"
        hint = "export the whole model, without --adapter: the adapters are merged into it."
    elif start == "random":
        what = "the adapters belong to an encoder of random weights"
        hint = "export the whole model, without --adapter: the adapters are merged into it."
    elif start != "pretrained" and not base:
        what = "the adapters belong to the model of the stage before, not to the pretrained one"
        hint = (
            f"export that stage (flaxfer export {stage.folder.parent / start} BASE), and name its "
            "folder with --base-model BASE."
        )
    else:
        return
    raise ConfigError(what, where=where, hint=hint)


def write_adapter(folder: Path, stage: StageRecord, encoder: EncoderConfig, base: str) -> None:
    """Write the adapters and the head of a stage's best checkpoint.

    Args:
      folder: where to write.
      stage: a finished stage that passed `check`.
      encoder: config of its encoder.
      base: folder or hub id of the model that the adapters belong to.
    """
    settings, form = stage.lora(), task_type(stage.task())
    assert settings is not None
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    head, adapters = stage.best_params(encoder, mesh)["head"], stage.adapters(encoder, mesh)
    head_name = form.head_of(stage.task())
    arrays = adapter_arrays({"head": head, **adapters}, encoder, head_name)
    safetensors.numpy.save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    content = adapter_config(settings, encoder, head_name)
    content |= {"task_type": TASK_TYPES.get(form.architecture), "base_model_name_or_path": base}
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def adapter_config(settings: Lora, encoder: EncoderConfig, head: str) -> dict[str, Any]:
    """Return the content of adapter_config.json that follows from the settings of adapters."""
    layers = list(adapted_layers(settings, encoder.num_layers))
    names = [MODULES[name] for name in settings.modules if name in MODULES]
    if "down" in settings.modules:
        names += [f"layer.{number}.output.dense" for number in layers]
    family = FAMILIES[encoder.family]
    stored = [
        *(name.stored for name in family.heads[head].pretrained_names),
        *(name.stored for name in family.heads[head].names),
    ]
    alpha = settings.alpha
    return {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "target_modules": names,
        "layers_to_transform": layers,
        "modules_to_save": list(dict.fromkeys(name.split(".")[0] for name in stored)),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def adapter_arrays(params: Params, encoder: EncoderConfig, head: str) -> dict[str, np.ndarray]:
    """Return the arrays of adapter_model.safetensors by their names.

    Args:
      params: the head, and the adapters at their paths; others are left out.
      encoder: config of the encoder.
      head: name of the head.
    """
    leaves = {path: np.asarray(x) for path, x in leaves_by_name(params).items()}
    arrays = {}
    for stored, path, layout in parameter_names(encoder, head):
        module = path.removesuffix("/kernel")
        if path.startswith("head/"):
            arrays[PREFIX + stored] = to_stored(leaves[path], layout)
        elif path != module and f"{module}/lora/a" in leaves:
            a, b = (leaves[f"{module}/lora/{part}"] for part in "ab")
            for part, matrix in (("A", a.reshape(-1, len(b))), ("B", b.reshape(len(b), -1))):
                name = f"{PREFIX}{stored.removesuffix('weight')}lora_{part}.weight"
                arrays[name] = np.ascontiguousarray(matrix.T)
    return arrays
