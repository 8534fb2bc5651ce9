"""Examples to token ids, cached on disk. Nothing is padded here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxfer.data.examples import Examples
from flaxfer.data.tokenizer import load_tokenizer, summary_is_last, tokenizer_fingerprint
from flaxfer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Tokenized", "load_tokenizer", "tokenize", "tokenizer_fingerprint"]

logger = logging.getLogger("flaxfer.data")

FORMAT = 1
"""Of the cached files; a file of another number is not read."""

CHUNK = 4096
"""Examples handed to the tokenizer at a time: bounds memory, and lets a signal through."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenized:
    """Token ids of a data set, laid end to end.

    Attributes:
      token: (tokens,) int32, special tokens included.
      type: (tokens,) uint8, token types; zeros where the family has none.
      offset: (n + 1,) int64; example i is `token[offset[i]:offset[i + 1]]`.
      summary: (n,) int32, position of the summary token within its example.
      label: (n,) int32 class index, or float32 score.
      id, language, domain: n each.
      truncated: number of examples that were cut to the largest length.
      fingerprint: of examples, tokenizer and settings; also the name in the cache.
    """

    token: np.ndarray
    type: np.ndarray
    offset: np.ndarray
    summary: np.ndarray
    label: np.ndarray
    id: tuple[str, ...]
    language: tuple[str, ...]
    domain: tuple[str, ...]
    truncated: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int32, tokens of each example."""
        return np.diff(self.offset).astype(np.int32)


def tokenize(
    examples: Examples,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    cache_dir: Path | None,
) -> Tokenized:
    """Turns texts into token ids; of a pair too long, the longer text loses tokens first.

    Args:
      examples: single texts or pairs.
      tokenizer: from `load_tokenizer`.
      max_length: most tokens of an example, special tokens included.
      cache_dir: where results are kept; None for nowhere.

    Raises:
      ConfigError: the model takes fewer tokens than `max_length`, or no text fits in it.
      DataError: the tokenizer puts the summary token neither first nor last.
    """
    limit = tokenizer.model_max_length
    if max_length > limit:
        raise ConfigError(
            f"max_length {max_length} is more than the model's {limit}",
            mend=f"set train.max_length to at most {limit}.",
        )
    special = tokenizer.num_special_tokens_to_add(pair=examples.text_b is not None)
    if max_length <= special:
        raise ConfigError(
            f"max_length {max_length} leaves no room beside {special} special tokens",
            mend=f"set train.max_length to at least {special + 1}.",
        )
    settings = (FORMAT, examples.fingerprint, tokenizer_fingerprint(tokenizer), max_length)
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    path = None if cache_dir is None else Path(cache_dir) / f"tokens-{fingerprint}.npz"
    arrays = None if path is None else _read_cache(path, len(examples))
    if arrays is None:
        arrays = _encode(examples, tokenizer, max_length)
        if path is not None:
            _write_cache(path, arrays)
    truncated = int(arrays["truncated"])
    logger.info(
        "%d examples, %d tokens, %d of them unknown; %d examples cut to %d tokens",
        len(examples),
        len(arrays["token"]),
        int(arrays["unknown"]),
        truncated,
        max_length,
    )
    return Tokenized(
        token=arrays["token"],
        type=arrays["type"],
        offset=arrays["offset"],
        summary=arrays["summary"],
        label=examples.label,
        id=examples.id,
        language=examples.language,
        domain=examples.domain,
        truncated=truncated,
        fingerprint=fingerprint,
    )


def _encode(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> dict[str, np.ndarray]:
    token: list[np.ndarray] = []
    kind: list[np.ndarray] = []
    truncated = 0
    for start in range(0, len(examples), CHUNK):
        part = slice(start, start + CHUNK)
        encoded = tokenizer(
            list(examples.text_a[part]),
            None if examples.text_b is None else list(examples.text_b[part]),
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        token += [np.array(ids, np.int32) for ids in encoded["input_ids"]]
        kind += [np.array(ids, np.uint8) for ids in encoded["token_type_ids"]]
        truncated += sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    lengths = np.array([len(ids) for ids in token], np.int32)
    types = np.concatenate(kind)
    return {
        "token": np.concatenate(token),
        "type": types if "token_type_ids" in tokenizer.model_input_names else np.zeros_like(types),
        "offset": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        "summary": lengths - 1 if summary_is_last(tokenizer) else np.zeros_like(lengths),
        "truncated": np.array(truncated, np.int64),
        "unknown": np.array(sum(np.sum(t == tokenizer.unk_token_id) for t in token), np.int64),
    }


DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What a damaged archive makes numpy and zipfile raise."""

_DTYPES = {
    "token": np.int32,
    "type": np.uint8,
    "offset": np.int64,
    "summary": np.int32,
    "truncated": np.int64,
    "unknown": np.int64,
}


def _read_cache(path: Path, size: int) -> dict[str, np.ndarray] | None:
    """The arrays of a cached file, or None where there is none that can be used."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _DTYPES}  # Reading checks the CRC of each.
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        logger.warning("%s is damaged and is made again: %s", path, error)
        return None
    whole = (
        all(arrays[name].dtype == dtype for name, dtype in _DTYPES.items())
        and arrays["offset"].shape == (size + 1,)
        and arrays["summary"].shape == (size,)
        and arrays["token"].shape == arrays["type"].shape == (arrays["offset"][-1],)
    )
    if not whole:
        logger.warning("%s is damaged and is made again: its arrays do not fit together", path)
        return None
    logger.info("%s is read instead of tokenising", path)
    return arrays


def _write_cache(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a cached file at once, whatever else writes it too; a failure costs only time."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        logger.warning("tokens cannot be kept in %s: %s", path, error)
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
