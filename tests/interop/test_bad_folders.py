"""Commands that read a model's folder say the same of a bad one, and agree on a good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxfer.aot.programs import Assumed, assumed_workload
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop.convert import convert
from flaxfer.interop.embedding import Embedder
from flaxfer.interop.folders import copy_patterns
from flaxfer.interop.predict import predict
from flaxfer.main import main
from flaxfer.models.pretrained import SENTENCE_FILES, load_encoder_config, load_pretrained
from flaxfer.training.reading import read_study_data
from tests.e2e.helpers import config_of
from tests.helpers import tiny_model

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a classifier of three classes."""
    folder = tiny_model(tmp_path_factory.mktemp("original"), "bert")
    arrays = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(1)
    arrays["classifier.weight"] = rng.normal(0, 1, (3, 32)).astype(np.float32)
    arrays["classifier.bias"] = np.zeros(3, np.float32)
    save_file(arrays, folder / "model.safetensors")
    settings(architectures=["BertForSequenceClassification"], num_labels=3)(folder)
    (folder / "texts.jsonl").write_text('{"text_a": "a man plays"}\n')
    return folder


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    """A copy at the place where `config_of` expects the model."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def settings(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def written(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def study(folder: Path) -> None:
    data = read_study_data(config_of(folder.parent), folder.parent / "cache")
    load_pretrained(data.folder, data.encoder)


READERS: dict[str, Change] = {
    "study": study,
    "predict": lambda folder: list(predict(folder, folder / "texts.jsonl")),
    "embed": lambda folder: Embedder(folder),
    "convert": lambda folder: convert(folder, folder.parent / "out", allow_torch=True),
}


def errors(folder: Path, readers: dict[str, Change] = READERS) -> set[tuple[str, type, str]]:
    """Return place, class and sentence of the error of every command."""
    found = set()
    for read in readers.values():
        with pytest.raises(FlaxferError) as caught:
            read(folder)
        found.add((str(caught.value.where), type(caught.value), caught.value.what))
    return found


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (settings(hidden_size="32"), ConfigError, "hidden_size has to be"),
        (settings(vocab_size=10**12), ConfigError, "vocab_size has to be"),
        (settings(num_hidden_layers=10**6), ConfigError, "num_hidden_layers has to be"),
        (settings(model_type=["bert"]), ConfigError, "model_type ['bert'] is not implemented"),
        (settings(model_type=...), ConfigError, "there is no model_type"),
        (settings(is_decoder=True), ConfigError, "is_decoder has to be"),
        (written("config.json", "[" * 100_000), DataError, "nested too deeply"),
        (lambda folder: (folder / "config.json").unlink(), DataError, "there is no such file"),
        (written("adapter_config.json", '{"peft_type": "LORA"}'), CheckpointError, "LORA adapter"),
        (shutil.rmtree, DataError, "there is no such folder"),
    ],
)
def test_every_command_says_the_same_of_a_bad_config(
    change: Change, kind: type, words: str, model: Path
) -> None:
    change(model)
    ((where, found, what),) = errors(model)
    assert found is kind and words in what and where.startswith(str(model))
    file = model / "config.json"
    if found is not CheckpointError and file.is_file():  # `flaxfer aot` reads this file alone.
        config = config_of(model.parent)
        read = {"aot": lambda _: assumed_workload(config, "target", file, Assumed(2, 2))}
        assert errors(model, read) == {(where, found, what)}


def with_inf(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    array = arrays[name].astype(np.float16)
    array[1, 2] = np.inf
    save_file(arrays | {name: array}, folder / "model.safetensors")


def prefixed(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    names = {f"_orig_mod.{name}": array for name, array in arrays.items()}
    save_file(names, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_inf, "bert.encoder.layer.0.output.dense.weight: 1 of 2,048 values"),
        (prefixed, "every name of the weights begins with '_orig_mod.'"),
        (written("model.safetensors", "version https://git-lfs.github.com"), "a Git LFS pointer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "there is no model.safetensors"),
        (settings(num_hidden_layers=1), "num_hidden_layers is 1 in config.json, but the weights"),
    ],
)
def test_every_command_says_the_same_of_bad_weights(
    change: Change, words: str, model: Path
) -> None:
    change(model)
    encoder = {name: READERS[name] for name in ("predict", "embed")}
    readers = encoder | {
        "start": lambda folder: load_pretrained(folder, load_encoder_config(folder))
    }
    ((where, kind, what),) = errors(model, readers)
    assert kind is CheckpointError and words in what and where.startswith(str(model))


def test_the_command_line_prints_one_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(hidden_size="32")(model)
    path, texts = str(model), str(model / "texts.jsonl")
    topology = ["--config", "configs/sts_english.py", "--topology", "v5e:1"]
    sizes = ["--rows", "2", "--examples_per_row", "2"]
    for words in (
        ["predict", path, texts],
        ["convert", path, str(model.parent / "out")],
        ["aot", *topology, "--model_config", f"{path}/config.json", *sizes],
    ):
        assert main(words) == 2
        line, hint = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path}/config.json: hidden_size has to be a positive int")
        assert hint.startswith("  Hint: ")


def test_labels_in_a_list_predict_like_those_in_an_object(model: Path) -> None:
    names = ["no", "maybe", "yes"]
    settings(id2label=dict(enumerate(names)))(model)
    (wanted,) = predict(model, model / "texts.jsonl")
    assert set(wanted["probabilities"]) == set(names)
    settings(id2label=names)(model)
    assert list(predict(model, model / "texts.jsonl")) == [wanted]
    settings(id2label=names, num_labels=2)(model)
    with pytest.raises(ConfigError, match="num_labels is 2, but id2label has 3"):
        list(predict(model, model / "texts.jsonl"))
    settings(id2label=names[:2])(model)
    with pytest.raises(CheckpointError, match=r"number of classes is 2 in config\.json and 3 in"):
        list(predict(model, model / "texts.jsonl"))


def test_converting_keeps_the_files_of_sentence_transformers(model: Path) -> None:
    (model / "1_Pooling").mkdir()
    written("1_Pooling/config.json", '{"pooling_mode": "cls"}')(model)
    written("sentence_bert_config.json", '{"max_seq_length": 9}')(model)
    out = model.parent / "out"
    out.mkdir()
    copy_patterns(SENTENCE_FILES, model, out)
    copied = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert copied == ["1_Pooling/config.json", "sentence_bert_config.json"]
