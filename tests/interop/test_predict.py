"""Predictions for the texts of a file, by any transformers model with a head for sequences."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Task, Train
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop import predict, predictor
from flaxfer.interop.inputs import read_inputs
from flaxfer.main import main
from flaxfer.models import pretrained
from flaxfer.models.spec import ModelSpec
from tests.helpers import mesh_of, tiny_model

TEXTS = [
    ("a man plays the guitar.", "the dog eats"),
    ("a child runs!", 'the "big" red dog, a cat'),
    ("women are not playing the piano", "woman"),
    ("cats", "cat cat cat cat cat"),
]
# Labels are ordered by number, not as in the file or the alphabet.
NAMES = {"10": "k", "2": "c", "0": "z", "1": "y"} | {str(i): f"n{i}" for i in range(3, 10)}
LABELS = ("z", "y", "c", *(f"n{i}" for i in range(3, 10)), "k")
Json = dict[str, Any]


def predicted(folder: Path, file: Path) -> list[Json]:
    """Predict on one device, which compiles faster than on all."""
    return list(predict.predict(folder, file, mesh_of()))


def model_with(folder: Path, family: Any = "bert", **settings: Any) -> Path:
    """Write a model with a classifier that has an output for each name of `id2label`."""
    tiny_model(folder, family)
    path = folder / "config.json"
    one_layer = {"num_hidden_layers": 1}  # Compiles faster.
    path.write_text(json.dumps(json.loads(path.read_text()) | one_layer | settings))
    outputs = len(settings.get("id2label") or (0, 1))
    encoder = pretrained.load_encoder_config(folder)
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32),
        ModelSpec(encoder, num_outputs=outputs).param_shapes(),
    )
    arrays = pretrained.checkpoint_arrays(params, encoder)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with eleven classes, not exported by flaxfer."""
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
    """The texts as JSON lines."""
    lines = [json.dumps({"text_b": b, "text_a": a}) for a, b in TEXTS]
    return write(tmp_path / "pairs.jsonl", lines)


def test_classes_have_their_names_and_probabilities(model: Path, pairs: Path) -> None:
    records = predicted(model, pairs)
    assert [r["id"] for r in records] == [f"pairs:{i}" for i in range(1, 5)]
    for record in records:
        assert record.keys() == {"id", "prediction", "probabilities"}
        assert tuple(record["probabilities"]) == LABELS
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert record["prediction"] == max(LABELS, key=record["probabilities"].__getitem__)
    assert len({r["prediction"] for r in records}) > 1


@pytest.mark.parity
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("names", [NAMES, {"0": "similarity"}], ids=["classes", "score"])
def test_any_model_predicts_as_transformers_does(
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
    for record, pair in zip(predicted(folder, pairs), TEXTS, strict=True):
        with torch.no_grad():
            (logits,) = torch_model(**tokenizer(*pair, return_tensors="pt")).logits
        if len(names) == 1:
            assert record["prediction"] == pytest.approx(float(logits), abs=1e-5)
        else:
            assert record["prediction"] == torch_model.config.id2label[int(logits.argmax())]
            probabilities = list(record["probabilities"].values())
            np.testing.assert_allclose(probabilities, logits.softmax(-1), atol=1e-5)


def test_all_formats_give_the_same_predictions(model: Path, pairs: Path, tmp_path: Path) -> None:
    wanted = predicted(model, pairs)
    doubled = [[text.replace('"', '""') for text in pair] for pair in TEXTS]
    csv = ["id,text_b,text_a", *(f'{i},"{b}","{a}"' for i, (a, b) in enumerate(doubled))]
    tsv = ["text_a\ttext_b", *(f"{a}\t{b}" for a, b in TEXTS)]
    records = predicted(model, write(tmp_path / "x.csv", csv))
    assert records == [{**record, "id": str(i)} for i, record in enumerate(wanted)]
    assert predicted(model, write(tmp_path / "pairs.tsv.gz", tsv)) == wanted


def test_language_and_domain_are_kept(model: Path, tmp_path: Path) -> None:
    records = [{"text_a": "a dog", "language": "nl", "domain": "shop", "id": i} for i in (5, 4)]
    file = write(tmp_path / "one.jsonl", [json.dumps(record) for record in records])
    one, other = predicted(model, file)
    assert one.items() >= {"id": "5", "language": "nl", "domain": "shop"}.items()
    assert one["probabilities"] == other["probabilities"]


def test_the_command_prints_or_writes_json_lines(
    model: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), str(pairs)]) == 0
    printed = capsys.readouterr().out
    for record, wanted in zip(
        map(json.loads, printed.splitlines()), predicted(model, pairs), strict=True
    ):
        probabilities, exact = record.pop("probabilities"), wanted.pop("probabilities")
        assert probabilities == pytest.approx(exact, abs=1e-6)  # On all devices and on one.
        assert record == wanted
    out = tmp_path / "new" / "out.jsonl"
    assert main(["predict", str(model), str(pairs), "--output", str(out)]) == 0
    assert capsys.readouterr().out == "" and out.read_text(encoding="utf-8") == printed
    for words, code in (
        ([str(model), str(pairs), "--output", str(out / "deeper")], 2),
        ([str(model), str(tmp_path / "none.jsonl")], 3),
        ([str(tmp_path), str(pairs)], 3),
    ):
        assert main(["predict", *words]) == code
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "lines", "kind", "message"),
    [
        ("x.rtf", ["a"], ConfigError, "does not tell how it is written"),
        ("x.conll", ["a"], ConfigError, "regression is not predicted from conll files"),
        ("x.parquet", [""], DataError, "no parquet file"),
        ("x.txt", ["a dog", "", "a cat"], DataError, "x.txt:2: is empty"),
        ("x.csv", ["text,id", "a,b"], DataError, "there is no column 'text_a'"),
        ("x.csv", ["text,id", "a,b"], DataError, "the columns are 'text', 'id'; name those you"),
        ("x.csv", ["text,id", "a,b"], DataError, "--columns of predict"),
        ("x.csv", ["text_a,id"], DataError, "no record"),
        ("x.csv", ["text_a,id", "dog,1", " ,2"], DataError, r"x.csv:3: column 'text_a': is empty"),
        ("x.csv", ["text_a,id", "dog,"], DataError, r"x.csv:2: column 'id': is empty"),
        ("x.tsv", ["text_a\ttext_b", "dog"], DataError, r"x.tsv:2: has 1 column"),
        ("x.jsonl", ['{"text_a": "a"}', "{"], DataError, "x.jsonl:2: the line is no JSON"),
        ("x.jsonl", ['{"text_a": "a"}', "[]"], DataError, "x.jsonl:2: is a list, no object"),
        ("x.jsonl", ['{"text_a": 3}'], DataError, "is of type int, not a text"),
        ("x.jsonl", ['{"text_a": "a"}', '{"text_a": "b", "text_b": "c"}'], DataError, "is missing"),
    ],
)
def test_an_invalid_file_is_refused(
    tmp_path: Path, name: str, lines: list[str], kind: type[FlaxferError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        read_inputs(write(tmp_path / name, lines), Task("t", "regression", "mse"))
    assert message in str(caught.value)
    assert len(caught.value.details) <= 1


@pytest.mark.parametrize(
    ("texts", "header", "options", "message"),
    [
        (2, "text_a", [], "trained on pairs, but there is no column 'text_b'"),
        (2, "text_a", ["--single-texts"], ""),
        (1, "text_a,text_b", [], "trained on single texts, but there is a column 'text_b'"),
        (1, "text_a,text_b", ["--ignore-columns", "text_b"], ""),
        (1, "text_a,other", ["--ignore-columns"], ""),
        (2, "text_a,text_b", [], ""),
        (1, "text_a", [], ""),
        (None, "text_a", [], ""),
    ],
)
def test_an_export_gets_as_many_texts_as_it_was_trained_on(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    texts: int | None,
    header: str,
    options: list[str],
    message: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    settings = json.loads((folder / "config.json").read_text())
    task = {"name": "t", "type": "classification", "metric": "accuracy", "labels": LABELS}
    train = {"max_length": 16, "row_length": 16, "compute_dtype": "float32"}
    settings["flaxfer"] = {"task": task, "train": train, "texts": texts}
    (folder / "config.json").write_text(json.dumps(settings))
    fields = len(header.split(","))
    file = write(tmp_path / "x.csv", [header, ",".join(["dog", "cat"][:fields])])
    code = main(["predict", str(folder), str(file), *options])
    printed = capsys.readouterr()
    assert code == (3 if message else 0)
    assert message in printed.err and bool(printed.out) != bool(message)


def test_outputs_that_are_not_finite_are_an_error_of_the_weights(
    tmp_path: Path, model: Path, pairs: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    arrays["classifier.bias"][1] = 3e38
    arrays["classifier.weight"][1] = 3e38
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not finite for . of 4 examples of pairs\.jsonl"):
        predicted(folder, pairs)


HEAD = ["XForSequenceClassification"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no head for a task; its architecture is none"),
        ({"architectures": ["BertForMaskedLM"]}, "its architecture is BertForMaskedLM"),
        (
            {"architectures": HEAD, "problem_type": "multi_label_classification"},
            "problem_type is multi_label_classification",
        ),
        (
            {"architectures": HEAD, "problem_type": "regression", "id2label": {"0": 1, "1": 2}},
            "problem_type is regression, for 2 label(s)",
        ),
        ({"architectures": HEAD, "id2label": {"a": "b", "1": "c"}}, "does not number the classes"),
        ({"flaxfer": {"task": {"name": "t"}}}, "type"),
        (
            {
                "flaxfer": {"task": {"name": "t", "type": "regression", "metric": "mse"}},
                "id2label": {"0": "no", "1": "yes"},
            },
            "other labels than the task of the export: no, yes",
        ),
    ],
)
def test_an_unsuitable_model_is_refused(settings: Json, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        predictor.read_task(settings, "the model")
    assert message in str(caught.value) and "the model" in str(caught.value)


def test_the_task_and_length_of_a_model_that_is_no_export() -> None:
    def task(**settings: Any) -> Task:
        return predictor.read_task({"architectures": HEAD} | settings, "")

    assert task().labels == ("LABEL_0", "LABEL_1")  # The defaults of transformers.
    assert task(num_labels=3).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert task(id2label={"0": "x"}).type == "regression"
    one_class = task(id2label={"0": "x"}, problem_type="single_label_classification")
    assert (one_class.type, one_class.labels) == ("classification", ("x",))
    for suffix, kind, labels in (
        ("TokenClassification", "tagging", ("B-X", "O")),
        ("QuestionAnsweringSimple", "question_answering", ()),
        ("MultipleChoice", "multiple_choice", ()),
    ):
        other = task(architectures=[f"XLNetFor{suffix}"], id2label={"1": "O", "0": "B-X"})
        assert (other.type, other.labels) == (kind, labels)
    assert predictor.read_train({}, 64) == Train(max_length=64, row_length=64)
    assert predictor.read_train({}, 10**30) == Train(max_length=512, row_length=512)


def test_weights_that_do_not_fit_are_refused(model: Path, pairs: Path, tmp_path: Path) -> None:
    folder = model_with(tmp_path / "model", architectures=HEAD)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    with pytest.raises(CheckpointError, match="do not fit the model"):
        predicted(folder, pairs)


def test_a_predictor_gives_the_records_of_the_command(model: Path, pairs: Path) -> None:
    records = [{k: v for k, v in r.items() if k != "id"} for r in predicted(model, pairs)]
    predictor_ = predictor.Predictor(str(model), mesh=mesh_of())
    assert predictor_.task.labels == LABELS
    assert predictor_(TEXTS) == records
    two = predictor_(np.array(TEXTS)[:2])  # In other rows, so equal up to rounding.
    for one, other in zip(two, records[:2], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    single = predictor_(text for text, _ in TEXTS)
    assert len(single) == len(TEXTS) and single != records


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there are no texts"),
        ("one text", "one text, not a list in which each item is a text, or a pair of texts"),
        ([("a", "b"), "c"], "item 2 has other parts than item 1"),
        ([("a", "b", "c")], "item 1 cannot be used: it has 3 parts"),
        ([{"text_a": "a", "label": "b"}], "'label' is no part of an example"),
        ([("a", " ")], r"1 finding\(s\) in the data.*\n.*texts:1: column 'text_b': is empty"),
    ],
)
def test_texts_that_cannot_be_predicted(texts: Any, message: str, model: Path) -> None:
    predictor_ = predictor.Predictor(model, mesh=mesh_of())
    with pytest.raises(DataError, match=message):
        predictor_(texts)
