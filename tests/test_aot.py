"""The command line of aot: what it accepts, and what it says of what it does not."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flaxfer import aot, config
from flaxfer.errors import ConfigError

BASE = ["--config", "configs/sts_english.py", "--topology", "v5e:4"]


def test_overrides_are_kept_apart_from_options() -> None:
    options, overrides = aot.parse(
        [*BASE, "--config.train.batch_size=8", "--mesh", "data=2,fsdp=2"]
    )
    assert (options.config, options.topology, options.stage) == (*BASE[1::2], "target")
    assert overrides == [("train.batch_size", "8")]
    assert options.mesh == config.Mesh(data=2, fsdp=2, tensor=1)


@pytest.mark.parametrize("text", ["data", "data=0", "rows=2", "data=-2", "data=two", ""])
def test_a_mesh_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not AXIS=SIZE"):
        aot.mesh_sizes(text)
    with pytest.raises(ConfigError):
        aot.parse([*BASE, f"--mesh={text}"])


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
    ],
)
def test_words_that_do_not_go_together(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        aot.parse([*BASE, *words])
    assert message in str(caught.value)


def test_errors_end_the_program_with_their_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert aot.main(["--config", str(tmp_path / "none.py"), "--topology", "v5e:4"]) == 2
    assert "there is no such config file" in capsys.readouterr().err
    assert aot.main(["--config", "configs/sts_english.py", "--topology", "v7:4"]) == 2
    assert "there is no topology 'v7:4'" in capsys.readouterr().err
