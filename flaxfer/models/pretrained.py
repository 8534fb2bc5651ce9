"""Pretrained weights: from a Hugging Face folder into parameters, and back.

Only safetensors files are read, and nothing is unpickled. Every array of a file is accounted for
by the names of its family (`Family.encoder_names` and so on) or by `LEFT_OUT`.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from flaxfer.config import Model
from flaxfer.errors import CheckpointError, ConfigError, DataError
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES, Names, read_config
from flaxfer.models.heads import EncoderModel
from flaxfer.models.weights import INDEX, Stored, open_file, read_headers, read_json
from flaxfer.runtime.hub import reach

log = logging.getLogger("flaxfer.models")

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""What a tokenizer may consist of, in the folder of a Hugging Face model."""

HUB_FILES = ["config.json", "model*.safetensors", INDEX, *TOKENIZER_FILES]

FLOATS = ("F32", "F16", "BF16")
LEFT_OUT = re.compile(
    r"(\w+\.)?(pooler\.|embeddings\.position_ids$|mask_emb$)"
    r"|(classifier|qa_outputs|cls\.predictions|cls\.seq_relationship|lm_head)\."
    r"|(lm_loss|sequence_summary|logits_proj|start_logits|end_logits|answer_class)\."
)
"""Heads that a task replaces, a buffer of old files, and what XLNet's pretraining alone reads: the
only arrays that may go unused."""

KERNEL_INPUTS = {"kernel": 1, "joining kernel": 2}
"""Layouts of kernels: how many leading axes of the parameter are inputs of the map.

PyTorch stores the matrix of a map as (outputs, inputs). The other layouts are `same`, stored as it
is, `outputs first`, with the last axis first, and `vector`, whose axes are joined.
"""


class Wanted(NamedTuple):
    """A parameter that a checkpoint has to hold."""

    path: str
    layout: str
    shape: tuple[int, ...]


def resolve(model: Model) -> Path:
    """The folder of a model; downloads it first if `model.hub` is set.

    Raises:
      DataError: the folder does not exist, or the hub cannot deliver.
    """
    if model.hub:
        return _download(model.hub, model.revision)
    if not model.path:
        raise ConfigError("no model is named", where="model", hint="set model.path or model.hub.")
    folder = Path(model.path).expanduser()
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(folder),
            hint="let model.path name a folder with config.json, model.safetensors and the "
            "tokenizer, or set model.hub to a model id of the Hugging Face hub.",
        )
    return folder


def load_encoder_config(folder: Path) -> EncoderConfig:
    """The encoder's config from `folder`/config.json.

    Raises:
      DataError: there is no such file, or it is not a JSON object.
      ConfigError: it describes an encoder that is not implemented.
    """
    path = folder / "config.json"
    settings = read_json(path, DataError)
    return read_config(settings, str(path))


def load_encoder(folder: Path, config: EncoderConfig) -> dict[str, Any]:
    """The encoder's parameters: the subtree `encoder` of `load_pretrained`."""
    encoder: dict[str, Any] = load_pretrained(folder, config)["encoder"]
    return encoder


def load_pretrained(
    folder: Path, config: EncoderConfig, *, head: str = "sequence", outputs: int = 0
) -> dict[str, Any]:
    """Parameters from the safetensors files of a Hugging Face folder.

    Args:
      folder: holds model.safetensors, or shards with their index.
      config: of the encoder.
      head: its pretrained parts are loaded where the files hold them.
      outputs: if not 0, the whole head is loaded too, and has to have so many outputs.

    Returns:
      A nested dict of float32 arrays with the keys of `nnx.to_pure_dict`: `encoder`, and `head`
      with what is pretrained of it, if the files hold that.

    Raises:
      CheckpointError: no safetensors files, malformed ones, or arrays that are missing,
        unexpected, of another shape or not floating point; every one of them is listed.
      ConfigError: the whole head is asked for, and config.json says that it gives each example
        several labels.
    """
    if outputs:
        _check_problem(folder)
    stored = read_headers(folder)
    wanted = _wanted(config, stored, head, outputs)
    _check_names(folder, wanted, stored)
    _check_arrays(folder, wanted, stored)
    arrays: dict[str, np.ndarray] = {}
    for file in sorted({stored[name].file for name in wanted}):
        here = {name: want for name, want in wanted.items() if stored[name].file == file}
        arrays |= open_file(file, functools.partial(_read_arrays, here, stored))
    return _nest(arrays)


def checkpoint_arrays(
    params: Mapping[str, Any], config: EncoderConfig, head: str = "sequence"
) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint of the whole model, by the names transformers gives them.

    Args:
      params: nested dict with the subtrees `encoder` and `head`.
      config: of the encoder.
      head: name of the head.
    """
    flat = {_path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    arrays = {
        name: to_stored(np.asarray(flat[path]), layout)
        for name, path, layout in parameter_names(config, head)
    }
    family = FAMILIES[config.family]
    zeros = np.zeros((1, 1, config.hidden_size), np.float32)
    return arrays | {family.prefix + name: zeros for name in family.unread_names}


def parameter_names(config: EncoderConfig, head: str = "sequence") -> list[tuple[str, str, str]]:
    """Name in a checkpoint of the whole model, path and layout of every parameter."""
    family = FAMILIES[config.family]
    prefixed = family.encoder_names + family.heads[head].pretrained_names
    return [
        *_expand(prefixed, family.prefix, config.num_layers),
        *_expand(family.heads[head].names, "", config.num_layers),
    ]


def parameter_shapes(
    config: EncoderConfig, num_outputs: int, head: str = "sequence"
) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its path; no array is made."""
    model = nnx.eval_shape(lambda: EncoderModel(config, head, num_outputs, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
    return {_path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


def stored_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Shape in a checkpoint of a parameter of `shape`."""
    if inputs := KERNEL_INPUTS.get(layout):
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    if layout == "outputs first":
        return shape[-1:] + shape[:-1]
    return shape if layout == "same" else (math.prod(shape),)


def from_stored(array: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter, float32 of `shape`, of a checkpoint's array."""
    if layout in KERNEL_INPUTS:
        array = array.T
    elif layout == "outputs first":
        array = np.moveaxis(array, 0, -1)
    return np.ascontiguousarray(array, np.float32).reshape(shape)


def to_stored(array: np.ndarray, layout: str) -> np.ndarray:
    """The checkpoint's array of a parameter; the inverse of `from_stored`."""
    shape = stored_shape(array.shape, layout)
    if layout in KERNEL_INPUTS:
        return np.ascontiguousarray(array.reshape(shape[::-1]).T)
    if layout == "outputs first":
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array.reshape(shape)


def weights_fingerprint(folder: Path, encoder: EncoderConfig) -> str:
    """Of the weight files in a folder, and of the encoder that they are read into."""
    digest = hashlib.sha256(repr(encoder).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _download(hub: str, revision: str) -> Path:
    reach(hub, "model", revision)
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=HUB_FILES))
    # Everything from refused connections to gated models is an OSError of huggingface_hub's.
    except (OSError, HFValidationError, EntryNotFoundError) as error:
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"the hub did not deliver the model: {first_line}",
            where=f"{hub}@{revision}",
            hint="check the id and the connection; without one, download the model elsewhere "
            "(config.json, *.safetensors and the tokenizer's files), copy the folder here and "
            "set model.path to it instead of model.hub.",
        ) from error


def _check_problem(folder: Path) -> None:
    path = folder / "config.json"
    problem = read_json(path, DataError).get("problem_type")
    if problem == "multi_label_classification":
        raise ConfigError(
            f"problem_type {problem!r} is not implemented: a head gives an example one label, or "
            "a score",
            where=str(path),
            hint="use the encoder of the model alone, with a new head.",
        )


def _read_arrays(
    wanted: Mapping[str, Wanted], stored: Mapping[str, Stored], reader: Any
) -> dict[str, np.ndarray]:
    return {
        want.path: from_stored(reader.get_tensor(stored[name].name), want.layout, want.shape)
        for name, want in wanted.items()
    }


def _wanted(
    config: EncoderConfig, stored: Mapping[str, Stored], head: str, outputs: int
) -> dict[str, Wanted]:
    """What the files have to hold, by name."""
    family = FAMILIES[config.family]
    prefix = family.prefix if any(name.startswith(family.prefix) for name in stored) else ""
    named = list(_expand(family.encoder_names, prefix, config.num_layers))
    pretrained_head = list(_expand(family.heads[head].pretrained_names, prefix, config.num_layers))
    if outputs or any(name in stored for name, _, _ in pretrained_head):
        named += pretrained_head
    if outputs:
        named += _expand(family.heads[head].names, "", config.num_layers)
    shapes = parameter_shapes(config, outputs or 1, head)
    if fresh := sorted(shapes.keys() - {path for _, path, _ in named}):
        log.info("not loaded, so initialised anew: %s", ", ".join(fresh))
    return {name: Wanted(path, layout, shapes[path]) for name, path, layout in named}


def _expand(names: Names, prefix: str, num_layers: int) -> Iterable[tuple[str, str, str]]:
    """The names with the prefix, and those with a `*` once for each layer."""
    for name, path, layout in names:
        for layer in range(num_layers if "*" in name else 1):
            yield prefix + name.replace("*", str(layer)), path.replace("*", str(layer)), layout


def _check_names(folder: Path, wanted: Iterable[str], stored: Mapping[str, Stored]) -> None:
    extra = stored.keys() - set(wanted)
    left_out = {name for name in extra if LEFT_OUT.match(name)}
    problems = [f"missing: {name}" for name in wanted if name not in stored]
    problems += [f"unexpected: {stored[name].name}" for name in sorted(extra - left_out)]
    if problems:
        raise CheckpointError(
            "the weights are not those of the encoder that config.json describes",
            where=str(folder),
            details=problems,
            hint="use config.json and weights of the same model.",
        )
    if left_out:
        log.info("%s: not used: %s", folder, ", ".join(sorted(left_out)))


def _check_arrays(folder: Path, wanted: Mapping[str, Wanted], stored: Mapping[str, Stored]) -> None:
    problems = []
    for name, want in wanted.items():
        have, shape = stored[name], stored_shape(want.shape, want.layout)
        if have.shape != shape:
            problems.append(f"{name} for {want.path}: have {have.shape} / want {shape}")
        if have.dtype not in FLOATS:
            problems.append(f"{name} for {want.path}: have {have.dtype} / want {', '.join(FLOATS)}")
    if problems:
        raise CheckpointError(
            "the weights do not fit the model",
            where=str(folder),
            details=problems,
            hint="use config.json and weights of the same model, not quantised.",
        )


def _nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The nested dict of arrays by path; numbers of layers become integers, as flax has them."""
    nested: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, leaf = path.split("/")
        node: dict[Any, Any] = nested
        for key in parents:
            node = node.setdefault(int(key) if key.isdigit() else key, {})
        node[leaf] = array
    return nested


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
