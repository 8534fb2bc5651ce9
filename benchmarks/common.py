"""Options, data files and JSON lines of the measuring scripts.

Imported in three environments, so it imports only the standard library and what needs no other.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flaxfer.errors import ConfigError, DataError, FlaxferError
from flaxfer.runtime import host

IMPORTED = time.monotonic()

ROOT = Path(__file__).parents[1]
RECORDS = "benchmarks/results"
"""Committed records of runs, from the root of the repository."""
WARMUP = 2
"""Untimed steps of every trainer, after compiling."""

NAMES = {
    "text_a": ("text_a", "text", "sentence1", "sentence", "premise", "review"),
    "text_b": ("text_b", "sentence2", "hypothesis"),
    "label": ("label", "score", "sentiment"),
}
"""Column names of each role."""

MOST_CLASSES = 20
"""Integer labels with more distinct values are scores."""

FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
"""CPU flags that decide the speed of matmuls."""


def count(text: str) -> int:
    """Parse a positive whole number of the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every measuring script."""
    options = argparse.ArgumentParser(
        description=(doc or "").partition("\n")[0], allow_abbrev=False
    )
    options.add_argument("--model", required=True, help="folder of a Hugging Face model")
    options.add_argument("--data", required=True, type=Path, help="csv or tsv file")
    options.add_argument("--batch", type=count, default=32, help="examples per step")
    options.add_argument("--steps", type=count, default=20, help="timed steps")
    options.add_argument("--length", type=count, default=128, help="maximum tokens of an example")
    options.add_argument("--columns", default="", help="text_a=0,text_b=1,label=2, or names")
    options.add_argument("--task", choices=("auto", "classification", "regression"), default="auto")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--cache", type=Path, help="folder for compiled programs")
    return options


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout of a file, and the task that its labels imply.

    Attributes:
      columns: column of each role, by number or, with a header, by name.
      header: whether the first line names the columns.
      task_type: `classification` or `regression`.
      labels: the classes, sorted; () for scores.
      score_range: smallest and largest score; (0, 0) for classes.
    """

    columns: dict[str, str | int]
    header: bool
    task_type: str
    labels: tuple[str, ...]
    score_range: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Texts:
    """The examples of a file; `text_b` is None for single texts."""

    layout: Layout
    text_a: list[str]
    text_b: list[str] | None
    label: list[str]

    def first(self, n: int) -> Texts:
        """Return the first `n` examples, or all of them if there are fewer."""
        text_b = None if self.text_b is None else self.text_b[:n]
        return Texts(self.layout, self.text_a[:n], text_b, self.label[:n])

    def targets(self) -> list[float] | list[int]:
        """Return the scores, or the indices of the classes."""
        if self.layout.task_type == "regression":
            return [float(label) for label in self.label]
        return [self.layout.labels.index(label) for label in self.label]

    def encode(self, tokenizer: Any, **options: Any) -> Any:
        """Tokenize the texts with a tokenizer of transformers."""
        texts = (self.text_a,) if self.text_b is None else (self.text_a, self.text_b)
        return tokenizer(*texts, truncation=True, **options)


def read(path: Path, columns: str = "", task: str = "auto") -> Texts:
    """Read a csv file (quoted) or tsv file (quotes are literal).

    Columns that `columns` does not name are identified by the header or, without one, by their
    order: one or two texts, then the label. Named columns are those of a header; numbered columns
    mean that there is none.

    Raises:
      ConfigError: `columns` is malformed.
      DataError: the file is missing, or its columns or the task type cannot be identified.
    """
    rows = _rows(path)
    by_role = _parse_columns(columns) or _identify_columns(path, rows[0])
    header = any(isinstance(key, str) for key in by_role.values())
    if header and (missing := [key for key in by_role.values() if key not in rows[0]]):
        raise DataError(
            f"the header has no column {missing[0]!r}; it has {', '.join(rows[0])}",
            where=str(path),
            hint="name columns of the header in --columns.",
        )
    place = {role: rows[0].index(k) if isinstance(k, str) else k for role, k in by_role.items()}
    body = rows[1:] if header else rows
    for number, row in enumerate(body, 1 + header):
        if len(row) <= max(place.values()):
            raise DataError(
                f"has {len(row)} column(s), {max(place.values()) + 1} are needed",
                where=f"{path}: record {number}",
                hint="correct the file, or name its columns with --columns.",
            )
    text_a, label = ([row[place[role]] for row in body] for role in ("text_a", "label"))
    text_b = [row[place["text_b"]] for row in body] if "text_b" in place else None
    layout = Layout(by_role, header, *_task_of(path, label, task))
    return Texts(layout, text_a, text_b, label)


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(path), hint="set --data to a file."
        ) from error
    if path.suffix == ".tsv":
        rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    else:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    if len(rows) < 2:
        raise DataError("holds no examples", where=str(path), hint="set --data to another file.")
    return rows


def _parse_columns(columns: str) -> dict[str, str | int]:
    """Parse the option `--columns`."""
    pairs = dict(item.partition("=")[::2] for item in columns.split(",") if item)
    if pairs and not {"text_a", "label"} <= pairs.keys() <= NAMES.keys():
        raise ConfigError(
            f"--columns {columns} does not name text_a and label (and text_b, for pairs)",
            hint="write, for example, --columns text_a=0,text_b=1,label=2.",
        )
    return {role: int(key) if key.isdigit() else key for role, key in pairs.items()}


def _identify_columns(path: Path, first: Sequence[str]) -> dict[str, str | int]:
    """Identify the columns by the names or, without names, the order of the first record."""
    named: dict[str, str | int] = {
        role: name
        for role, names in NAMES.items()
        for name in first
        if name.strip().lower() in names
    }
    if {"text_a", "label"} <= named.keys():
        return named
    if len(first) in (2, 3) and _number(first[-1]) is not None:
        roles = ("text_a", "label") if len(first) == 2 else ("text_a", "text_b", "label")
        return {role: place for place, role in enumerate(roles)}
    raise DataError(
        f"the first line, {first}, is neither a header with known names nor text, text, number",
        where=str(path),
        hint="name the columns, for example --columns text_a=5,text_b=6,label=4.",
    )


def _task_of(
    path: Path, label: Sequence[str], task: str
) -> tuple[str, tuple[str, ...], tuple[float, float]]:
    """Return the task type, classes and score range of labels; `task` may fix the type."""
    classes = tuple(sorted(set(label)))
    numbers = [_number(value) for value in classes]
    whole = all(value.lstrip("-").isdigit() for value in classes)
    if task == "auto":
        few = len(classes) <= MOST_CLASSES and (whole or None in numbers)
        task = "classification" if few else "regression"
    if task == "classification":
        return task, classes, (0.0, 0.0)
    scores = [number for number in numbers if number is not None]
    if len(scores) < len(numbers):
        raise DataError(
            f"the label {classes[numbers.index(None)]!r} is not a score",
            where=str(path),
            hint="name the right column with --columns, or pass --task classification.",
        )
    return task, (), (min(scores), max(scores))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclasses.dataclass
class Measured:
    """Counts and times of a run; `more` holds figures that not every trainer has."""

    examples: int = 0
    tokens: int = 0
    slots: int = 0
    steps: int = 0
    seconds: float = 0.0
    stall_seconds: float = 0.0
    compile_s: float = 0.0
    start_s: float = 0.0
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def count(self, examples: int, tokens: int, slots: int) -> None:
        """Add the contents of a timed batch."""
        self.examples += examples
        self.tokens += tokens
        self.slots += slots

    def result(self) -> dict[str, Any]:
        """Return the figures of the JSON line."""
        counts = dataclasses.asdict(self)
        more, stall_seconds = counts.pop("more"), counts.pop("stall_seconds")
        return {
            "examples_per_s": self.examples / self.seconds,
            "useful_tokens_per_s": self.tokens / self.seconds,
            "padding_share": 1 - self.tokens / self.slots,
            "input_stall_share": stall_seconds / self.seconds,
            "peak_rss_bytes": peak_rss_bytes(),
            **counts,
            **more,
        }


def since_start() -> float:
    """Return the seconds since the process began or, without /proc, since this import."""
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:
        return time.monotonic() - IMPORTED
    ticks = int(stat.rpartition(")")[2].split()[19])  # Field 22: start since boot.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes() -> int:
    """Return the peak resident memory of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB.


def cache_state(folder: Path | None) -> str:
    """Return the state of a folder of compiled programs: `none`, `cold` or `warm`."""
    if folder is None:
        return "none"
    return "warm" if folder.is_dir() and any(folder.iterdir()) else "cold"


def machine() -> dict[str, Any]:
    """Return processor, its flags in `FEATURES`, cores and memory (GiB)."""
    flags = host.cpu_flags()
    return host.cpu_and_memory() | {"features": [name for name in FEATURES if name in flags]}


KINDS = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}
"""Kinds of CPU by the flag that they have, the fastest first."""


def kind_of_cpu(flags: Collection[str]) -> str:
    """Return the kind of a CPU with these flags; `cpu` if it has none of `KINDS`."""
    return next((kind for flag, kind in KINDS.items() if flag in flags), "cpu")


def torch_dtype(device: str = "cpu") -> str:
    """Return the faster dtype of PyTorch's matmuls: bfloat16 where the hardware multiplies it."""
    fast = device != "cpu" or kind_of_cpu(host.cpu_flags()) in ("amx", "avx512-bf16")
    return "bfloat16" if fast else "float32"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of packages."""
    installed = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **installed}


def commit(folder: Path = ROOT) -> str:
    """Return the commit, with `-dirty` if files other than records differ; empty if unknown.

    A benchmark writes records while it runs.
    """
    return host.commit(folder, RECORDS)


def emit(
    side: str,
    what: str,
    options: argparse.Namespace,
    figures: dict[str, Any],
    packages: Sequence[str],
) -> None:
    """Print the JSON line of a run; `what` is `train`, `eval`, `seeds` or `breakdown`."""
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
    }
    settings["model"], settings["data"] = Path(options.model).name, options.data.name
    settings["cache"] = settings.get("cache_state", "none")
    print_line(
        {
            "side": side,
            "what": what,
            **figures,
            "settings": settings,
            "versions": versions(*packages),
            "machine": machine(),
        }
    )


def print_line(record: dict[str, Any]) -> None:
    """Print a record as JSON, with date and commit."""
    print(json.dumps(record | stamp()), flush=True)


def stamp() -> dict[str, str]:
    """Return date and commit as entries of a record."""
    return {"date": host.now(), "git": commit()}


def guarded(main: Any) -> None:
    """Run a script; a `FlaxferError` ends it with its message and exit code."""
    try:
        main()
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
