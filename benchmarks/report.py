r"""Writes BENCHMARKS.md and its plot from stored JSON.

python -m benchmarks.report

Reads what lies in benchmarks/results: *.jsonl (`benchmarks.run`), breakdown.json, quality.json and
coverage.json (of the commands of these names) and tpu*.json: the lines of
`benchmarks.peer_flax --tpu`, and what `flaxfer aot --json` wrote, one of it again with other
settings in variants/*.json, named by what is other. A section whose records are not
there is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import breakdown, common, coverage, quality, summary
from benchmarks.summary import Run, table

PLOT = "docs/bench-ratios.png"
SETTING = ("model", "chip", "batch", "length", "dtype")
"""What two estimates must have in common to be compared."""

PROFILED, VARIANTS = "tpu-flaxfer-bert-base.json", "variants"
"""An estimate that is shown by parts, and the folder of the same with other settings."""

SECTIONS = {
    "breakdown.json": breakdown.section,
    "quality.json": quality.section,
    "coverage.json": coverage.section,
}
"""By file of benchmarks/results, the section that is made of it."""

WHAT = {"train": "training", "eval": "evaluation"}

HEAD = """# Benchmarks

Every number here is written by a command in benchmarks/.
"""

SPEED = """## Speed
flaxfer and its peers in turn, each run in a process of its own, so that whatever else changes on \
the machine meets all of them. A figure is the median of its runs (smallest–largest); a ratio is \
taken within each round. {machine}

Training: batches of 32 examples with dropout, AdamW, linear schedule and clipping (the Flax \
classes, as their script drives them, without clipping); compiling and the first steps are not in \
the rates. Evaluation: every example once, metrics included. The Trainer takes its batches from \
all over an epoch and uses the fused AdamW. flaxfer cuts the embedding to the tokens in use, as \
every study does. Input stall is the share of the time that the loop waits for its next batch. \
A cold start compiles; a warm one finds its programs on the disk. Products alone: the matrix \
products of flaxfer's own steps without anything else, in the same process and type; a step that \
multiplies every slot of such rows with the same compiler is not faster. The trainers of \
transformers: `Trainer` is the PyTorch one.
"""

REPEAT = """## How to repeat
```
make bench-setup
make bench DATA=FOLDER XLMR=FOLDER
make bench-report
```
`DATA` holds stsb-multi-mt/, glue-samples/ and imdb-sample/; `XLMR` is a Hugging Face folder of an \
XLM-R model, and may be left out. Let nothing else run beside. `python -m benchmarks.run --help` \
tells how to make fewer rounds. TPU estimates (each takes some minutes): \
`.venv-bench-flax/bin/python -m benchmarks.peer_flax --tpu v5e --shape bert-base > \
benchmarks/results/tpu-flax-bert-base.json`, and the same with xlm-roberta-base; flaxfer's side is \
written to benchmarks/results/tpu-flaxfer-*.json by `python -m flaxfer.aot.command --config \
configs/sts_english.py:local --topology v5e:1 --rows 64 --examples_per_row 1 \
--config.train.batch_size=64 --model_config FILE --json FILE` (`--vocabulary 30000`: of XLM-R the \
tokens that a study uses), where `FILE` is the model's config.json. Packed rows: the same with \
`--config.data_dir=DATA --config.model.path=FOLDER`, a folder of the model's config.json and \
tokenizer, in place of `--rows`, `--examples_per_row` and `--model_config`. Many chips: \
`--topology v5e:256 --mesh data=256`, with rows and batch of 64 a chip. Other settings: the first \
command with one more option, and `--json benchmarks/results/variants/NAME.json`. Where the time \
goes, quality, intervals: the commands at the top of benchmarks/breakdown.py, quality.py, \
coverage.py.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=common.ROOT / common.RECORDS)
    parser.add_argument("--out", type=Path, default=common.ROOT / "BENCHMARKS.md")
    options = parser.parse_args()
    runs, estimates, sections = stored(options.results)
    if runs:
        plot(runs, options.out.parent / PLOT)
    options.out.write_text(page(runs, estimates, sections), encoding="utf-8")
    print(f"wrote {options.out} from {len(runs)} runs and {len(estimates)} estimates")


def stored(results: Path) -> tuple[list[Run], list[Run], list[str]]:
    """What a folder of records holds: runs, estimates, and sections made of the other files."""
    runs = [record for file in sorted(results.glob("*.jsonl")) for record in lines(file)]
    estimates = [record for file in sorted(results.glob("tpu*.json")) for record in lines(file)]
    sections = [
        of(json.loads(file.read_text(encoding="utf-8")))
        for name, of in SECTIONS.items()
        if (file := results / name).exists()
    ]
    if (base := results / PROFILED).exists():
        files = sorted((results / VARIANTS).glob("*.json"))
        variants = {file.stem.replace("-", " "): lines(file)[0] for file in files}
        sections.insert(0, profile(lines(base)[0], variants))
    return [run for run in runs if run["what"] in WHAT], estimates, sections


def lines(file: Path) -> list[Run]:
    """The records of a file: one JSON value, or one a line."""
    text = file.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def page(runs: Sequence[Run], estimates: Sequence[Run], sections: Sequence[str] = ()) -> str:
    """The whole page."""
    parts = [HEAD]
    if runs:
        parts += [SPEED.format(machine=machine(runs))]
        parts += [f"![Ratios of speed, flaxfer over each peer]({PLOT})\n"]
        for name in dict.fromkeys(run["benchmark"] for run in runs):
            parts.append(benchmark([run for run in runs if run["benchmark"] == name]))
    if estimates:
        parts.append(tpu(estimates))
    return "\n".join([*parts, *sections, REPEAT])


def benchmark(runs: Sequence[Run]) -> str:
    """The tables of one model and data set."""
    text = f"### {runs[0]['title']}\n"
    for what, title in WHAT.items():
        chosen = [run for run in runs if run["what"] == what]
        if chosen:
            text += f"{title.capitalize()} ({lengths(chosen)}):\n\n{speed_table(chosen)}\n"
    text += f"flaxfer's examples/s over those of each peer:\n\n{ratio_table(runs)}\n"
    if limit := summary.limit(runs):
        text += limit + "\n"
    text += "\n"
    if runs[0]["benchmark"].startswith("sts"):
        text += seeds_table(runs) + "\n"
    return text.rstrip("\n") + "\n"


def lengths(runs: Sequence[Run]) -> str:
    """Longest example and number of steps, as the settings have them."""
    longest = {run["settings"]["length"] for run in runs}
    steps = sorted({run["steps"] for run in runs})
    return f"at most {max(longest)} tokens an example; {steps[0]} to {steps[-1]} steps a run"


def speed_table(runs: Sequence[Run]) -> str:
    """One row a trainer."""
    rows = []
    for label, own in summary.by_label(runs).items():
        rows.append(
            [
                label,
                summary.spread([run["examples_per_s"] for run in own]),
                summary.spread([run["useful_tokens_per_s"] for run in own], 0),
                summary.share([run["padding_share"] for run in own]),
                summary.share([run["input_stall_share"] for run in own]),
                f"{summary.median([run['peak_rss_bytes'] for run in own]) / 2**30:.2f}",
                *summary.starts(own),
                str(len(own)),
            ]
        )
    columns = ["trainer", "examples/s", "useful tokens/s", "padding", "input stall", "peak GiB"]
    return table([*columns, "compile s, cold", "start s, cold", "start s, warm", "runs"], rows)


def ratio_table(runs: Sequence[Run]) -> str:
    """One row a peer."""
    rows = []
    for label in summary.by_label(runs):
        if label.startswith("flaxfer"):
            continue
        cells = [summary.ratios(runs, label, what) for what in WHAT]
        pairs = ", ".join(str(len(cell)) for cell in cells)
        rows.append([label, *(summary.spread(cell, 2) for cell in cells), pairs])
    return table(["flaxfer against", *WHAT.values(), "pairs"], rows)


def seeds_table(runs: Sequence[Run]) -> str:
    """Fine-tunings an hour, derived from the medians."""
    rows = [
        [label, f"{rate:.1f}"]
        for label, own in summary.by_label(runs).items()
        if (rate := summary.seeds_per_hour(own)) is not None
    ]
    text = (
        f"Seeds an hour, derived, not run: {summary.EPOCHS} epochs of {summary.TRAIN:,} examples "
        f"and an evaluation of {summary.DEV:,} after each, then of {summary.TEST:,}, at the "
        "median rates; without starting, compiling and saving:\n\n"
    )
    return text + table(["trainer", "seeds an hour"], rows)


def tpu(estimates: Sequence[Run]) -> str:
    """The compiler's estimates: of full rows on one chip, of a study's rows, of many chips."""
    made = [record for record in estimates if "shapes" in record]
    many = [record for record in made if record["topology"]["chips"] > 1]
    packed = [record for record in made if record["shapes"]["bucket_sizes"] and record not in many]
    full = [summary.estimate(r) for r in estimates if r not in many and r not in packed]
    text = full_rows(full)
    if packed:
        text += "\n" + packed_rows(packed, [e for e in full if e["side"] != "flaxfer"])
    return text + ("\n" + many_chips(many) if many else "")


def full_rows(estimates: Sequence[Run]) -> str:
    """Steps without padding; of equal records the last is in force."""
    last = {(*(str(e[key]) for key in SETTING), e["side"], e["vocabulary"]): e for e in estimates}
    peers = {key[:-2]: e for key, e in last.items() if e["side"] != "flaxfer"}
    rows = []
    for key, e in sorted(last.items()):
        peer = peers.get(key[:-2]) if e["side"] == "flaxfer" else None
        rows.append(
            [
                f"{e['model']}, {e['vocabulary']:,} tokens",
                *(e["chip"], f"{e['batch']} x {e['length']}", e["dtype"], e["side"]),
                f"{e['estimated_cycles'] / 1e6:.1f}",
                f"{peer['estimated_cycles'] / e['estimated_cycles']:.2f}" if peer else "",
            ]
        )
    text = (
        "## TPU ESTIMATES\nNothing here ran on a TPU. The TPU compiler compiled each train step "
        "for one chip (AdamW, dropout), and its own estimates of the cycles of all instructions "
        "are added up; gathers, random bits and waits for memory, which it gives no estimate for, "
        "are in no sum. Every token slot holds a token, so what packing saves is not in these "
        "figures.\n\n"
    )
    columns = ["model", "chip", "rows x tokens", "type", "trainer", "million cycles"]
    return text + table([*columns, "peer / flaxfer"], rows)


def packed_rows(records: Sequence[Run], peers: Sequence[Run]) -> str:
    """What an example costs where the data decide on the rows, beside a peer that pads each."""
    rows = []
    for record in records:
        own = summary.estimate(record)
        examples, tokens = record["shapes"]["batch_size"], record["useful_per_step"]["tokens"]
        cost = own["estimated_cycles"] / examples
        alike = [e for e in peers if all(e[k] == own[k] for k in SETTING if k != "batch")]
        ratios = [f"{e['estimated_cycles'] / e['batch'] / cost:.1f}" for e in alike]
        rows.append(
            [
                f"{own['model']}, {own['vocabulary']:,} tokens",
                *(own["chip"], str(examples), f"{own['batch']} x {own['length']}"),
                f"{1 - tokens / (own['batch'] * own['length']):.1%}",
                f"{own['estimated_cycles'] / 1e6:.1f}",
                f"{cost / 1e3:,.0f}",
                ", ".join(ratios),
            ]
        )
    text = (
        "### STS-B English in packed rows\nThe same estimates with the lengths of real data and "
        "the tokens they use. The step is that of the most rows that any batch needs: most steps "
        "have fewer. The peer pads every example to the length of a row: its cycles an example are "
        "those of the table above over its batch.\n\n"
    )
    columns = ["model", "chip", "examples", "rows x tokens", "padding", "million cycles"]
    return text + table([*columns, "thousand an example", "peer / flaxfer an example"], rows)


def profile(record: Run, variants: Mapping[str, Run]) -> str:
    """The cycles of a step by part, what its products need at the least, and other settings."""
    own, topology = summary.estimate(record), record["topology"]
    parts: dict[str, dict[str, int]] = {}
    for entry in record["parts"]:
        cycles = parts.setdefault(entry["part"], dict.fromkeys(("forward", "backward", ""), 0))
        cycles[entry["direction"]] += entry["cycles"]
    total, least = record["estimated_cycles"], summary.least_cycles(record)
    above = {part: sum(parts[part].values()) - least[part] for part in least.keys() & parts}
    rows = [
        [
            part,
            *(f"{n / 1e6:.1f}" if n else "" for n in cycles.values()),
            f"{sum(cycles.values()) / total:.1%}",
            f"{least[part] / 1e6:.1f}" if part in least else "",
        ]
        for part, cycles in sorted(parts.items(), key=lambda item: -sum(item[1].values()))
    ]
    peak = record["model_flops"]["all_tokens"] / topology["peak_flops"]
    text = (
        f"### Where the cycles go: {own['model']}, {own['batch']} x {own['length']}\nMillions of "
        f"cycles of one step on {topology['chip']}, of all sources: {total / 1e6:.1f}, of which "
        f"{record['cycles_by_source']['modelled'] / 1e6:.1f} count by a model of bytes. Its "
        "matrix products alone at the published peak: "
        f"{peak * topology['clock_hz_estimate'] / 1e6:.1f}. At the least: products at this "
        "peak, AdamW's seven arrays and the operands of attention, were it one kernel, at the "
        "published bandwidth.\n\n"
    )
    text += table(["part", "forward", "backward", "neither", "share", "at the least"], rows)
    text += "\nWith parts at their least, the one that is furthest above it first:\n\n"
    left, steps = total, []
    for part, cycles in sorted(above.items(), key=lambda item: -item[1]):
        left -= cycles
        steps.append([part, f"{cycles / 1e6:.1f}", f"{left / 1e6:.1f}"])
    text += table(["part", "above its least", "left of the step"], steps)
    if variants:
        made = {"as above": record, **variants}
        tried = [
            [
                name,
                f"{one['cycles_by_source']['compiler'] / 1e6:.1f}",
                f"{one['cycles_by_source']['modelled'] / 1e6:.1f}",
                f"{one['estimated_cycles'] / 1e6:.1f}",
                f"{one['peak_bytes'] / 2**30:.2f}",
            ]
            for name, one in made.items()
        ]
        columns = ["setting", "the compiler's", "by a model", "million cycles", "peak GiB"]
        text += f"\nThe same with other settings:\n\n{table(columns, tried)}"
    return text


def many_chips(records: Sequence[Run]) -> str:
    """How much of a step waits for other chips."""
    rows = []
    for record in records:
        own = summary.estimate(record)
        rows.append(
            [
                f"{own['model']}, {own['vocabulary']:,} tokens",
                record["topology"]["name"],
                " x ".join(f"{axis} {n}" for axis, n in record["mesh"].items() if n > 1),
                f"{own['batch']} x {own['length']}",
                f"{record['estimated_cycles'] / 1e6:.1f}",
                f"{record['collectives_not_hidden_share']:.1%}",
                f"{record['examples_per_s_estimate']:,.0f}",
            ]
        )
    text = (
        "### Many chips\nHere cycles are those of all sources: the compiler's, gathers and waits "
        "for memory by their bytes, and collectives, which the compiler does not estimate, as "
        "rings by theirs, so far as no other work hides them.\n\n"
    )
    columns = ["model", "chips", "mesh", "rows a chip x tokens", "million cycles"]
    return text + table([*columns, "in collectives not hidden", "examples/s"], rows)


def machine(runs: Sequence[Run]) -> str:
    """What the runs were made with, as they noted it."""
    first = runs[0]
    own = first["machine"]
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run["versions"].items():
            versions.setdefault(name, set()).add(version)
    listed = ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in versions.items())
    commits = ", ".join(sorted({run["git"] for run in runs}))
    dates = sorted({run["date"][:10] for run in runs})
    return (
        f"Machine: {own['cpu']}, {own['cores']} cores, {own['memory_gib']} GiB. "
        f"{summary.features(own['features'])} Versions: {listed}. Commit {commits}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )


def plot(runs: Sequence[Run], path: Path) -> None:
    """Median ratio and its range for every benchmark and peer, in training and evaluation."""
    from matplotlib.figure import Figure

    titles = {run["benchmark"]: run["title"] for run in runs}
    rows = []
    for name, title in titles.items():
        of = [run for run in runs if run["benchmark"] == name]
        for label in summary.by_label(of):
            if not label.startswith("flaxfer"):
                rows.append((f"{title}\n{label}", [summary.ratios(of, label, w) for w in WHAT]))
    figure = Figure(figsize=(8, 1.2 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, (what, color, shift) in enumerate(
        zip(WHAT.values(), ("#0072b2", "#d55e00"), (-0.12, 0.12), strict=True)
    ):
        for place, (_, ratios) in enumerate(rows):
            if ratios[i]:
                mid, low, high = summary.middle(ratios[i])
                spread = [[mid - low], [high - mid]]
                name = what if place == 0 else None
                axes.errorbar(
                    mid, place + shift, xerr=spread, fmt="o", color=color, capsize=3, label=name
                )
    axes.axvline(1, color="#6b6b6b", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.set_xlabel("examples/s of flaxfer over those of the peer; right of the line it is faster")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
