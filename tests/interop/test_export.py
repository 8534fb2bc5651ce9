"""Exports: transformers and flaxfer load them, and they predict what the stage predicted."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Config, Optimizer
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop import export, predict
from flaxfer.models.weights import read_headers
from flaxfer.study import studies
from flaxfer.study.study import Study
from flaxfer.training import finished
from flaxfer.training.stage_run import StageRun
from flaxfer.training.vocabulary import Vocabulary
from tests import helpers
from tests.e2e.test_study import COLUMNS, config_of, use_one_device, write_sets
from tests.helpers import tiny_model

# So strong that the rows without a gradient shrink by far more than rounding.
OPTIMIZER = Optimizer(learning_rate=3e-3, weight_decay=1.0)
ROWS = 300  # Of the whole embedding; the studies use 128.
WORD = "embeddings.word_embeddings.weight"
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mesh of a machine with one device."""
    use_one_device(monkeypatch)


def run(folder: Path, family: Any, changes: Callable[[Config], Config]) -> Config:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(helpers.TINY_SIZES, "num_hidden_layers", 1)  # Compiles faster.
        tiny_model(folder / "model", family, vocab_size=ROWS)
    write_sets(folder)
    config = config_of(folder)
    assert config.intermediate is not None
    config = dataclasses.replace(
        config,
        intermediate=dataclasses.replace(config.intermediate, optimizer=OPTIMIZER),
        target=dataclasses.replace(config.target, optimizer=OPTIMIZER),
        conditions=("direct", "staged"),
    )
    config = changes(config)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_one_device(monkeypatch)
        studies.run(config, "python -m flaxfer.main --config tiny.py")
    return config


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study of a BERT: classes first, then scores."""
    return run(tmp_path_factory.mktemp("scores"), "bert", lambda config: config)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study of an XLM-R: classes alone, from random weights too."""

    def changes(config: Config) -> Config:
        assert config.intermediate is not None
        data = dataclasses.replace(config.intermediate.data, dev=(), split=(0.6, 0.2, 0.2))
        target = dataclasses.replace(config.intermediate, data=data)
        return dataclasses.replace(
            config, intermediate=None, target=target, conditions=("direct", "scratch")
        )

    return run(tmp_path_factory.mktemp("classes"), "xlm-roberta", changes)


def records(config: Config) -> list[Json]:
    runs: list[Json] = json.loads((Path(config.workdir) / "study.json").read_text())["runs"]
    return runs


def record_of(config: Config, path: str, stage: str = "target") -> Json:
    (found,) = (r for r in records(config) if (r["condition"], r["stage"]) == (path, stage))
    return found


def stage_of(config: Config, path: str, stage: str = "target") -> Path:
    return Path(config.workdir) / str(record_of(config, path, stage)["dir"])


Exporter = Callable[..., Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """Exports a stage, each only once."""

    @functools.cache
    def make(stage: Path) -> Path:
        return export.export(stage, tmp_path_factory.mktemp("exports") / "my model")

    return lambda config, *of: make(stage_of(config, *of))


def texts_of(config: Config, folder: Path, name: str) -> Path:
    """The texts that a stage predicted the set `name` for, in the order of its predictions."""
    (file,) = folder.glob(f"predictions/{name}-*.jsonl")
    lines = []
    for line in file.read_text().splitlines():
        identity = json.loads(line)["id"]
        stem, _, number = identity.rpartition(":")
        source = (Path(config.data_dir) / f"{stem}.tsv").read_text().splitlines()
        fields = source[int(number) - 1].split("\t")
        record = {role: fields[i] for role, i in COLUMNS.items() if role != "label"}
        lines.append(json.dumps(record | {"id": identity}))
    path = folder / f"texts-{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(params=["scores direct", "scores staged", "classes direct", "classes scratch"])
def case(request: pytest.FixtureRequest) -> tuple[Config, str]:
    name, path = request.param.split()
    return request.getfixturevalue(name), path


def test_the_round_trip_gives_the_same_predictions_bit_for_bit(
    case: tuple[Config, str], exported: Exporter
) -> None:
    config, path = case
    folder, out = stage_of(config, path), exported(*case)
    sets = ["test", "german"] if config.intermediate else ["test"]
    for name in sets:
        (file,) = folder.glob(f"predictions/{name}-*.jsonl")
        before = [json.loads(line) for line in file.read_text().splitlines()]
        for one in before:
            assert one.pop("label" if "label" in one else "score") is not None
        after = list(predict.predict(out, texts_of(config, folder, name)))
        assert after == before and len(after) > 6


@pytest.mark.parity
def test_transformers_loads_it_and_predicts_the_same(
    case: tuple[Config, str], exported: Exporter
) -> None:
    import torch
    import transformers

    config, path = case
    out, folder = exported(*case), stage_of(config, path)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(info.values()), info
    labels = config.target.task.labels
    assert model.config.num_labels == max(len(labels), 1)
    assert model.dtype == torch.float32 and model.config.vocab_size == ROWS
    assert type(model).__name__ == json.loads((out / "config.json").read_text())["architectures"][0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    texts = [json.loads(x) for x in texts_of(config, folder, "test").read_text().splitlines()]
    (file,) = folder.glob("predictions/test-*.jsonl")
    before = [json.loads(line) for line in file.read_text().splitlines()]
    for text, wanted in zip(texts, before, strict=True):
        pair = tokenizer(
            text["text_a"], text["text_b"], truncation=True, max_length=32, return_tensors="pt"
        )
        with torch.no_grad():
            (logits,) = model(**pair).logits
        if labels:
            names = [model.config.id2label[i] for i in range(len(labels))]
            probabilities = [wanted["probabilities"][name] for name in names]
            np.testing.assert_allclose(logits.softmax(-1), probabilities, atol=1e-5)
            assert names[int(logits.argmax())] == wanted["prediction"]
        else:
            assert float(logits) == pytest.approx(wanted["prediction"], abs=1e-5)


def test_config_json_is_the_models_own_with_the_task_in_it(
    scores: Config, classes: Config, exported: Exporter
) -> None:
    one, other = (
        json.loads((exported(config, "direct") / "config.json").read_text())
        for config in (scores, classes)
    )
    before = json.loads((Path(scores.model.path) / "config.json").read_text())
    assert before.items() <= one.items() and one["vocab_size"] == ROWS
    assert one["architectures"] == ["BertForSequenceClassification"]
    assert (one["id2label"], one["problem_type"]) == ({"0": "score"}, "regression")
    assert other["architectures"] == ["XLMRobertaForSequenceClassification"]
    assert other["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert other["label2id"] == {"no": 0, "maybe": 1, "yes": 2}
    assert other["problem_type"] == "single_label_classification"
    assert one["dtype"] == "float32"
    given = {"id2label": {"0": "x", "1": "y"}, "num_labels": 2, "torch_dtype": "float16"}
    done = finished.read(stage_of(scores, "direct"))
    assert json.loads(json.dumps(export.config_json(before | given, done))) == one


def test_the_folder_holds_the_tokenizer_and_nothing_of_this_machine(
    scores: Config, exported: Exporter
) -> None:
    out, model = exported(scores, "staged"), Path(scores.model.path)
    names = {"config.json", "model.safetensors", "README.md"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert {p.name for p in out.iterdir()} == names | tokenizer
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert len({p.stat().st_mode for p in out.iterdir()}) == 1
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings == json.loads((model / "tokenizer_config.json").read_text()) | {
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
    """The embedding before training and of the export."""
    folders = Path(config.model.path), out
    one, other = (safetensors.numpy.load_file(f / "model.safetensors") for f in folders)
    return one[f"{prefix}.{WORD}"], other[f"{prefix}.{WORD}"]


def test_the_table_is_that_of_a_training_with_all_its_rows(
    scores: Config, exported: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "_vocabulary", lambda *_: Vocabulary.whole(ROWS))
    whole = dataclasses.replace(scores, workdir=str(tmp_path), conditions=("staged",))
    runs: list[StageRun] = []
    real = Study._score

    def score(self: Study, *rest: Any) -> Any:
        runs.append(rest[2])
        return real(self, *rest)

    monkeypatch.setattr(Study, "_score", score)
    studies.run(whole, "")
    ids = np.load(stage_of(scores, "staged") / "vocabulary.npy")
    unused = np.setdiff1d(np.arange(ROWS), ids)
    assert len(unused) == ROWS - 128
    shrunk = []
    for name, made in zip(("intermediate", "target"), runs, strict=True):
        before, table = tables(scores, exported(scores, "staged", name), "bert")
        wanted = np.asarray(made.best_params()["encoder"]["embeddings"]["word"]["embedding"])
        np.testing.assert_allclose(table[unused], wanted[unused], rtol=1e-6, atol=0)
        np.testing.assert_allclose(table, wanted, atol=1e-4)
        shrunk.append(table[unused] / before[unused])
        assert shrunk[-1].std() < 1e-6
    assert shrunk[0].mean() < 0.995 and shrunk[1].mean() < shrunk[0].mean() - 0.001
    # With all rows in the run, its export is the run's own table.
    out = export.export(stage_of(whole, "staged"), tmp_path / "out")
    np.testing.assert_array_equal(tables(scores, out, "bert")[1], wanted)


def test_rows_after_random_weights_are_random_too(classes: Config, exported: Exporter) -> None:
    folder = stage_of(classes, "scratch")
    ids = np.load(folder / "vocabulary.npy")
    before, table = tables(classes, exported(classes, "scratch"), "roberta")
    unused = np.setdiff1d(np.arange(ROWS), ids)
    assert not np.isclose(table[unused], before[unused], atol=1e-3).all(axis=1).any()
    assert table[unused].std() == pytest.approx(0.02, rel=0.1)  # The config's initializer_range.


def test_the_card_holds_the_figures_of_the_study(
    scores: Config, classes: Config, exported: Exporter
) -> None:
    out = exported(scores, "staged")
    record = record_of(scores, "staged")
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
    assert "fine-tuned on the intermediate task nli (classification) first, and then on sts" in (
        card.text
    )
    for split in json.loads((Path(scores.workdir) / "study.json").read_text())["data"]:
        task = "nli" if split["stage"] == "intermediate" else "sts"
        assert f"| {task} | {split['split']} | " in card.text
        assert f"| {split['examples']} | {split['tokens']} | {split['truncated']} |" in card.text
    assert "sts-german.tsv" in card.text and "zero-shot" in card.text
    assert "not trained on texts in de:" in card.text
    assert "| optimizer.learning_rate | 0.003 | 0.003 |" in card.text
    versions = json.loads((Path(scores.workdir) / "study.json").read_text())["versions"]
    assert all(f"| {name} | {version} |" in card.text for name, version in versions.items())
    direct = (exported(scores, "direct") / "README.md").read_text()
    assert "This model is model, fine-tuned on sts with" in direct and "nli" not in direct
    scratch = (exported(classes, "scratch") / "README.md").read_text()
    assert "random weights" in scratch and "cut from train" in scratch
    assert "no, maybe, yes" in scratch and "zero-shot" not in scratch


def test_the_card_names_the_model_of_the_hub(scores: Config) -> None:
    done = finished.read(stage_of(scores, "direct"))
    of_the_hub = dataclasses.replace(done.model, hub="someone/some-model")
    done = dataclasses.replace(done, model=of_the_hub)
    card = huggingface_hub.ModelCard(export.card.model_card(done, "m", "BertForQuestionAnswering"))
    assert card.data.base_model == "someone/some-model"
    assert "This model is someone/some-model, fine-tuned" in card.text
    assert "import AutoModelForQuestionAnswering, AutoTokenizer" in card.text


def test_the_command_line_finds_the_stage(
    scores: Config, exported: Exporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # Empty, so it may be used.
    assert export.main([scores.workdir, str(out), "--path", "staged", "--seed", "0"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert read_json(out)["flaxfer"] == read_json(exported(scores, "staged"))["flaxfer"]
    assert export.main([scores.workdir, str(out), "--stage", "intermediate", "--overwrite"]) == 0
    assert read_json(out)["flaxfer"]["task"]["name"] == "nli"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    capsys.readouterr()
    assert export.main([scores.workdir, str(tmp_path / "a b")]) == 2
    message = capsys.readouterr().err
    assert "several stages fit" in message
    for path in ("direct", "staged"):
        command = (
            f"flaxfer.interop.export {scores.workdir} '{tmp_path}/a b' --path {path} --seed 0\n"
        )
        assert command in message
    assert export.main([scores.workdir, str(tmp_path / "a"), "--seed", "7"]) == 2
    message = capsys.readouterr().err
    assert "no stage of the study fits" in message
    assert "--path staged --seed 0 --stage intermediate" in message
    assert not (tmp_path / "a").exists()


def read_json(folder: Path) -> Json:
    content: Json = json.loads((folder / "config.json").read_text())
    return content


@pytest.fixture
def copied(scores: Config, tmp_path: Path) -> Iterator[Path]:
    """The work directory of the study, to be damaged."""
    yield Path(shutil.copytree(scores.workdir, tmp_path / "work"))


def refused(kind: type[FlaxferError], *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(kind) as caught:
        export.export(*arguments, **keywords)
    return str(caught.value)


def test_a_stage_that_is_not_finished_is_refused(copied: Path, scores: Config) -> None:
    folder = copied / str(record_of(scores, "staged")["dir"])
    out = copied.parent / "out"
    parent = copied / str(record_of(scores, "staged", "intermediate")["dir"])
    (parent / "done.json").rename(parent / "kept.json")
    message = refused(CheckpointError, folder, out)
    assert "is not finished" in message and str(parent) in message
    assert "run the study again: python -m flaxfer.main --config tiny.py" in message
    (parent / "kept.json").rename(parent / "done.json")
    (folder / "done.json").unlink()
    assert "is not finished" in refused(CheckpointError, folder, out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["origin.json", "vocabulary.npy", "evaluations/german-*.json"])
@pytest.mark.parametrize("content", [None, "[]"])
def test_a_missing_or_damaged_record_is_refused(
    copied: Path, scores: Config, name: str, content: str | None
) -> None:
    folder = copied / str(record_of(scores, "direct")["dir"])
    (file,) = folder.glob(name)
    file.unlink() if content is None else file.write_text(content + "x")
    message = refused(CheckpointError, folder, copied.parent / "out")
    assert ("is missing" if content is None else "is damaged") in message
    assert "run the study again: python -m" in message and "without training again" in message


def test_the_study_started_again_writes_what_was_missing(copied: Path, scores: Config) -> None:
    config = dataclasses.replace(scores, workdir=str(copied))
    folder = copied / str(record_of(scores, "direct")["dir"])
    before = finished.read(folder)
    for name in ("origin.json", "vocabulary.npy"):
        (folder / name).unlink()
    studies.run(config, "")
    after = finished.read(folder)
    assert after.versions == {}  # Those of now need not be those of then.
    np.testing.assert_array_equal(after.vocabulary.ids, before.vocabulary.ids)
    assert after.data == before.data and after.model == before.model
    studies.run(dataclasses.replace(config, seeds=(0,)), "")
    other = finished.read(copied / str(record_of(scores, "staged")["dir"]))
    assert other.versions == before.versions


def test_other_mistakes(copied: Path, scores: Config, tmp_path: Path) -> None:
    folder, out = copied / str(record_of(scores, "direct")["dir"]), tmp_path / "out"
    model = Path(scores.model.path)
    assert "--model FOLDER" in refused(DataError, folder, out, model=tmp_path / "none")
    other = tiny_model(tmp_path / "other", "bert", seed=1, vocab_size=ROWS)
    assert "not those that the stage began with" in refused(
        CheckpointError, folder, out, model=other
    )
    moved = Path(shutil.copytree(model, tmp_path / "moved"))
    tokenizer = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(tokenizer.replace('"##a"', '"##A"'))
    assert "not the one that the stage was trained with" in refused(
        DataError, folder, out, model=moved
    )
    (moved / "tokenizer.json").write_text(tokenizer)
    assert export.export(folder, out, model=moved) == out
    assert "--overwrite" in refused(ConfigError, folder, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert "will not delete" in refused(ConfigError, folder, tmp_path / "mine", overwrite=True)
    assert "a file of this name" in refused(ConfigError, folder, out / "config.json")
    assert "cannot be written" in refused(ConfigError, folder, out / "config.json" / "deeper")
    (checkpoint,) = (folder / "checkpoints").iterdir()
    params = next(p for p in (checkpoint / "params").rglob("*") if p.stat().st_size > 1000)
    params.write_bytes(params.read_bytes()[:-1])
    assert "is damaged" in refused(CheckpointError, folder, out, overwrite=True)
    assert read_json(out)["flaxfer"]  # The earlier export is still there.
    assert not list(tmp_path.glob(".*"))
    shutil.rmtree(checkpoint)
    assert "checkpoint is gone" in refused(CheckpointError, folder, tmp_path / "new")


@pytest.mark.parametrize(
    ("at", "words", "kind", "message"),
    [
        ("", {"condition": "direct"}, ConfigError, "leave them out"),
        ("..", {}, DataError, "neither"),
        ("../..", {"condition": "scratch"}, ConfigError, "no stage of the study fits"),
    ],
)
def test_what_the_command_line_cannot_mean(
    scores: Config, at: str, words: Json, kind: type[FlaxferError], message: str
) -> None:
    place = (stage_of(scores, "direct") / at).resolve()
    with pytest.raises(kind, match=message):
        export.find(place, Path("out"), *(words.get(k) for k in ("condition", "seed", "name")))


def test_an_unfinished_study_lists_its_finished_stages(copied: Path) -> None:
    (copied / "study.json").unlink()
    with pytest.raises(DataError, match="finished study") as caught:
        export.find(copied, Path("out"), None, None, None)
    stages = sorted(str(p) for p in (copied / "stages").iterdir())
    assert list(caught.value.details) == stages and len(stages) == 3
    with pytest.raises(DataError, match="not the folder of a stage"):
        finished.read(copied)
