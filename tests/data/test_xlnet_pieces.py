"""XLNet's tokens are those of SentencePiece with XLNet's rules, with their places in the text."""

from __future__ import annotations

import base64
import io
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from flaxfer.config import Model
from flaxfer.data.encode import pure_backend
from flaxfer.data.tokenize import tokenize
from flaxfer.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from flaxfer.errors import DataError
from tests.data.helpers import examples_of
from tests.data.reference import check_tags, check_windows, sequences

MODEL = {"model_type": "xlnet", "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}
SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
SYMBOLS = (".", "(", ")", '"', "-", "–", "£", "€")
PUBLISHED = {
    "a gorgeous film .": [24, 11683, 468, 17, 9],
    'It is "fine", he said (twice).': [
        *(84, 27, 17, 12, 15828, 12, 19, 43, 42, 17, 10, 46, 694, 2960, 11, 9)
    ],
    "state-of-the-art": [204, 13, 1168, 13, 305, 13, 3432],
    "München 123,456": [6665, 8258, 421, 233, 19, 2967, 342],
}
"""Ids of xlnet-base-cased."""

HARD = (
    "``Quotes'' and ''more'' `single'",
    "  spaces \t and\u00a0NBSP \x1c\u2028 lines \n",
    "in 1999, 2,345 of 12,345,678 and 3, 4,5 or x3,y at 16,1,",
    "— – - £5 €6 (a-b) ... … .5.",
    "naïve Åström ﬁne Ⅳ ½ ´ ¨ x̧ 1️⃣ ❤️",
    "मुंबई और กรุงเทพ 東京 서울 ｶﾞ",
    "▁meta ▁▁ under",
    "",
)


def by_the_rules(pieces: Any, text: str) -> list[int]:
    """As in XLNet's preprocess_utils and the slow tokenizer of transformers 4."""
    text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    text = "".join(char for char in text if not unicodedata.combining(char))
    found: list[str] = []
    for piece in pieces.encode(text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = pieces.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁" and parts[0][0] == "▁":
                parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
            found += [*parts, ","]
        else:
            found.append(piece)
    return [pieces.piece_to_id(piece) for piece in found]


def plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def write_model(folder: Path, size: int = 32000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL | {"vocab_size": size}))
    return folder


def write_conversion(
    folder: Path, vocabulary: list[tuple[str, float]], charsmap: bytes, added: tuple[str, ...]
) -> Path:
    """Writes a tokenizer.json as transformers converts XLNet's: of 2020, or of version 5."""
    write_model(folder, len(vocabulary))
    ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    text = base64.b64encode(charsmap).decode()
    precompiled = [{"type": "Precompiled", "precompiled_charsmap": text}] if charsmap else []
    flags = {"single_word": False, "rstrip": False, "normalized": False}
    state = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "special": token[0] == "<"}
            | flags
            | {"lstrip": token == "<mask>"}
            for token in added
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
                {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
                {"type": "NFKD"},
                {"type": "StripAccents"},
                *precompiled,
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<sep>", "type_id": 0}},
                {"SpecialToken": {"id": "<cls>", "type_id": 2}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<sep>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "<sep>", "type_id": 1}},
                {"SpecialToken": {"id": "<cls>", "type_id": 2}},
            ],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]}
                for token in ("<sep>", "<cls>")
            },
        },
        "decoder": None,
        "model": {"unk_id": 0, "vocab": [list(pair) for pair in vocabulary]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


PIECES: list[tuple[str, float]] = [
    *((token, 0.0) for token in SPECIAL + SYMBOLS),
    ("▁", -2.0),
    *((f"▁{word}", -5.0) for word in ("film", "a", "12", "art")),
    *((letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyzFS"),
    *((digit, -7.0) for digit in "0123456789"),
    (",", -3.0),
    ("▁123", -10.5),
    ("3,", -4.0),
    ("▁7,", -4.0),
    ("45", -6.0),
]
"""`▁12 3,` is better than `▁123 ,`, and that better than `▁12 3 ,`."""

EXPECTED = {
    "a film .": "▁a ▁film ▁ .",
    "a film.": "▁a ▁film .",
    '"film" (a)': '▁ " f i l m " ▁ ( a )',
    "a-b ``a''": '▁a - b ▁ " a "',
    "123,456": "▁12 3 , 45 6",
    "123": "▁123",
    "7, 7": "▁ 7 , ▁ 7",
    "Film\u0301  \t £5": "▁ F i l m ▁ £ 5",
}


@pytest.fixture(params=["of 2020", "of version 5"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the conversion of a small model, without SentencePiece."""
    if request.param == "of 2020":
        lowered = [
            (piece, score - 100 if piece[-2:-1].isdigit() and piece[-1] == "," else score)
            for piece, score in PIECES
        ]
        return write_conversion(tmp_path, lowered, b"", SPECIAL)
    return write_conversion(tmp_path, PIECES, b"", SPECIAL + SYMBOLS)


def test_a_conversion_follows_the_rules_of_pretraining(small: Path) -> None:
    tokenizer = load_tokenizer(Model(path=str(small)))
    for text, tokens in EXPECTED.items():
        assert " ".join(tokenizer.convert_ids_to_tokens(plain(tokenizer, text))) == tokens
    pair = tokenizer("a.", "film", return_token_type_ids=True)
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == [
        *("▁a", ".", "<sep>", "▁film", "<sep>", "<cls>")
    ]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1, 2]
    # As the slow tokenizer parses special tokens of a text.
    ids = plain(tokenizer, "a <sep> film <mask>.")
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁a", "<sep>", "▁film", "<mask>", "▁", "."]


def test_tokens_know_their_words_and_characters(small: Path) -> None:
    tokenizer = load_tokenizer(Model(path=str(small)))
    words = ("film.", "123,456", ".", "a\u0301", "犬", "-")
    data = examples_of("tagging", (words,), None, ((0, 1, 2, 3, 4, 5),))
    tokenized = tokenize(data, tokenizer, 64, None)
    tokens = tokenizer.convert_ids_to_tokens(tokenized.token.tolist())
    expected = "▁film . ▁12 3 , 45 6 ▁ . ▁a ▁ <unk> ▁ - <sep> <cls>"
    assert " ".join(tokens) == expected
    heads = np.flatnonzero(tokenized.span[:, 0] >= 0)
    assert heads.tolist() == [0, 2, 7, 9, 10, 12]
    check_tags(tokenized, data, tokenizer, 64)
    context = ' a  film, ("123,456") -  a film .'
    answers = ("film", "123,456", "123", "456", "(", "-", "film .")
    labels = tuple(((answer, context.index(answer)),) for answer in answers)
    data = examples_of("question_answering", ("a",) * 7, (context,) * 7, labels)
    tokenized = tokenize(data, tokenizer, 64, None)
    for where, (first, last), answer in zip(
        sequences(tokenized), tokenized.label.tolist(), answers, strict=True
    ):
        span = tokenized.span[where]
        assert context[span[first, 0] : span[last, 1]] == answer
    assert check_windows(tokenized, data, tokenizer, 64, 0)[0] == 7


def test_the_tokenizer_has_a_fingerprint(small: Path) -> None:
    tokenizer = load_tokenizer(Model(path=str(small)))
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "film"], truncation=True, max_length=3, padding="longest")
    assert tokenizer_fingerprint(tokenizer) == before
    assert plain(tokenizer, "123,")[1:] == plain(tokenizer, "a3,")[1:]
    assert pure_backend(tokenizer, words=True) is tokenizer.backend_tokenizer
    state = json.loads((small / "tokenizer.json").read_text())
    state["model"]["vocab"][-1] = ["46", -6.0]
    (small / "tokenizer.json").write_text(json.dumps(state))
    assert tokenizer_fingerprint(load_tokenizer(Model(path=str(small)))) != before


def test_accents_and_capitals_follow_the_conversion(small: Path) -> None:
    state = json.loads((small / "tokenizer.json").read_text())
    parts = [p for p in state["normalizer"]["normalizers"] if p["type"] != "StripAccents"]
    state["normalizer"]["normalizers"] = [p for p in parts if p["type"] != "NFKD"]
    state["normalizer"]["normalizers"].insert(2, {"type": "Lowercase"})
    (small / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = load_tokenizer(Model(path=str(small)))
    ids = plain(tokenizer, "FILM à")
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁film", "▁", "<unk>"]
    (small / "tokenizer_config.json").write_text(json.dumps({"keep_accents": False}))
    with pytest.raises(DataError, match="keep_accents is false"):
        load_tokenizer(Model(path=str(small)))


def test_a_tokenizer_json_that_is_no_conversion_is_obeyed(small: Path) -> None:
    state = json.loads((small / "tokenizer.json").read_text())
    state["pre_tokenizer"]["pretokenizers"].append({"type": "Digits", "individual_digits": True})
    (small / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = load_tokenizer(Model(path=str(small)))
    backend = Tokenizer.from_file(str(small / "tokenizer.json"))
    for text in ("123,456", *EXPECTED):
        assert plain(tokenizer, text) == backend.encode(text, add_special_tokens=False).ids


def test_a_trained_model_gives_the_pieces_of_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    rng = np.random.default_rng(0)
    words = ["film", "gorgeous", "man's", "naïve", "state-of-the-art", '"fine"', "(twice)."]
    lines = [
        " ".join(
            f"{rng.integers(1, 30)}, {rng.integers(10_000):,} {rng.choice(words)}" for _ in range(6)
        )
        for _ in range(300)
    ]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=200,
        control_symbols=list(SPECIAL[3:8]),
        user_defined_symbols=["<eop>", *SYMBOLS, "..."],
        hard_vocab_limit=False,
        split_by_number=False,
        split_by_unicode_script=False,
        minloglevel=2,
    )
    write_model(tmp_path, 200)
    (tmp_path / "spiece.model").write_bytes(written.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    tokenizer = load_tokenizer(Model(path=str(tmp_path)))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    assert any(name[-2:-1].isdigit() and name[-1] == "," for name in names)
    for text in (*lines[:100], *HARD):
        assert plain(tokenizer, text) == by_the_rules(pieces, text), text
    (tmp_path / "spiece.model").write_bytes(b"\xff" + written.getvalue())
    with pytest.raises(DataError, match=r"cannot be made from spiece\.model"):
        load_tokenizer(Model(path=str(tmp_path)))


@pytest.fixture(scope="module")
def real(shared: Path) -> Any:
    """The pieces of xlnet-base-cased, and a function that loads a folder with some form of them."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from sentencepiece import sentencepiece_model_pb2

    file = shared / "models/tokenizers/xlnet-cased/spiece.model"
    proto: Any = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())

    def load(folder: Path, form: str) -> Any:
        if form == "spiece.model":
            shutil.copy(file, write_model(folder))
        else:
            write_conversion(
                folder,
                [
                    (p.piece, p.score - 100 * (p.piece[-2:-1].isdigit() and p.piece[-1] == ","))
                    for p in proto.pieces
                ],
                proto.normalizer_spec.precompiled_charsmap,
                SPECIAL if form == "hub" else SPECIAL + SYMBOLS,
            )
        return load_tokenizer(Model(path=str(folder)))

    return sentencepiece.SentencePieceProcessor(model_file=str(file)), load


@pytest.mark.parametrize("form", ["spiece.model", "hub", "version 5"])
def test_published_ids(form: str, real: tuple[Any, Callable[..., Any]], tmp_path: Path) -> None:
    pieces, load = real
    tokenizer = load(tmp_path, form)
    for text, ids in PUBLISHED.items():
        assert plain(tokenizer, text) == ids
        assert tokenizer(text)["input_ids"] == [*ids, 4, 3]
    for text in HARD:
        assert plain(tokenizer, text) == by_the_rules(pieces, text), text
    words = ("film.", "123,456", '"fine"', "state-of-the-art", "München", "3,")
    data = examples_of("tagging", (words,), None, (tuple(range(6)),))
    tokenized = tokenize(data, tokenizer, 64, None)
    expected = [i for word in words for i in by_the_rules(pieces, word)]
    assert tokenized.token.tolist() == [*expected, 4, 3]
    check_tags(tokenized, data, tokenizer, 64)


def test_real_texts(real: tuple[Any, Callable[..., Any]], shared: Path, tmp_path: Path) -> None:
    """Equal but where the scores of two segmentations are equal within SentencePiece's rounding."""
    pieces, load = real
    backend = load(tmp_path, "spiece.model").backend_tokenizer
    texts = [
        line
        for name in (
            "glue-samples/SST-2/dev.tsv",
            "stsb-multi-mt/stsb-de-dev.csv",
            "stsb-multi-mt/stsb-ja-dev.csv",
            "imdb-sample/dev.tsv",
        )
        for line in (shared / "data" / name).read_text(encoding="utf-8").splitlines()[:300]
    ]
    different = 0
    for text, encoding in zip(
        texts, backend.encode_batch(texts, add_special_tokens=False), strict=True
    ):
        expected = by_the_rules(pieces, text)
        if encoding.ids != expected:
            scores = [sum(map(pieces.get_score, ids)) for ids in (encoding.ids, expected)]
            assert abs(scores[0] - scores[1]) < 1e-6 * abs(scores[0]), text
            different += 1
    assert len(texts) > 1000 and different <= 1
