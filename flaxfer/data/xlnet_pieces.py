"""XLNet's tokenisation: SentencePiece with rules for accents, user-defined symbols and digits.

The fast tokenizers of transformers differ from what the models were pretrained with: they split
user-defined symbols such as `.`, `(` and `-` off as added tokens, drop every combining mark, and
forget the rule for digits before a comma. This module builds a tokenizer of the `tokenizers`
library that follows XLNet's own rules (`preprocess_utils.py` of github.com/zihangdai/xlnet, and the
slow tokenizer of transformers 4), so that offsets and the words of tokens come with the tokens.

Scores are summed in float64 and word by word, SentencePiece sums them in float32 over the text. Of
two segmentations whose scores agree to within that rounding, the other one may be chosen.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from flaxfer.data.tokenizer_files import SKELETON

SPACE = "▁"
WITH_COMMA = re.compile(rf"{SPACE}?[^{SPACE}]*,[^{SPACE}]*")
"""A word that contains a comma."""

QUOTES = ("``", "''")
"""Texts that XLNet reads as a double quote."""

CONTROL = re.compile(r"<.+>")
"""Names of control symbols, which are never matched as pieces of a text."""

PENALTY = 100.0
"""Subtracted from the scores of pieces such as `3,` in tokenizers converted by transformers."""

SPLITTER = {"type": "XLNet"}
"""Stands for the pre-tokenizer of this module, which has no state."""

CONVERTED = frozenset(
    {"Replace", "NFKD", "StripAccents", "Lowercase", "Precompiled", "Strip"}
    | {"WhitespaceSplit", "Metaspace"}
)
"""Normalizers and pre-tokenizers of a conversion by transformers."""


def is_conversion(state: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json is the conversion of an XLNet tokenizer by transformers."""
    parts = _parts(state, "normalizer") + _parts(state, "pre_tokenizer")
    replaced = {part["pattern"].get("String") for part in parts if part["type"] == "Replace"}
    return (
        "unk_id" in state["model"]
        and replaced.issuperset(QUOTES)
        and {part["type"] for part in parts} <= CONVERTED
    )


def from_conversion(state: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return XLNet's tokenizer from the pieces of a conversion, see `is_conversion`."""
    parts = {part["type"]: part for part in _parts(state, "normalizer")}
    vocabulary = [
        (piece, score + PENALTY if _number(piece) and score <= -PENALTY else score)
        for piece, score in state["model"]["vocab"]
    ]
    pieces = dict(vocabulary)
    user_defined = {piece for piece, score in vocabulary if score == 0 and not _control(piece)}
    backend = _build(
        vocabulary,
        user_defined,
        base64.b64decode(parts.get("Precompiled", {}).get("precompiled_charsmap") or ""),
        keep_accents="StripAccents" not in parts,
        lower="Lowercase" in parts,
        unknown=state["model"]["unk_id"],
    )
    backend.add_tokens(
        [
            AddedToken(**{key: value for key, value in token.items() if key != "id"})
            for token in sorted(state["added_tokens"], key=lambda token: token["id"])
            if _control(token["content"]) or token["content"] not in pieces
        ]
    )
    # Processors cannot be read alone.
    small = {**SKELETON, "post_processor": state.get("post_processor")}
    backend.post_processor = tokenizers.Tokenizer.from_str(json.dumps(small)).post_processor
    return backend


def from_pieces(file: Path, keep_accents: bool, lower: bool) -> tokenizers.Tokenizer:
    """Return XLNet's tokenizer from a SentencePiece model.

    Args:
      file: spiece.model.
      keep_accents: Whether accents stay.
      lower: Whether texts are lower-cased.

    Raises:
      Exception: If the file is damaged; its type is the one of protobuf.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(file.read_bytes())
    backend = _build(
        [(piece.piece, piece.score) for piece in proto.pieces],
        {piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED},
        proto.normalizer_spec.precompiled_charsmap,
        keep_accents,
        lower,
        proto.trainer_spec.unk_id,
    )
    control = [piece.piece for piece in proto.pieces if _control(piece.piece)]
    backend.add_tokens(
        [
            AddedToken(piece, normalized=False, special=True, lstrip=piece == "<mask>")
            for piece in control
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("<sep>", "<cls>")],
    )
    return backend


class DigitRule:
    """Pre-tokenizer that divides pieces such as `3,` in two.

    Where the best segmentation of a word contains a piece that ends in a digit and a comma, the
    piece becomes its digits and a comma, and the pieces beside it stay as they are.

    Args:
      model: The model that segments.
    """

    def __init__(self, model: models.Unigram):
        self._model = model

    def pre_tokenize(self, text: tokenizers.PreTokenizedString) -> None:
        """Divide a normalised text in place."""
        text.split(self._divide)

    def _divide(self, _: int, text: tokenizers.NormalizedString) -> list[Any]:
        whole = str(text)
        cuts = {0, len(whole)}
        for word in WITH_COMMA.finditer(whole):
            end = word.start()
            for token in self._model.tokenize(word[0]):
                start, end = end, end + len(token.value)
                if _number(token.value):
                    cuts |= {start, end - 1, end}
        return [text[a:b] for a, b in pairwise(sorted(cuts))]


def is_own(backend: tokenizers.Tokenizer) -> bool:
    """Return whether a tokenizer was built by this module."""
    return getattr(backend, "xlnet_rules", False)


def serialised(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return the state of a tokenizer of this module, which `tokenizers` cannot serialise."""
    rule = backend.pre_tokenizer
    backend.pre_tokenizer = _words()
    try:
        state: dict[str, Any] = json.loads(backend.to_str())
    finally:
        backend.pre_tokenizer = rule
    return state | {"pre_tokenizer": SPLITTER}


def _build(
    vocabulary: Sequence[tuple[str, float]],
    user_defined: set[str],
    charsmap: bytes,
    keep_accents: bool,
    lower: bool,
    unknown: int,
) -> tokenizers.Tokenizer:
    """Return the tokenizer without added tokens and post-processor."""
    normal = [s for p, s in vocabulary if p not in user_defined and not _control(p)]
    best = max(normal, default=0.0)
    model = models.Unigram(
        [
            # As in SentencePiece: high enough to be chosen wherever the symbol occurs.
            (piece, len(piece.encode()) * best - 0.1 if piece in user_defined else score)
            for piece, score in vocabulary
        ],
        unk_id=unknown,
    )
    backend = tokenizers.Tokenizer(model)
    # Python's whitespace, which includes four control characters.
    parts: list[normalizers.Normalizer] = [normalizers.Replace(Regex(r"[\s\x1c-\x1f]+"), " ")]
    parts += [normalizers.Replace(quote, '"') for quote in QUOTES]
    if not keep_accents:
        parts += [normalizers.NFKD(), normalizers.Replace(Regex(_combining()), "")]
    if lower:
        parts.append(normalizers.Lowercase())
    if charsmap:
        parts.append(normalizers.Precompiled(charsmap))
    parts += [normalizers.Replace(Regex(" +"), " "), normalizers.Strip()]
    parts += [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    backend.normalizer = normalizers.Sequence(parts)
    rule = pre_tokenizers.PreTokenizer.custom(DigitRule(model))
    backend.pre_tokenizer = pre_tokenizers.Sequence([rule, _words()])
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.xlnet_rules = True  # type: ignore[attr-defined]
    return backend


def _words() -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer that divides a text into words, for speed alone."""
    return pre_tokenizers.Split(SPACE, "merged_with_next")


@functools.cache
def _combining() -> str:
    """Return a regular expression for a character with a combining class.

    The normalizer `StripAccents` also drops marks without one, such as the vowels of Thai.
    """
    codes = [code for code in range(0x300, 0x20000) if unicodedata.combining(chr(code))]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in ranges) + "]"


def _number(piece: str) -> bool:
    """Return whether a piece ends in a digit and a comma."""
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _control(piece: str) -> bool:
    return CONTROL.fullmatch(piece) is not None


def _parts(state: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the normalizers or pre-tokenizers of a tokenizer.json, without the sequence."""
    part = state.get(name)
    if part is None:
        return []
    return list(part.get("normalizers") or part.get("pretokenizers") or [part])
