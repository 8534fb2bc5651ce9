"""Exports are loaded by transformers and flaxfer, and repeat the predictions of their stage."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Config
from flaxfer.interop.card import Publication, model_card
from flaxfer.interop.export import config_json, export
from flaxfer.interop.predict import predict
from flaxfer.main import main
from flaxfer.models import pretrained
from flaxfer.models.weights import read_headers
from flaxfer.study import runner
from flaxfer.training.record import open_finished
from flaxfer.training.vocabulary import word_table
from tests.e2e.helpers import (
    folder_of,
    lines_of,
    predictions_of,
    quickly,
    runs_of,
    summary_of,
)
from tests.helpers import mesh_of
from tests.interop.helpers import ROWS, read_json, texts_of, with_model, write_study

WORD = "embeddings.word_embeddings.weight"
Exporter = Callable[..., Path]


def run(config: Config) -> Config:
    with quickly():
        runner.run(config, "flaxfer run --config tiny.py")
    return config


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study of a BERT: classification first, then regression."""
    return run(write_study(tmp_path_factory.mktemp("scores"), "bert"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study of an XLM-R: classification only, also from random weights."""
    config = write_study(tmp_path_factory.mktemp("classes"), "xlm-roberta")
    assert config.intermediate is not None
    data = dataclasses.replace(config.intermediate.data, dev=(), split=(0.6, 0.2, 0.2))
    target = dataclasses.replace(config.intermediate, data=data)
    config = dataclasses.replace(config, intermediate=None, target=target)
    return run(dataclasses.replace(config, conditions=("direct", "scratch")))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """Export a stage of a study; each stage is exported once."""

    @functools.cache
    def export_once(stage: Path) -> Path:
        return export(stage, tmp_path_factory.mktemp("exports") / "my model")

    return lambda config, stage: export_once(folder_of(config, stage))


@pytest.fixture(params=["scores direct", "scores staged", "classes direct", "classes scratch"])
def case(request: pytest.FixtureRequest) -> tuple[Config, str]:
    name, condition = request.param.split()
    return request.getfixturevalue(name), f"{condition}/target"


def test_an_export_repeats_the_predictions_bit_for_bit(
    case: tuple[Config, str], exported: Exporter
) -> None:
    config, stage = case
    folder, out = folder_of(config, stage), exported(*case)
    for name in ("test", "german") if config.intermediate else ("test",):
        before = predictions_of(folder, name)
        for record in before:
            assert record.pop("label" if "label" in record else "score") is not None
        after = list(predict(out, texts_of(config, folder, name), mesh_of()))
        assert after == before and len(after) > 6


@pytest.mark.parity
def test_transformers_loads_it_and_predicts_the_same(
    case: tuple[Config, str], exported: Exporter
) -> None:
    import torch
    import transformers

    config, stage = case
    out, folder = exported(*case), folder_of(config, stage)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(info.values()), info
    labels = config.target.task.labels
    assert model.config.num_labels == max(len(labels), 1)
    assert model.dtype == torch.float32 and model.config.vocab_size == ROWS
    assert type(model).__name__ == read_json(out / "config.json")["architectures"][0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    lines = lines_of(texts_of(config, folder, "test"))
    for text, wanted in zip(lines, predictions_of(folder, "test"), strict=True):
        texts = text["text_a"], text["text_b"]
        pair = tokenizer(*texts, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            (logits,) = model(**pair).logits
        if labels:
            names = [model.config.id2label[i] for i in range(len(labels))]
            probabilities = [wanted["probabilities"][name] for name in names]
            np.testing.assert_allclose(logits.softmax(-1), probabilities, atol=1e-5)
            assert names[int(logits.argmax())] == wanted["prediction"]
        else:
            assert float(logits) == pytest.approx(wanted["prediction"], abs=1e-5)


def test_config_json_is_that_of_the_pretrained_model_with_the_task(
    scores: Config, classes: Config, exported: Exporter
) -> None:
    one, other = (
        read_json(exported(config, "direct/target") / "config.json") for config in (scores, classes)
    )
    before = read_json(Path(scores.model.path) / "config.json")
    assert before.items() <= one.items() and one["vocab_size"] == ROWS
    assert (one["architectures"], one["dtype"]) == (["BertForSequenceClassification"], "float32")
    assert (one["id2label"], one["problem_type"]) == ({"0": "score"}, "regression")
    assert other["architectures"] == ["XLMRobertaForSequenceClassification"]
    assert other["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert other["label2id"] == {"no": 0, "maybe": 1, "yes": 2}
    assert other["problem_type"] == "single_label_classification"
    replaced = {"id2label": {"0": "x", "1": "y"}, "num_labels": 2, "torch_dtype": "float16"}
    stage = open_finished(folder_of(scores, "direct/target"))
    assert json.loads(json.dumps(config_json(before | replaced, stage))) == one


def test_the_folder_holds_the_tokenizer_and_no_local_paths(
    scores: Config, exported: Exporter
) -> None:
    out, model = exported(scores, "staged/target"), Path(scores.model.path)
    names = {"config.json", "model.safetensors", "README.md"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert {p.name for p in out.iterdir()} == names | tokenizer
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert len({p.stat().st_mode for p in out.iterdir()}) == 1
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    settings = read_json(out / "tokenizer_config.json")
    assert settings == read_json(model / "tokenizer_config.json") | {
        "model_input_names": ["input_ids", "attention_mask", "token_type_ids"],
        "model_max_length": 64,
        "padding_side": "right",
    }
    for name in ("config.json", "README.md"):
        text = (out / name).read_text()
        assert str(Path(scores.data_dir)) not in text and "/tmp" not in text
    headers = read_headers(out)
    assert {stored.dtype for stored in headers.values()} == {"F32"}
    assert headers[f"bert.{WORD}"].shape == (ROWS, 32)


def tables(config: Config, out: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the word embeddings of the pretrained model and of the export."""
    folders = Path(config.model.path), out
    one, other = (safetensors.numpy.load_file(f / "model.safetensors") for f in folders)
    return one[f"{prefix}.{WORD}"], other[f"{prefix}.{WORD}"]


def test_unused_rows_are_decayed_as_the_optimizer_would(scores: Config, exported: Exporter) -> None:
    factor = 1.0
    for stage in ("intermediate", "target"):
        record = open_finished(folder_of(scores, f"staged/{stage}"))
        before, table = tables(scores, exported(scores, f"staged/{stage}"), "bert")
        ids = record.vocabulary().ids
        unused = np.setdiff1d(np.arange(ROWS), ids)
        assert len(unused) == ROWS - 128
        encoder = pretrained.load_encoder_config(Path(scores.model.path))
        params = record.best_params(encoder, mesh_of())
        np.testing.assert_array_equal(table[ids], word_table(params))
        steps = lines_of(record.folder / "metrics.jsonl")
        rates = [step["learning_rate"] for step in steps if "loss" in step]
        earlier = factor
        factor *= math.prod(1 - rate * 1.0 for rate in rates[: record.done()["best_step"]])
        assert factor < earlier - 1e-3
        np.testing.assert_allclose(table[unused], factor * before[unused], rtol=2e-6)


def test_unused_rows_are_random_after_random_weights(classes: Config, exported: Exporter) -> None:
    ids = np.load(folder_of(classes, "scratch/target") / "vocabulary.npy")
    before, table = tables(classes, exported(classes, "scratch/target"), "roberta")
    unused = np.setdiff1d(np.arange(ROWS), ids)
    assert not np.isclose(table[unused], before[unused], atol=1e-3).all(axis=1).any()
    assert table[unused].std() == pytest.approx(0.02, rel=0.1)  # The config's initializer_range.


def test_the_card_holds_the_results_of_the_study(
    scores: Config, classes: Config, exported: Exporter
) -> None:
    out = exported(scores, "staged/target")
    record = runs_of(scores)["staged/target"]
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.language == ["en", "de"]
    assert card.data.library_name == "transformers" and card.data.base_model is None
    assert card.data.metrics == ["pearson", "spearman", "mse"]
    assert card.data.pipeline_tag == "text-classification" and "flaxfer" in card.data.tags
    assert {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results} == {
        (f"{e['set']} ({e['language']})", metric): value
        for e in record["evaluations"]
        for metric, value in e["metrics"].items()
    }
    lines = card.text.splitlines()
    for e in record["evaluations"]:
        cells = [e["set"], e["language"], str(e["n"])]
        cells += [f"{e['metrics'][m]:.4f}" for m in card.data.metrics]
        assert f"| {' | '.join(cells)} |" in lines
    assert f"step {record['best_step']} of {record['steps']}" in card.text
    assert f"{record['dev']['pearson']:.4f}" in card.text
    origin = "fine-tuned on the intermediate task nli (classification) first, and then on sts with"
    assert origin in card.text
    study = summary_of(scores)
    for split in study["data"]:
        task = "nli" if split["stage"] == "intermediate" else "sts"
        assert f"| {task} | {split['split']} | " in card.text
        assert f"| {split['examples']} | {split['tokens']} | {split['truncated']} |" in card.text
    assert "sts-german.tsv" in card.text and "zero-shot" in card.text
    assert "not trained on texts in de:" in card.text
    assert "| optimizer.learning_rate | 0.003 | 0.003 |" in card.text
    for name, version in study["versions"].items():
        assert f"| {name} | {version} |" in card.text
    direct = (exported(scores, "direct/target") / "README.md").read_text()
    assert "This model is model, fine-tuned on sts with" in direct and "nli" not in direct
    scratch = (exported(classes, "scratch/target") / "README.md").read_text()
    assert "random weights" in scratch and "cut from train" in scratch
    assert "no, maybe, yes" in scratch and "zero-shot" not in scratch


def test_the_card_names_the_model_of_the_hub(copied: Config) -> None:
    card = model_card(open_finished(with_model(copied, hub="someone/some-model")), "m")
    assert card.data.base_model == "someone/some-model"
    assert "This model is someone/some-model, fine-tuned" in card.text
    assert "fast tokenizer of transformers" not in card.text


def test_the_card_warns_of_tokens_that_only_flaxfer_makes(copied: Config) -> None:
    stage = open_finished(folder_of(copied, "direct/target"))
    card = model_card(stage, "m", Publication(own_tokens=True))
    assert "fast tokenizer of transformers splits" in card.text


def test_the_command_line_finds_the_stage(
    scores: Config, exported: Exporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # An empty folder may be used.
    words = ["export", scores.workdir]
    assert main([*words, str(out), "--condition", "staged", "--seed", "0"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    first = read_json(out / "config.json")
    assert first == read_json(exported(scores, "staged/target") / "config.json")
    assert main([*words, str(out), "--stage", "intermediate", "--overwrite"]) == 0
    assert read_json(out / "config.json")["flaxfer"]["task"]["name"] == "nli"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    capsys.readouterr()
    assert main([*words, str(tmp_path / "a b")]) == 2
    message = capsys.readouterr().err
    assert "several stages match" in message
    for condition in ("direct", "staged"):
        command = f"flaxfer export {scores.workdir} '{tmp_path}/a b' --condition {condition}"
        assert f"{command} --seed 0\n" in message
    assert main([*words, str(tmp_path / "a"), "--seed", "7"]) == 2
    message = capsys.readouterr().err
    assert "no stage of the study matches" in message
    assert "--condition staged --seed 0 --stage intermediate" in message
    assert not (tmp_path / "a").exists()
