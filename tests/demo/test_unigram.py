from __future__ import annotations

import random

import pytest
from tokenizers import normalizers

from flaxfer.demo import unigram

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab", "é", "fi", "▁a", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -3.5, -4.0, -4.5, -5.0, -3.25, 0.0]


@pytest.fixture(scope="module")
def tokenizer():
    return unigram.build(PIECES, SCORES, {"\t": " ", "\u200b": " ", "\x07": "", "ﬁ": "fi"})


def test_the_compiled_table_does_what_the_table_says() -> None:
    rng = random.Random(5)
    # From U+3300 on no character extends the one before it, so every one is looked up by itself.
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
        ("e\u0301 E\u0341", "é É"),  # U+0341 is the deprecated twin of the acute accent
        ("\u1100\u1161", "\u1100\u1161"),  # six bytes: taken one by one, as XLM-R does
        ("e\u0302\u0301", "ê"),  # three marks of a cluster: the first pair wins, as in XLM-R
        ("か\u3099", "か\u3099"),
        ("a   b", "a b"),
        ("ﬁ", "fi"),
    ],
)
def test_normalisation(tokenizer, text: str, normalised: str) -> None:
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
def test_pieces(tokenizer, text: str, pieces: list[str]) -> None:
    assert tokenizer.encode(text).ids == [PIECES.index(piece) for piece in pieces]


def test_unknown_characters_and_pairs(tokenizer) -> None:
    assert tokenizer.encode("za").ids == [0, 4, 3, 5, 2]
    pair = tokenizer.encode("a", "ab")
    assert (pair.ids, pair.type_ids) == ([0, 10, 2, 2, 7, 2], [0] * 6)


def test_decoding_gives_the_text_back(tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("ab a é").ids) == "ab a é"


def test_the_file_is_the_same_in_every_process(tokenizer) -> None:
    # Set and hash order must not reach the file: its bytes are part of a data set's identity.
    swapped = dict(reversed({"\t": " ", "\u200b": " ", "\x07": "", "ﬁ": "fi"}.items()))
    assert unigram.build(PIECES, SCORES, swapped).to_str() == tokenizer.to_str()
