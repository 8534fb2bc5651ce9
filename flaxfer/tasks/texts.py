"""Texts and pairs: their problems, and their truncated token sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.data.encode import Sequences, chunks
from flaxfer.data.examples import Examples
from flaxfer.data.tables import Column, Problems
from flaxfer.data.values import text_fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def problems(
    columns: Mapping[str, Column], roles: Iterable[str], records: Sequence[int]
) -> Problems:
    """Return the problems of the texts in the columns that have one of `roles`."""
    present = [columns[role] for role in roles if role in columns]
    return [each for column in present for each in column.problems(records, text_fault)]


def encode_texts(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> Sequences:
    """Encode texts and pairs, and a pair for each choice; the longer text of a pair is cut first.

    Returns:
      One sequence per example, or per choice of an example.
    """
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
