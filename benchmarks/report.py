r"""Write BENCHMARKS.md and its plot from stored JSON.

python -m benchmarks.report

Reads benchmarks/results: *.jsonl of `benchmarks.run`, with a section for each kind of CPU; the
files in `SECTIONS`, of the scripts of their names; tpu*.json of `benchmarks.peer_flax --tpu` and
`benchmarks.tpu_estimates`, with one of these again in variants/*.json, each with another setting
that its name gives. Sections without records are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    breakdown,
    common,
    coverage,
    cpu_matmul,
    descriptive,
    growth,
    lareqa,
    looks,
    quality,
    result,
    search,
    summary,
    tpu,
)
from benchmarks import compile as compilation
from benchmarks.gpu_check import report as gpu_check_report
from benchmarks.summary import Run, table

PLOT = "docs/bench-ratios-{kind}.png"
PROFILED, VARIANTS = "tpu-flaxfer-bert-base.json", "variants"
"""The estimate that is shown by parts, and the folder of its variants with other settings."""

SECTIONS = {
    "breakdown.json": breakdown.section,
    "cpu_matmul.json": cpu_matmul.section,
    "compile.json": compilation.section,
    "growth.json": growth.section,
    "search.json": search.section,
    "quality.json": quality.section,
    "lareqa.json": lareqa.section,
    **{f"coverage-{part}.json": coverage.section for part in coverage.PARTS},
    "looks.json": looks.section,
    "descriptive.json": descriptive.section,
}
"""Function that renders the section of each file in benchmarks/results."""

KINDS = {
    "amx": "AMX",
    "avx512-bf16": "AVX-512 and bfloat16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "cpu": "other instructions",
}
"""Description of each kind of CPU."""

COMPILED = "torch.compile"
"""Part of the label of the peers that are compiled."""

STEPS = {"train": "training", "eval": "evaluation"}

SPEED_KEYS = (
    *("examples_per_s", "useful_tokens_per_s", "padding_share"),
    *("input_stall_share", "peak_rss_bytes"),
)

HEAD = """# Benchmarks

Every number here is written by a command in benchmarks/.
"""

SPEED = """## Speed
flaxfer and its peers take turns, each run in its own process, so other load on the machine \
affects all of them. A figure is the median of its runs (smallest–largest). Ratios are taken \
within each round, of useful tokens/s: in training the trainers draw different batches, whose \
examples are not equally long. There is a section for each kind of CPU.

Training: batches of 32 examples with dropout, AdamW, linear schedule and clipping (the Flax \
classes without clipping, as in their example script); compiling and the first steps are not \
timed. Evaluation: every example once, metrics included. The Trainer takes its batches from all \
over an epoch and uses the fused AdamW. flaxfer cuts the embedding to the tokens in use, as in \
every study. sentence-transformers tokenizes on the way, and the time of that is taken off; the \
others have tokenized before the clock starts. The dtype of every peer is the faster one of the \
machine. The best peer is the one with the highest median in the same runs. Input stall is the \
share of the time that the loop waits for its next batch. A cold \
start compiles; a warm start reads its programs from disk. Matmuls alone: the matmuls of \
flaxfer's own steps, in the same process and dtype; a step that computes every slot of such rows \
with the same compiler cannot be faster. `Trainer` is transformers' PyTorch trainer.
"""

REPEAT = """## How to repeat
```
make bench-setup
make bench DATA=FOLDER XLMR=FOLDER
make bench DATA=FOLDER ONLY="sts-minilm sts-result" EXAMPLES=384 \\
    PEERS="trainer-compile trainer-grouped sentence"
make bench-report
```
`DATA` contains stsb-multi-mt/, glue-samples/ and imdb-sample/; `XLMR` is a Hugging Face folder \
of an XLM-R model and may be left out. Run nothing else meanwhile. `python -m benchmarks.run \
--help` lists options, such as fewer rounds. The second command is short, for a slow machine: it \
has fewer peers, and `EXAMPLES` limits the splits of the time to result. `make bench TINY=1` tries \
the scripts on a tiny model. TPU estimates: the command at the top of \
benchmarks/tpu_estimates.py; for the peer, `.venv-bench-flax/bin/python -m benchmarks.peer_flax \
--tpu v5e --shape bert-base > benchmarks/results/tpu-flax-bert-base.json`, and the same with \
xlm-roberta-base. The remaining sections: the commands at the top of benchmarks/breakdown.py, \
cpu_matmul.py, compile.py, \
growth.py, search.py, quality.py, lareqa.py, coverage.py, looks.py and descriptive.py.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=common.ROOT / common.RECORDS)
    parser.add_argument("--out", type=Path, default=common.ROOT / "BENCHMARKS.md")
    options = parser.parse_args(arguments)
    runs, estimates, sections = stored(options.results)
    for kind, group in by_kind(speeds(runs)).items():
        plot(group, options.out.parent / PLOT.format(kind=kind))
    options.out.write_text(page(runs, estimates, sections), encoding="utf-8")
    print(f"wrote {options.out} from {len(runs)} runs and {len(estimates)} estimates")


def stored(results: Path) -> tuple[list[Run], list[Run], list[str]]:
    """Return the runs, the estimates, and the rendered sections of the other files."""
    runs = [record for file in sorted(results.glob("*.jsonl")) for record in lines(file)]
    estimates = [record for file in sorted(results.glob("tpu*.json")) for record in lines(file)]
    sections = [
        section(json.loads(file.read_text(encoding="utf-8")))
        for name, section in SECTIONS.items()
        if (file := results / name).exists()
    ]
    if (base := results / PROFILED).exists():
        files = sorted((results / VARIANTS).glob("*.json"))
        variants = {file.stem.replace("-", " "): lines(file)[0] for file in files}
        sections.insert(0, tpu.profile(lines(base)[0], variants))
    sections += gpu_check_report.sections(results)
    return [run for run in runs if run["what"] in (*STEPS, "result")], estimates, sections


def lines(file: Path) -> list[Run]:
    """Return the records of a file: one JSON value, or one per line."""
    text = file.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def page(runs: Sequence[Run], estimates: Sequence[Run], sections: Sequence[str] = ()) -> str:
    """Return the whole page."""
    parts = [HEAD]
    if runs:
        parts += [SPEED]
    for kind, group in by_kind(runs).items():
        parts.append(f"## Speed on a CPU with {KINDS[kind]}\n{summary.machine(group)}\n")
        if timed := speeds(group):
            plotted = PLOT.format(kind=kind)
            parts.append(f"![Ratios of speed, flaxfer over each peer]({plotted})\n")
        if timed and not any(COMPILED in run["label"] for run in timed):
            parts.append(f"No peer of these runs has {COMPILED}, which may be the faster one.\n")
        for name in dict.fromkeys(run["benchmark"] for run in timed):
            parts.append(benchmark([run for run in timed if run["benchmark"] == name]))
        if results := [run for run in group if run["what"] == "result"]:
            parts.append(result.section(results))
    if estimates:
        parts.append(tpu.section(estimates))
    return "\n".join([*parts, *sections, REPEAT])


def by_kind(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each kind of CPU, the fastest kind first."""
    groups = {
        kind: [run for run in runs if common.kind_of_cpu(run["machine"]["features"]) == kind]
        for kind in KINDS
    }
    return {kind: group for kind, group in groups.items() if group}


def speeds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of training and evaluation."""
    return [run for run in runs if run["what"] in STEPS]


def benchmark(runs: Sequence[Run]) -> str:
    """Return the tables of one model and data set."""
    text = f"### {runs[0]['title']}\n"
    for what, title in STEPS.items():
        chosen = [run for run in runs if run["what"] == what]
        if chosen:
            text += f"{title.capitalize()} ({lengths(chosen)}):\n\n{speed_table(chosen)}\n"
            text += f"{limit}\n\n" if (limit := summary.limit(runs, what)) else ""
    text += f"flaxfer's useful tokens/s over those of each peer:\n\n{ratio_table(runs)}\n"
    text += "\n"
    if runs[0]["benchmark"].startswith("sts"):
        text += seeds_table(runs) + "\n"
    return text.rstrip("\n") + "\n"


def lengths(runs: Sequence[Run]) -> str:
    """Describe the maximum length and the number of steps."""
    longest = {run["settings"]["length"] for run in runs}
    steps = sorted({run["steps"] for run in runs})
    return f"at most {max(longest)} tokens an example; {steps[0]} to {steps[-1]} steps a run"


def speed_table(runs: Sequence[Run]) -> str:
    """Return a table with a row per trainer."""
    rows = []
    for label, group in summary.by_label(runs).items():
        values = {key: [run[key] for run in group] for key in SPEED_KEYS}
        rows.append(
            [
                label,
                summary.spread(values["examples_per_s"]),
                summary.spread(values["useful_tokens_per_s"], 0),
                summary.share(values["padding_share"]),
                summary.share(values["input_stall_share"]),
                f"{summary.median(values['peak_rss_bytes']) / 2**30:.2f}",
                *summary.starts(group),
                str(len(group)),
            ]
        )
    columns = ["trainer", "examples/s", "useful tokens/s", "padding", "input stall", "peak GiB"]
    return table([*columns, "compile s, cold", "start s, cold", "start s, warm", "runs"], rows)


def ratio_table(runs: Sequence[Run]) -> str:
    """Return a table with a row for the best peer, each peer, and the limit."""
    best = {what: summary.best_peer(runs, what) for what in STEPS}
    named = "; ".join(f"{STEPS[what]}: {label}" for what, label in best.items() if label)
    rows = [_ratio_row(f"best peer ({named})", runs, best)]
    rows += [_ratio_row(label, runs, dict.fromkeys(STEPS, label)) for label in summary.peers(runs)]
    limits = [summary.limit_ratios(runs, what) for what in STEPS]
    if any(limits):
        rows.append(_row("matmuls alone", limits))
    return table(["flaxfer against", *STEPS.values(), "pairs"], rows)


def _ratio_row(title: str, runs: Sequence[Run], peers: dict[str, str]) -> list[str]:
    return _row(title, [summary.ratios(runs, label, what) for what, label in peers.items()])


def _row(title: str, ratios: Sequence[Sequence[float]]) -> list[str]:
    pairs = ", ".join(str(len(values)) for values in ratios)
    return [title, *(summary.spread(values, 2) for values in ratios), pairs]


def seeds_table(runs: Sequence[Run]) -> str:
    """Return the fine-tunings per hour that follow from the medians."""
    tokens = summary.tokens_per_example(runs)
    rows = [
        [label, f"{rate:.1f}"]
        for label, group in summary.by_label(runs).items()
        if (rate := summary.seeds_per_hour(group, tokens)) is not None
    ]
    text = (
        f"Seeds per hour, derived from the median rates: {summary.EPOCHS} epochs of "
        f"{summary.TRAIN:,} examples, each with an evaluation of {summary.DEV:,}, and a final "
        f"evaluation of {summary.TEST:,}; without starting, compiling and saving:\n\n"
    )
    return text + table(["trainer", "seeds per hour"], rows)


def plot(runs: Sequence[Run], path: Path) -> None:
    """Plot median and range of the ratio for every benchmark and peer."""
    from matplotlib.figure import Figure

    titles = {run["benchmark"]: run["title"] for run in runs}
    rows = []
    for name, title in titles.items():
        group = [run for run in runs if run["benchmark"] == name]
        for label in summary.peers(group):
            ratios = [summary.ratios(group, label, what) for what in STEPS]
            rows.append((f"{title}\n{label}", ratios))
    figure = Figure(figsize=(8, 1.2 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, (what, color, shift) in enumerate(
        zip(STEPS.values(), ("#0072b2", "#d55e00"), (-0.12, 0.12), strict=True)
    ):
        for place, (_, ratios) in enumerate(rows):
            if ratios[i]:
                mid = summary.median(ratios[i])
                spread = [[mid - min(ratios[i])], [max(ratios[i]) - mid]]
                name = what if place == 0 else None
                axes.errorbar(
                    mid, place + shift, xerr=spread, fmt="o", color=color, capsize=3, label=name
                )
    axes.axvline(1, color="#6b6b6b", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.set_xlabel("useful tokens/s of flaxfer over those of the peer; above 1, flaxfer is faster")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    common.guarded(main)
