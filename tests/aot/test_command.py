"""The arguments of `flaxfer aot`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from flaxfer import config
from flaxfer.aot import command, topology
from flaxfer.config import loading
from flaxfer.errors import ConfigError
from flaxfer.main import main, parse
from flaxfer.runtime import platform
from flaxfer.tasks import TASK_TYPES

BASE = ["aot", "--config", "configs/sts_english.py", "--topology", "v5e:4"]
ASSUMED = ["--model_config", "x.json", "--rows", "4", "--examples_per_row", "4"]


def test_overrides_are_kept_apart_from_options() -> None:
    _, args = parse([*BASE, "--config.train.batch_size=8", "--mesh", "data=2,fsdp=2"])
    assert (args.config, args.topology, args.stage) == (*BASE[2::2], "target")
    assert args.overrides == [("train.batch_size", "8")]
    assert args.mesh == config.Mesh(data=2, fsdp=2, tensor=1)


@pytest.mark.parametrize("text", ["data", "data=0", "rows=2", "data=-2", "data=-3", "data=two", ""])
def test_a_malformed_mesh_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not AXIS=SIZE"):
        command.mesh_sizes(text)
    with pytest.raises(ConfigError):
        parse([*BASE, f"--mesh={text}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_config", "x.json"], "needs --rows and --examples-per-row"),
        (["--model_config", "x.json", "--rows", "4"], "needs --rows and --examples-per-row"),
        (["--vocabulary", "9"], "go with --model-config"),
        (["--rows", "0"], "'0' is not a positive whole number"),
        (["--search", "--mesh", "data=4"], "leave out --mesh"),
        (["--stage", "first"], "invalid choice"),
        (["--wrong"], "unrecognized arguments: --wrong"),
        (["--topology", "v5e:4"], "--topology is given twice"),
        (["--mesh", "data=2", "--config.mesh.data=4"], "leave out --config.mesh"),
        (["--search", "--config.mesh.fsdp=4"], "leave out --config.mesh"),
        (
            [*ASSUMED, "--config.model.path=elsewhere"],
            "reads neither the config's model nor data; leave out --config.model.path",
        ),
        ([*ASSUMED, "--config.data_dir=x"], "leave out --config.data_dir"),
        (["--mesh", "data=-1,fsdp=-1"], "only one axis of --mesh may be -1"),
        (["--json", "no/such/folder/report.json"], "the folder of --json does not exist"),
        (["--json="], "the value of --json is empty"),
        (["--mesh", "data=2,data=4"], "the axis data is given twice"),
    ],
)
def test_wrong_arguments_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (2, "none.py", "the config file does not exist"),
        (4, "v7:4", "there is no topology 'v7:4'"),
    ],
)
def test_a_config_or_topology_that_does_not_exist_is_refused(
    number: int, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([value if i == number else word for i, word in enumerate(BASE)]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def args(tmp_path: Path) -> Iterator[argparse.Namespace]:
    """The arguments for a tiny model without data."""
    file = tmp_path / "config.json"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    file.write_text(
        json.dumps({"model_type": "bert", "vocab_size": 99, "intermediate_size": 32} | sizes)
    )
    words = ["--model_config", str(file), "--rows", "2", "--examples_per_row", "2"]
    yield parse([*BASE, *words, "--vocabulary", "50", "--mesh", "data=1"])[1]
    platform.choose_compiler_options({})


def compile_steps(
    args: argparse.Namespace, lora: config.Lora | None = None, **options: bool
) -> dict[str, Any]:
    """Compile for a CPU instead of the topology, whose compiler need not be installed."""
    # So many rows that the eval step needs the most memory, with the train state beside it.
    sizes = {"train.row_length": "16", "train.max_length": "16", "train.eval_rows": "24"}
    study = loading.load(args.config, TASK_TYPES, list(sizes.items()))
    target = dataclasses.replace(study.target, lora=lora)
    study = dataclasses.replace(study, target=target, compiler_options=options)
    return command.compile_steps(args, study, topology.parse("v5e:1"), jax.devices()[:1])


def test_steps_are_compiled_with_the_options_of_the_config(args: argparse.Namespace) -> None:
    report = compile_steps(args, xla_cpu_enable_fast_min_max=True)
    assert report["compiler_options"]["xla_cpu_enable_fast_min_max"] is True
    assert report["fits"] and report["topology"]["name"] == "v5e:1x1"
    assert report["shapes"]["train"]["token_BT"] == [1, 2, 16]
    train, evaluation = report["bytes"], report["eval"]["bytes"]
    assert train["optimizer"] == 2 * train["parameters"] + 8
    assert 0 < evaluation["peak"] < train["peak"]
    state = train["parameters"] + train["optimizer"]
    assert report["peak_bytes"] == evaluation["peak"] + state
    assert "a step trains one seed on the task of its stage alone" in report["assumptions"]
    parts = {entry["part"] for entry in report["parts"]}
    assert {"attention", "feed_forward", "loss", "optimizer", "embeddings"} <= parts
    assert sum(entry["cycles"] for entry in report["parts"]) == pytest.approx(
        report["estimated_cycles"], rel=0.01
    )
    assert json.loads(json.dumps(report)) == report
    command.show(report)


def test_steps_with_adapters_are_compiled(args: argparse.Namespace) -> None:
    settings = config.Lora(4, dropout=0.1, modules=("query", "down"))
    report = compile_steps(args, settings)
    width, inner, bytes_of = 16, 32, report["bytes"]
    adapters = 4 * 4 * (2 * width + width + inner)
    head = 4 * (width * width + width + width + 1)
    assert bytes_of["optimizer"] == 2 * (head + adapters) + 8
    # Evaluation keeps the merged kernels and the train state.
    merged = 4 * (width * width + inner * width)
    state = bytes_of["parameters"] + bytes_of["optimizer"] + merged
    assert report["peak_bytes"] == report["eval"]["bytes"]["peak"] + state
    directions = {x["direction"] for x in report["parts"] if x["part"] == "adapters"}
    assert {"forward", "backward"} <= directions


def test_an_option_that_the_compiler_refuses_is_reported(args: argparse.Namespace) -> None:
    with pytest.raises(ConfigError, match="xla_no_such_option"):
        compile_steps(args, xla_no_such_option=True)
