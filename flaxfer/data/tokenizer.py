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
from flaxfer.runtime.hub import reach

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast


SENTENCEPIECE_FILES = {"spiece.model", "sentencepiece.bpe.model"}


def load_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model, with the limits of the model.

    `model_max_length` is the maximum length of the model, and `model_input_names` contains
    `token_type_ids` if and only if the family has token types, and the model more than one.

    Raises:
      DataError: If files are missing, or the tokenizer does not fit the model.
    """
    # Else transformers prints at import that PyTorch is absent, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    raw = _read_config(model)
    family = FAMILIES.get(raw.get("model_type", ""))
    name = model.path or model.hub
    where = model.tokenizer or name
    if family is None:
        raise DataError(
            f"models of type {raw.get('model_type')!r} are not supported",
            where=name,
            hint=f"choose one of type {', '.join(FAMILIES)}.",
        )
    local = bool(model.tokenizer or model.path)
    if local:
        _check_files(Path(where).expanduser())
    try:
        config = transformers.AutoConfig.for_model(**raw)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            Path(where).expanduser() if local else where,
            config=config,
            local_files_only=local,
            **({} if local else {"revision": model.revision}),
        )
    # The libraries below raise a dozen types, some of them bare `Exception`.
    except Exception as error:
        raise DataError(
            f"the tokenizer cannot be loaded: {type(error).__name__}: {error}",
            where=where,
            hint="put a tokenizer.json there (`tokenizer.save_pretrained` of transformers writes "
            "one), or set model.tokenizer to a folder that has one; a SentencePiece model alone "
            "takes `pip install 'flaxfer[sentencepiece]'`.",
        ) from error
    if not tokenizer.is_fast:
        raise DataError(
            "the tokenizer has no fast form", where=where, hint="put a tokenizer.json there."
        )
    _check_fit(tokenizer, family, config, where, name)
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


def _read_config(model: Model) -> dict[str, Any]:
    if model.hub:
        from huggingface_hub import hf_hub_download

        reach(model.hub, "model", model.revision)
        try:
            path = Path(hf_hub_download(model.hub, "config.json", revision=model.revision))
        # The hub client and its network library raise types of their own; all mean the same here.
        except Exception as error:
            raise DataError(
                f"config.json cannot be fetched from the hub: {type(error).__name__}: {error}",
                where=model.hub,
                hint="check model.hub, model.revision and the network, or download the model and "
                "set model.path instead.",
            ) from error
    else:
        path = Path(model.path).expanduser() / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}",
            where=str(path.absolute()),
            hint="set model.path to a folder with config.json, *.safetensors and the tokenizer.",
        ) from error
    except ValueError as error:
        raise DataError(f"is no JSON: {error}", where=str(path.absolute())) from error
    if not isinstance(config, dict):
        raise DataError("is no JSON object", where=str(path.absolute()))
    return config


def _check_files(folder: Path) -> None:
    """Raise an error for missing files that transformers would replace with guesses."""
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(folder.absolute()),
            hint="set model.path or model.tokenizer to a folder that holds a tokenizer.json.",
        )
    there = {path.name for path in folder.iterdir()}
    if "tokenizer.json" in there:
        return
    if not there & ({"vocab.txt", "vocab.json"} | SENTENCEPIECE_FILES):
        raise DataError(
            "the folder holds no tokenizer: tokenizer.json is missing",
            where=str(folder.absolute()),
            hint="copy tokenizer.json and tokenizer_config.json of the model there.",
        )
    if "vocab.txt" in there and "tokenizer_config.json" not in there:
        raise DataError(
            "tokenizer_config.json is missing: vocab.txt does not say whether to lowercase",
            where=str(folder.absolute()),
            hint='write one, such as {"tokenizer_class": "BertTokenizer", "do_lower_case": false} '
            "for a cased model, or put the model's tokenizer.json there.",
        )
    # Without these, transformers reads the file as one of another format, and says so.
    missing = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
    if there & SENTENCEPIECE_FILES and missing:
        raise DataError(
            f"reading {min(there & SENTENCEPIECE_FILES)} takes packages that are not installed: "
            f"{', '.join(missing)}",
            where=str(folder.absolute()),
            hint="pip install 'flaxfer[sentencepiece]', or put the model's tokenizer.json there.",
        )


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
