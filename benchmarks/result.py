"""The time from the start of a process to its final score, for flaxfer and its peers.

`benchmarks.run --only sts-result` calls this. All sides fine-tune on STS-B English in batches of
32, evaluate dev after every epoch and score test with the best one. Each starts once without
compiled programs (cold) and once with those of the cold start (warm), if it compiles.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, run, summary
from flaxfer.errors import FlaxferError

SPLITS = {"train": 5749, "dev": 1500, "test": 1379}
"""Examples of the splits of STS-B."""
BATCH = 32
PLAUSIBLE = 0.6
"""Least Pearson correlation on test after all training examples: chance and faults are below."""

PEER = ("benchmarks.peer_sts", "--seeds", "0", "--dtype", "auto")
GROUPED = (*PEER, "--batching", "group_by_length")
SIDES = {
    "flaxfer": ("flaxfer, {dtype}", "flaxfer", ("benchmarks.whole_run",), True),
    "trainer-compile": (
        *("Trainer, {dtype}, grouped by length, torch.compile", "torch"),
        *((*GROUPED, "--torch_compile"), True),
    ),
    "trainer-grouped": ("Trainer, {dtype}, grouped by length", "torch", GROUPED, False),
    "sentence": (
        *("sentence-transformers CrossEncoder, {dtype}", "torch"),
        *((*PEER, "--sentence_transformers"), False),
    ),
}
"""Label, key of the interpreter, command, and whether it compiles, of each side."""


def run_all(pythons: Mapping[str, str], model: str, options: argparse.Namespace) -> None:
    """Run every side for all rounds, epochs and states of its cache, and store the lines."""
    file, cache = run.new_file(run.RESULT, options.out), options.cache / run.RESULT
    data, sizes = cut(options.data, cache / "data", options.examples)
    chosen = [s for s in SIDES if s == "flaxfer" or s in (options.peers or SIDES)]
    for number in range(options.result_rounds):
        for epochs in options.epochs:
            for side in chosen:
                label, python, command, compiles = SIDES[side]
                words = [pythons[python], "-m", *command, "--model", model, "--data", str(data)]
                words += ["--epochs", str(epochs)]
                if compiles:
                    programs = cache / f"{side}-{epochs}"
                    shutil.rmtree(programs, ignore_errors=True)
                    words += ["--cache", str(programs)]
                for state in ("cold", "warm") if compiles else ("none",):
                    began = time.monotonic()
                    line = run.measure(words)
                    check(line, sizes, epochs, words)
                    line |= {"what": "result", "cache": state, "epochs": epochs, "round": number}
                    line |= {"process_s": time.monotonic() - began, "examples": sizes}
                    line |= {"benchmark": run.RESULT, "label": label.format(dtype=line["dtype"])}
                    line |= {"machine": common.machine(), **common.stamp()}
                    run.append(file, line)
                    print(
                        f"{run.RESULT} {epochs} epoch(s), {line['label']}, {state}: score after "
                        f"{line['score_s']:.0f} s, Pearson {line['test_pearson']:.3f}",
                        flush=True,
                    )


def cut(data: Path, folder: Path, examples: int) -> tuple[Path, dict[str, int]]:
    """Write the first examples of each split, and return the folder and the sizes.

    Args:
      data: folder of stsb-multi-mt.
      folder: folder to write to.
      examples: largest number of examples of a split; 0 for all.
    """
    sizes = {}
    for name in SPLITS:
        place = Path("stsb-multi-mt") / f"stsb-en-{name}.csv"
        with open(data / place, encoding="utf-8", newline="") as opened:
            rows = list(csv.reader(opened))[: examples or None]
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / place, "w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows(rows)
        sizes[name] = len(rows)
    return folder, sizes


def check(line: Mapping[str, Any], sizes: Mapping[str, int], epochs: int, words: list[str]) -> None:
    """Compare the steps and the score of a run with what they must be.

    Raises:
      FlaxferError: another number of steps was taken, or the score is not plausible.
    """
    steps, score = epochs * math.ceil(sizes["train"] / BATCH), line["test_pearson"]
    least = PLAUSIBLE if sizes == SPLITS else -1.0
    if line["steps"] != steps or not least <= score <= 1.0:
        raise FlaxferError(
            f"took {line['steps']} steps to a test Pearson of {score}; {steps} steps and at least "
            f"{least} are expected",
            where=" ".join(words),
            hint="run it alone, and look for what differs.",
        )


SECTION = """### Time to result: STS-B English, all-MiniLM-L6-v2
Seconds from the start of the process to the score of test: {sizes} examples for training, dev and \
test, dev after every epoch, {steps}. Cold: without compiled programs; warm: with those of the \
cold start; none: nothing is compiled. The best peer has the lowest median among those of the same \
kind of start and those that compile nothing; the ratio is its seconds over flaxfer's, within each \
round. The CrossEncoder keeps its best parameters in memory; the others save them after every epoch.
"""


def section(runs: Sequence[summary.Run]) -> str:
    """Return the section of the page: a table of seconds, and flaxfer's time by part."""
    sizes = " / ".join(f"{size:,}" for size in runs[0]["examples"].values())
    steps = ", ".join(
        f"{line['steps']} steps in {line['epochs']} epoch{'s' * (line['epochs'] > 1)}"
        for line in {line["epochs"]: line for line in runs}.values()
    )
    rows, parts, names = list[list[str]](), list[list[str]](), list[str]()
    for (epochs, label, state), group in by_start(runs).items():
        seconds = [line["score_s"] for line in group]
        against = "–"
        if label.startswith("flaxfer"):
            names = list(group[0]["phases"])
            peer, ratios = best_ratios(runs, epochs, state)
            against = f"{summary.spread(ratios, 2)}, {peer}" if peer else "–"
            medians = [summary.median([line["phases"][name] for line in group]) for name in names]
            parts.append([f"{epochs}, {state}", *(f"{value:.1f}" for value in medians)])
        score = summary.spread([line["test_pearson"] for line in group], 3)
        rows.append(
            [label, str(epochs), state, summary.spread(seconds), against, score, str(len(group))]
        )
    columns = ["trainer", "epochs", "programs", "seconds", "best peer", "test Pearson", "runs"]
    text = SECTION.format(sizes=sizes, steps=steps) + "\n" + summary.table(columns, rows)
    if parts:
        text += "\nflaxfer's seconds by part, medians:\n\n"
        text += summary.table(["epochs, programs", *names], parts)
    return text


def by_start(runs: Sequence[summary.Run]) -> dict[tuple[int, str, str], list[summary.Run]]:
    """Return the runs of each number of epochs, label and state of the programs."""
    groups: dict[tuple[int, str, str], list[summary.Run]] = {}
    for line in runs:
        groups.setdefault((line["epochs"], line["label"], line["cache"]), []).append(line)
    return groups


def best_ratios(runs: Sequence[summary.Run], epochs: int, state: str) -> tuple[str, list[float]]:
    """Return the fastest peer of a kind of start, and its seconds over flaxfer's by round."""
    groups = {
        label: {line["round"]: line["score_s"] for line in group}
        for (number, label, cache), group in by_start(runs).items()
        if number == epochs and cache in (state, "none")
    }
    own = next(seconds for label, seconds in groups.items() if label.startswith("flaxfer"))
    peers = {label: s for label, s in groups.items() if not label.startswith("flaxfer")}
    if not peers:
        return "", []
    best = min(peers, key=lambda label: summary.median(peers[label].values()))
    return best, [peers[best][i] / own[i] for i in sorted(own.keys() & peers[best])]
