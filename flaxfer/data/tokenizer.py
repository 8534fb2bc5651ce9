"""The tokenizer of a model, checked against the model."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flaxfer.config import Model
from flaxfer.data.families import FAMILIES, Family
from flaxfer.errors import DataError
from flaxfer.runtime.host import install_hint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

SENTENCEPIECE = ("sentencepiece", "google.protobuf")
"""Packages that transformers needs to read SentencePiece models."""


def load_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model in a local folder, with the limits of the model.

    `model_max_length` is the maximum length of the model, and `model_input_names` contains
    `token_type_ids` if and only if the family has token types, and the model more than one.

    Raises:
      DataError: If files are missing, or the tokenizer does not fit the model.
    """
    # Else transformers prints at import that PyTorch is absent, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    assert model.path
    raw = _read_config(Path(model.path).expanduser())
    family = FAMILIES.get(raw.get("model_type", ""))
    if family is None:
        raise DataError(
            f"models of type {raw.get('model_type')!r} are not supported",
            where=model.path,
            hint=f"choose one of type {', '.join(FAMILIES)}.",
        )
    where = model.tokenizer or model.path
    folder = Path(where).expanduser()
    _check_files(folder)
    try:
        config = transformers.AutoConfig.for_model(**raw)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True
        )
    # The libraries below raise a dozen types, some of them bare `Exception`.
    except Exception as error:
        raise DataError(
            f"the tokenizer cannot be loaded: {type(error).__name__}: {error}",
            where=where,
            hint="put a tokenizer.json there (`tokenizer.save_pretrained` of transformers writes "
            "one), or set model.tokenizer to a folder that has one; a SentencePiece model alone "
            f"takes `{install_hint('sentencepiece')}`.",
        ) from error
    if not tokenizer.is_fast:
        raise DataError(
            "the tokenizer has no fast form", where=where, hint="put a tokenizer.json there."
        )
    _check_fit(tokenizer, family, config, where, model.path)
    if family.positions != "relative":
        taken = config.pad_token_id + 1 if family.positions == "after_padding" else 0
        longest = config.max_position_embeddings - taken
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    typed = family.token_types and getattr(config, "type_vocab_size", 2) > 1
    tokenizer.model_input_names = names + ["token_type_ids"] * typed
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


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 of everything that token ids depend on, as hexadecimal digits."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Settings of the last call; each call has its own.
    state["truncation"] = state["padding"] = None
    state["token_types"] = "token_type_ids" in tokenizer.model_input_names
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"is no JSON object that can be read: {error}",
            where=str(path.absolute()),
            hint="set model.path to a folder with config.json, *.safetensors and the tokenizer.",
        ) from error


def _check_files(folder: Path) -> None:
    """Raise an error for missing files that transformers would replace with guesses."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    pieces = there & {"spiece.model", "sentencepiece.bpe.model"}
    if not folder.is_dir():
        what = "there is no such folder"
        hint = "set model.path or model.tokenizer to a folder that holds a tokenizer.json."
    elif "tokenizer.json" in there:
        return
    elif not pieces and not there & {"vocab.txt", "vocab.json"}:
        what = "the folder holds no tokenizer: tokenizer.json is missing"
        hint = "copy tokenizer.json and tokenizer_config.json of the model there."
    elif "vocab.txt" in there and "tokenizer_config.json" not in there:
        what = "tokenizer_config.json is missing: vocab.txt does not say whether to lowercase"
        hint = (
            'write one, such as {"tokenizer_class": "BertTokenizer", "do_lower_case": false} '
            "for a cased model, or put the model's tokenizer.json there."
        )
    # Without these, transformers reads the file as one of another format, and says so.
    elif pieces and (missing := [name for name in SENTENCEPIECE if not _installed(name)]):
        what = f"reading {min(pieces)} takes packages that are not installed: {', '.join(missing)}"
        hint = f"run `{install_hint('sentencepiece')}`, or put the model's tokenizer.json there."
    else:
        return
    raise DataError(what, where=str(folder.absolute()), hint=hint)


def _installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def _check_fit(
    tokenizer: PreTrainedTokenizerFast,
    family: Family,
    config: PretrainedConfig,
    where: str,
    model: str,
) -> None:
    vocabulary = tokenizer.get_vocab()
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= config.vocab_size:
        raise DataError(
            f"the tokenizer's largest id is {largest} ({token!r}), but the embedding table of "
            f"{model} has {config.vocab_size} rows",
            where=where,
            hint="use the tokenizer that belongs to the model: set model.tokenizer, or leave it "
            "empty for the model's own.",
        )
    if tokenizer.pad_token_id is None or tokenizer.cls_token_id is None:
        raise DataError(
            "the tokenizer names no padding or no CLS token",
            where=where,
            hint="set pad_token and cls_token in tokenizer_config.json.",
        )
    if cls_is_last(tokenizer) != family.cls_last:
        place = "last" if family.cls_last else "first"
        raise DataError(
            f"models of type {config.model_type} need {tokenizer.cls_token!r} to come {place}, "
            "and this tokenizer does not put it there",
            where=where,
            hint="use the tokenizer that belongs to the model.",
        )
