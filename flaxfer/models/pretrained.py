"""Pretrained weights: from a Hugging Face folder into parameters, and back.

Only safetensors files are read, and nothing is unpickled. Every array of a file is either named by
its family (`Family.encoder_names` and so on) or by `LEFT_OUT`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import flax.traverse_util
import huggingface_hub
import numpy as np
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from flaxfer.config import Model
from flaxfer.data import model_folder
from flaxfer.data.json_files import read_json
from flaxfer.data.model_folder import check_folder
from flaxfer.errors import CheckpointError, ConfigError, DataError
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES, read_config
from flaxfer.models.faults import listed, names_error, other_sizes, value_fault
from flaxfer.models.names import ArrayName, expand, from_stored, stored_shape, to_stored
from flaxfer.models.settings import unknown_settings
from flaxfer.models.spec import ModelSpec
from flaxfer.models.weights import INDEX, Stored, open_safetensors, read_headers
from flaxfer.runtime.hub import reach
from flaxfer.runtime.trees import Params, leaves_by_name

log = logging.getLogger("flaxfer.models")

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Possible files of a tokenizer in a Hugging Face folder."""

SENTENCE_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "[0-9]_*/*.json",
    "[0-9]_*/*.safetensors",
)
"""Possible files of sentence-transformers in a Hugging Face folder."""

HUB_FILES = [
    *("config.json", "model*.safetensors", INDEX, model_folder.ADAPTER),
    *(*TOKENIZER_FILES, *SENTENCE_FILES),
]

FLOATS = ("F32", "F16", "BF16")
LEFT_OUT = re.compile(
    r"(\w+\.)?(pooler\.|embeddings\.position_ids$|mask_emb$)"
    r"|(classifier|qa_outputs|cls\.predictions|cls\.seq_relationship|lm_head)\."
    r"|(lm_loss|sequence_summary|logits_proj|start_logits|end_logits|answer_class)\."
    r"|logit_scale$"
)
"""Arrays that may be unused: heads that a task replaces, a buffer of old files, and what only the
pretraining of XLNet reads."""


def resolve(model: Model) -> Path:
    """Return the folder of a model, downloading it if `model.hub` is set.

    Raises:
      DataError: the folder does not exist, or the download fails.
    """
    if model.hub:
        return _download(model.hub, model.revision)
    if not model.path:
        raise ConfigError("no model is named", where="model", hint="set model.path or model.hub.")
    folder = Path(model.path).expanduser()
    check_folder(folder)
    return folder


def load_encoder_config(folder: Path) -> EncoderConfig:
    """Return the encoder's config from `folder`/config.json.

    Raises:
      DataError: there is no such file, or it is not a JSON object.
      CheckpointError: the folder holds an adapter.
      ConfigError: it describes an encoder that is not implemented.
    """
    settings, where = model_folder.read_config(folder), str(folder / model_folder.CONFIG)
    config = read_config(settings, where)
    if unknown := unknown_settings(settings):
        log.info("%s: settings that are not known, and not used: %s", where, ", ".join(unknown))
    return config


def load_encoder(folder: Path, config: EncoderConfig) -> Params:
    """Return the encoder's parameters: the subtree `encoder` of `load_pretrained`."""
    encoder: Params = load_pretrained(folder, config)["encoder"]
    return encoder


def load_pretrained(
    folder: Path, config: EncoderConfig, *, head: str = "sequence", outputs: int = 0
) -> Params:
    """Load parameters from the safetensors files of a Hugging Face folder.

    Args:
      folder: contains model.safetensors, or shards and their index.
      config: config of the encoder.
      head: its pretrained parts are loaded if the files contain them.
      outputs: if not 0, the whole head is loaded, which must have this number of outputs.

    Returns:
      A nested dict of float32 arrays with the keys of `nnx.to_pure_dict`: `encoder`, and `head`
      with its loaded parts, if any.

    Raises:
      CheckpointError: no safetensors files, malformed ones, or arrays that are missing,
        unexpected, of another shape, not floating point, or with values that are not finite.
      ConfigError: the whole head is to be loaded, and config.json says that it is multi-label.
    """
    if outputs:
        _check_problem_type(folder)
    stored = read_headers(folder)
    wanted = _wanted(config, stored, head, outputs)
    _check_names(folder, config, [name for name, _, _ in wanted], stored)
    shapes = parameter_shapes(config, outputs or 1, head)
    if fresh := sorted(shapes.keys() - {path for _, path, _ in wanted}):
        log.info("not loaded but newly initialised: %s", ", ".join(fresh))
    _check_arrays(folder, config, wanted, shapes, stored)
    arrays: dict[tuple[str | int, ...], np.ndarray] = {}
    faults = []
    for file in sorted({stored[name].file for name, _, _ in wanted}):
        with open_safetensors(file) as reader:
            for name, path, layout in wanted:
                if stored[name].file == file:
                    # flax numbers layers with integers.
                    keys = tuple(int(key) if key.isdigit() else key for key in path.split("/"))
                    array = from_stored(reader.get_tensor(stored[name].name), layout, shapes[path])
                    if fault := value_fault(array, path):
                        faults.append(f"{stored[name].name}: {fault}")
                    arrays[keys] = array
    if faults:
        raise CheckpointError(
            f"the weights are damaged: {faults[0]}"
            + (f", and {len(faults) - 1:,} more array(s)" if faults[1:] else ""),
            where=str(folder),
            details=listed("", faults) if faults[1:] else (),
            hint="download or copy the weights again; if they were trained, use a checkpoint from "
            "before the training diverged.",
        )
    params: Params = flax.traverse_util.unflatten_dict(arrays)
    return params


def checkpoint_arrays(
    params: Params, config: EncoderConfig, head: str = "sequence"
) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint of the whole model, by their names in transformers.

    Args:
      params: nested dict with the subtrees `encoder` and `head`.
      config: config of the encoder.
      head: name of the head.
    """
    leaves = leaves_by_name(params)
    arrays = {
        name: to_stored(np.asarray(leaves[path]), layout)
        for name, path, layout in parameter_names(config, head)
    }
    family = FAMILIES[config.family]
    zeros = np.zeros((1, 1, config.hidden_size), np.float32)
    return arrays | {family.prefix + name: zeros for name in family.unread_names}


def parameter_names(config: EncoderConfig, head: str = "sequence") -> list[ArrayName]:
    """Return name and layout of every parameter in a checkpoint of the whole model."""
    family = FAMILIES[config.family]
    prefixed = family.encoder_names + family.heads[head].pretrained_names
    return [
        *expand(prefixed, family.prefix, config.num_layers),
        *family.heads[head].names,
    ]


def parameter_shapes(
    config: EncoderConfig, num_outputs: int, head: str = "sequence"
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its path, without creating arrays."""
    shapes = ModelSpec(config, head, num_outputs).param_shapes()
    return {path: leaf.shape for path, leaf in leaves_by_name(shapes).items()}


def pretrained_head_parts(folder: Path, config: EncoderConfig) -> dict[str, frozenset[str]]:
    """Return the parts of each head that the weight files of a folder contain (BERT's pooler)."""
    stored, parts = read_headers(folder), {}
    for head in FAMILIES[config.family].heads:
        paths = (path.split("/") for _, path, _ in _wanted(config, stored, head, outputs=0))
        parts[head] = frozenset(path[1] for path in paths if path[0] == "head")
    return parts


def weights_fingerprint(folder: Path, encoder: EncoderConfig) -> str:
    """Return a hash of the weight files in a folder and of the encoder that reads them."""
    digest = hashlib.sha256(repr(encoder).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _download(hub: str, revision: str) -> Path:
    reach(hub, "model", revision)
    try:
        return Path(
            huggingface_hub.snapshot_download(hub, revision=revision, allow_patterns=HUB_FILES)
        )
    # huggingface_hub raises an OSError for everything from refused connections to gated models.
    except (OSError, HFValidationError, EntryNotFoundError) as error:
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"the model cannot be downloaded: {first_line}",
            where=f"{hub}@{revision}",
            hint="check the id and the connection; without one, download the model elsewhere "
            "(config.json, *.safetensors and the tokenizer's files), copy the folder here and "
            "set model.path to it instead of model.hub.",
        ) from error


def _check_problem_type(folder: Path) -> None:
    path = folder / "config.json"
    problem = read_json(path, DataError).get("problem_type")
    if problem == "multi_label_classification":
        raise ConfigError(
            f"problem_type {problem!r} is not implemented: an example has one label or score",
            where=str(path),
            hint="load only the encoder of the model, with a new head.",
        )


def _wanted(
    config: EncoderConfig, stored: Collection[str], head: str, outputs: int
) -> list[ArrayName]:
    """Return the names and layouts of what the files have to hold."""
    family = FAMILIES[config.family]
    prefix = family.prefix if any(name.startswith(family.prefix) for name in stored) else ""
    wanted = list(expand(family.encoder_names, prefix, config.num_layers))
    pretrained_head = list(expand(family.heads[head].pretrained_names, prefix, config.num_layers))
    if outputs or any(name in stored for name, _, _ in pretrained_head):
        wanted += pretrained_head
    if outputs:
        wanted += family.heads[head].names
    return wanted


def _check_names(
    folder: Path, config: EncoderConfig, wanted: Sequence[str], stored: Mapping[str, Stored]
) -> None:
    extra = stored.keys() - set(wanted)
    left_out = {name for name in extra if LEFT_OUT.match(name)}
    missing = [name for name in wanted if name not in stored]
    unexpected = [stored[name].name for name in sorted(extra - left_out)]
    if missing or unexpected:
        raise names_error(folder, config, missing, unexpected, stored)
    if left_out:
        log.info("%s: not used: %s", folder, ", ".join(sorted(left_out)))


def _check_arrays(
    folder: Path,
    config: EncoderConfig,
    wanted: Sequence[ArrayName],
    shapes: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, Stored],
) -> None:
    others: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    sizes, dtypes = [], []
    for name, path, layout in wanted:
        have, want = stored[name], stored_shape(shapes[path], layout)
        if have.shape != want:
            others[path] = have.shape, want
            sizes.append(f"{name} for {path}: have {have.shape} / want {want}")
        if have.dtype not in FLOATS:
            dtypes.append(f"{name} for {path}: have {have.dtype} / want {', '.join(FLOATS)}")
    if sizes or dtypes:
        kinds = sorted({stored[name].dtype for name, _, _ in wanted} - set(FLOATS))
        clause = f"; {len(dtypes):,} array(s) are {', '.join(kinds)}" if kinds else ""
        raise CheckpointError(
            f"the weights do not fit the model{clause}{other_sizes(config, others)}",
            where=str(folder),
            details=listed("", sizes) + listed("", dtypes),
            hint="use config.json and weights of the same model, not quantised, in float32, "
            "float16 or bfloat16.",
        )
