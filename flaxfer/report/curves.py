"""Learning curves of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.errors import DataError
from flaxfer.evaluation.records import Run
from flaxfer.report import plots
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Text
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
        loss.append(_curve(run, path, "train", "loss", records))
        dev.append(_curve(run, path, "dev", metric, [r | _metrics(r, path) for r in records]))
    for suffix, quantity, lines in (("loss", "train loss", loss), ("dev", f"dev {metric}", dev)):
        if any(line.x.size for line in lines):
            plot = plots.curves(entry.plot_name(f"{stage}-{suffix}"), lines, quantity)
            caption = f"{stage.capitalize()} stage: {quantity} by step, a line for every seed."
            blocks.append(plot.figure(caption))
    if missing:
        blocks.append(Text(f"No metrics.jsonl for the {stage} stage of {join(missing)}."))
    return blocks


def _metrics(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the dev scores of a record; {} for other kinds."""
    metrics = record.get("metrics", {}) if record["kind"] == "dev" else {}
    if not isinstance(metrics, dict):
        raise _damaged(path, f"metrics of step {record['step']}", metrics)
    return metrics


def _curve(
    run: Run, path: Path, kind: str, name: str, records: Sequence[dict[str, Any]]
) -> plots.Curve:
    points = [(r["step"], r.get(name)) for r in records if r["kind"] == kind]
    for step, value in points:
        if not isinstance(step, int) or not isinstance(value, int | float | None):
            raise _damaged(path, f"{name} of step {step}", value)
    values = [(step, number(value)) for step, value in points]
    x, y = np.array(values, dtype=np.float64).reshape(-1, 2).T
    return plots.Curve(run.condition, run.seed, x, y)


def _damaged(path: Path, what: str, value: Any) -> DataError:
    return DataError(
        f"{what} is {value!r}, no number",
        where=str(path),
        hint="delete the line, or the stage's directory and run the study again",
    )
