"""Arithmetic over the JSON lines of runs: medians, ratios by round, what follows from them."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence
from typing import Any

from flaxfer.aot import topology

Run = dict[str, Any]

EPOCHS, TRAIN, DEV, TEST = 3, 5749, 1500, 1379
"""Of a fine-tuning on STS-B: examples of its splits."""

median = statistics.median


def by_label(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each trainer, in the order they began."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run["label"], []).append(run)
    return found


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    return median(values), min(values), max(values)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`median (smallest–largest)`, or a dash if there are none."""
    if not values:
        return "–"
    mid, low, high = (f"{value:,.{digits}f}" for value in middle(values))
    return f"{mid} ({low}–{high})"


def share(values: Sequence[float]) -> str:
    """The median as a percentage."""
    return f"{median(values):.1%}"


def starts(runs: Sequence[Run]) -> list[str]:
    """Compile and start time without stored programs, and start time with them, in seconds.

    A run without a cache of programs is a warm start: it compiles nothing, or each time.
    """
    cold = [run for run in runs if run["settings"]["cache"] == "cold"]
    warm = [run for run in runs if run["settings"]["cache"] != "cold"]
    cells = [(cold, "compile_s"), (cold, "start_s"), (warm, "start_s")]
    return [f"{median([r[key] for r in part]):.1f}" if part else "–" for part, key in cells]


def ratios(runs: Sequence[Run], peer: str, what: str) -> list[float]:
    """examples/s of flaxfer over those of a peer, in every round that has both."""
    rates: dict[bool, dict[int, float]] = {True: {}, False: {}}
    for run in runs:
        own = run["label"].startswith("flaxfer")
        if run["what"] == what and (own or run["label"] == peer):
            rates[own][run["round"]] = run["examples_per_s"]
    return [rates[True][n] / rates[False][n] for n in sorted(rates[True].keys() & rates[False])]


def limit(runs: Sequence[Run]) -> str:
    """How far flaxfer's step is from its own matrix products; empty if that was not measured."""
    own = [run for run in runs if "limit_s_per_step" in run]
    if not own:
        return ""
    rates = [run["settings"]["batch"] / run["limit_s_per_step"] for run in own]
    times = [run["times_limit"] for run in own]
    return (
        f"Products alone would allow {spread(rates)} examples/s in training; a step takes "
        f"{spread(times, 2)} times as long."
    )


def seeds_per_hour(runs: Sequence[Run]) -> float | None:
    """Fine-tunings on STS-B an hour at a trainer's median rates; None if one rate is missing."""
    rates = {
        what: [run["examples_per_s"] for run in runs if run["what"] == what]
        for what in ("train", "eval")
    }
    if not all(rates.values()):
        return None
    seconds = EPOCHS * TRAIN / median(rates["train"])
    return 3600 / (seconds + (EPOCHS * DEV + TEST) / median(rates["eval"]))


def features(flags: Sequence[str]) -> str:
    """A sentence on what a processor has for matrix products, by its flags."""
    if not flags:
        return "The flags of its processor are not known."
    wide = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    short = [name for name in ("avx512_bf16", "avx512_fp16") if name in flags]
    amx = [name for name in flags if name.startswith("amx_")]
    return (
        f"It has {wide}{f' with {chr(32).join(short)}' if short else ''} and "
        + (f"AMX ({', '.join(amx)})" if amx else "no AMX, which would speed bfloat16 up")
        + "."
    )


def estimate(record: Run) -> Run:
    """An estimate in the form of `benchmarks.peer_flax`, from its line or `flaxfer aot`.

    Rows are those of one chip, cycles those of the compiler alone, as the peer's are.
    """
    if "shapes" not in record:
        return record
    shapes, place = record["shapes"], record["topology"]
    encoder = shapes["encoder"]
    size = (encoder["num_layers"], encoder["hidden_size"])
    micro, rows, length = shapes["train"]["token_BT"]
    return {
        "side": "flaxfer",
        "model": f"{encoder['family']}-" + ("base" if size == (12, 768) else "{}x{}".format(*size)),
        "vocabulary": shapes["vocabulary_in_use"],
        "chip": place["name"].partition(":")[0],
        "batch": micro * rows // place["chips"],
        "length": length,
        "dtype": shapes["compute_dtype"],
        "estimated_cycles": record["cycles_by_source"]["compiler"],
    }


def least_cycles(record: Run) -> dict[str, float]:
    """Cycles that parts of a train step of BERT or RoBERTa need on one chip, whatever the program.

    For a report of `flaxfer aot`. Matmuls take the published peak, forward once and backward twice;
    of the last layer only CLS tokens are queries. Attention is one kernel that reads and writes
    its bfloat16 operands once at the published bandwidth: four arrays forward, eight backward (of
    the last layer, keys, values and their slopes). AdamW reads four float32 arrays and writes
    three.
    """
    encoder, place, work = (
        record["shapes"]["encoder"],
        record["topology"],
        record["useful_per_step"],
    )
    chip = topology.parse(place["name"]).chip
    layers, width, inner = (
        encoder[name] for name in ("num_layers", "hidden_size", "intermediate_size")
    )
    tokens, share = work["tokens"], work["sequences"] / work["tokens"]
    queries = (layers - 1 + share) * tokens
    products = {
        "feed_forward": 4 * width * inner * queries,
        "attention projections": 4 * width**2 * (queries + layers * tokens),
        "attention": 4 * width * work["pairs"] * (layers - 1 + share),
    }
    moved = {
        "attention": 2 * width * tokens * (12 * (layers - 1) + 6),
        "optimiser": 28 * record["bytes"]["parameters"] / 4,
    }
    seconds: dict[str, float] = collections.defaultdict(float)
    for part, flops in products.items():
        seconds[part] = 3 * flops / place["peak_flops"]
    for part, count in moved.items():
        seconds[part] = max(seconds[part], count / chip.bandwidth)
    return {part: each * place["clock_hz_estimate"] for part, each in seconds.items()}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all but the first column to the right."""
    made = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in made)
