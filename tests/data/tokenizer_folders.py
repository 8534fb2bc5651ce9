"""Folders of tokenizers that tests change, and what loads or refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from flaxfer.config import Model
from flaxfer.data.tokenizer import load_tokenizer
from flaxfer.errors import DataError

TEXTS = ("The Man, réd 犬犬 12!", "a  cat\tIS not", "[SEP] the <pad> </s> dog", "", "Ａ ｱ ﬁ […]")


def edit(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Changes keys of a JSON file, and drops those that become None."""
    path = folder / name
    value = (json.loads(path.read_text()) if path.exists() else {}) | changes
    value = {key: item for key, item in value.items() if item is not None or key == "normalizer"}
    path.write_text(json.dumps(value))
    return value


def change_backend(folder: Path, change: Callable[[Any], Any]) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(backend)
    backend.save(str(folder / "tokenizer.json"))


def load(folder: Path) -> Any:
    return load_tokenizer(Model(path=str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder)
    return str(caught.value)


def assert_as_in_the_file(folder: Path) -> None:
    tokenizer = load(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(backend.to_str())
    for text in TEXTS:
        expected = backend.encode(text)
        assert tokenizer(text)["input_ids"] == expected.ids
        found = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        assert [tuple(pair) for pair in found] == expected.offsets


def as_class(folder: Path, name: str | None) -> None:
    """Names a class in tokenizer_config.json; without one, the file is deleted."""
    if name is None:
        (folder / "tokenizer_config.json").unlink()
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
