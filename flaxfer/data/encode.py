"""Sequences of token ids, and what the encoders of several task types share.

Texts, pairs and choices are truncated. Tagged sentences are divided between words instead, and the
contexts of questions into overlapping windows, so that nothing is lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from flaxfer.data import xlnet_pieces
from flaxfer.data.tokenizer import cls_is_last

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from flaxfer.data.examples import Examples

CHUNK = 4096
"""Texts per call of the tokenizer: bounds memory, and lets signals be handled in between."""


def word_splitter(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the state of the pre-tokenizer for texts that are split into words.

    Byte-level BPE treats every word as if it followed a space, as it does within a text
    (`add_prefix_space=True` in transformers).
    """
    if xlnet_pieces.is_own(tokenizer.backend_tokenizer):
        return xlnet_pieces.SPLITTER
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    state: dict[str, Any] = {} if splitter is None else json.loads(splitter.__getstate__())
    for part in (state, *state.get("pretokenizers", ())):
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = True
    return state


def pure_backend(tokenizer: PreTrainedTokenizerFast, words: bool) -> tokenizers.Tokenizer:
    """Return the tokenizer without truncation and padding, which transformers sets in each call.

    It is a copy if `words` need another pre-tokenizer than texts.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    splitter = backend.pre_tokenizer
    if not words or splitter is None or xlnet_pieces.is_own(backend):
        return backend
    wanted = word_splitter(tokenizer)
    if wanted == json.loads(splitter.__getstate__()):
        return backend
    state = json.loads(backend.to_str()) | {"pre_tokenizer": wanted}
    return tokenizers.Tokenizer.from_str(json.dumps(state))


NO_SPAN = np.zeros((0, 2), np.int32)
NO_LABEL = np.zeros(0, np.int32)


@dataclasses.dataclass
class Sequences:
    """Token sequences of examples.

    Attributes:
      parts: Parts of the arrays of `Tokenized` for each sequence.
      truncated: Number of examples truncated to the maximum length.
      lost: Number of questions whose answer is in no window.
    """

    parts: list[tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=list
    )
    truncated: int = 0
    lost: int = 0

    def append(
        self,
        token: np.ndarray,
        types: np.ndarray,
        example: int,
        span: np.ndarray = NO_SPAN,
        label: np.ndarray = NO_LABEL,
    ) -> None:
        """Append a sequence, with its labels if they depend on its tokens."""
        self.parts.append((token, types, example, span, label))

    def arrays(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, np.ndarray]:
        """Return the arrays of `Tokenized`, without labels that do not depend on tokens.

        An additional array `counts`, (3,) int64, holds `truncated`, the number of unknown tokens,
        and `lost`.
        """
        tokens, types, example, span, label = zip(*self.parts, strict=True)
        lengths = np.array([len(ids) for ids in tokens], np.int32)
        token, kind = np.concatenate(tokens), np.concatenate(types)
        unknown = np.sum(token == tokenizer.unk_token_id)
        return {
            "token": token,
            "type": kind * np.uint8("token_type_ids" in tokenizer.model_input_names),
            "offset": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            "cls": (lengths - 1) * np.int32(cls_is_last(tokenizer)),
            "example": np.array(example, np.int32),
            "span": np.concatenate(span),
            "label": np.concatenate(label),
            "counts": np.array([self.truncated, unknown, self.lost], np.int64),
        }


@dataclasses.dataclass(frozen=True)
class Template:
    """The special tokens that a tokenizer adds around one text, or around and between two.

    Attributes:
      special: Ids and types of the special tokens before, between (in a pair) and after the texts.
      types: Token type of each text.
    """

    special: tuple[tuple[np.ndarray, np.ndarray], ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, pair: bool) -> Template:
        """Read the template off an encoded example."""
        probe = backend.encode("a", "a" if pair else None)
        ids, types = np.array(probe.ids, np.int32), np.array(probe.type_ids, np.uint8)
        texts = [np.flatnonzero([s == n for s in probe.sequence_ids]) for n in range(1 + pair)]
        starts = [0, *(int(text[-1]) + 1 for text in texts)]
        ends = [*(int(text[0]) for text in texts), len(ids)]
        parts = tuple((ids[a:b], types[a:b]) for a, b in zip(starts, ends, strict=True))
        return cls(parts, tuple(int(types[text[0]]) for text in texts))

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(len(ids) for ids, _ in self.special)

    def fill(self, texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the ids and types of a sequence, and the position of its last text."""
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


def encode_texts(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> Sequences:
    """Return a sequence per text, pair or choice; the longer text of a pair is cut first."""
    sequences = Sequences()
    choices = examples.choices
    for part in chunks(len(examples)):
        text_a: list[Any] = [text for text in examples.text_a[part] for _ in range(choices)]
        text_b: list[Any] | None = None
        if examples.text_b is not None:
            text_b = list(examples.text_b[part])
            if choices > 1:
                text_b = [choice for each in text_b for choice in each]
        encoded = tokenizer(
            text_a,
            text_b,
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        pairs = zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)
        for i, (ids, types) in enumerate(pairs, part.start * choices):
            sequences.append(np.array(ids, np.int32), np.array(types, np.uint8), i // choices)
        cut = np.array([bool(encoding.overflowing) for encoding in encoded.encodings])
        sequences.truncated += int(cut.reshape(-1, choices).any(axis=1).sum())
    return sequences
