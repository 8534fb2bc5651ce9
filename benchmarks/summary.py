"""Medians, ratios and derived figures from the JSON lines of runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from flaxfer.aot import topology

Run = dict[str, Any]

EPOCHS, TRAIN, DEV, TEST = 3, 5749, 1500, 1379
"""Epochs of fine-tuning on STS-B, and the examples of its splits."""

median = statistics.median


def by_label(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each trainer, in order of appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run["label"], []).append(run)
    return groups


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return `median (smallest–largest)`, or a dash without values."""
    if not values:
        return "–"
    mid, low, high = median(values), min(values), max(values)
    return f"{mid:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def share(values: Sequence[float]) -> str:
    """Return the median as a percentage."""
    return f"{median(values):.1%}"


def starts(runs: Sequence[Run]) -> list[str]:
    """Return compile and start time without cached programs, and start time with them.

    A run without a cache of programs is a warm start: it compiles nothing, or every time.
    """
    cold = [run for run in runs if run["settings"]["cache"] == "cold"]
    warm = [run for run in runs if run["settings"]["cache"] != "cold"]
    cells = [(cold, "compile_s"), (cold, "start_s"), (warm, "start_s")]
    return [f"{median([r[key] for r in rs]):.1f}" if rs else "–" for rs, key in cells]


def ratios(runs: Sequence[Run], peer: str, what: str) -> list[float]:
    """Return flaxfer's examples/s over those of a peer, for every round that has both."""
    flaxfer, other = (
        {r["round"]: r["examples_per_s"] for r in runs if r["what"] == what and is_side(r)}
        for is_side in (is_flaxfer, lambda run: run["label"] == peer)
    )
    return [flaxfer[number] / other[number] for number in sorted(flaxfer.keys() & other)]


def is_flaxfer(run: Run) -> bool:
    """Return whether a run is one of flaxfer's."""
    return str(run["label"]).startswith("flaxfer")


def limit(runs: Sequence[Run]) -> str:
    """Compare flaxfer's step with its matmuls alone; empty if they were not measured."""
    limited = [run for run in runs if "limit_s_per_step" in run]
    if not limited:
        return ""
    rates = [run["settings"]["batch"] / run["limit_s_per_step"] for run in limited]
    times = [run["times_limit"] for run in limited]
    return (
        f"Matmuls alone would allow {spread(rates)} examples/s in training; a step takes "
        f"{spread(times, 2)} times as long."
    )


def seeds_per_hour(runs: Sequence[Run]) -> float | None:
    """Return fine-tunings on STS-B per hour at median rates; None if a rate is missing."""
    rates = {
        what: [run["examples_per_s"] for run in runs if run["what"] == what]
        for what in ("train", "eval")
    }
    if not all(rates.values()):
        return None
    seconds = EPOCHS * TRAIN / median(rates["train"])
    return 3600 / (seconds + (EPOCHS * DEV + TEST) / median(rates["eval"]))


def features(flags: Sequence[str]) -> str:
    """Describe what a processor has for matmuls, by its flags."""
    if not flags:
        return "Its CPU flags are unknown."
    wide = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    short = [name for name in ("avx512_bf16", "avx512_fp16") if name in flags]
    amx = [name for name in flags if name.startswith("amx_")]
    return (
        f"It has {wide}{f' with {chr(32).join(short)}' if short else ''} and "
        + (f"AMX ({', '.join(amx)})" if amx else "no AMX, which would speed bfloat16 up")
        + "."
    )


def estimate(record: Run) -> Run:
    """Return an estimate of `flaxfer aot` in the form of `benchmarks.peer_flax`.

    Rows are those of one chip; cycles are the compiler's alone, like the peer's.
    """
    if "shapes" not in record:
        return record
    shapes, target = record["shapes"], record["topology"]
    encoder = shapes["encoder"]
    size = (encoder["num_layers"], encoder["hidden_size"])
    micro, rows, length = shapes["train"]["token_BT"]
    return {
        "side": "flaxfer",
        "model": f"{encoder['family']}-" + ("base" if size == (12, 768) else "{}x{}".format(*size)),
        "vocabulary": shapes["vocabulary_in_use"],
        "chip": target["name"].partition(":")[0],
        "batch": micro * rows // target["chips"],
        "length": length,
        "dtype": shapes["compute_dtype"],
        "estimated_cycles": record["cycles_by_source"]["compiler"],
    }


def least_cycles(record: Run) -> dict[str, float]:
    """Return the least cycles that parts of a BERT or RoBERTa train step need on one chip.

    For a report of `flaxfer aot`. Matmuls run at the published peak, forward once and backward
    twice; the last layer has only CLS tokens as queries. Attention is one kernel that reads and
    writes its bfloat16 operands once at the published bandwidth: four arrays forward, eight
    backward (in the last layer, only keys, values and their gradients). AdamW reads four float32
    arrays and writes three.
    """
    target, work = record["topology"], record["useful_per_step"]
    layers, width, inner = (
        record["shapes"]["encoder"][name]
        for name in ("num_layers", "hidden_size", "intermediate_size")
    )
    tokens, share = work["tokens"], work["sequences"] / work["tokens"]
    queries = (layers - 1 + share) * tokens
    forward_flops = {
        "feed_forward": 4 * width * inner * queries,
        "attention projections": 4 * width**2 * (queries + layers * tokens),
        "attention": 4 * width * work["pairs"] * (layers - 1 + share),
        "optimizer": 0.0,
    }
    bytes_moved = {
        "attention": 2 * width * tokens * (12 * (layers - 1) + 6),
        "optimizer": 28 * record["bytes"]["parameters"] / 4,
    }
    bandwidth = topology.parse(target["name"]).chip.bandwidth
    return {
        part: target["clock_hz_estimate"]
        * max(3 * flops / target["peak_flops"], bytes_moved.get(part, 0) / bandwidth)
        for part, flops in forward_flops.items()
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with all columns but the first aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
