"""Tokenisation of examples, cached on disk, without padding."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.data.examples import Examples
from flaxfer.data.task_types import TaskType
from flaxfer.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from flaxfer.errors import ConfigError
from flaxfer.runtime.files import temporary_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Tokenized", "load_tokenizer", "tokenize", "tokenizer_fingerprint"]

logger = logging.getLogger("flaxfer.data")

FORMAT = 4
"""Version of the cached files; part of their names."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenized:
    """Token ids of a data set of n examples: s concatenated sequences.

    Attributes:
      token: (tokens,) int32, special tokens included.
      type: (tokens,) uint8, token types; zeros if the family has none.
      offset: (s + 1,) int64; sequence i is `token[offset[i]:offset[i + 1]]`.
      cls: (s,) int32, position of the CLS token within its sequence.
      label: Classification: (n,) int32 class. Regression: (n,) float32 score. Multiple choice:
        (n,) int32, the correct choice; sequence `i * choices + c` has choice c of example i.
        Tagging: (tokens,) int32, the tag at the first token of a word, -1 elsewhere. Question
        answering: (s, 2) int32, first and last token of the answer within the sequence, or twice
        the CLS token if the sequence does not contain the answer. Retrieval: (s, P) int32, the
        numbers of the right passages of a query, or of the passage itself; -1 for none.
      id, language, domain, cluster: Properties of the n examples.
      truncated: Number of examples truncated to the maximum length.
      fingerprint: Hash of examples, tokenizer and settings; also the name in the cache.
      task_type: Type of the task.
      example: (s,) int32, the example of each sequence; by default, sequence i is example i.
        Retrieval: the first n sequences are the queries; passage j, of several examples, is
        sequence n + j.
      choices: Number of sequences of an example in multiple choice; 1 in other task types.
      span: (tokens, 2) int32, the part of the example that a token represents; -1 for none.
        Question answering: first character in the context, and the one after the last. Tagging:
        (word, word + 1) at the first token of a word. (0, 2) if outputs are not per token.
      reference: One item per example, which predictions are compared with. Tagging: the tags of
        all words. Question answering: (context, ((answer, first character), ...)). Retrieval: the
        numbers of its passages. () otherwise.
      candidates: Names of the passages, if they are those of `Examples.candidates`.
      unplaced: Id of a token that takes no position, see `Family.positions`; -1 for none.
      text: Excerpts of evaluated examples, see `excerpts`; () for splits that are trained on.
    """

    token: np.ndarray
    type: np.ndarray
    offset: np.ndarray
    cls: np.ndarray
    label: np.ndarray
    id: tuple[str, ...]
    language: tuple[str, ...]
    domain: tuple[str, ...]
    truncated: int
    fingerprint: str
    task_type: TaskType
    example: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    choices: int = 1
    span: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2), np.int32))
    reference: tuple[Any, ...] = ()
    candidates: tuple[str, ...] = ()
    unplaced: int = -1
    cluster: tuple[str, ...] = ()
    text: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", ("",) * len(self.id))
        if not len(self.example):
            object.__setattr__(self, "example", np.arange(len(self), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.offset) - 1

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(s,) int32, tokens of each sequence."""
        return np.diff(self.offset).astype(np.int32)


def tokenize(
    examples: Examples,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    cache_dir: Path | None,
    doc_stride: int = 0,
) -> Tokenized:
    """Encode examples as token ids, see `flaxfer.tasks.base.TaskType.encode`.

    Args:
      examples: The examples.
      tokenizer: A tokenizer from `load_tokenizer`.
      max_length: Maximum number of tokens of a sequence, special tokens included.
      cache_dir: Folder that results are cached in; None for no cache.
      doc_stride: Number of tokens that two windows of a context share in question answering.

    Raises:
      ConfigError: If the model takes fewer tokens than `max_length`, or no text fits in it.
      DataError: If the tokenizer puts the CLS token neither first nor last, or an example cannot
        be encoded.
    """
    special = tokenizer.num_special_tokens_to_add(pair=examples.text_b is not None)
    check_length(max_length, tokenizer.model_max_length, special)
    settings = [FORMAT, examples.fingerprint, tokenizer_fingerprint(tokenizer), max_length]
    settings += examples.task_type.encoding_settings(tokenizer, doc_stride)
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = None if cache_dir is None else cache_dir / f"tokens-{fingerprint}.npz"
    arrays = None if path is None else _read_cache(path)
    if arrays is None:
        sequences = examples.task_type.encode(examples, tokenizer, max_length, doc_stride)
        arrays = sequences.arrays(tokenizer)
        if path is not None:
            _write_cache(path, arrays)
    truncated, unknown, lost = arrays.pop("counts").tolist()
    logger.info(
        "%d examples, %d sequences, %d tokens, %d of them unknown; %d examples cut to %d tokens",
        len(examples),
        len(arrays["cls"]),
        len(arrays["token"]),
        unknown,
        truncated,
        max_length,
    )
    if lost:
        logger.info("no window contains the answer of %d of %d questions", lost, len(examples))
    if isinstance(examples.label, np.ndarray):
        arrays["label"] = examples.label
    return Tokenized(
        **arrays,
        id=examples.id,
        language=examples.language,
        domain=examples.domain,
        cluster=examples.cluster,
        text=(),
        truncated=truncated,
        fingerprint=fingerprint,
        task_type=examples.task_type,
        choices=examples.choices,
        reference=examples.task_type.reference(examples),
        candidates=examples.candidates.names if examples.candidates else (),
        unplaced=getattr(tokenizer, "unplaced_id", -1),
    )


def check_length(max_length: int, limit: int, special: int) -> None:
    """Check that sequences of a length fit the model, and have room for a text.

    Args:
      max_length: Tokens of a sequence.
      limit: Tokens that the model takes.
      special: Number of special tokens in a sequence.

    Raises:
      ConfigError: If they do not.
    """
    if max_length > limit:
        raise ConfigError(
            f"max_length {max_length} is more than the model's {limit}",
            hint=f"set train.max_length to at most {limit}.",
        )
    if max_length <= special:
        raise ConfigError(
            f"max_length {max_length} leaves no room beside {special} special tokens",
            hint=f"set train.max_length to at least {special + 1}.",
        )


DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""Exceptions that numpy and zipfile raise for a damaged archive."""


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a cached file; None if it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        if arrays.pop("digest").item() != _digest(path, arrays):
            raise ValueError("its arrays do not fit together")
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        logger.warning("%s is damaged and is made again: %s", path, error)
        return None
    logger.info("%s is read instead of tokenising", path)
    return arrays


def _write_cache(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a cached file atomically, as other processes may write it, too; log failures."""
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, digest=np.array(_digest(path, arrays)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("tokens cannot be kept in %s: %s", path, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _digest(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a cached file's name and arrays, as hexadecimal digits."""
    digest = hashlib.sha256(path.name.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
