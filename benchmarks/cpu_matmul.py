r"""Measure the matmuls of this CPU, and compare the choices for its kind with others.

python -m benchmarks.cpu_matmul --record benchmarks/results/cpu_matmul.json

Takes about a minute; run nothing else meanwhile. The matmuls are those of tokens with the weights
of an encoder layer: forward, and the gradients of tokens (dX) and of weights (dW). Each is timed
with the choices of `flaxfer.runtime.cpu` for this kind of CPU, and with each choice replaced, in
turn; NumPy and PyTorch, if it is installed, are timed beside them. Prints the rates, and for every
choice whether another is faster here.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib.util
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, summary
from flaxfer.errors import ConfigError
from flaxfer.models import ops
from flaxfer.runtime import host
from flaxfer.runtime.cpu import CpuKind, this_cpu

PACKAGES = ("jax", "jaxlib", "numpy")
PASSES = ("forward", "dX", "dW")
ROWS = (8, 128)
"""Rows and their length: a batch of 32 pairs of STS-B."""
ENCODERS = {"BERT-base": (768, 3072), "MiniLM": (384, 1536)}
"""Width and feed-forward width."""
TINY: Mapping[str, tuple[int, int]] = {"tiny": (32, 64)}
MARGIN = 1.05
"""Smallest ratio of rates, in both halves of the rounds, at which another choice is faster."""
LEAST_ROUNDS = 4
BUSY = 0.75
"""Share of all CPUs that the matmuls use at least if nothing else runs."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to compute the matmuls: dtype, whether tokens have one axis, and XLA's options."""

    dtype: str
    flat: bool
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def form(self) -> str:
        """Name of the form of the matmuls."""
        return "flat" if self.flat else "rows"

    def __str__(self) -> str:
        """Return a name for tables."""
        return ", ".join([self.dtype, self.form, *(f"{k[8:]}={v}" for k, v in self.options)])


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice for a kind of CPU: the table's value, and the others, with their variants."""

    name: str
    value: str
    others: dict[str, Variant]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A matmul of a layer: encoder, pass, (inputs, outputs) of the weights, times in a layer."""

    encoder: str
    of: str
    shape: tuple[int, int]
    count: int

    def flops(self, rows: tuple[int, int]) -> int:
        """Return the floating-point operations of one such matmul."""
        return 2 * rows[0] * rows[1] * self.shape[0] * self.shape[1]


Timed = tuple[Any, Cell]
"""What computes (a variant, or the name of a library), and a matmul."""

Times = dict[Timed, tuple[float, float]]
"""Seconds of each call in a round: elapsed, and of all CPUs together."""
ELAPSED, CPU = 0, 1


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seconds", type=float, default=45, help="time for the rounds")
    options.add_argument("--tiny", action="store_true", help="tiny matmuls, to try the script")
    options.add_argument("--record", type=Path, help="file to add this kind's record to")
    parsed = options.parse_args(arguments)
    if jax.default_backend() != "cpu":
        raise ConfigError(
            f"JAX computes on a {jax.default_backend()} here",
            hint="set JAX_PLATFORMS=cpu to measure the CPU.",
        )
    kind = this_cpu()
    encoders, rows = (TINY, (2, 16)) if parsed.tiny else (ENCODERS, ROWS)
    record = measure(kind, encoders, rows, parsed.seconds) | {
        "versions": common.versions(*PACKAGES, *(["torch"] if has_torch() else [])),
        "machine": common.machine(),
        **{"date": host.now(), "git": common.commit()},
    }
    print(describe(record))
    if parsed.record:
        records = json.loads(parsed.record.read_text()) if parsed.record.exists() else {}
        records[kind.name] = record
        parsed.record.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def table_variant(kind: CpuKind) -> Variant:
    """Return the variant that the table chooses."""
    dtype = kind.dtype(jax.__version_info__)
    return Variant(dtype, dtype in kind.flat_dtypes, tuple(kind.compiler_options.items()))


def choices(kind: CpuKind) -> list[Choice]:
    """Return the choices for a kind of CPU; in each other variant a single choice differs."""
    table = table_variant(kind)
    other = {"float32": "bfloat16", "bfloat16": "float32"}[table.dtype]
    width = "xla_cpu_prefer_vector_width"
    options = dict(table.options)
    widths = {
        f"{bits} bits": dataclasses.replace(table, options=tuple((options | {width: bits}).items()))
        for bits in (256, 512)
        if bits != options.get(width, 256)
    }
    form = dataclasses.replace(table, flat=not table.flat)
    return [
        Choice(
            "dtype", table.dtype, {other: Variant(other, other in kind.flat_dtypes, table.options)}
        ),
        Choice(f"form in {table.dtype}", table.form, {form.form: form}),
        Choice("vectors", f"{options.get(width, 256)} bits", widths),
    ]


def cells(encoders: Mapping[str, tuple[int, int]]) -> list[Cell]:
    """Return the matmuls of a layer of each encoder, without those of attention."""
    return [
        Cell(name, of, shape, count)
        for name, (d, f) in encoders.items()
        for shape, count in (((d, d), 4), ((d, f), 1), ((f, d), 1))
        for of in PASSES
    ]


def measure(
    kind: CpuKind, encoders: Mapping[str, tuple[int, int]], rows: tuple[int, int], seconds: float
) -> dict[str, Any]:
    """Return rates in GFLOP/s, and for every choice the ratios of the others to the table's."""
    table, listed = table_variant(kind), choices(kind)
    variants = [table, *(other for choice in listed for other in choice.others.values())]
    todo = cells(encoders)
    own = {(variant, cell): compiled(variant, cell, rows) for cell in todo for variant in variants}
    other = {(name, cell): call for cell in todo for name, call in libraries(cell, rows)}
    rounds, load = timed(own, 0.8 * seconds)
    # Apart, because the idle threads of other libraries wait actively.
    library_rounds, _ = timed(other, 0.2 * seconds)

    def rate(who: Any, chosen: Sequence[Cell]) -> float:
        flops = sum(cell.count * cell.flops(rows) for cell in chosen)
        of = rounds if isinstance(who, Variant) else library_rounds
        return flops / seconds_of(of, who, chosen, ELAPSED) / 1e9

    def ratios(variant: Variant) -> list[float]:
        """Return the ratio of rates to the table's in either half of the rounds.

        By the seconds of CPUs, which other load affects less than the elapsed time.
        """
        halves = (rounds[::2], rounds[1::2])
        return [seconds_of(h, table, todo, CPU) / seconds_of(h, variant, todo, CPU) for h in halves]

    who = list(dict.fromkeys(name for name, _ in [*own, *other]))
    return {
        "what": "cpu_matmul",
        "kind": kind.name,
        "measured": kind.measured,
        "rows": list(rows),
        "rounds": len(rounds),
        "cpu_share": load,
        "rates": [
            {"encoder": encoder, "by": str(name)}
            | {
                of: rate(name, [c for c in todo if (c.encoder, c.of) == (encoder, of)])
                for of in PASSES
            }
            for encoder in encoders
            for name in who
        ],
        "choices": [
            {
                "choice": choice.name,
                "value": choice.value,
                "gflops": rate(table, todo),
                "others": {
                    name: {"gflops": rate(variant, todo), "ratios": ratios(variant)}
                    for name, variant in choice.others.items()
                },
            }
            for choice in listed
        ],
    }


def seconds_of(rounds: Sequence[Times], who: Any, chosen: Sequence[Cell], clock: int) -> float:
    """Return the seconds of a layer's matmuls among some, each the fastest of the rounds.

    Other load on the machine can only add to a time.
    """
    return sum(cell.count * min(times[who, cell][clock] for times in rounds) for cell in chosen)


def compiled(variant: Variant, cell: Cell, rows: tuple[int, int]) -> Callable[[], jax.Array]:
    """Return a call of the matmul, compiled and run once, which waits for the result."""
    x, kernel, cotangent = (jnp.asarray(a, variant.dtype) for a in arrays(cell.shape, rows))

    def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if variant.flat:
            return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)
        return ops.matmul(x, kernel)

    def pass_of(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        if cell.of == "forward":
            return project(x, kernel)
        gradients: tuple[jax.Array, jax.Array] = jax.vjp(project, x, kernel)[1](cotangent)
        return gradients[PASSES.index(cell.of) - 1]

    function = jax.jit(pass_of, compiler_options=dict(variant.options))

    def call() -> jax.Array:
        return function(x, kernel, cotangent).block_until_ready()

    call()
    return call


@functools.lru_cache(maxsize=1)
def arrays(shape: tuple[int, int], rows: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Return tokens, weights and the cotangent of the result, float32."""
    rng = np.random.default_rng(0)
    sizes = ((*rows, shape[0]), shape, (*rows, shape[1]))
    return tuple(rng.standard_normal(size, np.float32) for size in sizes)


def libraries(cell: Cell, rows: tuple[int, int]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each other library and dtype, and a call of the matmul by it."""
    x, kernel, cotangent = arrays(cell.shape, rows)
    x, cotangent = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    left, right = {
        "forward": (x, kernel),
        "dX": (cotangent, kernel.T),
        "dW": (x.T, cotangent),
    }[cell.of]
    yield "NumPy float32", functools.partial(np.matmul, left, right)
    if has_torch():
        import torch

        for dtype in (torch.float32, torch.bfloat16):
            tensors = (torch.from_numpy(array).to(dtype) for array in (left, right))
            yield f"PyTorch {str(dtype)[6:]}", functools.partial(torch.matmul, *tensors)


def has_torch() -> bool:
    """Return whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def timed(calls: Mapping[Timed, Callable[[], Any]], seconds: float) -> tuple[list[Times], float]:
    """Return the seconds of every call in each round, and the share of all CPUs that was used.

    The calls of a matmul follow each other in random order, so that other load on the machine
    affects all ways to compute it alike.
    """
    by_cell: dict[Cell, list[Any]] = collections.defaultdict(list)
    for who, cell in calls:
        by_cell[cell].append(who)
    rng = random.Random(0)
    rounds: list[Times] = []
    start, start_cpu = time.monotonic(), time.process_time()
    while len(rounds) < LEAST_ROUNDS or time.monotonic() < start + seconds:
        times: Times = {}
        for cell, names in by_cell.items():
            for name in rng.sample(names, len(names)):
                began, began_cpu = time.perf_counter(), time.process_time()
                calls[name, cell]()
                cpu = time.process_time() - began_cpu
                times[name, cell] = (time.perf_counter() - began, cpu)
        rounds.append(times)
    spent, cpu = time.monotonic() - start, time.process_time() - start_cpu
    return rounds, cpu / spent / (os.cpu_count() or 1)


def describe(record: Mapping[str, Any]) -> str:
    """Return the rates, and a line for every choice."""
    tokens, machine = " x ".join(map(str, record["rows"])), record["machine"]
    lines = [
        f"CPU kind {record['kind']} ({machine['cpu']}, {machine['cores']} cores), jaxlib "
        f"{record['versions']['jaxlib']}; matmuls of {tokens} tokens, GFLOP/s, "
        f"best of {record['rounds']} rounds:",
        *("  ".join(cells) for cells in _rate_rows(record)),
        *verdicts(record),
    ]
    return "\n".join(lines)


def verdicts(record: Mapping[str, Any]) -> list[str]:
    """Return a line for every choice: whether it is the best here; and one if others disturbed."""
    lines = []
    for choice in record["choices"]:
        rates = "; ".join(
            f"{name} {min(other['ratios']):.2f} times as fast"
            for name, other in choice["others"].items()
        )
        name, best = max(choice["others"].items(), key=lambda item: min(item[1]["ratios"]))
        ratio = min(best["ratios"])
        verdict = f"{choice['choice']}: {choice['value']}"
        if ratio < MARGIN:
            lines.append(f"{verdict} is best here ({choice['gflops']:.0f} GFLOP/s; {rates})")
        else:
            lines.append(
                f"{verdict} is not best here: another choice, {name}, is "
                f"{ratio - 1:.0%} faster ({choice['gflops']:.0f} GFLOP/s; {rates})"
            )
    if record["cpu_share"] < BUSY:
        lines.append(
            f"The rates are too low: other programs took CPU time, and this one had "
            f"{record['cpu_share']:.0%}. Repeat it when nothing else runs."
        )
    return lines


def _rate_rows(record: Mapping[str, Any]) -> list[list[str]]:
    return [
        [rates["encoder"], rates["by"], *(f"{rates[of]:.0f}" for of in PASSES)]
        for rates in record["rates"]
    ]


def section(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the section of BENCHMARKS.md.

    Args:
      records: record of each kind of CPU by its name.
    """
    text = (
        "## Matmuls by kind of CPU\n"
        "Matmuls of tokens with the weights of an encoder layer, without those of attention, in "
        "GFLOP/s, best of several rounds; dX and dW are the gradients of tokens and weights. The "
        "first line of an encoder has the choices of flaxfer/runtime/cpu.py for this kind of CPU, "
        "the next ones another dtype, form or option. Another choice is faster if it takes "
        f"less CPU time by {MARGIN - 1:.0%} in both halves of the rounds. Measured by "
        "benchmarks/cpu_matmul.py.\n"
    )
    for name, record in records.items():
        text += f"\n### {name}\n{summary.machine([dict(record)])}\n\n"
        text += summary.table(["encoder", "by", *PASSES], _rate_rows(record))
        text += "\n" + "".join(f"- {line}\n" for line in verdicts(record))
    return text


if __name__ == "__main__":
    common.guarded(main)
