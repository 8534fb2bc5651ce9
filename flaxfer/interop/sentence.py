"""Settings of sentence-transformers in a model's folder: what turns a text into its vector.

Every file is read whole: a setting that is not implemented is an error that names it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from flaxfer.data.json_files import read_json
from flaxfer.data.model_folder import CONFIG, MODULES, check_folder, transformer_folder
from flaxfer.errors import ConfigError, DataError
from flaxfer.interop.vector_modules import MODULE_READERS, Module
from flaxfer.models.weights import WEIGHTS

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Ways to pool the vectors of a text's tokens, by their names in sentence-transformers."""

SETTINGS = "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of a pooling's config, in the order in which several are concatenated."""

TEXT_OUTPUT = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclasses.dataclass(frozen=True)
class SentenceSettings:
    """Settings of sentence embeddings that a model folder declares.

    Attributes:
      encoder: folder of the encoder and its tokenizer.
      declared: whether there are any files of sentence-transformers.
      pooling: names of `POOLINGS`, joined by `+` if they are concatenated.
      pooled_width: width of the encoder that the pooling was made for; 0 if not declared.
      include_prompt: whether the tokens of a prompt are pooled too.
      max_length: tokens of a text; 0 if not declared.
      lower_case: whether texts are lower-cased before the tokenizer's own normalisation.
      prompts: texts that are put before every text, by name.
      default_prompt: name of the prompt that is used by default; empty for none.
      similarity: measure of similarity that the model was made for.
      modules: functions of the pooled vectors, in order.
    """

    encoder: Path
    declared: bool = False
    pooling: str = "mean"
    pooled_width: int = 0
    include_prompt: bool = True
    max_length: int = 0
    lower_case: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str = ""
    similarity: str = "cosine"
    modules: tuple[Module, ...] = ()

    def prompt(self, name: str | None) -> str:
        """Return the text of a prompt; None for the default one, which may be empty.

        Raises:
          ConfigError: there is no such prompt.
        """
        name = self.default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.prompts:
            raise ConfigError(
                f"there is no prompt {name!r}",
                where=str(self.encoder),
                hint=f"its prompts are {', '.join(map(repr, self.prompts)) or 'none'}.",
            )
        return self.prompts[name]


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """Return what a folder declares; without files of sentence-transformers, the defaults.

    Raises:
      DataError: there is no such folder, or a file is not readable.
      ConfigError: a module or setting is not implemented.
      CheckpointError: the weights of a module are missing, damaged or of another shape.
    """
    check_folder(folder)
    modules = _modules(folder)
    encoder = folder / (transformer_folder(modules) or "")
    fields: dict[str, Any] = {"encoder": encoder, "modules": (), "declared": bool(modules)}
    for number, module in enumerate(modules):
        kind, path = module["type"].rpartition(".")[2], folder / module["path"]
        if (kind == "Transformer") != (number == 0):
            _refuse(f"module {number} is {kind}, but the first one is a Transformer", folder)
        if kind == "Pooling":
            if "pooling" in fields or fields["modules"]:
                _refuse("Pooling has to be the second module, and the only one", folder)
            fields |= _pooling(path / CONFIG)
        elif kind != "Transformer":
            fields["modules"] += (MODULE_READERS[kind](path),)
    if modules and "pooling" not in fields:
        _refuse("there is no Pooling, so the model gives vectors of tokens, not of texts", folder)
    for name in TRANSFORMER_FILES:
        if (encoder / name).exists():
            fields |= _transformer(encoder / name)
            break
    if (folder / SETTINGS).exists():
        fields |= _settings(folder / SETTINGS)
    return SentenceSettings(**fields)


def write_sentence_settings(
    folder: Path,
    pooling: str,
    width: int,
    max_length: int,
    pooler: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the files with which sentence-transformers embeds texts by a folder's encoder.

    Args:
      folder: holds the encoder and its tokenizer.
      pooling: one of `POOLINGS`.
      width: of the encoder.
      max_length: tokens to which texts are cut.
      pooler: `kernel`, float32 (D, D), and `bias` of a tanh layer behind the pooling.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if pooler is not None:
        modules.append(("2_Dense", "Dense"))
    flags = {key: name == pooling for key, name in LEGACY_POOLINGS.items()}
    files: dict[str, Any] = {
        MODULES: [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
        f"1_Pooling/{CONFIG}": {"word_embedding_dimension": width, **flags},
        TRANSFORMER_FILES[0]: {"max_seq_length": max_length, "do_lower_case": False},
        SETTINGS: {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    }
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    if pooler is not None:
        activation = "torch.nn.modules.activation.Tanh"
        sizes = {"in_features": width, "out_features": width, "bias": True}
        files[f"2_Dense/{CONFIG}"] = {**sizes, "activation_function": activation}
        kernel = np.ascontiguousarray(pooler["kernel"].T)  # PyTorch has the outputs first.
        arrays = {"linear.weight": kernel, "linear.bias": pooler["bias"]}
        save_file(arrays, folder / "2_Dense" / WEIGHTS, metadata={"format": "pt"})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _modules(folder: Path) -> list[dict[str, str]]:
    """Return type and path of the modules, from modules.json or the names of folders."""
    file = folder / MODULES
    if not file.exists():
        folders = [path.name for path in folder.glob("[0-9]_[A-Z]*") if path.is_dir()]
        inner = [{"type": name.partition("_")[2], "path": name} for name in sorted(folders)]
        first = {"type": "Transformer", "path": ""}
        modules = [first, *inner] if inner and inner[0]["type"] != "Transformer" else inner
    else:
        modules = _module_list(file)
    supported = ("Transformer", "Pooling", *MODULE_READERS)
    for module in modules:
        package, _, kind = module["type"].rpartition(".")
        if kind not in supported or (package and package.split(".")[0] != "sentence_transformers"):
            _refuse(f"the module {module['type']!r} is not implemented", file)
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            _refuse(f"the path {module['path']!r} leads out of the folder", file)
    return modules


def _module_list(file: Path) -> list[dict[str, str]]:
    """Return the modules of modules.json, which holds a list."""
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"the file cannot be read as JSON: {error}",
            where=str(file),
            hint="download or copy it again from where the model is published.",
        ) from error
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and isinstance(module.get(key), str)
        for module in modules
        for key in ("type", "path")
    ):
        _refuse("it does not list modules with a type and a path", file)
    for module in modules:
        if module.get("kwargs"):
            _refuse(f"the kwargs {module['kwargs']!r:.80} of a module are not implemented", file)
    return modules


def _pooling(file: Path) -> dict[str, Any]:
    """Return the fields that the config of a Pooling declares."""
    settings = read_json(file, DataError)
    modes = settings.pop("pooling_mode", None)
    flags = {key: settings.pop(key) for key in LEGACY_POOLINGS if key in settings}
    widths = [settings.pop(f"{kind}_dimension", None) for kind in ("word_embedding", "embedding")]
    include = settings.pop("include_prompt", True)
    _refuse_rest(settings, file)
    if modes is None:
        modes = [mode for key, mode in LEGACY_POOLINGS.items() if flags.get(key)]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        _refuse(f"the pooling {modes!r:.80} is none of {', '.join(POOLINGS)}", file)
    width = next((width for width in widths if width), 0)
    if type(width) is not int or type(include) is not bool:
        _refuse("embedding_dimension has to be an integer, include_prompt true or false", file)
    return {"pooling": "+".join(modes), "pooled_width": width, "include_prompt": include}


def _transformer(file: Path) -> dict[str, Any]:
    """Return the fields that sentence_bert_config.json declares."""
    settings = read_json(file, DataError)
    length = settings.pop("max_seq_length", None)
    lower = settings.pop("do_lower_case", False)
    if length is not None and (type(length) is not int or length < 1):
        _refuse(f"max_seq_length has to be a positive integer, not {length!r:.80}", file)
    if type(lower) is not bool:
        _refuse(f"do_lower_case has to be true or false, not {lower!r:.80}", file)
    neutral = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": TEXT_OUTPUT},
    }
    for key, value in neutral.items():
        if settings.get(key) == value:
            del settings[key]
    settings.pop("unpad_inputs", None)
    _refuse_rest(settings, file)
    return {"max_length": length or 0, "lower_case": lower, "declared": True}


def _settings(file: Path) -> dict[str, Any]:
    """Return the fields that config_sentence_transformers.json declares."""
    settings = read_json(file, DataError)
    settings.pop("__version__", None)
    if (kind := settings.pop("model_type", "SentenceTransformer")) != "SentenceTransformer":
        _refuse(f"model_type {kind!r:.80} is not implemented", file)
    prompts = settings.pop("prompts", None) or {}
    default = settings.pop("default_prompt_name", None) or ""
    similarity = settings.pop("similarity_fn_name", None) or "cosine"
    _refuse_rest(settings, file)
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        _refuse(f"prompts has to map names to texts, not {prompts!r:.80}", file)
    if default and default not in prompts:
        _refuse(f"default_prompt_name {default!r:.80} is none of the prompts", file)
    if similarity not in ("cosine", "dot", "euclidean", "manhattan"):
        _refuse(f"similarity_fn_name {similarity!r:.80} is not known", file)
    return {
        "prompts": {name: prompt or "" for name, prompt in prompts.items()},
        "default_prompt": default,
        "similarity": similarity,
        "declared": True,
    }


def _refuse_rest(settings: Mapping[str, Any], file: Path) -> None:
    """Raise an error for settings that are left, unless they are empty."""
    if rest := [key for key, value in settings.items() if value not in (None, False, {}, [], "")]:
        _refuse(f"these settings are not implemented: {', '.join(sorted(rest))}", file)


def _refuse(what: str, where: Path) -> Any:
    raise ConfigError(
        what,
        where=str(where),
        hint="--plain reads none of the files of sentence-transformers; --pooling, --prefix and "
        "--max-length then say how to embed.",
    )
