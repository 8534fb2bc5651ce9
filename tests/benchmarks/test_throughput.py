"""Both measurements of flaxfer on a tiny model, with exact counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks import common, eval_throughput, seeds, train_throughput
from benchmarks.programs import recorded, seconds
from flaxfer.errors import ConfigError
from flaxfer.study.open_study import forget_programs
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


class Data(NamedTuple):
    """A model, a file, and the number of tokens of each example."""

    model: Path
    file: Path
    tokens: np.ndarray


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
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
    return Data(tiny_model(folder / "model"), file, words.sum(axis=1) + 3)


def arguments(data: Data, *more: str) -> list[str]:
    """Return the arguments of both scripts; later ones override earlier ones."""
    words = ["--model", str(data.model), "--data", str(data.file), "--batch", str(BATCH)]
    return [*words, "--steps", str(STEPS), "--length", "32", *more]


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the printed record after checks that hold for both scripts."""
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record.keys() >= {*KEYS, "versions", "machine", "settings", "date", "git"}
    assert record["side"] == "flaxfer" and record["versions"].keys() >= {"jax", "flax", "python"}
    assert record["examples_per_s"] == record["examples"] / record["seconds"]
    assert record["useful_tokens_per_s"] == record["tokens"] / record["seconds"]
    assert record["padding_share"] == 1 - record["tokens"] / record["slots"]
    assert 0 <= record["input_stall_share"] <= 1
    assert record["compile_s"] >= 0 and record["start_s"] > 0
    return record


def check_limit(record: dict[str, Any]) -> None:
    rows, length = record["limit_rows"]
    assert record["slots"] == round(rows * record["steps"]) * length
    step_s = record["seconds"] / record["steps"]
    assert record["times_limit"] == pytest.approx(step_s / record["limit_s_per_step"])


def test_training_counts_the_timed_batches(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    forget_programs()
    train_throughput.main(arguments(data, "--matmul_limit", "--dtype", "float32"))
    record = printed(capsys)
    assert (record["what"], record["steps"], record["examples"]) == ("train", STEPS, STEPS * BATCH)
    assert record["compile_s"] > 0
    # An epoch has three steps and an order of its own; the first two steps are the warm-up.
    order = np.concatenate([np.random.default_rng((0, e)).permutation(EXAMPLES) for e in range(3)])
    timed = order[common.WARMUP * BATCH : (common.WARMUP + STEPS) * BATCH]
    assert record["tokens"] == data.tokens[timed].sum()
    check_limit(record)
    assert record["settings"]["dtype"] == "float32" and record["settings"]["cache"] == "none"


def test_evaluation_counts_every_example_once(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    eval_throughput.main(arguments(data, "--matmul_limit"))
    record = printed(capsys)
    check_limit(record)
    assert (record["what"], record["examples"]) == ("eval", EXAMPLES)
    assert record["tokens"] == data.tokens.sum()


def test_evaluation_compiles_in_its_first_pass_alone(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_programs()
    with recorded() as built:
        eval_throughput.main(arguments(data))
    assert 0 < printed(capsys)["compile_s"] <= seconds(built)
    assert built["eval_step"].programs == 1


def test_evaluation_of_the_first_steps(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    eval_throughput.main(arguments(data, "--steps", "2", "--batch", "9"))
    record = printed(capsys)
    assert record["examples"] == 18 and record["tokens"] == data.tokens[:18].sum()


def test_too_many_steps_are_refused(data: Data) -> None:
    with pytest.raises(ConfigError, match="9 steps, 10 are needed") as caught:
        train_throughput.main(arguments(data, "--steps", "8"))
    assert "lower --steps by 1" in str(caught.value)


def test_batched_seeds_are_timed_beside_sequential_ones(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds.main(arguments(data, "--steps", "2", "--seeds", "2", "--rounds", "1"))
    record = json.loads(capsys.readouterr().out)
    assert (record["what"], record["settings"]["seeds"], record["layers"]) == ("seeds", 2, 2)
    assert record["tokens_per_step"] == round(BATCH * data.tokens.mean())
    rates = [record[f"{mode}_examples_per_s"] for mode in ("batched", "sequential")]
    assert record["ratio"] == pytest.approx(rates[0] / rates[1])
