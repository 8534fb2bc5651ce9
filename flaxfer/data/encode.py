"""Examples to sequences of token ids, by the kind of task.

Texts, pairs and choices are truncated. Sentences whose words have tags are divided between words
instead, and the contexts of questions into windows that overlap, so that nothing is lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from flaxfer.data.examples import Examples
from flaxfer.data.tokenizer import cls_is_last

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Arrays = dict[str, np.ndarray]

CHUNK = 4096
"""Texts handed to the tokenizer at a time: bounds memory, and lets a signal through."""


def encode(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int, doc_stride: int
) -> Arrays:
    """The arrays of `Tokenized`, of its labels those that depend on tokens.

    And `counts`, (3,) int64: examples cut, unknown tokens, questions whose answer no window holds.

    Raises:
      DataError: a question leaves no room for its context, or the tokenizer has no unknown token
        for a word that it makes nothing of.
    """
    found = examples.task_type.encode(examples, tokenizer, max_length, doc_stride)
    lengths = np.array([len(ids) for ids in found.token], np.int32)
    types = np.concatenate(found.type)
    unknown = sum(np.sum(ids == tokenizer.unk_token_id) for ids in found.token)
    none = np.zeros((0, 2), np.int32)
    return {
        "token": np.concatenate(found.token),
        "type": types if "token_type_ids" in tokenizer.model_input_names else np.zeros_like(types),
        "offset": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        "cls": lengths - 1 if cls_is_last(tokenizer) else np.zeros_like(lengths),
        "example": np.array(found.example, np.int32),
        "span": np.concatenate(found.span) if found.span else none,
        "label": np.concatenate(found.label) if found.label else none[:, 0],
        "counts": np.array([found.truncated, unknown, found.lost], np.int64),
    }


def word_splitter(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The state of the pre-tokenizer for texts that are given word by word.

    Byte-level BPE takes every word as if a space stood before it, as it does within a text
    (`add_prefix_space=True` in transformers).
    """
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    state: dict[str, Any] = {} if splitter is None else json.loads(splitter.__getstate__())
    for part in (state, *state.get("pretokenizers", ())):
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = True
    return state


def pure_backend(tokenizer: PreTrainedTokenizerFast, words: bool) -> tokenizers.Tokenizer:
    """The tokenizer without truncation and padding, which transformers sets at each of its calls.

    One that is to be given `words` and splits them in another way than texts is a copy.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    splitter, wanted = backend.pre_tokenizer, word_splitter(tokenizer)
    if not words or splitter is None or wanted == json.loads(splitter.__getstate__()):
        return backend
    state = json.loads(backend.to_str()) | {"pre_tokenizer": wanted}
    return tokenizers.Tokenizer.from_str(json.dumps(state))


@dataclasses.dataclass
class Sequences:
    """Sequences with what belongs to them, array by array, and counts."""

    token: list[np.ndarray] = dataclasses.field(default_factory=list)
    type: list[np.ndarray] = dataclasses.field(default_factory=list)
    example: list[int] = dataclasses.field(default_factory=list)
    span: list[np.ndarray] = dataclasses.field(default_factory=list)
    label: list[np.ndarray] = dataclasses.field(default_factory=list)
    truncated: int = 0
    lost: int = 0

    def append(
        self,
        token: np.ndarray,
        types: np.ndarray,
        example: int,
        span: np.ndarray,
        label: np.ndarray,
    ) -> None:
        """Append a sequence whose labels depend on its tokens."""
        self.token.append(token)
        self.type.append(types)
        self.example.append(example)
        self.span.append(span)
        self.label.append(label)


@dataclasses.dataclass(frozen=True)
class Template:
    """What a tokenizer writes around a text, or around and between two.

    Attributes:
      special: ids and types of the tokens before, between (of a pair) and after.
      types: of the tokens of each text.
    """

    special: tuple[tuple[np.ndarray, np.ndarray], ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, pair: bool) -> Template:
        """Reads it off an example."""
        probe = backend.encode("a", "a" if pair else None)
        ids, types = np.array(probe.ids, np.int32), np.array(probe.type_ids, np.uint8)
        texts = [np.flatnonzero([s == n for s in probe.sequence_ids]) for n in range(1 + pair)]
        starts = [0, *(int(text[-1]) + 1 for text in texts)]
        ends = [*(int(text[0]) for text in texts), len(ids)]
        parts = tuple((ids[a:b], types[a:b]) for a, b in zip(starts, ends, strict=True))
        return cls(parts, tuple(int(types[text[0]]) for text in texts))

    @property
    def size(self) -> int:
        """How many special tokens there are."""
        return sum(len(ids) for ids, _ in self.special)

    def fill(self, texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids, types, and where the last text begins."""
        ids, types = [self.special[0][0]], [self.special[0][1]]
        for text, kind, special in zip(texts, self.types, self.special[1:], strict=True):
            ids += [text, special[0]]
            types += [np.full(len(text), kind, np.uint8), special[1]]
        token = np.concatenate(ids).astype(np.int32)
        start = len(token) - len(ids[-1]) - len(ids[-2])
        return token, np.concatenate(types), start


def chunks(size: int) -> Iterator[slice]:
    """Return slices of at most `CHUNK` items that cover `size` items."""
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))
