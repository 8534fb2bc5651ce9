"""Medians, ratios and derived figures from the JSON lines of runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Run = dict[str, Any]

EPOCHS, TRAIN, DEV, TEST = 3, 5749, 1500, 1379
"""Epochs of fine-tuning on STS-B, and the examples of its splits."""

RATE = "useful_tokens_per_s"
"""What is compared: trainers time different batches, whose texts are not equally long."""

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


def peers(runs: Sequence[Run]) -> list[str]:
    """Return the labels of the other trainers, in order of appearance."""
    return [label for label in by_label(runs) if not label.startswith("flaxfer")]


def ratios(runs: Sequence[Run], peer: str, what: str) -> list[float]:
    """Return the ratios of flaxfer's `RATE` to a peer's, one for each round that has both."""
    flaxfer, other = (
        {r["round"]: r[RATE] for r in runs if r["what"] == what and r["label"] in side}
        for side in ({run["label"] for run in runs} - {*peers(runs)}, {peer})
    )
    return [flaxfer[number] / other[number] for number in sorted(flaxfer.keys() & other)]


def best_peer(runs: Sequence[Run], what: str) -> str:
    """Return the label of the peer with the highest median `RATE`; empty without peers."""
    rates = {
        label: median([run[RATE] for run in group])
        for label, group in by_label([run for run in runs if run["what"] == what]).items()
        if not label.startswith("flaxfer")
    }
    return max(rates, key=rates.__getitem__, default="")


def limit_ratios(runs: Sequence[Run], what: str) -> list[float]:
    """Return flaxfer's rate over what the matmuls alone would allow."""
    return [1 / r["times_limit"] for r in runs if r["what"] == what and "times_limit" in r]


def limit(runs: Sequence[Run], what: str) -> str:
    """Compare flaxfer's step with its matmuls alone; empty if they were not measured."""
    limited = [run for run in runs if run["what"] == what and "times_limit" in run]
    if not limited:
        return ""
    times = [run["times_limit"] for run in limited]
    rates = [run["examples_per_s"] * run["times_limit"] for run in limited]
    return (
        f"Matmuls alone would allow {spread(rates)} examples/s; flaxfer's step takes "
        f"{spread(times, 2)} times as long."
    )


def tokens_per_example(runs: Sequence[Run]) -> dict[str, float]:
    """Return the tokens of an example in training and in evaluation, as flaxfer draws them."""
    own = [run for run in runs if run["label"].startswith("flaxfer")]
    return {
        what: median([run[RATE] / run["examples_per_s"] for run in own if run["what"] == what])
        for what in {run["what"] for run in own}
    }


def seeds_per_hour(runs: Sequence[Run], tokens: Mapping[str, float]) -> float | None:
    """Return fine-tunings on STS-B per hour at median rates; None if a rate is missing.

    Args:
      runs: of a trainer.
      tokens: of an example, in training and in evaluation.
    """
    rates = {
        what: [run[RATE] / mean for run in runs if run["what"] == what]
        for what, mean in tokens.items()
    }
    if not (rates.get("train") and rates.get("eval")):
        return None
    seconds = EPOCHS * TRAIN / median(rates["train"])
    return 3600 / (seconds + (EPOCHS * DEV + TEST) / median(rates["eval"]))


def machine(runs: Sequence[Run]) -> str:
    """Describe the machine of runs, and their provenance."""
    cpu = runs[0]["machine"]
    return (
        f"Machine: {cpu['cpu']}, {cpu['cores']} cores, {cpu['memory_gib']} GiB. "
        f"{features(cpu['features'])} Versions: {provenance(runs)}"
    )


def provenance(records: Sequence[Run]) -> str:
    """Describe the versions, commits and dates of records."""
    versions: dict[str, set[str]] = {}
    for record in records:
        for name, version in record["versions"].items():
            versions.setdefault(name, set()).add(version)
    listed = ", ".join(f"{name} {' / '.join(sorted(values))}" for name, values in versions.items())
    if not all("git" in record for record in records):
        return f"{listed}. Commit not recorded."
    commits = ", ".join(sorted({record["git"] for record in records}))
    dates = sorted({record["date"][:10] for record in records})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{listed}. Commit {commits}; {days}."


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with all columns but the first aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def columns(records: Sequence[Run], names: Sequence[str]) -> str:
    """Return a Markdown table of the named entries of records, with three digits of floats."""
    rows = [[_cell(record[name]) for name in names] for record in records]
    return table([name.replace("_", " ") for name in names], rows)


def _cell(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " / ".join(map(str, value))
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
