"""The PyTorch peers on a tiny model (make parity)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks import common, invented
from tests.helpers import tiny_model

pytestmark = [
    pytest.mark.parity,
    # PyTorch asks for pinned memory, and its compiler for packages of its own time.
    pytest.mark.filterwarnings("default"),
]
BATCH, STEPS = 16, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented.data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented.model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def peers() -> ModuleType:
    pytest.importorskip("torch", reason="the peers need PyTorch (make bench-setup)")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate (make bench-setup)")
    from benchmarks import peer_trainer

    return peer_trainer


def record_of(module: Any, words: list[str], capsys: Any, monkeypatch: Any) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["peer", *words])
    module.main()
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


def words_of(model: Path, data: Path) -> list[str]:
    file = data / "stsb-multi-mt" / "stsb-en-train.csv"
    words = ["--model", str(model), "--data", str(file), "--batch", str(BATCH)]
    return [*words, "--steps", str(STEPS), "--dtype", "float32"]


def lengths(data: Path) -> np.ndarray:
    """Tokens of each example: every word is one, and there are three special ones."""
    texts = common.read(data / "stsb-multi-mt" / "stsb-en-train.csv")
    assert texts.text_b is not None
    words = [a.split() + b.split() for a, b in zip(texts.text_a, texts.text_b, strict=True)]
    return np.array([len(pair) + 3 for pair in words])


@pytest.mark.parametrize("batching", ["dynamic", "group_by_length", "padding_free"])
def test_the_trainer_counts_the_timed_batches(
    batching: str, peers: Any, model: Path, data: Path, capsys: Any, monkeypatch: Any
) -> None:
    words = [*words_of(model, data), "--batching", batching]
    record = record_of(peers, words, capsys, monkeypatch)
    assert (record["what"], record["steps"], record["examples"]) == ("train", STEPS, STEPS * BATCH)
    assert (record["slots"] == record["tokens"]) == (batching == "padding_free")
    assert record["settings"]["attention"] == "sdpa" and record["compile_s"] == 0
    scored = record_of(peers, [*words, "--eval"], capsys, monkeypatch)
    assert scored["examples"] == STEPS * BATCH
    assert scored["tokens"] == lengths(data)[: STEPS * BATCH].sum()


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_padding_free_batches_have_the_same_outputs_and_loss(
    family: Any, peers: Any, data: Path, tmp_path: Path
) -> None:
    import torch
    import transformers

    from benchmarks.padding_free import PaddingFree

    folder = tiny_model(tmp_path, family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = common.read(data / "stsb-multi-mt" / "stsb-en-dev.csv").first(8)
    features = peers.encode(texts, tokenizer, 32)
    padded = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, problem_type="regression"
    ).eval()
    flat = PaddingFree(padded)
    outputs = []
    for each in (padded, flat):
        batch = peers.Collator(tokenizer, each)(features)
        assert batch.pop("counts")[:2] == (8, sum(len(f["input_ids"]) for f in features))
        batch["labels"] = batch["labels"].float()
        with torch.no_grad():
            outputs.append(each(**batch))
    torch.testing.assert_close(outputs[1]["logits"], outputs[0]["logits"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs[1]["loss"], outputs[0]["loss"])


def test_the_compile_time_of_a_compiled_trainer_is_recorded(
    peers: Any, model: Path, data: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    # Forward alone: `benchmarks.gpu_check` compiles steps of training in its tiny run.
    words = [*words_of(model, data), "--batching", "group_by_length", "--torch_compile", "--eval"]
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    record = record_of(peers, [*words, "--cache", str(tmp_path / "cache")], capsys, monkeypatch)
    assert record["steps"] == STEPS and record["compile_s"] > 1
    assert record["settings"]["cache"] == "cold" and any((tmp_path / "cache").iterdir())


def test_the_cross_encoder_counts_and_does_not_time_its_tokenizer(
    peers: Any, model: Path, data: Path, capsys: Any, monkeypatch: Any
) -> None:
    pytest.importorskip("sentence_transformers", reason="not installed (make bench-setup)")
    from benchmarks import peer_sentence

    record = record_of(peer_sentence, words_of(model, data), capsys, monkeypatch)
    assert (record["examples"], record["input_stall_share"]) == (STEPS * BATCH, 0)
    words = [*words_of(model, data), "--eval"]
    record = record_of(peer_sentence, words, capsys, monkeypatch)
    assert record["tokens"] == lengths(data)[: STEPS * BATCH].sum()
    assert record["tokenize_s"] > 0
    assert record["padding_share"] < 0.25, "predict sorts by length"


@pytest.mark.parametrize("more", [["--batching", "group_by_length"], ["--sentence_transformers"]])
def test_a_whole_run_has_steps_and_scores(
    more: list[str], peers: Any, model: Path, data: Path, capsys: Any, monkeypatch: Any
) -> None:
    from benchmarks import peer_sts

    words = ["--model", str(model), "--data", str(data), "--seeds", "0", "--epochs", "2", *more]
    record = record_of(peer_sts, words, capsys, monkeypatch)
    assert record["versions"].keys() >= {"python", "torch", "transformers"}
    assert record["steps"] == 2 * invented.SIZES["train"] // 32
    assert -1 <= record["test_pearson"] <= 1 and record["score_s"] > record["seconds"]


def test_an_epoch_that_is_too_short_is_refused(peers: Any) -> None:
    order = list(range(10))[::-1]
    assert sorted(peers.drawn(order, 3, 3, seed=0)) == order[:9][::-1]
    with pytest.raises(peers.ConfigError, match="3 whole batches") as caught:
        peers.drawn(order, 3, 5, seed=0)
    assert "lower --steps by 2" in str(caught.value)
