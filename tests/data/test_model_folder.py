"""Model folders: config.json and labels, or what lies there instead."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Model
from flaxfer.data.model_folder import read_config, read_labels
from flaxfer.data.tokenizer import load_tokenizer
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from tests.helpers import tiny_tokenizer

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 570\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the config.json and the tokenizer of a tiny BERT."""
    return tiny_tokenizer(tmp_path / "model")


def replaced(content: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / "config.json").write_text(content)

    return replace


def link(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../../blobs/0123")


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def moved(*places: str) -> Callable[[Path], None]:
    """Return a function that moves config.json into a sub-folder, and adds other files."""

    def move(folder: Path) -> None:
        for place in places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text((folder / "config.json").read_text())
        (folder / "config.json").unlink()

    return move


def sentence(folder: Path) -> None:
    moved("0_Transformer/config.json", "1_Pooling/config.json")(folder)
    modules = [
        {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (replaced("[" * 100_000), "its brackets are nested too deeply"),
        (replaced('{"a":' * 100_000), "its brackets are nested too deeply"),
        (replaced("[]"), "no JSON object, but a list"),
        (replaced('{"vocab_size": 1, "vocab_size": 2}'), "'vocab_size' stands twice"),
        (replaced(""), "the file is empty"),
        (replaced(LFS), "a Git LFS pointer"),
        (replaced("\n<!doctype html>"), "a web page"),
        (replaced("\0" * 600), "begins with zero bytes"),
        (replaced("{"), "cannot be read as JSON: Expecting property name"),
        (replaced('{"vocab_size": 1' + "0" * 5000 + "}"), "cannot be read as JSON"),
        (link, "a link to a missing file"),
        (pipe, "this is no file"),
        (moved("m.gguf"), "GGUF"),
        (moved("bert_config.json"), "bert_config.json belongs to a TensorFlow checkpoint"),
        (moved("snapshots/0123/config.json"), "this is the cache of a model of the hub"),
        (moved("checkpoint-500/config.json"), "name a folder with a model, such as"),
        (sentence, "whose encoder lies in 0_Transformer"),
        (moved(), "there is no such file"),
    ],
)
def test_an_unusable_config_json_is_one_error_that_says_what_it_is(
    folder: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(folder)
    with pytest.raises(DataError) as caught:
        read_config(folder)
    assert caught.value.where == str(folder / "config.json") and caught.value.hint
    assert words in str(caught.value)
    with pytest.raises(DataError) as again:
        load_tokenizer(Model(path=str(folder)))
    assert str(again.value) == str(caught.value)


def test_hints_name_folders_that_work(folder: Path) -> None:
    sentence(folder)
    with pytest.raises(DataError) as caught:
        read_config(folder)
    assert f"name the folder {folder / '0_Transformer'}" in str(caught.value.hint)
    assert read_config(folder / "0_Transformer")["model_type"] == "bert"


def test_a_byte_order_mark_is_read(folder: Path) -> None:
    settings = read_config(folder)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8-sig")
    assert read_config(folder) == settings


ADAPTER = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "bert-base"}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("settings", "what", "hint"),
    [
        (ADAPTER, "a LORA adapter of peft for bert-base", "AutoPeftModelForSequenceClassification"),
        (ADAPTER | {"task_type": None}, "a LORA adapter", "AutoPeftModelForFeatureExtraction"),
        (ADAPTER | {"peft_type": "PREFIX_TUNING"}, "a PREFIX_TUNING adapter", "cannot be merged"),
        ({"config": {}}, "this is an adapter, not a whole model", "merge_and_unload()"),
    ],
)
def test_an_adapter_is_refused_also_beside_a_whole_model(
    folder: Path, settings: dict[str, Any], what: str, hint: str, beside: bool
) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / ("model.safetensors" if beside else "adapter_model.safetensors")).touch()
    if not beside:
        (folder / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        read_config(folder)
    assert what in caught.value.what and hint in str(caught.value.hint)
    assert ("remove adapter_config.json" in str(caught.value.hint)) == beside


@pytest.mark.parametrize(
    "names", [["no", "yes"], {"0": "no", "1": "yes"}, {"1": "yes", "0": "no"}, {0: "no", 1: "yes"}]
)
def test_labels_are_read_from_an_object_or_a_list(names: Any) -> None:
    settings = {"id2label": names, "num_labels": 2, "label2id": {"no": 0, "yes": 1}}
    assert read_labels(settings, "config.json") == ("no", "yes")


def test_labels_have_the_names_of_transformers_by_default() -> None:
    assert read_labels({}, "config.json") == ("LABEL_0", "LABEL_1")
    assert read_labels({"num_labels": 1}, "config.json") == ("LABEL_0",)
    assert read_labels({"id2label": {"0": 1, "1": 2}}, "config.json") == ("1", "2")
    ids = {"no": "0", "yes": "1"}
    assert read_labels({"id2label": ["no", "yes"], "label2id": ids}, "x") == ("no", "yes")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "does not number the classes"),
        ({"id2label": {"1": "a", "2": "b"}}, "does not number the classes"),
        ({"id2label": {"a": 0, "b": 1}}, "does not number the classes"),
        ({"id2label": ["a", "a"]}, "two classes the same name"),
        ({"id2label": ["a", ["b"]]}, "id2label has to be an object or a list"),
        ({"id2label": "ab"}, "id2label has to be an object or a list"),
        ({"id2label": ["a", "b"], "num_labels": 3}, "num_labels is 3, but id2label has 2"),
        ({"num_labels": "2"}, "num_labels has to be a positive integer, not '2'"),
        ({"num_labels": 0}, "num_labels has to be a positive integer"),
        ({"id2label": ["a", "b"], "label2id": {"a": 1, "b": 0}}, "disagrees with id2label"),
        ({"id2label": ["a", "b"], "label2id": {"a": 0}}, "disagrees with id2label"),
        ({"id2label": ["a", "b"], "label2id": ["a", "b"]}, "label2id has to be an object"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_labels(settings, "folder/config.json")
    assert words in caught.value.what and caught.value.where == "folder/config.json"


def test_labels_of_any_form_do_not_hinder_the_tokenizer(folder: Path) -> None:
    settings = read_config(folder)
    want = load_tokenizer(Model(path=str(folder)))("a man plays")["input_ids"]
    for labels in ({"id2label": ["a", "b"]}, {"label2id": ["a"]}, {"num_labels": "two"}):
        (folder / "config.json").write_text(json.dumps(settings | labels))
        assert load_tokenizer(Model(path=str(folder)))("a man plays")["input_ids"] == want


def test_a_file_instead_of_a_folder_is_named(folder: Path) -> None:
    for path, words in (
        (folder / "config.json", "no such folder, but a file"),
        (folder / "gone", "no such folder"),
    ):
        with pytest.raises(FlaxferError, match=words):
            read_config(path)
