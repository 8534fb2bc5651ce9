"""The command line, run as a user runs it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import flaxfer
from flaxfer import errors, main
from flaxfer.config import environment
from flaxfer.subcommands import SUBCOMMANDS
from tests.helpers import restored_compilation_cache, tiny_tokenizer

ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "flax", "transformers", "datasets", "pyarrow", "torch", "matplotlib"}

FILE = """
COLUMNS = dict(text_a=0, label=1)

def get_config():
    task = dict(name="score", type="regression", metric="pearson")
    data = dict(train=dict(path="train.tsv", header=False, columns=COLUMNS))
    return dict(
        name="s", model=dict(path="model"), conditions="direct", target=dict(task=task, data=data)
    )
"""


class Run(NamedTuple):
    code: int
    out: str
    err: str
    imported: set[str]
    seconds: float


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "study.py"
    path.write_text(FILE)
    return str(path)


def run(*words: str, module: str = "flaxfer") -> Run:
    """Run a module in a process of its own, and measure its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "importtime", "-m", module, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stderr.splitlines()
    times = [line for line in lines if line.startswith("import time:")]
    return Run(
        done.returncode,
        done.stdout,
        "\n".join(line for line in lines if line not in times),
        {line.split("|")[-1].strip() for line in times},
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


@pytest.mark.parametrize("module", ["flaxfer", "flaxfer.main"])
def test_a_wrong_config_is_refused_before_jax_is_imported(file: str, module: str) -> None:
    words = [
        f"--config={file}",
        "--config.train.batch_sise=8",
        "--config.model.hub=some/model",
        "--config.model.path=model",
        "--config.optimizer.warmup=-1",
    ]
    done = run(*["run"] * (module == "flaxfer"), *words, module=module)
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines() == [
        f"error: {file}: 3 error(s) in the configuration",
        "  - optimizer.warmup: should be greater than or equal to 0; is -1",
        "  - train.batch_sise: unknown key; did you mean 'batch_size'?",
        "  - model.path: set either a local path (path) or a hub id (hub), not both",
        "  Hint: change the config file, or pass --config.KEY=VALUE.",
    ]
    assert {"flaxfer.config.loading", "pydantic"} < done.imported
    assert done.imported & HEAVY == set()
    assert done.seconds < 3


def test_a_report_needs_no_jax(tmp_path: Path) -> None:
    done = run("report", str(tmp_path))
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert "jax" not in done.imported


def test_the_demo_is_valid_and_checking_it_needs_no_jax() -> None:
    done = run("check", "configs/sts_xling.py", "--check=config")
    assert (done.code, done.out, done.err) == (0, "the configuration is valid\n", "")
    assert done.imported & HEAVY == set()


def test_what_a_study_can_decide_needs_no_jax() -> None:
    words = ("--sd=0.05", "--score=0.5", "--correlation=0.5")
    done = run("plan", "--config", "configs/sts_xling.py", *words)
    assert done.code == 0, done.err
    assert "zero-shot mean: 5 sets" in " ".join(done.out.split())
    assert done.imported & HEAVY == set()


@pytest.mark.parametrize("words", [["run", "--check"], ["--check"], ["check", "--check"]])
def test_check_is_an_option_of_run_too(words: list[str]) -> None:
    assert main.parse([*words, "--config=x.py"])[1].check == "data"
    assert main.parse([*words[:-1], "--check=config", "--config=x.py"])[1].check == "config"


@pytest.mark.parametrize("words", [["run", "--dry-run"], ["--dry-run"]])
def test_a_plan_is_an_option_of_run_too(words: list[str]) -> None:
    assert main.parse([*words, "--config=x.py"])[1].dry_run


@pytest.mark.parametrize("words", [["run", "--quiet"], ["--quiet"]])
def test_a_run_may_be_quiet(words: list[str]) -> None:
    assert main.parse([*words, "--config=x.py"])[1].quiet
    assert not main.parse(["run", "x.py"])[1].quiet


def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, entry in SUBCOMMANDS.items():
        assert [line.split(maxsplit=1)[1:] for line in lines if line.split()[:1] == [name]] == [
            [entry.summary]
        ]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main.main([name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: flaxfer {name} ")
    assert max(map(len, text.splitlines())) <= 80
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).is_file()


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_examples_that_parse(name: str) -> None:
    assert SUBCOMMANDS[name].examples
    for _, command in SUBCOMMANDS[name].examples:
        words = shlex.split(command)
        assert words[:2] == ["flaxfer", name]
        main.parse(words[1:])


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_examples_of_help_are_commands_as_a_shell_reads_them(name: str) -> None:
    text = main.load(name)[1].format_help().partition("\nexamples:\n")[2]
    lines = [line for line in text.replace("\\\n", "").splitlines() if not line.startswith("  # ")]
    shown = [shlex.split(line) for line in lines]
    assert shown == [shlex.split(command) for _, command in SUBCOMMANDS[name].examples]


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Arguments of a parser and of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from options(nested)
        else:
            yield action


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_options_are_spelt_with_dashes_and_explained(name: str) -> None:
    for action in options(main.load(name)[1]):
        assert action.help, action.dest
        assert not [word for word in action.option_strings if "_" in word]


def test_help_names_exit_codes_and_environment_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name in [*map(str, errors.exit_codes()), *environment.VARIABLES]:
        assert f"\n  {name} " in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"flaxfer {flaxfer.__version__}\n"
    assert importlib.metadata.version("flaxfer") == flaxfer.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no subcommand is given"),
        (["--check"], "one of the arguments FILE[:PRESET] --config is required"),
        (["run"], "one of the arguments FILE[:PRESET] --config is required"),
        (["--config"], "expected one argument"),
        (["--config", "FILE", "--che"], "unrecognized arguments: --che"),
        (["--config", "FILE", "--conf.seeds=1"], "unrecognized arguments: --conf.seeds=1"),
        (
            ["check", "--config", "FILE", "--config.seeds", "1"],
            "arguments: --config.seeds\n  Hint: overrides are written --config.KEY=VALUE.",
        ),
        (["--config", "FILE", "also this"], "not allowed with argument"),
        (["--config", "FILE", "--check=yes"], "invalid choice: 'yes'"),
        (["plan", "--config", "no.py"], "the config file does not exist"),
        (["--config", "FILE:large"], "get_config() takes 0 positional arguments but 1 was given"),
        (["reprot", "DIR"], "did you mean 'report'?"),
        (["xyz"], "there are init, run, check, plan, "),
        (["report", "--config.a=1", "DIR"], "report takes no --config.KEY=VALUE"),
        (["report", "A", "B"], "add --output FOLDER"),
        (["convert", "FOLDER"], "the following arguments are required: out"),
    ],
)
def test_a_wrong_command_line_is_refused(
    words: list[str], message: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([word.replace("FILE", file) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err


def test_overrides_may_stand_anywhere_and_hold_anything() -> None:
    words = ["--config.a.b=c=d", "--config=x.py:p", "--config.name=", "--check", "--config.f=--a b"]
    overrides = [("a.b", "c=d"), ("name", ""), ("f", "--a b")]
    tail = "--config.a.b=c=d --config=x.py:p --config.name= --check '--config.f=--a b'"
    for before, command in (([], "python -m flaxfer.main"), (["run"], "flaxfer run")):
        _, args = main.parse([*before, *words])
        assert (args.config, args.check, args.overrides) == ("x.py:p", "data", overrides)
        assert args.command == f"{command} {tail}"


def run_with(monkeypatch: pytest.MonkeyPatch, function: Callable[[], Any]) -> int:
    """Exit code of a subcommand that calls a function."""
    monkeypatch.setattr("flaxfer.study.command.run", lambda args: function() or 0)
    return main.main(["run", "--config=x.py"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: bytearray(1 << 60), "error: out of memory\n  - MemoryError\n  Hint: "),
        (lambda: np.zeros(1 << 60, np.uint8), "error: out of memory: 1.00 EiB could not be "),
    ],
)
def test_out_of_memory_is_an_error_without_a_traceback(
    function: Callable[[], Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(monkeypatch, function) == 2
    assert capsys.readouterr().err.startswith(message)


def test_other_exceptions_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        run_with(monkeypatch, fail)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_with_one_line(
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(number)
    assert run_with(monkeypatch, lambda: signal.raise_signal(number)) == code
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    line = f"stopped by {name}. Run the same command again to continue.\n"
    assert capsys.readouterr().err == line
    assert signal.getsignal(number) == before


@pytest.fixture
def compilation_cache() -> Iterator[None]:
    with restored_compilation_cache():
        yield


@pytest.mark.usefixtures("compilation_cache")
def test_missing_data_is_an_error(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"--config={file}",
        f"--config.model.path={tmp_path / 'model'}",
        f"--config.workdir={tmp_path / 'run'}",
        f"--config.cache={tmp_path / 'cache'}",
        f"--config.data_dir={tmp_path}",
    ]
    assert main.main(words) == 3
    assert f"error: {tmp_path / 'model'}: there is no such folder" in capsys.readouterr().err
    tiny_tokenizer(tmp_path / "model")
    assert main.main(words) == 3
    err = capsys.readouterr().err
    assert f"error: {tmp_path / 'train.tsv'}: " in err
    assert "Hint: " in err


@pytest.mark.usefixtures("compilation_cache")
def test_a_work_directory_that_cannot_be_written_is_an_error(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main.main([f"--config={file}", f"--config.workdir={tmp_path / 'taken'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'taken'}: the work directory cannot be written")
    assert "--config.workdir=FOLDER" in err
