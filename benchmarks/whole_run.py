r"""Run flaxfer on configs/sts_english.py with one seed, and print its score and where time goes.

python -m benchmarks.whole_run --model FOLDER --data FOLDER --epochs 3 --cache FOLDER

It runs the command `flaxfer run` in this process, with the clock around its parts. `phases` has
seconds from the start of the process: tracing, lowering and compiling or reading programs
(`compile`) are taken off the part that waited for them, and evaluation off training. What other
threads compile meanwhile is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import common

PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "numpy")
PHASES = ("compile", "evaluate", "report", "train", "data")
"""Parts of a run; time that belongs to two is given to the first."""

Interval = tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--epochs", type=common.count, default=3)
    parser.add_argument("--cache", required=True, type=Path, help="cold if it is empty or absent")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    options = parser.parse_args(arguments)
    began = time.monotonic() - common.since_start()
    cache = common.cache_state(options.cache)
    with tempfile.TemporaryDirectory() as folder:
        phases, study = run(options, Path(folder), began)
        score_s = sum(phases.values())
    [record] = study["runs"]
    [test] = [each["metrics"] for each in record["evaluations"] if each["set"] == "test"]
    line = {
        "test_pearson": test["pearson"],
        "test_spearman": test["spearman"],
        "steps": record["steps"],
        "dtype": options.dtype,
        "cache": cache,
        "score_s": score_s,
        "phases": phases,
        "versions": common.versions(*PACKAGES),
    }
    print(json.dumps(line), flush=True)


def run(
    options: argparse.Namespace, folder: Path, began: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the study in `folder`; return the seconds of its parts and its record."""
    # Imported here, as the command does after it has read the command line.
    import jax

    from flaxfer import main as command_line
    from flaxfer.errors import FlaxferError
    from flaxfer.evaluation.evaluator import Evaluator
    from flaxfer.runtime import platform
    from flaxfer.study import open_study, runner
    from flaxfer.training import loop

    imported = time.monotonic()
    options.dtype = str(platform.compute_dtype(options.dtype))
    intervals: dict[str, list[Interval]] = {name: [] for name in PHASES}

    def compiled(event: str, seconds: float, **_: Any) -> None:
        # In another thread, the main one may be doing something else meanwhile.
        if event.startswith("/jax/core/compile/") and threading.current_thread() is main_thread:
            now = time.monotonic()
            intervals["compile"].append((now - seconds, now))

    main_thread = threading.main_thread()
    jax.monitoring.register_event_duration_secs_listener(compiled)
    parts = (
        (open_study, "read_study_data", "data"),
        (loop, "train", "train"),
        (Evaluator, "predict_seeds", "evaluate"),
        (runner, "write_report", "report"),
    )
    words = ["run", "--config", str(common.ROOT / "configs" / "sts_english.py")]
    settings = {
        "data_dir": options.data.absolute(),
        "model.path": Path(options.model).absolute(),
        "workdir": folder / "study",
        "cache": options.cache.absolute(),
        "seeds": "(0,)",
        "train.epochs": options.epochs,
        "train.compute_dtype": options.dtype,
    }
    with contextlib.ExitStack() as stack:
        for owner, name, phase in parts:
            function = timed(getattr(owner, name), intervals[phase])
            stack.enter_context(mock.patch.object(owner, name, function))
        code = command_line.main([*words, *(f"--config.{k}={v}" for k, v in settings.items())])
    if code:
        raise FlaxferError(f"flaxfer run ended with exit code {code}", hint="see its message.")
    seconds = breakdown(intervals, imported, time.monotonic())
    study = json.loads((folder / "study" / "study.json").read_text(encoding="utf-8"))
    return {"imports": imported - began, **seconds}, study


def timed(function: Callable[..., Any], intervals: list[Interval]) -> Callable[..., Any]:
    """Return a function that also notes when it ran."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            intervals.append((began, time.monotonic()))

    return wrapper


def breakdown(
    intervals: Mapping[str, Iterable[Interval]], began: float, ended: float
) -> dict[str, float]:
    """Return the seconds of each name between two times, and those of none as `other`.

    A time that several intervals cover belongs to the name that comes first.
    """
    found = {name: union(values) for name, values in intervals.items()}
    edges = {time for values in found.values() for pair in values for time in pair}
    cuts = sorted({began, ended, *(edge for edge in edges if began < edge < ended)})
    seconds = dict.fromkeys([*found, "other"], 0.0)
    for left, right in itertools.pairwise(cuts):
        covering = (
            name
            for name, values in found.items()
            if any(a <= left and right <= b for a, b in values)
        )
        seconds[next(covering, "other")] += right - left
    return seconds


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return disjoint intervals that cover the same times: tracing a function traces others."""
    merged: list[Interval] = []
    for began, ended in sorted(intervals):
        if merged and began <= merged[-1][1]:
            began, last = merged.pop()
            ended = max(ended, last)
        merged.append((began, ended))
    return merged


if __name__ == "__main__":
    common.guarded(main)
