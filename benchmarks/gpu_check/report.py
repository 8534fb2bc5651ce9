"""The section of BENCHMARKS.md with the results on GPUs."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.gpu_check import plan, records
from benchmarks.summary import table

Record = dict[str, Any]
FOLDER = "gpu"
"""Folder in benchmarks/results with a file of records for each GPU."""

TEXT = """Measured by `make gpu-check`, flaxfer and PyTorch on the same card in the same call, \
each in its own process. Weights and token ids are random; lengths are those of STS-B's training \
split, or 512 tokens. bfloat16 matmuls, AdamW, linear schedule, clipping; dropout 0.1 everywhere, \
but "no attention dropout" drops no probabilities, as flaxfer's fused attention requires. The \
Trainer has the fused AdamW, SDPA and two workers for its input. MFU is the model's FLOPs without \
padding, which in the last layer are those of the CLS tokens, over the time and the peak of the \
card; for a trainer that computes more they are the same. flaxfer compiles one shape of a step. A \
ratio compares flaxfer with the fastest PyTorch cell of the same work."""

NAMES = {"bert-base": "BERT-base", "xlm-roberta-base": "XLM-R-base"}
DATA = {"stsb": "STS-B", "full": "512 tokens"}


def sections(results: Path) -> list[str]:
    """Return a section for each file of records, none if there is no file."""
    files = sorted((results / FOLDER).glob("*.jsonl"))
    return [text for file in files if (text := section(records.read(file)))]


def section(entries: Sequence[Record]) -> str:
    """Return the section of one GPU; empty without results."""
    devices = [entry["device"] for entry in entries if "device" in entry]
    if not devices:
        return ""
    text = (
        f"## GPU: {devices[0]}\n{TEXT} Versions: {versions(entries)}.\n\n{correctness(entries)}\n"
    )
    for what, title in (("train", "Training"), ("eval", "Evaluation")):
        if rows := speed_rows(entries, what):
            columns = [
                "work",
                "trainer",
                "examples/s",
                "useful tokens/s",
                "MFU",
                "padding",
                "input stall",
            ]
            columns += ["compile or warm-up s", "peak GiB", "flaxfer / fastest peer"]
            text += f"\n{title}:\n\n{table(columns, rows)}"
    text += seeds(entries) + kernels(entries)
    if missing := [entry for entry in entries if entry["status"] != "ok"]:
        lines = [f"- {entry['name']}: {entry['status']}, {entry['reason']}" for entry in missing]
        text += "\nWithout a result:\n\n" + "\n".join(lines) + "\n"
    return text


def versions(entries: Sequence[Record]) -> str:
    """Return the versions of the packages of all records, commit and date."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        for name, version in entry.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    text = ", ".join(f"{name} {' / '.join(sorted(those))}" for name, those in found.items())
    return text + "".join(f"; commit {e['git']}, {e['date'][:10]}" for e in entries if "git" in e)


def correctness(entries: Sequence[Record]) -> str:
    """Summarise the checks of values and of resumption."""
    checks = [e for e in entries if e["part"] in {p.name for p in plan.PARTS if p.correctness}]
    passed = [entry for entry in checks if entry["status"] == "ok"]
    text = f"Checks of values passed: {len(passed)} of {len(checks)}."
    groups: dict[str, list[float]] = collections.defaultdict(list)
    for entry in passed:
        if "differences" in entry:
            groups[entry["name"].partition(" ")[0]].append(max(entry["differences"].values()))
    for name, values in groups.items():
        text += f" Largest difference in {name}: {max(values):.1e}."
    for entry in passed:
        if "largest_difference" in entry:
            text += (
                f" A study killed after step {entry['killed_after_step']} and resumed differs by "
                f"at most {entry['largest_difference']:.1e}."
            )
    return text + "\n"


def speed_rows(entries: Sequence[Record], what: str) -> list[list[str]]:
    """Return a row for each timed cell, ordered by its work."""
    timed = [e for e in entries if e["status"] == "ok" and e.get("cell", {}).get("what") == what]
    works: dict[tuple, list[Record]] = collections.defaultdict(list)
    for entry in timed:
        cell = entry["cell"]
        without = plan.NO_DROPOUT in cell["how"]
        works[(cell["model"], cell["data"], cell["batch"], without)].append(entry)
    rows = []
    for work, group in works.items():
        peers = [entry[summary.RATE] for entry in group if entry["side"] == "torch"]
        flops = flops_per_token(group)
        for entry in sorted(group, key=lambda entry: entry["side"] != "flaxfer"):
            ratio = (
                f"{entry[summary.RATE] / max(peers):.2f}"
                if peers and entry["side"] == "flaxfer"
                else ""
            )
            rows.append([title(*work), trainer(entry), f"{entry['examples_per_s']:,.0f}"])
            rows[-1] += [
                f"{entry[summary.RATE]:,.0f}",
                mfu(entry, flops),
                f"{entry['padding_share']:.1%}",
                _share(entry.get("input_stall_share")),
                _number(entry.get("compile_s", entry.get("warmup_s"))),
                _number((entry.get("peak_device_bytes") or 0) / 2**30 or None),
                ratio,
            ]
    return rows


def title(model: str, data: str, batch: int, without: bool) -> str:
    """Name the work of a cell."""
    name = f"{NAMES[model]}, {DATA[data]}, batch {batch}"
    return name + (", no attention dropout" if without else "")


def trainer(entry: Record) -> str:
    """Name the side of a cell and its settings."""
    how = [word for word in entry["cell"]["how"].split("+") if word and word != plan.NO_DROPOUT]
    name = "flaxfer" if entry["side"] == "flaxfer" else "Trainer"
    return ", ".join([name, *(word.replace("_", " ") for word in how)])


def flops_per_token(group: Sequence[Record]) -> float | None:
    """Return the FLOPs of the model per useful token, as flaxfer counts them."""
    rates = [e["flops_per_s"] / e[summary.RATE] for e in group if e["side"] == "flaxfer"]
    return rates[0] if rates else None


def mfu(entry: Record, flops: float | None) -> str:
    """Return the MFU of a cell; flaxfer's count serves its peers, too."""
    if entry["side"] == "flaxfer":
        return _share(entry["mfu"])
    peak = entry["peak_flops_per_s"]
    return _share(flops * entry[summary.RATE] / peak if flops and peak else None)


def seeds(entries: Sequence[Record]) -> str:
    """Return the table of batched seeds."""
    timed = [e for e in entries if e["status"] == "ok" and e.get("cell", {}).get("what") == "seeds"]
    timed.sort(key=lambda entry: entry["cell"]["seeds"])
    if not timed:
        return ""
    rows = [
        [
            str(e["cell"]["seeds"]),
            f"{e['examples_per_s']:,.0f}",
            f"{e['seeds_per_hour_training']:.1f}",
        ]
        for e in timed
    ]
    return (
        f"\nSeeds in one program (`batched_seeds`), STS-B, batch 32; seeds an hour are for "
        f"{summary.EPOCHS} epochs of {summary.TRAIN:,} examples, training alone:\n\n"
        + table(["seeds", "examples/s", "seeds an hour"], rows)
    )


def kernels(entries: Sequence[Record]) -> str:
    """Return the table of kernels of a train step."""
    profiles = [e for e in entries if e["status"] == "ok" and e.get("kernels_ms")]
    text = ""
    for entry in profiles:
        total = sum(entry["kernels_ms"].values())
        rows = [[k, f"{v:.2f}", f"{v / total:.1%}"] for k, v in entry["kernels_ms"].items()]
        cell = entry["cell"]
        work = title(cell["model"], cell["data"], cell["batch"], plan.NO_DROPOUT in cell["how"])
        text += f"\nMilliseconds of a train step by kind of kernel, {work}:\n\n"
        text += table(["kind", "ms", "share"], rows)
    return text


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
