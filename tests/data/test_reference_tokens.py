"""Tokens of vocabulary files, against tokenizers that are not made by conversion."""

from __future__ import annotations

import base64
import functools
import json
import shutil
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Model
from flaxfer.data.tokenizer import load_tokenizer

TOKENIZERS = "models/tokenizers"


def texts(shared: Path) -> list[str]:
    names = (
        "glue-samples/SST-2/dev.tsv",
        "imdb-sample/dev.tsv",
        *(f"stsb-multi-mt/stsb-{language}-dev.csv" for language in ("de", "ja", "ru", "zh")),
        "xnli/dev-hi.tsv",
        "xnli/dev-th.tsv",
    )
    found = ["İstanbul ǅ ß ſ", "a\u200bb\u00adc\ufeffd\x00e\ufffd", "1,234.5 $x^2 «¿?»", " \t\n"]
    for name in names:
        file = shared / "data" / name
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()[:50]
            found += [line[:400] for line in lines]
    assert len(found) > 300
    return found


def load(folder: Path, sources: list[Path], config: dict[str, Any], **tokenizer: Any) -> Any:
    folder.mkdir(exist_ok=True)
    for source in sources:
        shutil.copy(source, folder)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 514} | config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return load_tokenizer(Model(path=str(folder)))


def assert_same(tokenizer: Any, reference: Callable[[str], list[int]], lines: list[str]) -> None:
    encoded = tokenizer.backend_tokenizer.encode_batch(lines, add_special_tokens=False)
    different = [
        text
        for text, encoding in zip(lines, encoded, strict=True)
        if encoding.ids != reference(text)
    ]
    assert not different


@pytest.mark.parametrize(
    ("name", "size", "lower"),
    [
        ("bert-base-uncased", 30522, True),
        ("bert-base-cased", 28996, False),
        pytest.param("bert-base-multilingual-cased", 119547, False, marks=pytest.mark.slow),
    ],
)
def test_word_pieces_are_those_of_the_python_tokenizer(
    name: str, size: int, lower: bool, shared: Path, tmp_path: Path
) -> None:
    legacy = pytest.importorskip(
        "transformers.models.bert.tokenization_bert_legacy", reason="transformers has it no more"
    )
    file = shared / TOKENIZERS / name / "vocab.txt"
    tokenizer = load(
        tmp_path, [file], {"model_type": "bert", "vocab_size": size}, do_lower_case=lower
    )
    reference = legacy.BertTokenizerLegacy(str(file), do_lower_case=lower)
    # Unlike BERT's own tokenizer, the Python class composes characters first.
    lines = [text for text in texts(shared) if text == unicodedata.normalize("NFC", text)]
    assert_same(
        tokenizer,
        lambda text: reference.convert_tokens_to_ids(reference._tokenize(text)),
        lines,
    )


def test_byte_level_pieces_are_those_of_gpt_2(shared: Path, tmp_path: Path) -> None:
    regex = pytest.importorskip("regex", reason="regex is not installed")
    folder = shared / TOKENIZERS / "roberta-base"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    ranks = {tuple(line.split()): i for i, line in enumerate(lines) if line}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    char = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    words = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )

    @functools.cache
    def pieces(word: str) -> list[str]:
        parts = [char[byte] for byte in word.encode()]
        while pairs := [pair for pair in pairwise(parts) if pair in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            merged: list[str] = []
            for part in parts:
                # A part that was just merged ends in the second of the pair, and is not one.
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return parts

    tokenizer = load(
        tmp_path,
        [folder / "vocab.json", folder / "merges.txt"],
        {"model_type": "roberta", "vocab_size": 50265},
    )
    assert_same(
        tokenizer,
        lambda text: [vocabulary[piece] for word in words.findall(text) for piece in pieces(word)],
        texts(shared),
    )


def test_sentence_pieces_are_those_of_sentencepiece(shared: Path, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from sentencepiece import sentencepiece_model_pb2

    state = json.loads((shared / "models/me5-small-32k-xlmr/tokenizer.json").read_text("utf-8"))
    parts = state["normalizer"]["normalizers"]
    charsmap = next(
        part["precompiled_charsmap"] for part in parts if "precompiled_charsmap" in part
    )
    proto: Any = sentencepiece_model_pb2.ModelProto()
    special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    for number, (piece, score) in enumerate([*special, *state["model"]["vocab"][4:-1]]):
        kind = proto.SentencePiece.Type.Value(
            {0: "UNKNOWN", 1: "CONTROL", 2: "CONTROL"}.get(number, "NORMAL")
        )
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(charsmap)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    file = tmp_path / "sentencepiece.bpe.model"
    file.write_bytes(proto.SerializeToString())
    tokenizer = load(tmp_path / "model", [file], {"model_type": "xlm-roberta", "vocab_size": 32000})
    # Runs of one character have several segmentations of the same score.
    lines = [text for text in texts(shared) if not any(char * 4 in text for char in ".!?-")]
    assert_same(tokenizer, lambda text: [i + 1 if i else 3 for i in pieces.encode(text)], lines)
