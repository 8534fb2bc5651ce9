"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from flaxfer import main
from tests.helpers import tiny_tokenizer

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


def run(*words: str) -> Run:
    """Runs `python -m flaxfer.main`; seconds are those of the processor, whatever else it does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "importtime", "-m", "flaxfer.main", *words],
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


def test_a_wrong_config_is_refused_whole_before_jax_has_started(file: str) -> None:
    done = run(
        f"--config={file}",
        "--config.train.batch_sise=8",
        "--config.model.hub=some/model",
        "--config.optimizer.warmup=-1",
    )
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines() == [
        f"error: {file}: 3 error(s) in the configuration",
        "  - train.batch_sise: unknown key; did you mean 'batch_size'?",
        "  - model.path: name either a local folder (model.path) or a hub id (model.hub), not both",
        "  - optimizer.warmup: must not be negative, is -1.0",
        "  Hint: change the config file, or pass --config.KEY=VALUE.",
    ]
    assert {"flaxfer.config.loading", "pydantic"} < done.imported
    assert done.imported & HEAVY == set()
    assert done.seconds < 3


def test_check_says_that_the_demo_is_valid() -> None:
    done = run("--config", "configs/sts_xling.py", "--check")
    assert (done.code, done.out, done.err) == (0, "the configuration is valid\n", "")
    assert done.imported & HEAVY == set()


def test_help() -> None:
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert "python -m flaxfer.main --config FILE[:PRESET] [--config.KEY=VALUE ...]" in done.out
    for named in re.findall(r"configs/\w+\.py", done.out):
        assert (ROOT / named).is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no config file is named"),
        (["--check"], "no config file is named"),
        (["--config"], "expected one argument"),
        (["--config", "FILE", "--che"], "cannot make sense of --che"),
        (["--config", "FILE", "--conf.seeds=1"], "cannot make sense of --conf.seeds=1"),
        (["--config", "FILE", "--config.seeds", "1"], "cannot make sense of --config.seeds 1"),
        (["--config", "FILE", "also this"], "cannot make sense of 'also this'"),
        (["--config", "FILE", "--check=yes"], "ignored explicit argument"),
        (["--config", "no.py"], "there is no such config file"),
        (["--config", "FILE:large"], "get_config() takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_wrong_command_line_is_refused(
    words: list[str], said: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([word.replace("FILE", file) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err


def test_overrides_may_stand_anywhere_and_hold_anything() -> None:
    parsed, overrides = main.parse(
        ["--config.a.b=c=d", "--config=x.py:p", "--config.name=", "--check", "--config.f=--check"]
    )
    assert (parsed.config, parsed.check) == ("x.py:p", True)
    assert overrides == [("a.b", "c=d"), ("name", ""), ("f", "--check")]


@pytest.fixture
def compilation_cache() -> Iterator[None]:
    """What a study sets for the whole process is put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    values = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in values.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("compilation_cache")
def test_data_that_is_not_there(
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
def test_a_work_directory_that_cannot_be_made(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main.main([f"--config={file}", f"--config.workdir={tmp_path / 'taken'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'taken'}: the work directory cannot be written")
    assert "--config.workdir=FOLDER" in err
