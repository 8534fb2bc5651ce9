"""The arguments of `flaxfer aot`."""

from __future__ import annotations

import argparse
from typing import Any

import jax
import pytest

from flaxfer import config
from flaxfer.aot import command, topology, verdict
from flaxfer.config import loading
from flaxfer.errors import ConfigError
from flaxfer.main import main, parse
from flaxfer.runtime import platform
from flaxfer.tasks import TASK_TYPES

BASE = ["aot", "--config", "configs/sts_english.py", "--topology", "v5e:4"]


def test_overrides_are_kept_apart_from_options() -> None:
    _, args = parse([*BASE, "--config.train.batch_size=8", "--mesh", "data=2,fsdp=2"])
    assert (args.config, args.topology, args.stage) == (*BASE[2::2], "target")
    assert args.overrides == [("train.batch_size", "8")]
    assert args.mesh == config.Mesh(data=2, fsdp=2, tensor=1)


@pytest.mark.parametrize("text", ["data", "data=0", "rows=2", "data=-2", "data=two", ""])
def test_a_malformed_mesh_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not AXIS=SIZE"):
        command.mesh_sizes(text)
    with pytest.raises(ConfigError):
        parse([*BASE, f"--mesh={text}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_config", "x.json"], "needs --rows and --examples_per_row"),
        (["--model_config", "x.json", "--rows", "4"], "needs --rows and --examples_per_row"),
        (["--vocabulary", "9"], "go with --model_config"),
        (["--rows", "0"], "'0' is not a positive whole number"),
        (["--search", "--mesh", "data=4"], "leave out --mesh"),
        (["--stage", "first"], "invalid choice"),
        (["--wrong"], "unrecognized arguments: --wrong"),
        (["--topology", "v7:4"], "there is no topology 'v7:4'"),
        (["--config", "none.py"], "there is no such config file"),
    ],
)
def test_wrong_arguments_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("xla_cpu_enable_fast_min_max", "true"), ("xla_no_such_option", "true")]
)
def test_programs_are_compiled_with_the_options_of_the_config(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler of the topology, here a CPU's, says which of them there are."""
    device = jax.devices()[0]
    seen: list[Any] = []

    def judge(*_: Any) -> dict[str, Any]:
        seen.append(platform.compiler_options(device))
        return {}

    class Work:
        dtype = None

    monkeypatch.setattr(platform, "COMPILER_OPTIONS", {"cpu": {}})
    monkeypatch.setattr(topology, "devices", lambda _: [device])
    monkeypatch.setattr(command, "_workload", lambda *_: Work)
    monkeypatch.setattr(command, "show", lambda _: None)
    monkeypatch.setattr(verdict, "judge", judge)
    monkeypatch.setattr(verdict, "whole", lambda *_: {})
    _, args = parse([*BASE, f"--config.compiler_options.{name}={value}"])
    settings = loading.load(args.config, TASK_TYPES, args.overrides)
    try:
        if name == "xla_no_such_option":
            with pytest.raises(ConfigError, match=name):
                command.compile_steps(args, settings)
            return
        assert command.compile_steps(args, settings) == {"compiler_options": {name: True}}
        assert seen == [{name: True}]
    finally:
        platform.choose_compiler_options({})
