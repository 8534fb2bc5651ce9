"""Learning curves of every stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import Run
from flaxfer.report import plots
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Figure, Text
from flaxfer.report.formatting import join
from flaxfer.statistics.scores import number
from flaxfer.training.trackers import read_metrics


def curve_blocks(data: ReportData) -> list[Block]:
    """Return train loss and dev metric by step; stages that studies share are plotted once."""
    plotted: dict[tuple[Path, ...], str] = {}  # folders of a stage -> study with its plots

    def study_blocks(entry: Entry) -> list[Block]:
        blocks: list[Block] = []
        for stage in ("intermediate", "target"):
            runs = [run for run in entry.study.runs if run.stage == stage]
            folders = tuple(sorted(entry.folder(run) for run in runs))
            if not runs:
                continue
            if folders in plotted:
                text = f"The {stage} stage is shared with {plotted[folders]}, and plotted there."
                blocks.append(Text(text))
            else:
                plotted[folders] = entry.name
                blocks += _stage_blocks(entry, stage, runs)
        return blocks

    return data.by_study(study_blocks)


def _stage_blocks(entry: Entry, stage: str, runs: Sequence[Run]) -> list[Block]:
    metric, blocks = entry.metric_of(stage), list[Block]()
    loss, dev, missing = [], [], []
    for run in runs:
        path = entry.workdir / run.dir / "metrics.jsonl"
        if not path.exists():
            missing.append(f"{run.condition} seed {run.seed} ({run.dir})")
            continue
        records = read_metrics(path)
        train = ((r["step"], r.get("loss")) for r in records if r["kind"] == "train")
        tests = ((r["step"], r["metrics"].get(metric)) for r in records if r["kind"] == "dev")
        loss.append(_curve(run, train))
        dev.append(_curve(run, tests))
    for suffix, quantity, lines in (("loss", "train loss", loss), ("dev", f"dev {metric}", dev)):
        if any(line.x.size for line in lines):
            svg = plots.curves(entry.plot_name(f"{stage}-{suffix}"), lines, quantity)
            caption = f"{stage.capitalize()} stage: {quantity} by step, a line for every seed."
            blocks.append(Figure(svg, caption))
    if missing:
        blocks.append(Text(f"No metrics.jsonl for the {stage} stage of {join(missing)}."))
    return blocks


def _curve(run: Run, points: Iterable[tuple[int, float | None]]) -> plots.Curve:
    steps_and_values = [(step, number(value)) for step, value in points]
    x, y = np.array(steps_and_values, dtype=np.float64).reshape(-1, 2).T
    return plots.Curve(run.condition, run.seed, x, y)
