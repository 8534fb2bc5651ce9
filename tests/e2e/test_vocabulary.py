"""Embeddings cut stage by stage: nothing that comes out of a study tells of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flaxfer.study.study import Study

from flaxfer.config import Config
from flaxfer.data.tokenize import load_tokenizer
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.interop import export
from flaxfer.study import studies
from flaxfer.training import loop, restarts, vocabulary
from flaxfer.training.vocabulary import Vocabulary
from tests import helpers
from tests.e2e.test_study import (
    LABELS,
    config_of,
    ids_of,
    lines_of,
    open_study,
    predictions_of,
    source,
    summary_of,
    use_one_device,
    with_optimizer,
)
from tests.helpers import WORDS, tiny_model

ROWS = 300
Json = dict[str, Any]

# Words that occur in these sets alone, by the first letters of their names.
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


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Iterator[None]:
    """One device, and no more rows than tokens in use."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_one_device(monkeypatch)
        monkeypatch.setattr(vocabulary, "MULTIPLE", 1)
        yield


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished study whose stages have embeddings of their own."""
    folder = tmp_path_factory.mktemp("vocabulary")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(helpers.TINY_SIZES, "num_hidden_layers", 1)  # Compiles faster.
        tiny_model(folder / "model", "bert", vocab_size=ROWS, deviation=0.3)
    write_sets(folder)
    config = config_of(folder)
    assert config.intermediate is not None
    data = dataclasses.replace(config.target.data, dev=(source("sts-train-dev"),), test=())
    train = dataclasses.replace(config.target.train, compute_dtype="float32")
    config = dataclasses.replace(
        config,
        target=dataclasses.replace(config.target, data=data, train=train),
        intermediate=dataclasses.replace(config.intermediate, train=train),
    )
    for name in ("target", "intermediate"):
        # Decay of several per cent; and rounding in a gradient of zero must not become a step.
        changes = {"learning_rate": 1e-2, "weight_decay": 1.0, "eps": 1e-2}
        config = with_optimizer(config, name, **changes)
    studies.run(config, "")
    return config


@pytest.fixture(scope="module")
def whole(cut: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same study with every row in every embedding."""
    folder = tmp_path_factory.mktemp("whole")
    config = with_extra_set(dataclasses.replace(cut, workdir=str(folder)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Study, "_vocabulary", lambda *_: Vocabulary.whole(ROWS))
        studies.run(config, "")
    return config


def with_extra_set(config: Config) -> Config:
    sets = {**config.target.evaluate, "extra": source("sts-extra")}
    return dataclasses.replace(config, target=dataclasses.replace(config.target, evaluate=sets))


def folders_of(config: Config) -> dict[str, Path]:
    runs = summary_of(config)["runs"]
    return {f"{r['path']}/{r['stage']}": Path(config.workdir) / r["dir"] for r in runs}


def assert_same_predictions(cut: Config, whole: Config, name: str, path: str) -> None:
    one, other = (predictions_of(folders_of(c)[f"{path}/target"], name) for c in (cut, whole))
    assert [p["id"] for p in one] == [p["id"] for p in other]
    scores = [np.array([p["prediction"] for p in predictions]) for predictions in (one, other)]
    assert len(np.unique(scores[1])) == len(scores[1])
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_a_stage_has_the_tokens_of_its_own_training(cut: Config) -> None:
    tokenizer = load_tokenizer(cut.model)
    special = {"[PAD]", "[CLS]", "[SEP]"}
    own = open_study(cut)

    def words(vocabulary: Vocabulary) -> set[str]:
        return {*tokenizer.convert_ids_to_tokens(vocabulary.ids.tolist())} - special

    def union(*sets: str) -> set[str]:
        return {word for names, some in ONLY.items() for word in some if {*sets} & {*names}}

    assert words(own.vocabularies["intermediate"]) == union("nli-")
    assert words(own.vocabularies["target"]) == union("sts-train")
    assert words(own.scoring["target"]) == union("sts-train", "sts-german")
    assert words(own.scoring["intermediate"]) == union("nli-")


@pytest.mark.parametrize("path", ["direct", "staged", "scratch"])
def test_a_study_equals_that_with_the_whole_vocabulary(
    path: str, cut: Config, whole: Config
) -> None:
    stages = ("intermediate", "target") if path == "staged" else ("target",)
    for name in stages:
        folders = [folders_of(config)[f"{path}/{name}"] for config in (cut, whole)]
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
    assert_same_predictions(cut, whole, "german", path)


@pytest.mark.parametrize("path", ["direct", "staged", "scratch"])
def test_an_export_equals_that_of_the_whole_vocabulary(
    path: str, cut: Config, whole: Config, tmp_path: Path
) -> None:
    tables = []
    for config in (cut, whole):
        folder = folders_of(config)[f"{path}/target"]
        out = export.export(folder, tmp_path / Path(config.workdir).name)
        arrays = safetensors.numpy.load_file(out / "model.safetensors")
        tables.append(arrays["bert.embeddings.word_embeddings.weight"])
    assert tables[0].shape == (ROWS, 32)
    np.testing.assert_allclose(*tables, atol=1e-6)


def test_a_new_set_with_new_tokens_trains_nothing_again(
    cut: Config, whole: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("is trained again")

    before = summary_of(cut)["runs"]
    scored: list[int] = []
    real = Evaluator.predict

    def predict(self: Evaluator, params: Any, data: Any) -> Any:
        scored.append(len(data))
        return real(self, params, data)

    monkeypatch.setattr(loop, "make_train_step", refuse)
    monkeypatch.setattr(Evaluator, "predict", predict)
    wider = with_extra_set(cut)
    studies.run(wider, "")
    after = summary_of(wider)["runs"]
    assert scored == [8, 8, 8]  # The new set of three targets; the other is not scored again.
    for old, new in zip(before, after, strict=True):
        extra = [entry for entry in new["evaluations"] if entry["set"] == "extra"]
        assert len(extra) == (new["stage"] == "target")
        new["evaluations"] = [entry for entry in new["evaluations"] if entry not in extra]
        assert new == old
    for path in ("direct", "staged", "scratch"):
        assert_same_predictions(wider, whole, "extra", path)


def test_a_run_that_began_anew_has_the_rows_of_its_own_draw(
    cut: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "why_not_learned", lambda *_: "nothing")
    target = dataclasses.replace(with_extra_set(cut).target, max_restarts=1)
    made, exported = [], []
    for name in ("cut", "whole"):
        own = dataclasses.replace(
            cut, workdir=str(tmp_path / name), conditions=("scratch",), seeds=(3,), target=target
        )
        with pytest.MonkeyPatch.context() as patch:
            if name == "whole":
                patch.setattr(Study, "_vocabulary", lambda *_: Vocabulary.whole(ROWS))
            studies.run(own, "")
        (run,) = summary_of(own)["runs"]
        assert [(one["attempt_seed"], one["why"]) for one in run["restarts"]] == [(3, "nothing")]
        folder = export.export(folders_of(own)["scratch/target"], tmp_path / f"{name}-out")
        exported.append(safetensors.numpy.load_file(folder / "model.safetensors"))
        made.append(own)
    for name in ("german", "extra"):
        assert_same_predictions(*made, name, "scratch")
    assert exported[0].keys() == exported[1].keys()
    for key, array in exported[0].items():
        np.testing.assert_allclose(array, exported[1][key], atol=1e-6, err_msg=key)


def test_a_stage_depends_on_no_other_stages_data(
    cut: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two studies with one store and the same intermediate stage, or the same target."""
    assert cut.intermediate is not None
    ids = ids_of(cut)
    assert set(ids.values()) == {folder.name for folder in folders_of(cut).values()}

    def shared(config: Config) -> set[str]:
        return {name for name, value in ids_of(config).items() if value == ids[name]}

    data = dataclasses.replace(cut.target.data, train=(source("sts-german"),))
    target = dataclasses.replace(cut.target, data=data, evaluate={})
    assert shared(dataclasses.replace(cut, target=target)) == {"staged/intermediate 0"}
    assert shared(with_optimizer(cut, "target", name="adafactor")) == {"staged/intermediate 0"}
    data = dataclasses.replace(cut.intermediate.data, train=(source("nli-dev"),))
    intermediate = dataclasses.replace(cut.intermediate, data=data)
    others = {"direct/target 0", "scratch/target 0"}
    assert shared(dataclasses.replace(cut, intermediate=intermediate)) == others
    assert shared(with_optimizer(cut, "intermediate", name="adafactor")) == others


def test_adafactor_goes_on_with_every_row(cut: Config, whole: Config) -> None:
    """Its embedding is whole, and begins as a training with all rows would hand it over."""

    def start(config: Config, own: Study) -> np.ndarray:
        parent = own._run_of("staged", "intermediate", 0, "pretrained", None)
        run = own._run_of("staged", "target", 0, "intermediate", parent)
        params = own._start_params("target", run)
        return np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])

    table = start(cut, open_study(with_optimizer(cut, "target", name="adafactor")))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Study, "_vocabulary", lambda *_: Vocabulary.whole(ROWS))
        wanted = start(whole, open_study(whole))
    np.testing.assert_allclose(table, wanted, atol=1e-6)
