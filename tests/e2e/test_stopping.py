"""A study that signals stop again and again, as a scheduler or a person does, ends the same."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flaxfer.config import Config
from flaxfer.config.schema import Train
from tests.e2e.helpers import ROOT, config_of, runs_of, with_train, write_sets
from tests.helpers import tiny_model

pytestmark = pytest.mark.usefixtures("default_signals")


def study(folder: Path, workdir: str) -> Config:
    """Two stages of 100 steps each, which take seconds; one is saved between its evaluations."""
    config = config_of(folder)
    train = {"epochs": Train().epochs, "max_steps": 100, "eval_every": 50, "save_every": 30}
    for name in ("intermediate", "target"):
        config = with_train(config, name, **train)
    conditions = ("staged",)
    return dataclasses.replace(config, conditions=conditions, workdir=str(folder / workdir))


def start(config: Config) -> subprocess.Popen[str]:
    """Start a study by the command line."""
    file = Path(f"{config.workdir}.py")
    tree = json.loads(json.dumps(dataclasses.asdict(config)))
    file.write_text(f"def get_config():\n    return {tree!r}\n")
    return subprocess.Popen(
        [sys.executable, "-m", "flaxfer", "run", f"--config={file}"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(config: Config) -> int:
    """Lines of all metrics.jsonl."""
    files = Path(config.stages).glob("*/metrics.jsonl")
    return sum(file.read_text().count("\n") for file in files)


def run_until(config: Config, condition: Callable[[], bool], *numbers: int) -> tuple[int, str]:
    """Start a study, send it signals once a condition holds, and return its code and errors."""
    process = start(config)
    while not condition() and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    try:
        errors = process.communicate(timeout=300)[1]
    finally:
        process.kill()  # If it hangs.
    assert "Traceback" not in errors and "\x1b" not in errors
    return process.returncode, errors


@pytest.mark.slow
def test_a_study_that_is_stopped_in_every_phase_gets_to_the_same_end(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", layers=1)
    write_sets(tmp_path)
    whole, stopped = (study(tmp_path, name) for name in ("whole", "stopped"))
    process = start(whole)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    store = Path(stopped.stages)

    for phase, numbers, code in (
        (lambda _: Path(stopped.workdir).exists(), [signal.SIGTERM], 75),  # Reading the data.
        (lambda _: any(store.glob("*/identity.json")), [signal.SIGUSR1], 75),  # Compiling.
        (lambda before: steps(stopped) > before + 5, [signal.SIGTERM, signal.SIGTERM], 75),
        (lambda before: steps(stopped) > before + 5, [signal.SIGINT], 130),
        (lambda _: len(list(store.glob("*/identity.json"))) > 1, [signal.SIGHUP], 75),
    ):
        condition = functools.partial(phase, steps(stopped))
        ended, errors = run_until(stopped, condition, *numbers)
        assert ended == code
        by = "Ctrl-C" if code == 130 else numbers[0].name
        place = r"( in (the evaluation of )?staged/\w+ seed 0( after step \d+ of 100| before .*)?)?"
        line = f"stopped by {by}{place}. Run the same command again to continue."
        assert re.fullmatch(line, errors.splitlines()[-1]), errors
    newest = max(int(path.parent.name) for path in store.glob("*/checkpoints/*/manifest.json"))
    process = start(stopped)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert newest > 0
    assert "1 of 2 stages are finished, 1 left" in errors or "continues after step" in errors
    times = {"seconds", "compile_seconds", "examples_per_s", "useful_tokens_per_s"}
    times |= {"input_stall_share"}
    results = [
        {
            stage: {key: value for key, value in run.items() if key not in times}
            for stage, run in runs_of(config).items()
        }
        for config in (stopped, whole)
    ]
    assert results[0] == results[1]
    for config in (stopped, whole):
        for file in Path(config.stages).glob("*/metrics.jsonl"):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            logged = [line["step"] for line in lines if line["kind"] == "train"]
            assert logged == list(range(1, 101))
