"""The verdict on every study, in sentences and as the table "Targets by model"."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np

from flaxfer.evaluation.records import CONDITIONS
from flaxfer.report import plots
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Card, Figure, Folded, Table, Text, Verdicts
from flaxfer.report.formatting import (
    about,
    amount,
    count_seeds,
    interval,
    join,
    label,
    p_value,
    plural,
    share,
    signed,
    simultaneous_interval,
    spread,
    spreads,
)
from flaxfer.report.languages import CORRELATION_NOTE, interval_caption
from flaxfer.statistics.multiplicity import Verdict
from flaxfer.statistics.records import Comparison, Estimate
from flaxfer.statistics.scores import DIFFERENCE, MEAN, ZERO_SHOT


def verdict_blocks(data: ReportData) -> list[Block]:
    """Return the verdicts on all studies; their reasons and the method behind them are folded."""
    judged, blocks = data.judged, list[Block]()
    if len(judged) > 1:
        blocks += [Text(verdict_counts(data), True), _plot(data)]
    elif judged:
        blocks += [_card(*judged[0]), Text(_sentence(*judged[0]))]
    blocks += target_blocks(data)
    if len(judged) > 1:
        sentences = [(label(one.all_runs), _sentence(entry, one)) for entry, one in judged]
        blocks.append(Folded("Reasons, a sentence for each comparison", [Verdicts(sentences)]))
    if judged:
        blocks.append(Folded("What the numbers mean", [Text(_method(data))]))
    if data.evidence.notes:
        table = Table("Sets to look at.", [{"note": note} for note in data.evidence.notes], "l")
        blocks.append(Folded("Which examples are resampled together", [table]))
    if skipped := data.evidence.skipped:
        caption = "Sets and means that could not be compared."
        table = Table(caption, [{"why": reason} for reason in skipped], "l")
        blocks.append(Folded(f"Not compared: {plural(len(skipped), 'set or mean')}", [table]))
    return blocks


def verdict_counts(data: ReportData) -> str:
    """Return how many comparisons have each verdict."""
    counts = Counter[str](label(comparison.all_runs) for _, comparison in data.judged)
    always = ["helps", "hurts", "undecided"]
    if _margins(data):
        always.append("no relevant change")
    words = [word for word in get_args(Verdict) if counts[word] or word in always]
    words += [word for word in counts if word not in get_args(Verdict)]
    summary = join(f"{word} in {counts[word]}" for word in words).replace(", but", " but")
    return f"{len(data.judged)} comparisons of staged with direct: {summary}."


def _card(entry: Entry, comparison: Comparison) -> Card:
    """Return the verdict on a study at a glance."""
    estimate = comparison.all_runs
    what = f"{DIFFERENCE}: {score_name(entry, comparison)}"
    return Card(label(estimate), signed(estimate.difference), interval(estimate), what)


def _sentence(entry: Entry, comparison: Comparison) -> str:
    """Return the reasons of a verdict: the difference with its interval, p values, the seeds."""
    text = (
        f"{entry.intermediate} before {entry.target}, with {entry.model}: {DIFFERENCE} "
        f"{_difference(comparison.all_runs)} in {score_name(entry, comparison)}; "
        f"{_certainty(comparison.all_runs, comparison.paired)}. {_limits(comparison.all_runs)}"
    ).rstrip()
    if comparison.collapsed:
        runs = join(f"{run.condition} seed {run.seed}" for run in comparison.collapsed)
        text += f" Collapsed, and counted: {runs}; without, "
        if (rest := comparison.without_collapsed) is None:
            text += "no pair is left." if comparison.paired else "a condition has no run left."
        else:
            text += f"{label(rest)}: {_difference(rest)}; {_certainty(rest, comparison.paired)}."
    if entry.study.failed:
        runs = join(f"{run.condition}/{run.stage} seed {run.seed}" for run in entry.study.failed)
        text += f" Diverged, and not counted: {runs}."
    return text


def _difference(estimate: Estimate) -> str:
    return f"{signed(estimate.difference)} {interval(estimate)}"


def _certainty(estimate: Estimate, paired: bool) -> str:
    """Return the p values and seeds, or that one seed is no evidence about other seeds."""
    p, p_holm = p_value(estimate.p), p_value(estimate.p_holm)
    seeds = count_seeds(estimate)
    if paired:
        seeds = f"{plural(len(estimate.direct.seeds), 'pair')} of runs"
    if estimate.left_out:
        runs = join(f"{condition} seed {seed}" for condition, seed in estimate.left_out)
        seeds += f" (left out, as the pair is incomplete: {runs})"
    if estimate.p_holm is None:
        return (
            f"{seeds}, so the interval is over examples alone (p {p}), conditional on these runs: "
            "it says nothing about other seeds"
        )
    equivalence = ""
    if estimate.p_equivalence is not None:
        equivalence = (
            f"; for a difference of at least the margin, p {p_value(estimate.p_equivalence)}, "
            f"corrected {p_value(estimate.p_equivalence_holm)}"
        )
    return f"p {p}, after Holm's correction {p_holm}{equivalence}; {seeds}"


def _limits(estimate: Estimate) -> str:
    """Return the simultaneous interval, and what limits an estimate without a claim."""
    low, high = estimate.low_simultaneous, estimate.high_simultaneous
    if low is None or high is None:
        return ""
    sentences = [f"Simultaneous interval {simultaneous_interval(estimate)}."]
    differs = estimate.verdict not in ("undecided", "no relevant change")
    if not differs and not estimate.low <= 0 <= estimate.high:
        sentences.append("The interval without 0 is that of one comparison, not corrected.")
    if differs and low <= 0 <= high:
        sentences.append("The stepwise correction claims more than that interval, which holds 0.")
    if estimate.verdict == "undecided":
        sentences.append(f"Examples cause {share(estimate.examples_share)} of the variance.")
        sentences += filter(None, [_needs(estimate)])
    return " ".join(sentences)


def _needs(estimate: Estimate) -> str:
    """Return which larger study would find the observed difference; empty if none would."""
    seeds, examples, both = estimate.needed_seeds, estimate.needed_examples, estimate.needed_both
    if seeds and seeds <= min(len(estimate.direct.seeds), len(estimate.staged.seeds)):
        return (
            "Without looks, these seeds would find a difference of this size: early looks have a "
            "small part of the level."
        )
    start = "To find a difference of this size: "
    if seeds and examples:
        text = f"{start}more seeds: {seeds:,}, or a larger test set: about {about(examples)}"
        return f"{text} examples."
    if seeds:
        return f"{start}more seeds: {seeds:,}; no test set is large enough with these seeds."
    if examples:
        text = f"{start}a larger test set: about {about(examples)} examples"
        return f"{text}; no number of seeds is enough on this one."
    if both:
        text = f"{start}more seeds and a larger test set: {both[0]:,} seeds, about {about(both[1])}"
        return f"{text} examples; neither alone is enough."
    return ""


def score_name(entry: Entry, comparison: Comparison) -> str:
    """Return the compared score: the metric with its language, or with those of a mean."""
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
        f"comparisons.csv has all digits. {_analysis(data)} "
    )
    if all(comparison.all_runs.p_holm is None for _, comparison in data.judged):
        return f"{text}With one seed in a condition there is no verdict."
    primary, secondary = (
        sum(
            one.family == family and one.all_runs.p_holm is not None
            for one in (*evidence.comparisons, *evidence.means)
        )
        for family in ("primary", "secondary")
    )
    size = plural(primary, "comparison")
    text += (
        f"The primary family is the comparison that decides about each study: {size}. "
        f"helps and hurts: p after Holm's correction in this family is at most {evidence.alpha:g}. "
    )
    if margins := _margins(data):
        text += (
            f"no relevant change: the same holds of p of a difference of at least the margin "
            f"({join(margins)}), the larger one of two one-sided tests. As at most one of the two "
            "hypotheses of a comparison is true, the correction counts comparisons, not claims. "
        )
    else:
        text += "No margin was declared, so no study can show that there is no relevant change. "
    if primary > 1:
        level = f"{1 - evidence.alpha:.0%}"
        text += f"The simultaneous intervals, Bonferroni's, all hold at once with {level}. "
    if secondary:
        text += (
            f"The other comparisons ({secondary:,} single sets, means and transfer gaps) are "
            "secondary, and corrected as a family of their own. "
        )
    return f"{text}Undecided is no evidence of equality."


def _analysis(data: ReportData) -> str:
    """Return a sentence that says whether runs are paired by seed."""
    pairs = [comparison.paired for _, comparison in data.judged]
    if not any(pairs):
        return "Runs are not paired by seed: the variances of both conditions add up (Welch)."
    studies = "" if all(pairs) else f" in {sum(pairs)} of {len(pairs)} studies"
    return f"Runs of the same seed are paired{studies}, as declared in the config."


def _margins(data: ReportData) -> list[str]:
    """Return the declared margins by metric, each once."""
    margins = {(one.metric, one.margin) for _, one in data.judged if one.margin is not None}
    return [f"{metric} {margin:g}" for metric, margin in sorted(margins)]


def _plot(data: ReportData) -> Figure:
    """Return the differences of all studies, one below the other."""
    names = [[entry.intermediate, entry.target, entry.model] for entry, _ in data.judged]
    # Names that all studies share are left out.
    differs = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    rows = [join(itertools.compress(row, differs)) for row in names]
    comparisons = [comparison for _, comparison in data.judged]
    plot = plots.intervals("verdicts", rows, comparisons, DIFFERENCE)
    return plot.figure(interval_caption(DIFFERENCE, data.evidence.level, comparisons))


def target_blocks(data: ReportData) -> list[Block]:
    """Return the scores and differences by target and model, and their statistics, folded."""
    blocks: list[Block] = []
    if data.judged:
        tables = [_verdict_table(data), _evidence_table(data)]
        folded = tables if data.single else tables[1:]
        summary = "Intervals of all comparisons at once, p values, effect sizes, needed sizes"
        if data.single:
            summary = "All statistics of this comparison"
        blocks += [*([] if data.single else tables[:1]), Folded(summary, folded)]
    if unjudged := [entry for entry in data.entries if entry.headline is None]:
        blocks += [] if data.single else [_score_table(unjudged)]
    return blocks


def _verdict_table(data: ReportData) -> Table:
    records = []
    for entry, comparison in data.judged:
        estimate = comparison.all_runs
        records.append({
            "target": entry.target, "model": entry.model, "intermediate task": entry.intermediate,
            "score": join([comparison.metric, comparison.language]), "verdict": label(estimate),
            "direct": spread(np.array(estimate.direct.scores)),
            "staged": spread(np.array(estimate.staged.scores)),
            DIFFERENCE: signed(estimate.difference), "interval": interval(estimate),
            "p after Holm": p_value(estimate.p_holm),
        })  # fmt: skip
    caption = "Mean ± standard deviation over seeds, by target and model; all runs count."
    return Table(caption, records, "lllll")


def _evidence_table(data: ReportData) -> Table:
    records = []
    for entry, comparison in data.judged:
        estimate = comparison.all_runs
        records.append({
            "target": entry.target, "model": entry.model, "intermediate task": entry.intermediate,
            "simultaneous interval": simultaneous_interval(estimate),
            "p": p_value(estimate.p), "p after Holm": p_value(estimate.p_holm),
            "p of margin after Holm": p_value(estimate.p_equivalence_holm),
            "p over runs": p_value(estimate.p_seeds),
            "p over examples": p_value(estimate.p_examples),
            "effect size": amount(estimate.effect_size, 2),
            "seed correlation": amount(estimate.seed_correlation, 2),
            "variance of examples": share(estimate.examples_share),
            "needed seeds": estimate.needed_seeds, "needed examples": estimate.needed_examples,
        })  # fmt: skip
    least = max(comparison.all_runs.p_seeds_least for _, comparison in data.judged)
    notes = [
        "p over runs permutes the condition labels across runs, or within pairs; with this many "
        f"runs its smallest possible value is up to {least:.2g}. p over examples exchanges the "
        "predictions of both conditions, and is conditional on these runs.",
        "Effect size: Hedges' g over seeds. Variance of examples: share of the variance of the "
        "difference that all runs share, so that more seeds do not reduce it. Needed seeds, needed "
        "examples: seeds per condition on these examples, or examples with these seeds, to detect "
        "such a difference with power 0.8 after the correction; empty where no number is enough.",
        CORRELATION_NOTE,
        "p of margin: of a difference of at least the margin; a dash where none was declared.",
    ]
    return Table("Statistics of the comparisons, by target and model.", records, "lll", notes)


def _score_table(entries: Sequence[Entry]) -> Table:
    """Return the scores of studies that compare nothing, such as those of direct runs alone."""
    records = []
    for entry in entries:
        means = entry.scores.mean_columns(entry.study.metric)
        name = ZERO_SHOT if ZERO_SHOT in means else MEAN
        columns = spreads(means.get(name, {}))
        records.append(
            {"target": entry.target, "model": entry.model, "intermediate task": entry.intermediate}
            | {"score": join([entry.study.metric, name])}
            | {condition: columns.get(condition, "") for condition in CONDITIONS}
        )
    caption = "Scores without a comparison: mean ± standard deviation over seeds."
    return Table(caption, records, "llll")
