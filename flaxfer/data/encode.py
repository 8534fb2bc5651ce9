"""Examples to sequences of token ids, by the kind of task.

Texts, pairs and choices are truncated. Sentences whose words have tags are divided between words
instead, and the contexts of questions into windows that overlap, so that nothing is lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tokenizers

from flaxfer.config import Kind
from flaxfer.data.examples import Examples
from flaxfer.data.tokenizer import cls_is_last
from flaxfer.errors import DataError

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
    encoders: dict[Kind, Callable[[], _Sequences]] = {
        "tagging": lambda: _sentences(examples, tokenizer, max_length),
        "question_answering": lambda: _windows(examples, tokenizer, max_length, doc_stride),
    }
    found = encoders.get(examples.kind, lambda: _texts(examples, tokenizer, max_length))()
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


def _backend(tokenizer: PreTrainedTokenizerFast, words: bool) -> tokenizers.Tokenizer:
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
class _Sequences:
    """Sequences with what belongs to them, array by array, and counts."""

    token: list[np.ndarray] = dataclasses.field(default_factory=list)
    type: list[np.ndarray] = dataclasses.field(default_factory=list)
    example: list[int] = dataclasses.field(default_factory=list)
    span: list[np.ndarray] = dataclasses.field(default_factory=list)
    label: list[np.ndarray] = dataclasses.field(default_factory=list)
    truncated: int = 0
    lost: int = 0


@dataclasses.dataclass(frozen=True)
class _Template:
    """What a tokenizer writes around a text, or around and between two.

    Attributes:
      special: ids and types of the tokens before, between (of a pair) and after.
      types: of the tokens of each text.
    """

    special: tuple[tuple[np.ndarray, np.ndarray], ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, pair: bool) -> _Template:
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


def _texts(examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int) -> _Sequences:
    """Texts and pairs, and a pair for every choice; of a pair the longer text is cut first."""
    found = _Sequences()
    choices = examples.choices
    for part in _chunks(len(examples)):
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
        found.token += [np.array(ids, np.int32) for ids in encoded["input_ids"]]
        found.type += [np.array(ids, np.uint8) for ids in encoded["token_type_ids"]]
        cut = np.array([bool(encoding.overflowing) for encoding in encoded.encodings])
        found.truncated += int(cut.reshape(-1, choices).any(axis=1).sum())
    found.example = np.repeat(np.arange(len(examples)), choices).tolist()
    return found


def _sentences(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> _Sequences:
    """Whole words, as many as fit in a sequence; the tag stands at the first piece of a word."""
    found = _Sequences()
    backend = _backend(tokenizer, words=True)
    template = _Template.of(backend, pair=False)
    room = max_length - template.size
    for part in _chunks(len(examples)):
        sentences = examples.text_a[part]
        encoded = backend.encode_batch(sentences, is_pretokenized=True, add_special_tokens=False)
        for i, (words, encoding) in enumerate(zip(sentences, encoded, strict=True), part.start):
            pieces: list[list[int]] = [[] for _ in words]
            for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
                pieces[cast(int, word)].append(piece)
            pieces = [each or [_unknown(tokenizer, examples.id[i])] for each in pieces]
            found.truncated += any(len(each) > room for each in pieces)
            pieces = [each[:room] for each in pieces]
            for first, last in _groups([len(each) for each in pieces], room):
                counts = [len(each) for each in pieces[first:last]]
                ids = np.array([t for each in pieces[first:last] for t in each])
                token, kind, start = template.fill([ids])
                heads = start + np.cumsum([0, *counts[:-1]])
                span = np.full((len(token), 2), -1, np.int32)
                span[heads] = np.arange(first, last)[:, None] + [0, 1]
                label = np.full(len(token), -1, np.int32)
                label[heads] = examples.label[i][first:last]
                found.token.append(token)
                found.type.append(kind)
                found.example.append(i)
                found.span.append(span)
                found.label.append(label)
    return found


def _groups(counts: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """First word and the one after the last of each sequence; every count fits in `room`."""
    first = used = 0
    for word, count in enumerate(counts):
        if used + count > room:
            yield first, word
            first, used = word, 0
        used += count
    yield first, len(counts)


def _unknown(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    if tokenizer.unk_token_id is None:
        raise DataError(
            "a word has no token, and the tokenizer has none for unknown words",
            where=name,
            hint="set unk_token in tokenizer_config.json, or leave the record out with `drop`.",
        )
    return int(tokenizer.unk_token_id)


def _windows(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int, doc_stride: int
) -> _Sequences:
    """The question and as much of its context as fits; windows share `doc_stride` tokens.

    The windows are those of `return_overflowing_tokens` in transformers' run_qa.
    """
    found = _Sequences()
    backend = _backend(tokenizer, words=False)
    template = _Template.of(backend, pair=True)
    last = cls_is_last(tokenizer)
    contexts = _contexts(backend, examples.text_b or ())
    faults: list[str] = []
    for part in _chunks(len(examples)):
        questions = backend.encode_batch(list(examples.text_a[part]), add_special_tokens=False)
        for i, encoding in enumerate(questions, part.start):
            question = np.array(encoding.ids, np.int32)
            ids, span = contexts[examples.text_b[i]]  # type: ignore[index]
            room = max_length - template.size - len(question)
            if room < min(len(ids), doc_stride + 1):
                faults.append(f"{examples.id[i]}: {len(question)} tokens leave {max(room, 0)}")
                continue
            answer = _tokens_of(span, examples.label[i])
            held = not examples.label[i]
            for first in range(0, max(len(ids), 1), max(room - doc_stride, 1)):
                token, kind, start = template.fill([question, ids[first : first + room]])
                size = len(span[first : first + room])
                spans = np.full((len(token), 2), -1, np.int32)
                spans[start : start + size] = span[first : first + room]
                label = np.full(2, len(token) - 1 if last else 0, np.int32)
                if answer is not None and first <= answer[0] and answer[1] < first + size:
                    label[:] = answer[0] - first + start, answer[1] - first + start
                    held = True
                found.token.append(token)
                found.type.append(kind)
                found.example.append(i)
                found.span.append(spans)
                found.label.append(label[None])
                if first + room >= len(ids):
                    break
            found.lost += not held
    if faults:
        raise DataError(
            f"{len(faults)} question(s) leave no room for their context in {max_length} tokens, of "
            f"which windows share {doc_stride}",
            hint="raise train.max_length, or lower train.doc_stride, or leave them out with "
            "`drop`.",
            details=faults,
        )
    return found


def _contexts(
    backend: tokenizers.Tokenizer, contexts: Sequence[Any]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ids of every context, (k,) int32, and the characters of each token, (k, 2) int32.

    White space at the edges of a token, which byte-level BPE and Unigram count in, is not of it.
    """
    unique = list(dict.fromkeys(contexts))
    found = {}
    for part in _chunks(len(unique)):
        encoded = backend.encode_batch(unique[part], add_special_tokens=False)
        for text, encoding in zip(unique[part], encoded, strict=True):
            start, end = np.array(encoding.offsets, np.int32).reshape(-1, 2).T
            filled = np.flatnonzero([not character.isspace() for character in text])
            # The first filled character from `start` on, and the one after the last before `end`.
            left = np.append(filled, len(text))[np.searchsorted(filled, start)]
            right = np.append(0, filled + 1)[np.searchsorted(filled, end)]
            start = np.minimum(left, end)
            span = np.stack([start, np.maximum(right, start)], axis=1).astype(np.int32)
            found[text] = (np.array(encoding.ids, np.int32), span)
    return found


def _tokens_of(span: np.ndarray, answers: Sequence[tuple[str, int]]) -> tuple[int, int] | None:
    """First and last token that have a character of the first answer; None if there is none."""
    if not answers:
        return None
    text, start = answers[0]
    touched = np.flatnonzero(
        (span[:, 1] > start) & (span[:, 0] < start + len(text)) & (span[:, 0] < span[:, 1])
    )
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))
