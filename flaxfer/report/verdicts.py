"""What the studies say about the intermediate task, sentence by sentence, and as one table."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from flaxfer.report import plots
from flaxfer.report.document import Block, Figure, Folded, Heading, Table, Text, Verdicts
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import amount, interval, join, p_value, plural, scored, seeds_of, signed
from flaxfer.statistics.inference import Verdict
from flaxfer.statistics.records import Comparison, Estimate, Evidence
from flaxfer.statistics.scores import DIFFERENCE, MEAN, ZERO_SHOT, Scores

VERDICTS: tuple[Verdict, ...] = ("helps", "hurts", "no evidence")

Judged = Sequence[tuple[Entry, Comparison]]
"""Studies with the comparison that their verdict is of."""


def judged(material: Material) -> Judged:
    """The studies that have a verdict, target by target."""
    targets = list(dict.fromkeys(entry.target for entry in material.entries))
    entries = sorted(material.entries, key=lambda entry: targets.index(entry.target))
    return [(entry, one) for entry in entries if (one := entry.headline) is not None]


def verdict_blocks(material: Material) -> list[Block]:
    """The verdict on every study, and how it was reached."""
    found = judged(material)
    blocks: list[Block] = []
    if len(found) > 1:
        counts = Counter(one.all_runs.verdict for _, one in found)
        told = join(f"{word} in {counts[word]}" for word in VERDICTS)
        text = f"{len(found)} comparisons of staged with direct: {told}."
        blocks.append(Text(text, True))
    if found:
        items = [(one.all_runs.verdict, sentence(entry, one)) for entry, one in found]
        blocks.append(Verdicts(items))
        blocks.append(Text(_how(material.evidence, found)))
    if len(found) > 1:
        blocks.append(_plot(found, material.evidence.level))
    if skipped := material.evidence.skipped:
        rows = [[text] for text in skipped]
        table = Table("What could not be compared.", ["why"], rows, "l")
        blocks.append(Folded(f"Not compared: {plural(len(rows), 'set or mean')}", [table]))
    return blocks


def sentence(entry: Entry, one: Comparison) -> str:
    """The reasons of a verdict: the difference with its interval, p, the seeds."""
    before = entry.intermediate or "the intermediate task"
    text = f"{before} before {entry.target}, with {entry.model}: {DIFFERENCE} "
    text += f"{_difference(one.all_runs)} in {_measured(entry, one)}; {_certainty(one.all_runs)}."
    if one.collapsed:
        runs = join(f"{run.condition} seed {run.seed}" for run in one.collapsed)
        text += f" Collapsed, and counted: {runs}; without, "
        if (without := one.without_collapsed) is None:
            text += "a path has no run left."
        else:
            text += f"{without.verdict}: {_difference(without)}; {_certainty(without)}."
    if entry.study.failed:
        runs = join(f"{run.condition}/{run.stage} seed {run.seed}" for run in entry.study.failed)
        text += f" Diverged, and not counted: {runs}."
    return text


def _difference(estimate: Estimate) -> str:
    return f"{signed(estimate.difference)} {interval(estimate)}"


def _certainty(estimate: Estimate) -> str:
    """The p values and seeds, or that this is no evidence about other seeds."""
    if estimate.p_holm is None:
        return (
            f"{seeds_of(estimate)}, so the interval is over examples alone (p "
            f"{p_value(estimate.p)}), conditional on these runs: it says nothing of other seeds"
        )
    return (
        f"p {p_value(estimate.p)}, after Holm's correction {p_value(estimate.p_holm)}; "
        f"{seeds_of(estimate)}"
    )


def _measured(entry: Entry, one: Comparison) -> str:
    """Which score, of which languages."""
    better = "" if one.larger_is_better else " (smaller is better)"
    if one.language not in (MEAN, ZERO_SHOT):
        return f"{one.metric}{better} of {one.language}"
    scores = Scores(entry.study)
    languages = scores.zero_shot + (scores.trained if one.language == MEAN else [])
    names = join(languages) if len(languages) < 6 else plural(len(languages), "language")
    return f"the {one.language} of {one.metric}{better} over {names}"


def _how(evidence: Evidence, found: Judged) -> str:
    """What the numbers are."""
    means, sets = (
        [one.all_runs.p_holm is not None for one in family]
        for family in (evidence.means, evidence.comparisons)
    )
    text = (
        f"Brackets hold the {evidence.level:.0%} interval of the difference over seeds and "
        f"examples ({evidence.draws:,} resamples). Three decimals here; comparisons.csv has all "
        "digits. "
    )
    if all(one.all_runs.p_holm is None for _, one in found):
        return f"{text}With one seed in a path there is no verdict."
    return (
        f"{text}helps and hurts: p after Holm's correction is at most {evidence.alpha:g}; the "
        f"corrected families are all {plural(sum(means), 'mean')} and all "
        f"{plural(sum(sets), 'single set')}. No evidence is no evidence of equality."
    )


def _plot(found: Judged, level: float) -> Figure:
    """The differences of all studies, one below the other."""
    estimates = [one.all_runs for _, one in found]
    names = [[entry.intermediate, entry.target, entry.model] for entry, _ in found]
    # What all have in common is no name of a row.
    told = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    rows = [", ".join(itertools.compress(own, told)) for own in names]
    svg = plots.intervals(
        "verdicts",
        rows,
        np.array([one.difference for one in estimates]),
        np.array([(one.low, one.high) for one in estimates]),
        [one.verdict != "no evidence" for one in estimates],
        DIFFERENCE,
    )
    caption = f"{DIFFERENCE} with its {level:.0%} interval; a full point has a verdict."
    return Figure(svg, caption)


def target_blocks(material: Material) -> list[Block]:
    """The table of targets and models."""
    found = judged(material)
    if not found:
        return []
    header = [
        "target", "model", "intermediate task", "verdict", "direct", "staged", DIFFERENCE,
        "interval", "p after Holm", "score", "p", "p over runs", "p over examples", "effect size",
        "needed seeds",
    ]  # fmt: skip
    rows = []
    for entry, one in found:
        all_runs = one.all_runs
        rows.append([
            entry.target, entry.model, entry.intermediate, all_runs.verdict,
            scored(all_runs.direct), scored(all_runs.staged), signed(all_runs.difference),
            interval(all_runs), p_value(all_runs.p_holm), join([one.metric, one.language]),
            p_value(all_runs.p), p_value(all_runs.p_seeds), p_value(all_runs.p_examples),
            amount(all_runs.effect_size, 2), amount(all_runs.needed_seeds),
        ])  # fmt: skip
    least = max(one.all_runs.p_seeds_least for _, one in found)
    notes = [
        "p over runs deals the names of the paths to the runs anew; with so many runs its smallest "
        f"possible value is up to {least:.2g}. p over examples exchanges the predictions of both "
        "paths, and is conditional on these runs.",
        "Effect size: Hedges' g over seeds. Needed seeds: of each path, to find such a difference "
        "with power 0.8 at level 0.05; empty where there is no number.",
    ]
    caption = "Mean ± standard deviation over seeds, by target and model; all runs count."
    table = Table(caption, header, rows, "llllrrrrrlrrrrr", notes)
    return [Heading("Targets by model"), table]
