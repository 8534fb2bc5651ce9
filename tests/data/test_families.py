"""Requirements of the tokenizers of single families."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Literal

import pytest

from flaxfer.config import Model
from flaxfer.data import tokenizer
from flaxfer.data.tokenizer import load_tokenizer
from flaxfer.errors import DataError
from flaxfer.runtime.host import install_hint
from tests.helpers import tiny_tokenizer

XLNET = {"model_type": "xlnet", "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}


@pytest.mark.parametrize(
    ("family", "like", "longest"),
    [
        ("ernie", "bert", 64),
        ("camembert", "xlm-roberta", 62),
        ("data2vec-text", "roberta", 62),
    ],
)
def test_families_that_are_like_another(
    family: str, like: Literal["bert", "roberta", "xlm-roberta"], longest: int, tmp_path: Path
) -> None:
    folder = tiny_tokenizer(tmp_path, like)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": family, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(Model(path=str(folder)))
    assert loaded.model_max_length == longest
    assert ("token_type_ids" in loaded.model_input_names) == (like == "bert")
    assert loaded("a")["input_ids"][0] == loaded.cls_token_id


def test_a_model_of_one_token_type_gets_no_other(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path, "bert")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"type_vocab_size": 1}))
    assert "token_type_ids" not in load_tokenizer(Model(path=str(folder))).model_input_names


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
@pytest.mark.parametrize("file", ["spiece.model", "sentencepiece.bpe.model"])
def test_packages_that_are_missing_are_named(
    package: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps(XLNET | {"vocab_size": 32000}))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"{file} takes .*{package}") as caught:
        load_tokenizer(Model(path=str(tmp_path)))
    assert install_hint("sentencepiece") in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_model_of_xlnet(shared: Path, tmp_path: Path) -> None:
    """Read, laid out and typed as transformers does it; the pieces are SentencePiece's own."""
    for package in ("sentencepiece", "google.protobuf"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import sentencepiece

    file = shared / "models/tokenizers/xlnet-cased/spiece.model"
    shutil.copy(file, tmp_path / file.name)
    (tmp_path / "config.json").write_text(json.dumps(XLNET | {"vocab_size": 32000}))
    loaded = load_tokenizer(Model(path=str(tmp_path)))
    first, second = "A man isn't playing the guitar.", "Two red dogs run."
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    ids = [pieces.encode(text) for text in (first, second)]
    separator, cls = pieces.piece_to_id("<sep>"), pieces.piece_to_id("<cls>")
    found = loaded(first, second, return_token_type_ids=True)
    assert found["input_ids"] == [*ids[0], separator, *ids[1], separator, cls]
    types = [0] * (len(ids[0]) + 1) + [1] * (len(ids[1]) + 1) + [2]
    assert found["token_type_ids"] == types
    assert loaded.pad_token_id == pieces.piece_to_id("<pad>") == 5
    assert tokenizer.cls_is_last(loaded) and "token_type_ids" in loaded.model_input_names
    assert loaded.model_max_length > 10**9
