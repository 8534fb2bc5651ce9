"""The tokenizer of a model, checked against the model."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tokenizers

from flaxfer.config import Model
from flaxfer.data import tokenizer_backend, xlnet_pieces
from flaxfer.data.families import FAMILIES
from flaxfer.data.model_folder import read_config
from flaxfer.data.tokenizer_check import check_files, check_ids
from flaxfer.data.tokenizer_files import ROLES, Files
from flaxfer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEPT = ("padding_side", "truncation_side", "clean_up_tokenization_spaces")
"""Settings of tokenizer_config.json that are for transformers' calls, not for the tokenizer."""


def load_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model in a local folder, with the limits of the model.

    A tokenizer.json is obeyed to the letter; without one, vocabulary files are converted by the
    class that tokenizer_config.json names. XLNet's own rules are restored in either case, see
    `flaxfer.data.xlnet_pieces`. All files of the folder, and config.json, must agree.

    `model_max_length` is the maximum length of the model, and `model_input_names` contains
    `token_type_ids` if and only if the family has token types, and the model more than one.
    `unplaced_id` is the id of the token that takes no position, or -1, see `Family.positions`.

    Raises:
      DataError: If files are missing or damaged, or the tokenizer does not fit the model.
      CheckpointError, ConfigError: As `read_config`.
    """
    assert model.path
    # Else transformers prints at import that PyTorch is absent, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    config = _read_config(Path(model.path).expanduser())
    family = FAMILIES[config["model_type"]]
    where = model.tokenizer or model.path
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(folder.absolute()),
            hint="set model.path or model.tokenizer to a folder that holds a tokenizer.json.",
        )
    files = Files.read(folder)
    declared = "" if model.tokenizer else str(config.get("tokenizer_class") or "")
    backend, tokens = tokenizer_backend.build(files, family, declared, _converted)
    check_files(backend, files, family)
    tokenizer = _wrapped(backend, tokens, files)
    _check_summary(tokenizer, tokens, config["model_type"], where)
    check_ids(backend, tokens, config, where, model.path)
    after_padding = family.positions == "after_padding"
    tokenizer.unplaced_id = config["pad_token_id"] if after_padding else -1
    if family.positions != "relative":
        longest = config["max_position_embeddings"] - (tokenizer.unplaced_id + 1)
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    if family.cls_last:  # The last token of a padded row is still the CLS token.
        tokenizer.padding_side = "left"
    typed = family.token_types and config["type_vocab_size"] > 1
    tokenizer.model_input_names = ["input_ids", "attention_mask"] + ["token_type_ids"] * typed
    return cast("PreTrainedTokenizerFast", tokenizer)


def cls_is_last(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether the tokenizer puts the CLS token last instead of first.

    Raises:
      DataError: If it is neither first nor last.
    """
    probe = tokenizer("a")["input_ids"]
    places = [i for i, token in enumerate(probe) if token == tokenizer.cls_token_id]
    if places not in ([0], [len(probe) - 1]):
        raise DataError(
            f"the tokenizer puts {tokenizer.cls_token!r} neither first nor last",
            where=str(tokenizer.name_or_path),
            hint="use the tokenizer that belongs to the model, with its post-processor.",
        )
    return places != [0]


def backend_state(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the state of a tokenizer as in tokenizer.json."""
    backend = tokenizer.backend_tokenizer
    if xlnet_pieces.is_own(backend):
        return xlnet_pieces.serialised(backend)
    state: dict[str, Any] = json.loads(backend.to_str())
    return state


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 of everything that token ids depend on, as hexadecimal digits."""
    state = backend_state(tokenizer)
    # Settings of the last call; each call has its own.
    state["truncation"] = state["padding"] = None
    state["token_types"] = "token_type_ids" in tokenizer.model_input_names
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _converted(folder: Path, name: str) -> tokenizer_backend.Built:
    """Return what a class of transformers makes of the vocabulary files in a folder."""
    import transformers

    tokenizer: Any = getattr(transformers, name).from_pretrained(folder, local_files_only=True)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend, {
        role: str(token) for role in ROLES if (token := getattr(tokenizer, role, None))
    }


def _wrapped(backend: tokenizers.Tokenizer, tokens: dict[str, str], files: Files) -> Any:
    """Return transformers' tokenizer around one of the `tokenizers` library."""
    import transformers

    config = {key: files.config[key] for key in KEPT if files.config.get(key) is not None}
    if files.config.get("model_max_length") is not None:
        config["model_max_length"] = int(files.config["model_max_length"])
    # transformers copies the tokenizer that it is given, adds special tokens to it and may change
    # its parts. So it gets another one, and names for special tokens that exist already.
    empty = tokenizers.Tokenizer(tokenizers.models.WordLevel())
    tokenizer: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=empty, name_or_path=str(files.folder), **config
    )
    tokenizer._tokenizer = backend
    for role, token in tokens.items():
        setattr(tokenizer, role, token)
    return tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    """Return config.json with the settings that a tokenizer must fit, by default the family's."""
    import transformers

    config = dict(read_config(folder))
    kind = config["model_type"]
    usual = transformers.AutoConfig.for_model(kind)
    least = {"vocab_size": 1, "max_position_embeddings": 1, "type_vocab_size": 0, "pad_token_id": 0}
    problems = []
    for key, smallest in least.items():
        value = config.get(key)
        if value is None:
            padding = FAMILIES[kind].pad_token_id
            config[key] = padding if key == "pad_token_id" else getattr(usual, key, 2)
        elif type(value) is not int or value < smallest:
            problems.append(f"{key}: is {value!r}, not a whole number from {smallest} on")
    if problems:
        raise DataError(
            problems[0] if len(problems) == 1 else f"{len(problems)} settings are wrong",
            where=str((folder / "config.json").absolute()),
            hint="correct them, or copy the file again from where the model is published.",
            details=problems if len(problems) > 1 else (),
        )
    return config


def _check_summary(tokenizer: Any, tokens: dict[str, str], kind: str, where: str) -> None:
    """Raise an error if there is no CLS token where the family has it."""
    family = FAMILIES[kind]
    if not tokens.keys() >= {"pad_token", "cls_token"}:
        raise DataError(
            "the tokenizer names no padding or no CLS token",
            where=where,
            hint="set pad_token and cls_token in tokenizer_config.json.",
        )
    if cls_is_last(tokenizer) != family.cls_last:
        place = "last" if family.cls_last else "first"
        raise DataError(
            f"models of type {kind} need {tokenizer.cls_token!r} to come {place}, "
            "and this tokenizer does not put it there",
            where=where,
            hint="use the tokenizer that belongs to the model.",
        )
