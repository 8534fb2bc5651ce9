"""Embeddings are cut stage by stage: no result of a study depends on it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Config
from flaxfer.data.tokenize import load_tokenizer
from flaxfer.interop import export
from flaxfer.study import runner
from flaxfer.training import restarts
from flaxfer.training.vocabulary import Vocabulary
from tests.e2e.helpers import (
    LABELS,
    config_of,
    folder_of,
    ids_of,
    lines_of,
    open_study,
    predictions_of,
    runs_of,
    source,
    spec_of,
    summary_of,
    with_optimizer,
    with_stage,
    with_train,
    work_in,
)
from tests.helpers import WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("exact_vocabulary")

ROWS = 300

# Words that occur in these sets alone, by the start of their names.
ONLY = {
    ("nli-", "sts-train"): WORDS[:5],
    ("nli-",): WORDS[5:7],
    ("nli-", "sts-german"): WORDS[7:9],
    ("sts-train",): WORDS[9:11],
    ("sts-train", "sts-german"): WORDS[11:13],
    ("sts-german",): WORDS[13:15],
    ("sts-extra",): WORDS[15:],
}
SETS = {
    "nli-train": (40, LABELS),
    "nli-dev": (12, LABELS),
    "sts-train": (40, ()),
    "sts-train-dev": (12, ()),
    "sts-german": (16, ()),
    "sts-extra": (8, ()),
    "nli-more": (10, LABELS),
}


def write_sets(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, (n, labels) in SETS.items():
        words = [word for sets, some in ONLY.items() if name.startswith(sets) for word in some]
        lines = []
        for _ in range(n):
            first, second = (" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(2))
            label = rng.choice(labels) if labels else f"{rng.uniform(0, 5):.2f}"
            lines.append(f"{first}\t{second}\t{label}\ten\tnews\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, exact_vocabulary: None) -> Config:
    """A finished study whose stages have different embeddings."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tiny_model(folder / "model", "bert", vocab_size=ROWS, deviation=0.3, layers=1)
    write_sets(folder)
    config = config_of(folder)
    data = dataclasses.replace(config.target.data, dev=(source("sts-train-dev"),), test=())
    config = with_stage(config, "target", data=data)
    for name in ("target", "intermediate"):
        config = with_train(config, name, compute_dtype="float32")
        # Decay of several per cent; and rounding in a gradient of zero must not become a step.
        config = with_optimizer(config, name, learning_rate=1e-2, weight_decay=1.0, eps=1e-2)
    runner.run(config, "")
    return config


@contextlib.contextmanager
def whole_vocabularies() -> Iterator[None]:
    """Let every stage have all rows in its embedding."""

    def used(data: Any, size: int, pad_id: int) -> Vocabulary:
        return Vocabulary.whole(size)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Vocabulary, "used", used)
        yield


@pytest.fixture(scope="module")
def whole(cut: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same study with every row in every embedding, and one more evaluated set."""
    folder = tmp_path_factory.mktemp("whole")
    config = with_extra_set(dataclasses.replace(cut, workdir=str(folder)))
    with whole_vocabularies():
        runner.run(config, "")
    return config


def with_extra_set(config: Config) -> Config:
    evaluate = {**config.target.evaluate, "extra": source("sts-extra")}
    return with_stage(config, "target", evaluate=evaluate)


def assert_same_predictions(cut: Config, whole: Config, name: str, condition: str) -> None:
    one, other = (predictions_of(folder_of(c, f"{condition}/target"), name) for c in (cut, whole))
    assert [p["id"] for p in one] == [p["id"] for p in other]
    scores = [np.array([p["prediction"] for p in predictions]) for predictions in (one, other)]
    assert len(np.unique(scores[1])) == len(scores[1])
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_an_embedding_holds_the_tokens_of_its_stage(cut: Config) -> None:
    tokenizer = load_tokenizer(cut.model)
    special = {"[PAD]", "[CLS]", "[SEP]"}
    stages = open_study(cut).data.stages

    def words(vocabulary: Vocabulary) -> set[str]:
        return {*tokenizer.convert_ids_to_tokens(vocabulary.ids.tolist())} - special

    def union(*sets: str) -> set[str]:
        return {word for names, some in ONLY.items() for word in some if {*sets} & {*names}}

    assert words(stages["intermediate"].vocabulary) == union("nli-")
    assert words(stages["target"].vocabulary) == union("sts-train")
    assert words(stages["target"].scoring_vocabulary) == union("sts-train", "sts-german")
    assert words(stages["intermediate"].scoring_vocabulary) == union("nli-")


@pytest.mark.slow  # Cut rows are tested in training.
@pytest.mark.parametrize("condition", ["direct", "staged", "scratch"])
def test_a_study_equals_one_with_the_whole_vocabulary(
    condition: str, cut: Config, whole: Config
) -> None:
    stages = ("intermediate", "target") if condition == "staged" else ("target",)
    for name in stages:
        folders = [folder_of(config, f"{condition}/{name}") for config in (cut, whole)]
        logs = [lines_of(folder / "metrics.jsonl") for folder in folders]
        assert len(logs[0]) == 14
        for one, other in zip(*logs, strict=True):
            assert (one["step"], one["kind"]) == (other["step"], other["kind"])
            if one["kind"] == "train":
                assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
            else:  # A correlation of nearly equal predictions, as of scratch, is all rounding.
                metric = "accuracy" if name == "intermediate" else "mse"
                assert one["metrics"][metric] == pytest.approx(other["metrics"][metric], rel=1e-6)
        done = [json.loads((folder / "done.json").read_text()) for folder in folders]
        assert done[0]["best_step"] == done[1]["best_step"] > 0
    assert_same_predictions(cut, whole, "german", condition)


@pytest.mark.parametrize("condition", ["direct", "staged", "scratch"])
def test_an_export_equals_one_with_the_whole_vocabulary(
    condition: str, cut: Config, whole: Config, tmp_path: Path
) -> None:
    tables = []
    for config in (cut, whole):
        folder = folder_of(config, f"{condition}/target")
        out = export.export(folder, tmp_path / Path(config.workdir).name)
        arrays = safetensors.numpy.load_file(out / "model.safetensors")
        tables.append(arrays["bert.embeddings.word_embeddings.weight"])
    assert tables[0].shape == (ROWS, 32)
    np.testing.assert_allclose(*tables, atol=1e-6)


def test_a_new_set_with_new_tokens_is_evaluated_without_training(
    cut: Config, whole: Config
) -> None:
    before, work = summary_of(cut)["runs"], work_in(cut.stages)
    wider = with_extra_set(cut)
    runner.run(wider, "")
    after, new_work = summary_of(wider)["runs"], work_in(cut.stages)
    assert work.items() <= new_work.items()
    new = sorted(name.split("/")[1:] for name in new_work.keys() - work.keys())
    assert [folder for folder, _ in new] == ["evaluations"] * 3 + ["predictions"] * 3
    assert all(file.startswith("extra-") for _, file in new)
    for old, run in zip(before, after, strict=True):
        extra = [entry for entry in run["evaluations"] if entry["set"] == "extra"]
        assert len(extra) == (run["stage"] == "target")
        run["evaluations"] = [entry for entry in run["evaluations"] if entry not in extra]
        assert run == old
    for condition in ("direct", "staged", "scratch"):
        assert_same_predictions(wider, whole, "extra", condition)


@pytest.mark.slow  # Restarts and cut rows are tested in training.
def test_a_restarted_run_has_the_rows_of_its_own_attempt(
    cut: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "why_not_learned", lambda *_: "nothing")
    config = with_stage(with_extra_set(cut), "target", max_restarts=1)
    config = dataclasses.replace(config, conditions=("scratch",), seeds=(3,))
    configs, exported = [], []
    for name, vocabularies in (("cut", contextlib.nullcontext()), ("whole", whole_vocabularies())):
        config = dataclasses.replace(config, workdir=str(tmp_path / name))
        with vocabularies:
            runner.run(config, "")
        (attempt,) = runs_of(config)["scratch/target"]["restarts"]
        assert (attempt["attempt_seed"], attempt["why"]) == (3, "nothing")
        folder = export.export(folder_of(config, "scratch/target"), tmp_path / f"{name}-out")
        exported.append(safetensors.numpy.load_file(folder / "model.safetensors"))
        configs.append(config)
    for name in ("german", "extra"):
        assert_same_predictions(*configs, name, "scratch")
    assert exported[0].keys() == exported[1].keys()
    for key, array in exported[0].items():
        np.testing.assert_allclose(array, exported[1][key], atol=1e-6, err_msg=key)


def test_a_stage_depends_on_no_other_stages_data(cut: Config) -> None:
    """Two studies with one store and the same intermediate stage, or the same target."""
    assert cut.intermediate is not None
    ids = ids_of(cut)
    assert set(ids.values()) == {run["id"] for run in summary_of(cut)["runs"]}

    def shared(config: Config) -> set[str]:
        return {name for name, value in ids_of(config).items() if value == ids[name]}

    data = dataclasses.replace(cut.target.data, train=(source("sts-german"),))
    german = with_stage(cut, "target", data=data, evaluate={})
    assert shared(german) == {"staged/intermediate 0"}
    assert shared(with_optimizer(cut, "target", name="adafactor", eps=1e-8)) == {
        "staged/intermediate 0"
    }
    data = dataclasses.replace(cut.intermediate.data, train=(source("nli-more"),))
    others = {"direct/target 0", "scratch/target 0"}
    assert shared(with_stage(cut, "intermediate", data=data)) == others
    assert shared(with_optimizer(cut, "intermediate", name="adafactor", eps=1e-8)) == others


def test_adafactor_continues_with_every_row(cut: Config, whole: Config) -> None:
    """Its embedding is whole, and starts as a stage with all rows would hand it over."""

    def start(config: Config) -> np.ndarray:
        study = open_study(config)
        params = study.starts.params(spec_of(study, "staged"))
        return np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])

    table = start(with_optimizer(cut, "target", name="adafactor", eps=1e-8))
    with whole_vocabularies():
        wanted = start(whole)
    np.testing.assert_allclose(table, wanted, atol=1e-6)
