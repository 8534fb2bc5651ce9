"""Both measurements of flaxfer, for a few steps of a tiny model: what is counted is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import common, eval_throughput, train_throughput
from tests.helpers import WORDS, tiny_model

KEYS = {
    "examples_per_s",
    "useful_tokens_per_s",
    "padding_share",
    "input_stall_share",
    "compile_s",
    "start_s",
    "peak_rss_bytes",
    "seconds",
    "steps",
}
EXAMPLES, BATCH, STEPS = 48, 16, 5


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A model, a file, and the tokens of each of its examples."""
    folder = tmp_path_factory.mktemp("throughput")
    rng = np.random.default_rng(0)
    words = rng.integers(2, 9, (EXAMPLES, 2))
    rows = [
        [*(" ".join(rng.choice(WORDS, n)) for n in pair), f"{rng.uniform(0, 5):.2f}"]
        for pair in words
    ]
    file = folder / "pairs.csv"
    file.write_text("".join(",".join(row) + "\n" for row in rows))
    # Every word is one piece; [CLS] and two [SEP] are added.
    return tiny_model(folder / "model"), file, words.sum(axis=1) + 3


def printed(module: Any, given: Any, monkeypatch: Any, capsys: Any, *more: str) -> dict[str, Any]:
    model, file, _ = given
    words = [module.__name__, "--model", str(model), "--data", str(file), "--batch", str(BATCH)]
    words += ["--steps", str(STEPS), "--length", "32", *more]
    monkeypatch.setattr("sys.argv", words)
    module.main()
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record.keys() >= {*KEYS, "versions", "machine", "settings", "date", "git"}
    assert record["side"] == "flaxfer" and record["versions"].keys() >= {"jax", "flax", "python"}
    assert record["examples_per_s"] == record["examples"] / record["seconds"]
    assert record["useful_tokens_per_s"] == record["tokens"] / record["seconds"]
    assert record["padding_share"] == 1 - record["tokens"] / record["slots"]
    assert 0 <= record["input_stall_share"] <= 1
    assert record["compile_s"] > 0 and record["start_s"] > 0
    return record


def test_training(given: Any, monkeypatch: Any, capsys: Any) -> None:
    record = printed(
        train_throughput, given, monkeypatch, capsys, "--matmul_limit", "--dtype", "float32"
    )
    assert (record["what"], record["steps"], record["examples"]) == ("train", STEPS, STEPS * BATCH)
    # Three steps are an epoch, each a permutation of its own: take the first 2 + 5 steps of them.
    order = np.concatenate([np.random.default_rng((0, e)).permutation(EXAMPLES) for e in range(3)])
    timed = order[common.WARMUP * BATCH : (common.WARMUP + STEPS) * BATCH]
    assert record["tokens"] == given[2][timed].sum()
    rows, length = record["limit_rows"]
    assert record["slots"] == round(rows * STEPS) * length
    assert record["times_limit"] == pytest.approx(
        record["seconds"] / STEPS / record["limit_s_per_step"]
    )
    assert record["settings"]["dtype"] == "float32" and record["settings"]["cache"] == "none"


def test_evaluation(given: Any, monkeypatch: Any, capsys: Any) -> None:
    record = printed(eval_throughput, given, monkeypatch, capsys)
    assert (record["what"], record["examples"]) == ("eval", EXAMPLES)
    assert record["tokens"] == given[2].sum()


def test_evaluation_of_the_first_steps(given: Any, monkeypatch: Any, capsys: Any) -> None:
    record = printed(eval_throughput, given, monkeypatch, capsys, "--steps", "2", "--batch", "9")
    assert record["examples"] == 18 and record["tokens"] == given[2][:18].sum()


def test_more_steps_than_the_data_has(given: Any, monkeypatch: Any) -> None:
    model, file, _ = given
    words = ["x", "--model", str(model), "--data", str(file), "--batch", "16", "--steps", "8"]
    monkeypatch.setattr("sys.argv", [*words, "--length", "32"])
    with pytest.raises(common.ConfigError, match="9 steps") as caught:
        train_throughput.main()
    assert "--steps 7" in str(caught.value)
