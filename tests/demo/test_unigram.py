"""The tokenizer of the demo's model: normalisation, pieces, special tokens."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, normalizers

from flaxfer.demo import unigram
from tests.demo.helpers import NORMALISATION, PIECES, SCORES


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return unigram.build(PIECES, SCORES, NORMALISATION)


def test_the_compiled_table_gives_the_replacements_of_the_table() -> None:
    rng = random.Random(5)
    # From U+3300 on, no character extends the one before it, so each is looked up alone.
    alphabet = [chr(c) for c in range(0x20, 0x250)] + [chr(c) for c in range(0x3300, 0xA000)]
    keys = rng.sample(alphabet, 5000)
    table = {key: "".join(rng.choices(alphabet, k=rng.randrange(4))) for key in keys}
    compiled = normalizers.Precompiled(unigram.charsmap(table))
    text = rng.choices(alphabet, k=40_000)
    expected = "".join(table.get(character, character) for character in text)
    assert compiled.normalize_str("".join(text)) == expected
    for character in alphabet:
        assert compiled.normalize_str(character) == table.get(character, character)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("ab\t\u200bé\x07", "ab é"),
        ("e\u0301 E\u0341", "é É"),  # U+0341 is a deprecated acute accent.
        ("\u1100\u1161", "\u1100\u1161"),  # Six bytes: character by character, as in XLM-R.
        ("e\u0302\u0301", "ê"),  # A cluster of three: only the first pair counts, as in XLM-R.
        ("か\u3099", "か\u3099"),
        ("a   b", "a b"),
        ("ﬁ", "fi"),
    ],
)
def test_texts_are_normalised_as_in_xlmr(tokenizer: Tokenizer, text: str, normalised: str) -> None:
    assert tokenizer.normalizer.normalize_str(text) == normalised


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["<s>", "▁ab", "</s>"]),
        ("abab", ["<s>", "▁ab", "a", "b", "</s>"]),
        ("a\tab", ["<s>", "▁a", "▁ab", "</s>"]),
        ("ae\u0301ﬁ", ["<s>", "▁a", "é", "fi", "</s>"]),
        ("a <mask>", ["<s>", "▁a", "<mask>", "</s>"]),
        ("", ["<s>", "</s>"]),
    ],
)
def test_texts_are_split_into_the_likeliest_pieces(
    tokenizer: Tokenizer, text: str, pieces: list[str]
) -> None:
    assert tokenizer.encode(text).ids == [PIECES.index(piece) for piece in pieces]


def test_unknown_characters_and_pairs_have_their_special_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("za").ids == [0, 4, 3, 5, 2]
    pair = tokenizer.encode("a", "ab")
    assert (pair.ids, pair.type_ids) == ([0, 10, 2, 2, 7, 2], [0] * 6)


def test_decoding_inverts_encoding(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("ab a é").ids) == "ab a é"


def test_the_file_does_not_depend_on_the_order_of_the_table(tokenizer: Tokenizer) -> None:
    # Its bytes are part of a data set's identity.
    swapped = dict(reversed(NORMALISATION.items()))
    assert unigram.build(PIECES, SCORES, swapped).to_str() == tokenizer.to_str()
