"""The files of a tokenizer in a Hugging Face folder, read and checked field by field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxfer.data.json_files import read_json
from flaxfer.errors import DataError

BACKEND = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"

ROLES = tuple(f"{role}_token" for role in ("pad", "unk", "cls", "sep", "mask", "bos", "eos"))
"""Keys of special tokens."""

LISTS = ("additional_special_tokens", "extra_special_tokens")
"""Keys of special tokens without a role."""

FLAGS = (
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "keep_accents",
    "remove_space",
    "split_special_tokens",
)
"""Keys of settings that are true, false or null."""

SKELETON: Mapping[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}
"""A tokenizer.json that can be read, which shows which field of another one cannot."""


@dataclasses.dataclass(frozen=True)
class Files:
    """The JSON files of a tokenizer; {} for those that are missing.

    Attributes:
      folder: Their folder.
      backend: tokenizer.json.
      config: tokenizer_config.json.
      special: special_tokens_map.json.
      added: added_tokens.json.
      padding: Padding that tokenizer.json asks for; None for none.
    """

    folder: Path
    backend: dict[str, Any]
    config: dict[str, Any]
    special: dict[str, Any]
    added: dict[str, int]
    padding: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Files:
        """Read the files of a folder.

        Raises:
          DataError: If one is damaged; names the file and its fields.
        """
        backend = _read(folder / BACKEND, _backend_problems)
        return cls(
            folder,
            backend,
            _read(folder / CONFIG, _config_problems),
            _read(folder / SPECIAL, _special_problems),
            _read(folder / ADDED, _added_problems),
            backend.get("padding"),
        )

    def path(self, name: str) -> str:
        """Return the path of one of the files."""
        return str((self.folder / name).absolute())

    @property
    def source(self) -> str:
        """Name of the file that holds the vocabulary."""
        return BACKEND if self.backend else "the vocabulary"

    @property
    def class_name(self) -> str:
        """Name of the tokenizer's class in transformers, without `Fast`; empty if none is named."""
        name = self.config.get("tokenizer_class") or ""
        return str(name).removesuffix("Fast")

    def roles(self) -> dict[str, tuple[str, str]]:
        """Return the special tokens by role, and the file that names each.

        Raises:
          DataError: If two files name different tokens.
        """
        found: dict[str, tuple[str, str]] = {}
        for name, settings in ((CONFIG, self.config), (SPECIAL, self.special)):
            for role in ROLES:
                token = content(settings.get(role))
                if token is None:
                    continue
                other, source = found.setdefault(role, (token, name))
                if other != token:
                    raise DataError(
                        f"{role} is {other!r} in {source} and {token!r} in {name}",
                        where=str(self.folder.absolute()),
                        hint=f"correct {role} in the file that is wrong.",
                    )
        return found

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """Yield the special tokens without a role: file, key and token."""
        for name, settings in ((CONFIG, self.config), (SPECIAL, self.special)):
            for key in LISTS:
                value = settings.get(key) or ()
                for item in value.values() if isinstance(value, dict) else value:
                    yield name, key, str(content(item))

    def added_ids(self) -> Iterator[tuple[str, str, int]]:
        """Yield the added tokens: file, token and id."""
        for token in self.backend.get("added_tokens", ()):
            yield BACKEND, token["content"], token["id"]
        for token, number in self.added.items():
            yield ADDED, token, number
        for key, value in (self.config.get("added_tokens_decoder") or {}).items():
            yield CONFIG, value["content"], int(key)


def content(token: Any) -> str | None:
    """Return the text of a special token, which is a string or an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read(path: Path, problems: Callable[[dict[str, Any]], Iterator[str]]) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path, DataError)
    if found := list(problems(value)):
        raise DataError(
            f"{found[0]}" if len(found) == 1 else f"{len(found)} fields are wrong",
            where=str(path.absolute()),
            hint="correct the field, or copy the file again from where the model is published.",
            details=found if len(found) > 1 else (),
        )
    return value


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _backend_problems(value: dict[str, Any]) -> Iterator[str]:
    model = value.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        yield "model: is no object with a vocab"
    added = value.setdefault("added_tokens", [])
    if not isinstance(added, list):
        yield f"added_tokens: is {_brief(added)}, not a list"
        return
    for i, token in enumerate(added):
        number = token.get("id") if isinstance(token, dict) else None
        if content(token) is None or not isinstance(number, int) or number < 0:
            yield f"added_tokens[{i}]: is {_brief(token)}, not a token with content and id"


def _config_problems(value: dict[str, Any]) -> Iterator[str]:
    yield from _special_problems(value)
    name = value.get("tokenizer_class")
    if not isinstance(name, str | None):
        yield f"tokenizer_class: is {_brief(name)}, not a name"
    longest = value.get("model_max_length")
    if longest is not None and (
        isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1
    ):
        yield f"model_max_length: is {_brief(longest)}, not a number of tokens"
    for key in FLAGS:
        if not isinstance(value.get(key), bool | None):
            yield f"{key}: is {_brief(value[key])}, not true or false"
    for key in ("padding_side", "truncation_side"):
        if value.get(key) not in (None, "left", "right"):
            yield f"{key}: is {_brief(value[key])}, not left or right"
    decoder = value.get("added_tokens_decoder")
    if not isinstance(decoder, dict | None):
        yield f"added_tokens_decoder: is {_brief(decoder)}, not an object"
        return
    for key, token in (decoder or {}).items():
        if not key.isdecimal() or not isinstance(token, dict) or content(token) is None:
            yield f"added_tokens_decoder[{key!r}]: is {_brief(token)}, not a token of an id"


def _special_problems(value: dict[str, Any]) -> Iterator[str]:
    for key in ROLES:
        if value.get(key) is not None and not content(value[key]):
            yield f"{key}: is {_brief(value[key])}, not a token"
    for key in LISTS:
        tokens = value.get(key)
        if not isinstance(tokens, list | dict | None):
            yield f"{key}: is {_brief(tokens)}, not a list of tokens"
            continue
        for token in tokens.values() if isinstance(tokens, dict) else tokens or ():
            if not content(token):
                yield f"{key}: holds {_brief(token)}, not a token"


def _added_problems(value: dict[str, Any]) -> Iterator[str]:
    for token, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            yield f"{token!r}: is {_brief(number)}, not an id"
