"""Learning curves of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import Run
from flaxfer.report import plots
from flaxfer.report.document import Block, Figure, Heading, Text
from flaxfer.report.languages import plot_name
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import join
from flaxfer.statistics.scores import number
from flaxfer.training.trackers import read_metrics

Drawn = dict[tuple[Path, ...], str]
"""Folders of stages whose curves are in the report already, and the study they stand with."""


def curve_blocks(material: Material) -> list[Block]:
    """Train loss and dev metric by step; of stages that studies share once."""
    drawn: Drawn = {}
    return [
        Heading("Learning curves"),
        *material.by_study(lambda entry: _of_study(entry, drawn)),
    ]


def _of_study(entry: Entry, drawn: Drawn) -> list[Block]:
    blocks: list[Block] = []
    for stage in entry.stages:
        runs = [run for run in entry.study.runs if run.stage == stage]
        folders = tuple(sorted(entry.folder(run) for run in runs))
        if folders in drawn:
            blocks.append(Text(f"The {stage} stage is that of {drawn[folders]}, drawn there."))
            continue
        drawn[folders] = entry.name
        blocks += _of_stage(entry, stage, runs)
    return blocks


def _of_stage(entry: Entry, stage: str, runs: Sequence[Run]) -> list[Block]:
    metric, blocks = entry.metric_of(stage), list[Block]()
    loss, dev, missing = [], [], []
    for run in runs:
        path = entry.workdir / run.dir / "metrics.jsonl"
        if not path.exists():
            missing.append(f"{run.condition} seed {run.seed} ({run.dir})")
            continue
        records = read_metrics(path)
        train = [(r["step"], r.get("loss")) for r in records if r["kind"] == "train"]
        tests = [(r["step"], r["metrics"].get(metric)) for r in records if r["kind"] == "dev"]
        loss.append(_curve(run, train))
        dev.append(_curve(run, tests))
    for name, quantity, lines in (
        (f"{stage}-loss", "train loss", loss), (f"{stage}-dev", f"dev {metric}", dev),
    ):  # fmt: skip
        if any(line.steps.size for line in lines):
            title = f"{stage.capitalize()} stage: {quantity} by step, a line for every seed."
            svg = plots.curves(plot_name(name, entry), lines, quantity)
            blocks.append(Figure(svg, title))
    if missing:
        blocks.append(Text(f"No metrics.jsonl for the {stage} stage of {join(missing)}."))
    return blocks


def _curve(run: Run, points: Sequence[tuple[int, float | None]]) -> plots.Curve:
    """A line of the plot; undefined values become holes."""
    steps = np.array([step for step, _ in points], dtype=np.int64)
    values = np.array([number(value) for _, value in points], dtype=np.float64)
    return plots.Curve(run.condition, run.seed, steps, values)
