r"""Measure how the host's time and memory grow with examples, languages and stages.

for part in read overlap tokenize batches; do for size in 5000 400000 4000000; do \
python -m benchmarks.growth --part $part --size $size; done; done
for size in 10 100; do python -m benchmarks.growth --part languages --size $size; done
for size in 100 1000; do python -m benchmarks.growth --part stages --size $size; done

Each command is a process of its own, adds a record to benchmarks/results/growth.json in place of
an earlier one of the same part and size, and draws docs/growth.png. Texts are pairs of random
words, with about as many as the pairs of STS-B have; the model is tiny, so that it costs little
beside the host's work. Seconds are of the CPU, of all threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, growth_data, summary
from flaxfer import config
from flaxfer.data import bins, overlap, sources, tokenize
from flaxfer.data.loader import TrainPlan, eval_batches
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.report.writing import write_report
from flaxfer.runtime import host, sharding
from flaxfer.study import revisions
from flaxfer.study.plan import plan_study
from flaxfer.tasks import TASK_TYPES
from flaxfer.tasks.models import model_spec
from flaxfer.training.data import StudyData
from flaxfer.training.reading import read_study_data
from flaxfer.training.vocabulary import Vocabulary

Record = dict[str, Any]
Steps = Iterator[tuple[str, Callable[[], object]]]
"""Names of what is measured, and functions that do it, in this order."""

PLOT = "docs/growth.png"
NEAR_LINEAR = 1.1
TRAIN = config.Train()
PACKAGES = ("jax", "numpy", "tokenizers", "transformers")


def reading(size: int, folder: Path) -> Steps:
    """Yield the reading of a file of as many records, and the content hash of its examples."""
    file = growth_data.write_pairs(folder / "train.tsv", size)
    source = growth_data.source(file.name)
    examples: list[sources.Examples] = []
    form = TASK_TYPES["regression"]
    yield (
        "read",
        lambda: examples.append(sources.read_source(source, growth_data.TASK, form, str(folder))),
    )
    yield "hash", lambda: examples[0].fingerprint


def overlapping(size: int, folder: Path) -> Steps:
    """Yield the comparison of a train split with a dev split of 1,500 examples."""
    splits = {"train": growth_data.examples(size), "dev": growth_data.examples(1500, seed=1)}
    yield (
        "compare splits",
        lambda: overlap.examine({"target": splits}, {"target": growth_data.TASK}, "remove"),
    )


def tokenizing(size: int, folder: Path) -> Steps:
    """Yield tokenisation, without a cache."""
    tokenizer = tokenize.load_tokenizer(growth_data.write_model(folder))
    examples = growth_data.examples(size)
    yield "tokenize", lambda: tokenize.tokenize(examples, tokenizer, TRAIN.max_length, None)


def batching(size: int, folder: Path) -> Steps:
    """Yield what is done with tokens: planning, batches of an epoch, and an evaluation."""
    data, encoder = growth_data.tokens(size), growth_data.encoder()
    yield "cut vocabulary", lambda: Vocabulary.used([data], encoder.vocab_size, 0).cut(data)
    train = dataclasses.replace(TRAIN, epochs=1)
    plan: list[TrainPlan] = []
    yield "plan batches", lambda: plan.append(TrainPlan.make(data, train, (0,), 0, 1))

    def epoch() -> None:
        for step in range(plan[0].total_steps):
            plan[0].batch(step)

    yield "batches of an epoch", epoch
    yield "pack for evaluation", lambda: bins.pack(data.lengths, TRAIN.row_length, 8)
    yield "batches of an evaluation", lambda: [None for _ in eval_batches(data, train, 0, 1)]
    model = model_spec(encoder, growth_data.TASK)
    mesh = sharding.make_mesh()
    evaluator = Evaluator(model, growth_data.TASK, train, np.float32, mesh)
    params = model.random_params(0)
    evaluator.predict(params, growth_data.tokens(min(size, 5000)))  # Compiles.
    yield "evaluate", lambda: evaluator.predict(params, data)


def study_of(folder: Path, languages: int, seeds: int) -> config.Config:
    """Return a study with an evaluated set of 200 examples in each language."""
    growth_data.write_pairs(folder / "train.tsv", 1000)
    names = [f"l{i}" for i in range(languages)]
    for i, name in enumerate(["dev", *names]):
        growth_data.write_pairs(folder / f"{name}.tsv", 200, seed=i + 1)
    train, dev = (growth_data.source(f"{name}.tsv") for name in ("train", "dev"))
    evaluate = {name: growth_data.source(f"{name}.tsv", name) for name in names}
    return config.Config(
        name="growth",
        model=growth_data.write_model(folder),
        intermediate=None,
        target=config.Stage(
            growth_data.TASK,
            config.Data((train,), (dev,)),
            evaluate,
            config.Optimizer(),
            TRAIN,
        ),
        conditions=("direct", "scratch"),
        seeds=tuple(range(seeds)),
        workdir=str(folder / "work"),
        data_dir=str(folder),
    )


def languages(size: int, folder: Path) -> Steps:
    """Yield the data, plan and report of a study with as many languages."""
    study = study_of(folder, size, seeds=3)
    data: list[StudyData] = []
    yield "data of a study", lambda: data.append(read_study_data(study, folder / "cache"))
    yield "plan of a study", lambda: revisions.recorded(plan_study(data[0]))
    growth_data.write_study(folder / "study", size, 200)
    yield "report of a study", lambda: write_report(folder / "study")


def stages(size: int, folder: Path) -> Steps:
    """Yield the plan of a study and the report of a grid with as many stages."""
    data = read_study_data(study_of(folder, 2, size // 2), folder / "cache")
    yield "plan of a study", lambda: revisions.recorded(plan_study(data))
    for cell in range(size // (2 * growth_data.SEEDS)):
        growth_data.write_study(folder / f"grid/cells/cell{cell}", 2, 200)
    yield "report of a grid", lambda: write_report(folder / "grid")


PARTS: dict[str, tuple[str, Callable[[int, Path], Steps]]] = {
    "read": ("examples", reading),
    "overlap": ("examples", overlapping),
    "tokenize": ("examples", tokenizing),
    "batches": ("examples", batching),
    "languages": ("languages", languages),
    "stages": ("stages", stages),
}
"""Unit of the size of each part, and what it measures."""


def measure(part: str, size: int) -> Record:
    """Return the record of a part: for each step, its seconds and the peak memory until its end."""
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        for name, work in PARTS[part][1](size, Path(folder)):
            start = time.process_time()
            work()
            seconds = time.process_time() - start
            peak = common.peak_rss_bytes()
            steps.append({"step": name, "seconds": seconds, "peak_rss_bytes": peak})
            print(f"{part} {size:,}: {name} {seconds:.2f} s, {peak / 2**30:.2f} GiB", flush=True)
    about = {"machine": common.machine(), "versions": common.versions(*PACKAGES)}
    about |= {"date": host.now(), "git": common.commit()}
    return {"part": part, "unit": PARTS[part][0], "size": size, "steps": steps, **about}


def series(records: Sequence[Record]) -> dict[tuple[str, str], dict[int, Record]]:
    """Return the measurements by unit and step, and then by size, ascending."""
    found: dict[tuple[str, str], dict[int, Record]] = {}
    for record in sorted(records, key=lambda one: (list(PARTS).index(one["part"]), one["size"])):
        for step in record["steps"]:
            found.setdefault((record["unit"], step["step"]), {})[record["size"]] = step
    return found


def exponent(points: dict[int, Record]) -> float:
    """Return the power of the size that the seconds grow by between the two largest sizes."""
    (small, before), (large, after) = list(points.items())[-2:]
    return float(np.log(after["seconds"] / before["seconds"]) / np.log(large / small))


def section(records: Sequence[Record]) -> str:
    """Return the section of BENCHMARKS.md."""
    text = (
        "## Cost of growth\n"
        "Seconds of the CPU and peak memory of what the host does, by benchmarks/growth.py, with "
        "random pairs of texts and a tiny model. Each part is a process of its own; its memory is "
        "the peak until the end of the step. Exponent: the power of the size that the seconds grow "
        f"by between the two largest sizes; at most {NEAR_LINEAR} is near linear. "
        f"{summary.machine(records)}\n\n![Time by size]({PLOT})\n"
    )
    by_step = series(records)
    for unit in dict.fromkeys(unit for unit, _ in by_step):
        rows, sizes = [], sorted({one["size"] for one in records if one["unit"] == unit})
        for step, points in ((s, p) for (u, s), p in by_step.items() if u == unit):
            cells = [_cell(points.get(size)) for size in sizes]
            power = f"{exponent(points):.2f}" if len(points) > 1 else ""
            rows.append([step, *cells, power])
        text += "\n" + summary.table([unit, *(f"{size:,}" for size in sizes), "exponent"], rows)
    return text


def _cell(step: Record | None) -> str:
    if step is None:
        return ""
    return f"{step['seconds']:.3g} s, {step['peak_rss_bytes'] / 2**30:.1f} GiB"


def plot(records: Sequence[Record], path: Path) -> None:
    """Plot the seconds of every step by size, on logarithmic axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from flaxfer.report.plots import STYLE

    by_step = series(records)
    units = list(dict.fromkeys(unit for unit, _ in by_step))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(units), 4.5), layout="constrained")
        for unit, axes in zip(units, figure.subplots(1, len(units), squeeze=False)[0], strict=True):
            for (of, step), points in by_step.items():
                if of == unit:
                    seconds = [one["seconds"] for one in points.values()]
                    axes.loglog(list(points), seconds, marker="o", label=step)
            axes.set_xlabel(unit)
            axes.set_ylabel("seconds of the CPU")
            axes.grid()
            axes.legend(fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--size", type=common.count, required=True)
    parser.add_argument(
        "--records", type=Path, default=common.ROOT / common.RECORDS / "growth.json"
    )
    parser.add_argument("--plot", type=Path, default=common.ROOT / PLOT)
    options = parser.parse_args(arguments)
    record = measure(options.part, options.size)
    file = options.records
    records = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    key = (options.part, options.size)
    records = [one for one in records if (one["part"], one["size"]) != key] + [record]
    file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    plot(records, options.plot)


if __name__ == "__main__":
    common.guarded(main)
