"""The tokenizer of a model, checked against the model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tokenizers

from flaxfer.config import Model
from flaxfer.data import tokenizer_backend, xlnet_pieces
from flaxfer.data.families import FAMILIES, Family
from flaxfer.data.model_folder import read_config
from flaxfer.data.tokenizer_check import check_files, check_ids
from flaxfer.data.tokenizer_files import ROLES, Files
from flaxfer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEPT = ("padding_side", "truncation_side", "clean_up_tokenization_spaces")
"""Settings of tokenizer_config.json that are for transformers' calls, not for the tokenizer."""

UNLIMITED = int(1e30)
"""Maximum length where there is none, as in transformers."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """The tokenizer of a model in the `tokenizers` library, checked against the model.

    Attributes:
      tokenizer: The tokenizer.
      tokens: Its special tokens by role.
      files: Its files.
      config: config.json of the model, with the family's defaults.
    """

    tokenizer: tokenizers.Tokenizer
    tokens: dict[str, str]
    files: Files
    config: dict[str, Any]

    @property
    def family(self) -> Family:
        """Family of the model."""
        return FAMILIES[self.config["model_type"]]

    @property
    def unplaced_id(self) -> int:
        """Id of the token that takes no position, or -1, see `Family.positions`."""
        return self.config["pad_token_id"] if self.family.positions == "after_padding" else -1

    @property
    def max_length(self) -> int:
        """Maximum length of a sequence; a huge number if there is none."""
        declared = self.files.config.get("model_max_length")
        limit = UNLIMITED if declared is None else int(declared)
        if self.family.positions == "relative":
            return limit
        return min(limit, self.config["max_position_embeddings"] - (self.unplaced_id + 1))


def load_backend(model: Model) -> Backend:
    """Load the tokenizer of a model in a local folder without transformers, if it can be.

    A tokenizer.json is obeyed to the letter; without one, vocabulary files are converted by the
    class of transformers that tokenizer_config.json names. XLNet's own rules are restored in either
    case, see `flaxfer.data.xlnet_pieces`. All files of the folder, and config.json, must agree.

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
    _check_summary(backend, tokens, config["model_type"], where)
    check_ids(backend, tokens, config, where, model.path)
    return Backend(backend, tokens, files, config)


def load_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model in a local folder for transformers, see `load_backend`.

    `model_max_length` is the maximum length of the model, and `model_input_names` contains
    `token_type_ids` if and only if the family has token types, and the model more than one.
    `unplaced_id` is that of the backend.

    Raises:
      DataError, CheckpointError, ConfigError: As `load_backend`.
    """
    backend = load_backend(model)
    tokenizer = _wrapped(backend.tokenizer, backend.tokens, backend.files)
    tokenizer.unplaced_id, tokenizer.model_max_length = backend.unplaced_id, backend.max_length
    if backend.family.cls_last:  # The last token of a padded row is still the CLS token.
        tokenizer.padding_side = "left"
    typed = backend.family.token_types and backend.config["type_vocab_size"] > 1
    tokenizer.model_input_names = ["input_ids", "attention_mask"] + ["token_type_ids"] * typed
    return cast("PreTrainedTokenizerFast", tokenizer)


def cls_is_last(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether the tokenizer puts the CLS token last instead of first.

    Raises:
      DataError: If it is neither first nor last.
    """
    probe, cls = tokenizer("a")["input_ids"], tokenizer.cls_token_id
    return _is_last(probe, cls, tokenizer.cls_token, str(tokenizer.name_or_path))


def _is_last(probe: Sequence[int], cls: int | None, name: str, where: str) -> bool:
    places = [i for i, token in enumerate(probe) if token == cls]
    if places not in ([0], [len(probe) - 1]):
        raise DataError(
            f"the tokenizer puts {name!r} neither first nor last",
            where=where,
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
    config = dict(read_config(folder))
    kind = config["model_type"]
    least = {"vocab_size": 1, "max_position_embeddings": 1, "type_vocab_size": 0, "pad_token_id": 0}
    problems = []
    for key, smallest in least.items():
        value = config.get(key)
        if value is None:
            padding = FAMILIES[kind].pad_token_id
            config[key] = padding if key == "pad_token_id" else _usual(kind, key)
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


def _usual(kind: str, key: str) -> Any:
    """Return the default of a setting of config.json; 2 if the class has none."""
    import transformers

    return getattr(transformers.AutoConfig.for_model(kind), key, 2)


def _check_summary(
    backend: tokenizers.Tokenizer, tokens: dict[str, str], kind: str, where: str
) -> None:
    """Raise an error if there is no CLS token where the family has it."""
    family = FAMILIES[kind]
    if not tokens.keys() >= {"pad_token", "cls_token"}:
        raise DataError(
            "the tokenizer names no padding or no CLS token",
            where=where,
            hint="set pad_token and cls_token in tokenizer_config.json.",
        )
    cls = tokens["cls_token"]
    probe = backend.encode("a").ids
    if _is_last(probe, backend.token_to_id(cls), cls, where) != family.cls_last:
        place = "last" if family.cls_last else "first"
        raise DataError(
            f"models of type {kind} need {cls!r} to come {place}, "
            "and this tokenizer does not put it there",
            where=where,
            hint="use the tokenizer that belongs to the model.",
        )
