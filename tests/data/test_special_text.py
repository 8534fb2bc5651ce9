"""Texts that contain the special tokens of the tokenizer, as plain characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Model
from flaxfer.data import packing
from flaxfer.data.tokenize import Tokenized, tokenize
from flaxfer.data.tokenizer import load_tokenizer
from tests.data.helpers import examples_of
from tests.data.reference import check_tags, check_windows, sequences
from tests.data.test_encode import words_tokenizer
from tests.data.test_tokenize import FAMILIES
from tests.helpers import Family, tiny_tokenizer


def load(folder: Path, family: Family) -> Any:
    return load_tokenizer(Model(path=str(tiny_tokenizer(folder, family))))


def packed(tokenized: Tokenized, pad_id: int) -> Any:
    """All sequences, two in a row."""
    n = len(tokenized)
    rows = [list(range(i, min(i + 2, n))) for i in range(0, n, 2)]
    return packing.build_rows(tokenized, np.arange(n), rows, len(rows), 128, 2, pad_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_and_places_come_from_lengths(family: Family, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    special = [tokenizer.pad_token, tokenizer.sep_token, tokenizer.cls_token, tokenizer.mask_token]
    texts = (*special, *(f"a {token} man{token}" for token in special), "".join(special * 2), "a")
    data = examples_of("classification", texts, tuple(reversed(texts)))
    tokenized = tokenize(data, tokenizer, 64, None)
    batch = packed(tokenized, tokenizer.pad_token_id)
    for i, where in enumerate(sequences(tokenized)):
        text = data.text_b[i]
        ids = tokenizer(texts[i], text)["input_ids"]
        assert tokenized.token[where].tolist() == ids
        row, slot = divmod(i, 2)
        cells = batch["segment_BT"][row] == slot + 1
        assert batch["token_BT"][row, cells].tolist() == ids
        place = np.flatnonzero(cells)[-1 if family == "xlnet" else 0]
        assert batch["cls_BE"][row, slot] == place
        assert batch["token_BT"][row, place] == tokenizer.cls_token_id
    assert (tokenized.token == tokenizer.pad_token_id).sum() >= 10


@pytest.mark.parametrize("family", FAMILIES)
def test_words_and_answers_that_are_special_tokens(family: Family, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    pad, sep, cls = tokenizer.pad_token, tokenizer.sep_token, tokenizer.cls_token
    sentences = (("a", pad, sep, "the", cls), (cls, "not" + pad + "a"), (sep,), ("man", "cat"))
    data = examples_of(
        "tagging", sentences, None, tuple(tuple(range(len(words))) for words in sentences)
    )
    tokenized = tokenize(data, tokenizer, 32, None)
    check_tags(tokenized, data, words_tokenizer(load(tmp_path, family), family), 32)
    contexts = (f"a {pad} man {sep} plays", f"{cls} the dog", f"cat{pad}")
    answers = ((("man", contexts[0].index("man")),), ((cls, 0),), ())
    data = examples_of("question_answering", ("who", f"a {sep}", pad), contexts, answers)
    tokenized = tokenize(data, tokenizer, 48, None)
    held, exact = check_windows(tokenized, data, load(tmp_path, family), 48, 0)
    assert held == exact == 2


def transformers_positions(ids: list[int], padding: int) -> list[int]:
    """As `create_position_ids_from_input_ids` of RoBERTa in transformers, for one sequence."""
    mask = np.array(ids) != padding
    return (np.cumsum(mask) * mask + padding).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_within_a_text_takes_no_position_of_roberta(family: Family, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    pad = tokenizer.pad_token
    texts = ("a man", f"a {pad} man", f"{pad}{pad} cat {pad}", "the dog", pad)
    tokenized = tokenize(examples_of("classification", texts), tokenizer, 32, None)
    padding = tokenizer.pad_token_id
    batch = packed(tokenized, padding)
    for i, where in enumerate(sequences(tokenized)):
        ids = tokenized.token[where].tolist()
        expected = list(range(len(ids)))
        if family in ("roberta", "xlm-roberta"):
            expected = [place - padding - 1 for place in transformers_positions(ids, padding)]
            assert (min(expected) == -1) == (pad in texts[i])
        cells = batch["segment_BT"][i // 2] == i % 2 + 1
        assert batch["position_BT"][i // 2, cells].tolist() == expected
    assert not batch["position_BT"][batch["segment_BT"] == 0].any()


def test_outputs_of_tokens_keep_their_places(tmp_path: Path) -> None:
    """Although positions do not count padding within a text."""
    from flaxfer.evaluation import evaluator

    tokenizer = load(tmp_path, "xlm-roberta")
    pad = tokenizer.pad_token
    sentences = (("a", pad, "man"), (pad, pad), ("the", "cat", pad, "dog"))
    tags = tuple(tuple(range(len(words))) for words in sentences)
    tokenized = tokenize(examples_of("tagging", sentences, None, tags), tokenizer, 32, None)
    batch = packed(tokenized, tokenizer.pad_token_id)
    # One logit, which is the token's id, and its label as the other.
    logits: Any = np.stack([batch["token_BT"], batch["label_BT"]], axis=-1).astype(np.float32)
    outputs = np.full((1, len(tokenized.token), 2), np.nan, np.float32)
    evaluator._scatter(outputs, tokenized, batch, logits)
    np.testing.assert_array_equal(outputs[0, :, 0], tokenized.token)
    np.testing.assert_array_equal(outputs[0, :, 1], tokenized.label)
