"""Sections on forgetting of the intermediate task, and on WiSE-FT mixtures."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np

from flaxfer.evaluation.records import Metrics, Mixture, Run
from flaxfer.report import plots
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Table
from flaxfer.report.formatting import spread
from flaxfer.statistics.scores import MEAN, ZERO_SHOT, Scores, number


def forgetting_blocks(data: ReportData) -> list[Block]:
    """Return scores of the intermediate task before and after, and scores of mixtures."""
    return data.by_study(_study_blocks)


def _study_blocks(entry: Entry) -> list[Block]:
    runs = [run for run in entry.study.runs if run.stage == "target"]
    blocks: list[Block] = []
    if retained := [run for run in runs if run.retained]:
        blocks.append(_retained_table(entry, retained))
    if mixed := [run for run in runs if run.wise_ft]:
        blocks += _mixture_blocks(entry, mixed)
    return blocks


def _retained_table(entry: Entry, runs: list[Run]) -> Table:
    metric = entry.metric_of("intermediate")
    by_set: dict[tuple[str, str, int], list[tuple[Metrics, Metrics]]] = defaultdict(list)
    for run in runs:
        for one in run.retained:
            by_set[one.language, one.set, one.n].append((one.before, one.after))
    records = []
    for (language, name, n), pairs in by_set.items():
        before, after = (
            np.array([number(metrics.get(metric)) for metrics in seeds])
            for seeds in zip(*pairs, strict=True)
        )
        records.append({
            "language": language, "set": name, "n": n, "before": spread(before),
            "after": spread(after), "after minus before": spread(after - before, "+"),
        })  # fmt: skip
    caption = f"{metric} of {entry.intermediate} before and after the target stage."
    return Table(caption, records, "ll")


def _mixture_blocks(entry: Entry, runs: list[Run]) -> list[Block]:
    """Return the mean over languages by alpha, the weight of the result."""
    metric = entry.study.metric
    lines = []
    by_alpha: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        means = [_mean(entry, run, mixture) for mixture in run.wise_ft]
        alphas = np.array([mixture.alpha for mixture in run.wise_ft])
        lines.append(plots.Curve(run.condition, run.seed, alphas, np.array(means)))
        for mixture, mean in zip(run.wise_ft, means, strict=True):
            dev = number(mixture.dev.get(metric))
            by_alpha[run.condition, mixture.alpha].append((dev, mean))
    quantity = f"{ZERO_SHOT if entry.scores.zero_shot else MEAN} of {metric}"
    over = "alpha (weight of the result in the mixture)"
    plot = plots.curves(entry.plot_name("mixtures"), lines, quantity, over)
    caption = f"Mixtures of the target stage with its start: {quantity} by alpha (WiSE-FT)."
    records = []
    for (condition, alpha), pairs in sorted(by_alpha.items()):
        dev_scores, means = np.array(pairs).T
        records.append({
            "condition": condition, "alpha": f"{alpha:g}",
            f"dev {metric}": spread(dev_scores), quantity: spread(means),
        })  # fmt: skip
    title = "Mixtures over seeds: 0 is the start, 1 the result."
    return [plot.figure(caption), Table(title, records, "l")]


def _mean(entry: Entry, run: Run, mixture: Mixture) -> float:
    """Return the zero-shot mean of a mixture, or else its mean over all languages."""
    mixed = dataclasses.replace(run, evaluations=mixture.evaluations)
    scores = Scores(dataclasses.replace(entry.study, runs=[mixed], seeds=[run.seed]))
    means = scores.mean_columns(entry.study.metric)
    mean = means.get(ZERO_SHOT) or means.get(MEAN)
    return float(mean[run.condition][0]) if mean else np.nan
