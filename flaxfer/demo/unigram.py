"""XLM-R's fast tokenizer, built from pieces, scores and a map of single characters.

XLM-R normalises with SentencePiece's nmt_nfkc, a table compiled into its tokenizer. The E5S1 file
has that table for single characters; the pairs of letter and accent that the table composes follow
from Unicode. Both are compiled into a table of the same form, so that the `tokenizers` library
treats every text exactly as with the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any
from unicodedata import normalize

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


def build(pieces: list[str], scores: Iterable[float], characters: Mapping[str, str]) -> Tokenizer:
    """Return a tokenizer whose ids are positions in `pieces`; pairs are `<s> A </s></s> B </s>`.

    Args:
      pieces: `<s>`, `<pad>`, `</s>`, `<unk>` first; `<mask>` is also special.
      scores: log-probability of each piece.
      characters: replacement of each character that is not kept.
    """
    vocab = list(zip(pieces, map(float, scores), strict=True))
    tokenizer = Tokenizer(Unigram(vocab, unk_id=pieces.index(UNK), byte_fallback=False))
    table = {**_accented(), **characters}
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap(table)), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {EOS} $B:0 {EOS}:0",
        special_tokens=[(piece, pieces.index(piece)) for piece in (BOS, EOS)],
    )
    special = [AddedToken(piece, normalized=False) for piece in (BOS, PAD, EOS, UNK)]
    mask = AddedToken(MASK, normalized=False, lstrip=True)
    tokenizer.add_special_tokens([*special, mask])
    return tokenizer


def charsmap(table: Mapping[str, str]) -> bytes:
    """Compile a table of replacements into SentencePiece's `precompiled_charsmap`.

    Its parts: the size of the trie in bytes, u32; the trie over the UTF-8 keys, a double array of
    u32 units as in darts-clone; the replacements, each ended by a zero byte. A unit has its label
    in bits 0 to 7, whether a key ends there in bit 8, and the offset of its children from bit 10;
    the value of a key is the child with label 0, with bit 31 set.
    """
    texts = bytearray()
    root: dict[int, Any] = {}
    for key, text in sorted(table.items()):
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = len(texts)
        texts += text.encode() + b"\0"

    units = [0] * 256
    taken, bases = {0}, set[int]()
    todo = [(0, root)]
    while todo:
        at, node = todo.pop()
        # The children of a base are in its block of 256 units. Gaps in older blocks stay unused.
        base = next(
            b
            for b in count(max(0, len(units) - 256))
            if b not in bases and not any(b ^ label in taken for label in node)
        )
        bases.add(base)
        if base | 0xFF >= len(units):
            units += [0] * ((base | 0xFF) + 1 - len(units))
        units[at] |= (at ^ base) << 10 | (0 in node) << 8
        for label, child in node.items():
            taken.add(base ^ label)
            units[base ^ label] = label or 1 << 31 | child
            if label:
                todo.append((base ^ label, child))
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return len(trie).to_bytes(4, "little") + trie + bytes(texts)


def _accented() -> dict[str, str]:
    """Return the character that nmt_nfkc composes for each pair of letter and combining accent.

    Only pairs of less than six bytes: the library looks up longer clusters character by character.
    The deprecated accents U+0340, U+0341 and U+0343 count as their equivalents.
    """
    aliases = {normalize("NFD", alias): alias for alias in "\u0340\u0341\u0343"}
    table = {}
    for composed in map(chr, range(0x80, 0x10000)):
        pair = normalize("NFD", composed)
        if len(pair) == 2 and len(pair.encode()) < 6 and normalize("NFC", pair) != pair:
            for accent in (pair[1], aliases.get(pair[1], pair[1])):
                table[pair[0] + accent] = normalize("NFKC", composed)
    return table
