"""Predictions for texts in a file, by any model of transformers with a head for sequences."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Task, Train
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop import predict
from flaxfer.models import pretrained
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sharding
from tests.helpers import mesh_of, tiny_model

TEXTS = [
    ("a man plays the guitar.", "the dog eats"),
    ("a child runs!", 'the "big" red dog, a cat'),
    ("women are not playing the piano", "woman"),
    ("cats", "cat cat cat cat cat"),
]
# In the order of their numbers, not of the file or of the alphabet.
NAMES = {"10": "k", "2": "c", "0": "z", "1": "y"} | {str(i): f"n{i}" for i in range(3, 10)}
LABELS = ("z", "y", "c", *(f"n{i}" for i in range(3, 10)), "k")
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mesh of a machine with one device."""
    monkeypatch.setattr(sharding, "make_mesh", lambda sizes: mesh_of())


def model_with(folder: Path, family: Any = "bert", **settings: Any) -> Path:
    """A model with a classifier, as many outputs as `id2label` has names."""
    tiny_model(folder, family)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    outputs = len(settings.get("id2label") or (0, 1))
    encoder = pretrained.load_encoder_config(folder)
    params = jax.tree.map(np.asarray, ModelSpec(encoder, num_outputs=outputs).random_params(3))
    params["head"]["output"]["kernel"] = params["head"]["output"]["kernel"] * 50
    arrays = pretrained.checkpoint_arrays(params, encoder)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of transformers' own making, with eleven classes."""
    return model_with(
        tmp_path_factory.mktemp("predict") / "model",
        architectures=["BertForSequenceClassification"],
        id2label=NAMES,
    )


def write(path: Path, lines: list[str]) -> Path:
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The texts as json lines."""
    lines = [json.dumps({"text_b": b, "text_a": a, "other": 1}) for a, b in TEXTS]
    return write(tmp_path / "pairs.jsonl", lines)


def test_classes_have_their_names_and_probabilities(model: Path, pairs: Path) -> None:
    found = list(predict.predict(model, pairs))
    assert [r["id"] for r in found] == [f"pairs:{i}" for i in range(1, 5)]
    for record in found:
        assert record.keys() == {"id", "prediction", "probabilities"}
        assert tuple(record["probabilities"]) == LABELS
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert record["prediction"] == max(LABELS, key=record["probabilities"].__getitem__)
    assert len({r["prediction"] for r in found}) > 1


@pytest.mark.parity
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("names", [NAMES, {"0": "similarity"}], ids=["classes", "score"])
def test_any_model_predicts_as_in_transformers(
    tmp_path: Path, pairs: Path, family: Any, names: Json
) -> None:
    import torch
    import transformers

    name = {"bert": "Bert", "xlm-roberta": "XLMRoberta"}[family]
    folder = model_with(
        tmp_path / "model",
        family,
        architectures=[f"{name}ForSequenceClassification"],
        id2label=names,
    )
    torch_model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    keys = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family == "bert")
    tokenizer.model_input_names = keys
    for record, pair in zip(predict.predict(folder, pairs), TEXTS, strict=True):
        with torch.no_grad():
            (logits,) = torch_model(**tokenizer(*pair, return_tensors="pt")).logits
        if len(names) == 1:
            assert record["prediction"] == pytest.approx(float(logits), abs=1e-5)
        else:
            assert record["prediction"] == torch_model.config.id2label[int(logits.argmax())]
            probabilities = list(record["probabilities"].values())
            np.testing.assert_allclose(probabilities, logits.softmax(-1), atol=1e-5)


def test_all_formats_say_the_same(model: Path, pairs: Path, tmp_path: Path) -> None:
    wanted = list(predict.predict(model, pairs))
    doubled = [[text.replace('"', '""') for text in pair] for pair in TEXTS]
    csv = ["id,text_b,text_a", *(f'{i},"{b}","{a}"' for i, (a, b) in enumerate(doubled))]
    tsv = ["text_a\tlabel\ttext_b", *(f"{a}\tany\t{b}" for a, b in TEXTS)]
    found = list(predict.predict(model, write(tmp_path / "x.csv", csv)))
    assert found == [{**record, "id": str(i)} for i, record in enumerate(wanted)]
    found = list(predict.predict(model, write(tmp_path / "pairs.tsv.gz", tsv)))
    assert found == wanted


def test_language_and_domain_are_kept(model: Path, tmp_path: Path) -> None:
    records = [{"text_a": "a dog", "language": "nl", "domain": "shop", "id": i} for i in (5, 4)]
    file = write(tmp_path / "one.jsonl", [json.dumps(record) for record in records])
    one, other = predict.predict(model, file)
    assert one.items() >= {"id": "5", "language": "nl", "domain": "shop"}.items()
    assert one["probabilities"] == other["probabilities"]


def test_the_command_line_writes_or_prints_json_lines(
    model: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(model), str(pairs)]) == 0
    printed = capsys.readouterr().out
    assert list(map(json.loads, printed.splitlines())) == list(predict.predict(model, pairs))
    out = tmp_path / "new" / "out.jsonl"
    assert predict.main([str(model), str(pairs), "--output", str(out)]) == 0
    assert capsys.readouterr().out == "" and out.read_text(encoding="utf-8") == printed
    for words, code in (
        ([str(model), str(pairs), "--output", str(out / "deeper")], 2),
        ([str(model), str(tmp_path / "none.jsonl")], 3),
        ([str(tmp_path), str(pairs)], 3),
    ):
        assert predict.main(words) == code
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "lines", "kind", "message"),
    [
        ("x.txt", ["a"], ConfigError, "not one of those that are read"),
        ("x.parquet", [""], ConfigError, "not one of those that are read"),
        ("x.csv", ["text,id", "a,b"], DataError, "there is no column 'text_a'"),
        ("x.csv", ["text_a,id"], DataError, "no record"),
        ("x.csv", ["text_a,id", "dog,1", " ,2"], DataError, r"x.csv:3: column 'text_a': is empty"),
        ("x.csv", ["text_a,id", "dog,"], DataError, r"x.csv:2: column 'id': is empty"),
        ("x.tsv", ["text_a\ttext_b", "dog"], DataError, r"x.tsv:2: has 1 column"),
        ("x.jsonl", ['{"text_a": "a"}', "{"], DataError, "x.jsonl:2: the line is no JSON"),
        ("x.jsonl", ['{"text_a": "a"}', "[]"], DataError, "x.jsonl:2: the line is no JSON object"),
        ("x.jsonl", ['{"text_a": 3}'], DataError, "is of type int, not a text"),
        ("x.jsonl", ['{"text_a": "a"}', '{"text_a": "b", "text_b": "c"}'], DataError, "is missing"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(
    tmp_path: Path, name: str, lines: list[str], kind: type[FlaxferError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        predict.read_texts(write(tmp_path / name, lines), Task("t", "regression", "mse"))
    assert message in str(caught.value)
    assert len(caught.value.details) <= 1


HEAD = ["XForSequenceClassification"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "its architecture is none"),
        ({"architectures": ["BertForMaskedLM"]}, "its architecture is BertForMaskedLM"),
        (
            {"architectures": HEAD, "problem_type": "multi_label_classification"},
            "problem_type is multi_label_classification",
        ),
        (
            {"architectures": HEAD, "problem_type": "regression", "id2label": {"0": 1, "1": 2}},
            "problem_type is regression, for 2 label(s)",
        ),
        ({"architectures": HEAD, "id2label": {"a": "b", "1": "c"}}, "by number"),
        ({"flaxfer": {"task": {"name": "t"}}}, "type"),
        (
            {"flaxfer": {"task": {"name": "t", "type": "tagging", "metric": "f1"}}},
            "a model for tagging cannot be used",
        ),
    ],
)
def test_what_is_wrong_with_the_model_is_said(settings: Json, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        predict.task_of(settings, "the model")
    assert message in str(caught.value) and "the model" in str(caught.value)


def test_what_a_config_of_transformers_means() -> None:
    def task(**settings: Any) -> Task:
        return predict.task_of({"architectures": HEAD} | settings, "")

    assert task().labels == ("LABEL_0", "LABEL_1")  # As transformers has it.
    assert task(num_labels=3).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert task(id2label={"0": "x"}).type == "regression"
    one_class = task(id2label={"0": "x"}, problem_type="single_label_classification")
    assert (one_class.type, one_class.labels) == ("classification", ("x",))
    assert predict.train_of({}, 64) == Train(max_length=64, row_length=64)
    assert predict.train_of({}, 10**30) == Train(max_length=512, row_length=512)


def test_weights_that_do_not_fit_are_refused(model: Path, pairs: Path, tmp_path: Path) -> None:
    folder = model_with(tmp_path / "model", architectures=HEAD)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    with pytest.raises(CheckpointError, match="do not fit the model"):
        predict.predict(folder, pairs)
