"""The config.json of a model folder, and the errors of folders that cannot be used.

Every command reads a folder through this module first, so that all say the same of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxfer.config.findings import suggestion
from flaxfer.data.families import FAMILIES
from flaxfer.data.json_files import read_json
from flaxfer.errors import CheckpointError, ConfigError, DataError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
MODULES = "modules.json"

LABELS = ("id2label", "label2id", "num_labels")
"""Settings of config.json that number the classes of a classifier."""

PEFT_CLASSES = {
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""Classes of peft by the `task_type` of an adapter."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's config.json, whose `model_type` is that of a family.

    Raises:
      DataError: there is no such folder or file, or it is not a JSON object.
      CheckpointError: the folder holds an adapter.
      ConfigError: the family is not implemented.
    """
    check_folder(folder)
    if (folder / ADAPTER).exists():
        raise _adapter(folder)
    path = folder / CONFIG
    if not path.exists() and not path.is_symlink():
        raise _without_config(folder)
    settings = read_json(path, DataError)
    check_family(settings, str(path))
    return settings


def check_folder(folder: Path) -> None:
    """Check that a model's folder exists.

    Raises:
      DataError: it does not.
    """
    if folder.is_dir():
        return
    raise DataError(
        f"there is no such folder{', but a file' if folder.exists() else ''}",
        where=str(folder),
        hint="name a folder with config.json, model.safetensors and the tokenizer, or set "
        "model.hub to a model id of the Hugging Face hub.",
    )


def check_family(settings: Mapping[str, Any], where: str) -> None:
    """Check that the `model_type` of config.json is that of a family, and fits `architectures`.

    Raises:
      ConfigError: it is not.
    """
    architectures = settings.get("architectures")
    if architectures is not None and not isinstance(architectures, list):
        raise ConfigError(
            f"architectures has to be a list of names, not {architectures!r:.80}",
            where=where,
            hint="put the name of the class in brackets.",
        )
    model_type, named = settings.get("model_type"), _named_families(settings)
    if isinstance(model_type, str) and model_type in FAMILIES:
        others = {FAMILIES[name].architecture for name in named}
        if named and FAMILIES[model_type].architecture not in others:
            raise ConfigError(
                f"model_type {model_type!r} contradicts architectures "
                f"{settings['architectures']!r}",
                where=where,
                hint="correct the wrong one of the two; transformers chooses by model_type, "
                f"and these classes are of {named[0]!r}.",
            )
        return
    if model_type is None:
        names = named or (["xlnet"] if "d_model" in settings and "n_layer" in settings else [])
        choices = names or list(FAMILIES)
        line = " or ".join(f'"model_type": "{name}"' for name in choices)
        raise ConfigError(
            "there is no model_type",
            where=where,
            hint=f"add the line {line}, which "
            + ("follows from architectures." if named else "names the kind of the model."),
        )
    hint = f"use a checkpoint of one of these: {', '.join(FAMILIES)}."
    if isinstance(model_type, str):
        near = suggestion(model_type.lower().replace("_", "-"), FAMILIES)
        hint = f"{near} {hint}" if near.startswith("did") else hint
    raise ConfigError(f"model_type {model_type!r:.80} is not implemented", where=where, hint=hint)


def read_labels(settings: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the names of a model's classes in the order of its outputs.

    They are those of `id2label`, an object or a list; without it, as in transformers, LABEL_0 and
    so on, `num_labels` or two of them.

    Raises:
      ConfigError: the numbers have gaps, or `label2id` or `num_labels` disagree.
    """
    names, ids, count = (settings.get(key) for key in LABELS)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not names:
        names = {i: f"LABEL_{i}" for i in range(count if type(count) is int else 2)}
    problem = _label_problem(names, ids, count)
    if problem:
        raise ConfigError(
            problem, where=where, hint="number the classes from 0, in the order of the outputs."
        )
    numbered = {int(number): str(label) for number, label in names.items()}
    return tuple(numbered[i] for i in range(len(numbered)))


def _label_problem(names: Any, ids: Any, count: Any) -> str | None:
    """Return why settings do not number classes."""
    if count is not None and (type(count) is not int or count < 1):
        return f"num_labels has to be a positive integer, not {count!r:.80}"
    if not isinstance(names, dict) or not all(
        isinstance(label, str | int) for label in names.values()
    ):
        return f"id2label has to be an object or a list of names, not {names!r:.80}"
    if {str(number) for number in names} != set(map(str, range(len(names)))):
        return f"id2label does not number the classes: {names!r:.200}"
    labels = {str(label): int(number) for number, label in names.items()}
    if len(labels) < len(names):
        return f"id2label gives two classes the same name: {names!r:.200}"
    if count not in (None, len(names)):
        return f"num_labels is {count}, but id2label has {len(names)} class(es)"
    if not ids:
        return None
    if not isinstance(ids, dict):
        return f"label2id has to be an object, not {ids!r:.80}"
    if {str(label): str(number) for label, number in ids.items()} != {
        label: str(number) for label, number in labels.items()
    }:
        return f"label2id {ids!r:.200} disagrees with id2label {names!r:.200}"
    return None


def transformer_folder(modules: Any) -> str | None:
    """Return the sub-folder of the encoder in the modules of sentence-transformers."""
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict) and str(module.get("type", "")).endswith("Transformer"):
            path = module.get("path")
            return path if isinstance(path, str) else None
    return None


def _named_families(settings: Mapping[str, Any]) -> list[str]:
    """Return the families whose classes `architectures` names."""
    architectures = settings.get("architectures")
    return [
        family
        for family, facts in FAMILIES.items()
        for name in (architectures if isinstance(architectures, list) else ())
        if re.fullmatch(rf"{facts.class_prefix}(Model|LMHeadModel|For[A-Z]\w+)", str(name))
    ]


def _adapter(folder: Path) -> CheckpointError:
    """Return the error of a folder with an adapter, also one beside a whole model."""
    settings = read_json(folder / ADAPTER, CheckpointError)
    kind, base = settings.get("peft_type"), settings.get("base_model_name_or_path")
    named = f"a {kind} adapter of peft" if kind else "an adapter"
    loader = PEFT_CLASSES.get(str(settings.get("task_type")), PEFT_CLASSES["FEATURE_EXTRACTION"])
    hint = (
        f"merge it into its base model: peft's {loader}.from_pretrained({str(folder)!r})"
        ".merge_and_unload().save_pretrained(OUT); copy the tokenizer to OUT, and use that folder"
    )
    if kind and not re.fullmatch("LORA|ADALORA|IA3|LOHA|LOKR|OFT|BOFT|VERA|HRA", str(kind)):
        hint = "adapters of this type cannot be merged: train from the base model"
    if any(folder.glob("model*.safetensors")):
        hint += f"; or remove {ADAPTER} to use the model that lies beside the adapter"
    return CheckpointError(
        f"this is {named}{f' for {base}' if base else ''}, not a whole model",
        where=str(folder / ADAPTER),
        hint=f"{hint}.",
    )


def _without_config(folder: Path) -> DataError:
    """Return the error of a folder without config.json."""
    files = {path.name for path in folder.iterdir()}
    what, hint = "there is no such file", "copy the config.json of the model there."
    # The other modules of sentence-transformers, such as 1_Pooling, have a config.json too.
    models = (path.parent for path in folder.glob(f"*/{CONFIG}"))
    below = sorted(str(path) for path in models if not re.match(r"\d+_(?!Transformer)", path.name))
    encoder = _encoder_below(folder) if MODULES in files else None
    if encoder is not None and str(folder / encoder) in below:
        what += f": this is a model of sentence-transformers, whose encoder lies in {encoder}"
        hint = f"name the folder {folder / encoder}; `flaxfer embed` takes this folder as it is."
    elif snapshots := sorted(str(path.parent) for path in folder.glob(f"snapshots/*/{CONFIG}")):
        what += ": this is the cache of a model of the hub"
        hint = f"name the folder {snapshots[-1]}."
    elif any(name.endswith(".gguf") for name in files):
        what += ": this is a model in GGUF, the format of llama.cpp"
        hint = "use the model in the format of transformers, which GGUF was made from."
    elif old := sorted(files & {"bert_config.json", "xlnet_config.json", "albert_config.json"}):
        what += f": {old[0]} belongs to a TensorFlow checkpoint"
        hint = "use the model in the format of transformers, or convert it with transformers."
    elif below:
        hint = f"name a folder with a model, such as {below[-1]}."
    return DataError(what, where=str(folder / CONFIG), hint=hint)


def _encoder_below(folder: Path) -> str | None:
    try:
        return transformer_folder(json.loads((folder / MODULES).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
