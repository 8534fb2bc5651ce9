"""The verdict on every study, in sentences and as the table "Targets by model"."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from flaxfer.report import plots
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Figure, Folded, Table, Text, Verdicts
from flaxfer.report.formatting import (
    amount,
    count_seeds,
    interval,
    join,
    p_value,
    plural,
    signed,
    spread,
)
from flaxfer.statistics.inference import Verdict
from flaxfer.statistics.records import Comparison, Estimate
from flaxfer.statistics.scores import DIFFERENCE, MEAN, ZERO_SHOT

VERDICTS: tuple[Verdict, ...] = ("helps", "hurts", "no evidence")


def verdict_blocks(data: ReportData) -> list[Block]:
    """Return the verdict on every study with its reasons, and the method behind them."""
    judged, blocks = data.judged, list[Block]()
    if len(judged) > 1:
        counts = Counter(comparison.all_runs.verdict for _, comparison in judged)
        summary = join(f"{verdict} in {counts[verdict]}" for verdict in VERDICTS)
        blocks.append(Text(f"{len(judged)} comparisons of staged with direct: {summary}.", True))
    if judged:
        sentences = [(one.all_runs.verdict, _sentence(entry, one)) for entry, one in judged]
        blocks += [Verdicts(sentences), Text(_method(data))]
    if len(judged) > 1:
        blocks.append(_plot(data))
    if data.evidence.notes:
        table = Table("Sets to look at.", [{"note": note} for note in data.evidence.notes], "l")
        blocks.append(Folded("Which examples are resampled together", [table]))
    if skipped := data.evidence.skipped:
        caption = "Sets and means that could not be compared."
        table = Table(caption, [{"why": reason} for reason in skipped], "l")
        blocks.append(Folded(f"Not compared: {plural(len(skipped), 'set or mean')}", [table]))
    return blocks


def _sentence(entry: Entry, comparison: Comparison) -> str:
    """Return the reasons of a verdict: the difference with its interval, p values, the seeds."""
    text = (
        f"{entry.intermediate} before {entry.target}, with {entry.model}: {DIFFERENCE} "
        f"{_difference(comparison.all_runs)} in {_score_name(entry, comparison)}; "
        f"{_certainty(comparison.all_runs)}."
    )
    if comparison.collapsed:
        runs = join(f"{run.condition} seed {run.seed}" for run in comparison.collapsed)
        text += f" Collapsed, and counted: {runs}; without, "
        if (rest := comparison.without_collapsed) is None:
            text += "a condition has no run left."
        else:
            text += f"{rest.verdict}: {_difference(rest)}; {_certainty(rest)}."
    if entry.study.failed:
        runs = join(f"{run.condition}/{run.stage} seed {run.seed}" for run in entry.study.failed)
        text += f" Diverged, and not counted: {runs}."
    return text


def _difference(estimate: Estimate) -> str:
    return f"{signed(estimate.difference)} {interval(estimate)}"


def _certainty(estimate: Estimate) -> str:
    """Return the p values and seeds, or that one seed is no evidence about other seeds."""
    seeds, p, p_holm = count_seeds(estimate), p_value(estimate.p), p_value(estimate.p_holm)
    if estimate.p_holm is None:
        return (
            f"{seeds}, so the interval is over examples alone (p {p}), conditional on these runs: "
            "it says nothing about other seeds"
        )
    return f"p {p}, after Holm's correction {p_holm}; {seeds}"


def _score_name(entry: Entry, comparison: Comparison) -> str:
    better = "" if comparison.larger_is_better else " (smaller is better)"
    if comparison.language not in (MEAN, ZERO_SHOT):
        return f"{comparison.metric}{better} of {comparison.language}"
    languages, _ = entry.scores.mean_languages[comparison.language]
    names = join(languages) if len(languages) < 6 else plural(len(languages), "language")
    return f"the {comparison.language} of {comparison.metric}{better} over {names}"


def _method(data: ReportData) -> str:
    """Return an explanation of the numbers in the sentences."""
    evidence = data.evidence
    text = (
        f"Brackets hold the {evidence.level:.0%} interval of the difference over seeds and "
        f"examples ({evidence.draws:,} resamples). Numbers here are rounded to three decimals; "
        "comparisons.csv has all digits. "
    )
    if all(comparison.all_runs.p_holm is None for _, comparison in data.judged):
        return f"{text}With one seed in a condition there is no verdict."
    means, sets = (
        sum(comparison.all_runs.p_holm is not None for comparison in family)
        for family in (evidence.means, evidence.comparisons)
    )
    return (
        f"{text}helps and hurts: p after Holm's correction is at most {evidence.alpha:g}; the "
        f"corrected families are all {plural(means, 'mean')} and all "
        f"{plural(sets, 'single set')}. No evidence is no evidence of equality."
    )


def _plot(data: ReportData) -> Figure:
    """Return the differences of all studies, one below the other."""
    names = [[entry.intermediate, entry.target, entry.model] for entry, _ in data.judged]
    # Names that all studies share are left out.
    differs = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    rows = [join(itertools.compress(row, differs)) for row in names]
    estimates = [comparison.all_runs for _, comparison in data.judged]
    svg, level = plots.intervals("verdicts", rows, estimates, DIFFERENCE), data.evidence.level
    return Figure(svg, f"{DIFFERENCE} with its {level:.0%} interval; a full point has a verdict.")


def target_blocks(data: ReportData) -> list[Block]:
    """Return the table of targets and models."""
    if not data.judged:
        return []
    records = []
    for entry, comparison in data.judged:
        estimate = comparison.all_runs
        records.append({
            "target": entry.target, "model": entry.model, "intermediate task": entry.intermediate,
            "verdict": estimate.verdict, "direct": spread(np.array(estimate.direct.scores)),
            "staged": spread(np.array(estimate.staged.scores)),
            DIFFERENCE: signed(estimate.difference), "interval": interval(estimate),
            "p after Holm": p_value(estimate.p_holm),
            "score": join([comparison.metric, comparison.language]), "p": p_value(estimate.p),
            "p over runs": p_value(estimate.p_seeds),
            "p over examples": p_value(estimate.p_examples),
            "effect size": amount(estimate.effect_size, 2), "needed seeds": estimate.needed_seeds,
        })  # fmt: skip
    least = max(comparison.all_runs.p_seeds_least for _, comparison in data.judged)
    notes = [
        "p over runs permutes the condition labels across runs; with this many runs its smallest "
        f"possible value is up to {least:.2g}. p over examples exchanges the predictions of both "
        "conditions, and is conditional on these runs.",
        "Effect size: Hedges' g over seeds. Needed seeds: seeds per condition to detect such a "
        "difference with power 0.8 at level 0.05; empty where there is no number.",
    ]
    caption = "Mean ± standard deviation over seeds, by target and model; all runs count."
    return [Table(caption, records, "llllrrrrrlrrrrr", notes)]
