"""What the target stage leaves of the intermediate task, and mixtures of a stage with its start."""

from __future__ import annotations

import dataclasses

import numpy as np

from flaxfer.evaluation.records import Metrics, Mixture, Run, Study
from flaxfer.report import plots
from flaxfer.report.document import Block, Figure, Heading, Table
from flaxfer.report.languages import plot_name
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import spread
from flaxfer.statistics.scores import DIFFERENCE, MEAN, ZERO_SHOT, Scores, number


def forgetting_blocks(material: Material) -> list[Block]:
    """Scores of the intermediate task before and after, and of mixtures by alpha."""
    blocks = material.by_study(_of_study)
    return [Heading("Forgetting"), *blocks] if blocks else []


def _of_study(entry: Entry) -> list[Block]:
    runs = [run for run in entry.study.runs if run.stage == "target"]
    blocks: list[Block] = []
    if kept := [run for run in runs if run.retained]:
        blocks.append(_retained(entry, kept))
    if mixed := [run for run in runs if run.wise_ft]:
        blocks += _mixtures(entry, mixed)
    return blocks


def _retained(entry: Entry, runs: list[Run]) -> Table:
    metric = entry.metric_of("intermediate")
    found: dict[tuple[str, str, str], list[tuple[Metrics, Metrics]]] = {}
    for run in runs:
        for one in run.retained:
            place = (one.language, one.set, f"{one.n:,}")
            found.setdefault(place, []).append((one.before, one.after))
    rows = []
    for place, pairs in found.items():
        before, after = (
            np.array([number(pair[i].get(metric)) for pair in pairs]) for i in range(2)
        )
        values = (spread("", before), spread("", after), spread(DIFFERENCE, after - before))
        rows.append([*place, *values])
    caption = f"{metric} of {entry.intermediate} before and after the target stage."
    header = ["language", "set", "n", "before", "after", "after minus before"]
    return Table(caption, header, rows, "llrrrr")


def _mixtures(entry: Entry, runs: list[Run]) -> list[Block]:
    """The mean over languages by the alpha of the mixture, as lines and over seeds."""
    metric = entry.study.metric
    lines = []
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for run in runs:
        alphas = np.array([one.alpha for one in run.wise_ft])
        means = np.array([_mean(entry.study, run, one) for one in run.wise_ft])
        lines.append(plots.Curve(run.condition, run.seed, alphas, means))
        for one, mean in zip(run.wise_ft, means.tolist(), strict=True):
            values = (number(one.dev.get(metric)), mean)
            found.setdefault((run.condition, one.alpha), []).append(values)
    quantity = f"{ZERO_SHOT if Scores(entry.study).zero_shot else MEAN} of {metric}"
    over = "alpha (weight of the result in the mixture)"
    svg = plots.curves(plot_name("mixtures", entry), lines, quantity, over)
    caption = f"Mixtures of the target stage with its start: {quantity} by alpha (WiSE-FT)."
    rows = [
        [path, f"{alpha:g}", *(spread("", np.array(of)) for of in zip(*values, strict=True))]
        for (path, alpha), values in sorted(found.items())
    ]
    header = ["condition", "alpha", f"dev {metric}", quantity]
    table = Table("Mixtures over seeds: 0 is the start, 1 the result.", header, rows, "lrrr")
    return [Figure(svg, caption), table]


def _mean(study: Study, run: Run, mixture: Mixture) -> float:
    """The zero-shot mean of a mixture, or else the mean over all languages."""
    only = dataclasses.replace(run, evaluations=mixture.evaluations)
    scores = Scores(dataclasses.replace(study, runs=[only], seeds=[run.seed]))
    means = scores.means(run.condition, study.metric)
    return float(means.get(ZERO_SHOT, means.get(MEAN, np.full(1, np.nan)))[0])
