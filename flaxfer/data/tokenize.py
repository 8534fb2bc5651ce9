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
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.data.encode import encode
from flaxfer.data.examples import Examples
from flaxfer.data.task_types import TaskType
from flaxfer.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from flaxfer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Tokenized", "load_tokenizer", "tokenize", "tokenizer_fingerprint"]

logger = logging.getLogger("flaxfer.data")

FORMAT = 3
"""Of the cached files; a file of another number is not read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenized:
    """Token ids of a data set of n examples: s sequences, laid end to end.

    Attributes:
      token: (tokens,) int32, special tokens included.
      type: (tokens,) uint8, token types; zeros where the family has none.
      offset: (s + 1,) int64; sequence i is `token[offset[i]:offset[i + 1]]`.
      cls: (s,) int32, position of the CLS token within its sequence.
      label: by the kind of task. Classification: (n,) int32 class. Regression: (n,) float32 score.
        Multiple choice: (n,) int32, the right choice; sequence `i * choices + c` holds choice c of
        example i. Tagging: (tokens,) int32, the tag at the first piece of a word, -1 elsewhere.
        Question answering: (s, 2) int32, first and last token of the answer within the sequence;
        both the CLS token's where the sequence does not hold the answer.
      id, language, domain: n each.
      truncated: number of examples that were cut to the largest length.
      fingerprint: of examples, tokenizer and settings; also the name in the cache.
      task_type: Type of the task.
      example: (s,) int32, the example that a sequence belongs to; if not given, its own number.
      choices: sequences an example of multiple choice; 1 for the other kinds.
      span: (tokens, 2) int32, what of the example a token stands for, -1 for nothing. Question
        answering: first character in the context, and the one after the last. Tagging: (word, word
        + 1) at the first piece of a word. (0, 2) for the other kinds.
      reference: one an example, what predictions are compared with. Tagging: the tags of all words.
        Question answering: (context, ((answer, first character), ...)). () for the other kinds.
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

    def __post_init__(self) -> None:
        if not len(self.example):
            object.__setattr__(self, "example", np.arange(len(self), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
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
    """Turns texts into token ids; of a pair too long, the longer text loses tokens first.

    Sentences with tags are divided between words, and contexts of questions into windows. A word
    longer than a sequence keeps its first pieces; one without any becomes the unknown token.

    Args:
      examples: of any kind of task.
      tokenizer: from `load_tokenizer`.
      max_length: most tokens of a sequence, special tokens included.
      cache_dir: where results are kept; None for nowhere.
      doc_stride: tokens that two windows of a context share; question answering needs it.

    Raises:
      ConfigError: the model takes fewer tokens than `max_length`, or no text fits in it.
      DataError: the tokenizer puts the CLS token neither first nor last, or a question leaves
        no room for its context.
    """
    _check_length(tokenizer, max_length, pair=examples.text_b is not None)
    label, task_type = examples.label, examples.task_type
    fingerprint = _fingerprint(examples, tokenizer, max_length, doc_stride)
    path = None if cache_dir is None else Path(cache_dir) / f"tokens-{fingerprint}.npz"
    arrays = None if path is None else _read_cache(path, examples)
    if arrays is None:
        arrays = encode(examples, tokenizer, max_length, doc_stride)
        if path is not None:
            _write_cache(path, arrays)
    _log(examples, arrays, max_length)
    return Tokenized(
        token=arrays["token"],
        type=arrays["type"],
        offset=arrays["offset"],
        cls=arrays["cls"],
        label=label if isinstance(label, np.ndarray) else arrays["label"],
        id=examples.id,
        language=examples.language,
        domain=examples.domain,
        truncated=int(arrays["counts"][0]),
        fingerprint=fingerprint,
        task_type=task_type,
        example=arrays["example"],
        choices=examples.choices,
        span=arrays["span"],
        reference=task_type.reference(examples),
    )


def _check_length(tokenizer: PreTrainedTokenizerFast, max_length: int, pair: bool) -> None:
    limit = tokenizer.model_max_length
    if max_length > limit:
        raise ConfigError(
            f"max_length {max_length} is more than the model's {limit}",
            hint=f"set train.max_length to at most {limit}.",
        )
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise ConfigError(
            f"max_length {max_length} leaves no room beside {special} special tokens",
            hint=f"set train.max_length to at least {special + 1}.",
        )


def _log(examples: Examples, arrays: Mapping[str, np.ndarray], max_length: int) -> None:
    truncated, unknown, lost = arrays["counts"].tolist()
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


def _fingerprint(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int, doc_stride: int
) -> str:
    """SHA-256 over all that decides what `tokenize` gives, as hexadecimal digits."""
    settings: list[Any] = [FORMAT, examples.fingerprint, tokenizer_fingerprint(tokenizer)]
    settings.append(max_length)
    settings += examples.task_type.encoding_settings(tokenizer, doc_stride)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What a damaged archive makes numpy and zipfile raise."""

_DTYPES = {
    "token": np.int32,
    "type": np.uint8,
    "offset": np.int64,
    "cls": np.int32,
    "example": np.int32,
    "span": np.int32,
    "label": np.int32,
    "counts": np.int64,
}


def _read_cache(path: Path, examples: Examples) -> dict[str, np.ndarray] | None:
    """The arrays of a cached file, or None where there is none that can be used."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _DTYPES}  # Reading checks the CRC of each.
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        logger.warning("%s is damaged and is made again: %s", path, error)
        return None
    shapes = {name: arrays[name].shape for name in _DTYPES if name not in ("offset", "example")}
    if any(arrays[name].dtype != dtype for name, dtype in _DTYPES.items()) or (
        shapes != _shapes(examples, arrays["offset"], arrays["example"])
    ):
        logger.warning("%s is damaged and is made again: its arrays do not fit together", path)
        return None
    logger.info("%s is read instead of tokenising", path)
    return arrays


def _shapes(
    examples: Examples, offset: np.ndarray, example: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of `examples`; {} if not all of them have their sequences."""
    if offset.ndim != 1 or example.shape != (len(offset) - 1,):
        return {}
    sequences, tokens = len(example), int(offset[-1])
    divided = examples.task_type.per_token
    numbers = np.arange(len(examples))
    if divided:  # Every example has a sequence or more.
        whole = np.array_equal(example[np.diff(example, prepend=-1) != 0], numbers)
    else:
        whole = np.array_equal(example, numbers.repeat(examples.choices))
    if not whole:
        return {}
    return {
        "token": (tokens,),
        "type": (tokens,),
        "cls": (sequences,),
        "span": (tokens if divided else 0, 2),
        "label": examples.task_type.encoded_label_shape(sequences, tokens),
        "counts": (3,),
    }


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
