from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from flaxfer.config import Model
from flaxfer.data.tokenize import load_tokenizer, tokenize
from flaxfer.errors import ConfigError, DataError
from flaxfer.models.pretrained import resolve
from tests.data.test_tokenize import examples
from tests.helpers import tiny_tokenizer


def test_ids_beyond_the_embedding_table_are_refused(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=f"has {config['vocab_size']} rows") as caught:
        load_tokenizer(Model(path=str(folder)))
    assert str(folder) in str(caught.value)


def test_tokenizer_of_another_family(tmp_path: Path) -> None:
    xlnet = tiny_tokenizer(tmp_path / "xlnet", "xlnet")
    roberta = tiny_tokenizer(tmp_path / "roberta", "roberta")
    with pytest.raises(DataError, match="need '<cls>' to come first"):
        load_tokenizer(Model(path=str(roberta), tokenizer=str(xlnet)))
    backend = tokenizers.Tokenizer.from_file(str(roberta / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.ByteLevel()
    backend.save(str(roberta / "tokenizer.json"))
    with pytest.raises(DataError, match="neither first nor last"):
        load_tokenizer(Model(path=str(roberta)))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    def refusal(**model: Any) -> str:
        with pytest.raises((ConfigError, DataError)) as caught:
            load_tokenizer(Model(**model))
        return str(caught.value)

    assert f"{tmp_path / 'gone'}: there is no such folder" in refusal(path=str(tmp_path / "gone"))
    folder = tiny_tokenizer(tmp_path / "model")
    assert "no such folder" in refusal(path=str(folder), tokenizer=str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    assert "tokenizer.json is missing" in refusal(
        path=str(folder), tokenizer=str(tmp_path / "empty")
    )
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    assert "tokenizer.json: the file cannot be read as JSON" in refusal(path=str(folder))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert "model_type 'gpt2' is not implemented" in refusal(path=str(folder))
    (folder / "config.json").write_text('{"model_type"')
    assert "cannot be read as JSON" in refusal(path=str(folder))


def test_vocabulary_file_needs_to_say_whether_it_lowercases(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path / "model")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    other = tmp_path / "vocabulary"
    other.mkdir()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (other / "vocab.txt").write_text("\n".join(lines) + "\n")
    model = Model(path=str(folder), tokenizer=str(other))
    with pytest.raises(DataError, match=r"tokenizer_config\.json is missing"):
        load_tokenizer(model)
    for lower, expected in ((True, "the man"), (False, "[UNK] man")):
        options = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        (other / "tokenizer_config.json").write_text(json.dumps(options))
        tokenizer = load_tokenizer(model)
        tokenized = tokenize(examples(False, ("The man",)), tokenizer, 16, None)
        assert tokenizer.decode(tokenized.token) == f"[CLS] {expected} [SEP]"


def test_unreachable_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def repo_info(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    with pytest.raises(DataError, match="no route"):
        resolve(Model(hub="owner/model"))


def test_real_vocabularies(shared: Path, tmp_path: Path) -> None:
    """Folders of vocabulary files alone, with the config of the model; published ids."""
    for name, family, size, options, text, ids in (
        ("bert-base-uncased", "bert", 30522, True, "Hello world", [101, 7592, 2088, 102]),
        ("bert-base-cased", "bert", 28996, False, "Hello world", [101, 8667, 1362, 102]),
        ("roberta-base", "roberta", 50265, None, "Hello world", [0, 31414, 232, 2]),
    ):
        source = shared / "models/tokenizers" / name
        folder = tmp_path / name
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).symlink_to(file)
        config = {"model_type": family, "vocab_size": size}
        config |= {"max_position_embeddings": 514} if family == "roberta" else {}
        (folder / "config.json").write_text(json.dumps(config))
        if options is not None:
            with pytest.raises(DataError, match=r"tokenizer_config\.json is missing"):
                load_tokenizer(Model(path=str(folder)))
            lower = {"tokenizer_class": "BertTokenizer", "do_lower_case": options}
            (folder / "tokenizer_config.json").write_text(json.dumps(lower))
        tokenizer = load_tokenizer(Model(path=str(folder)))
        tokenized = tokenize(examples(False, (text,)), tokenizer, 32, None)
        assert tokenized.token.tolist() == ids
        assert tokenizer.model_max_length == 512
