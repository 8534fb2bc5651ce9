"""What may be wrong with a comparison: leakage, sizes, runs that collapsed or diverged."""

from __future__ import annotations

from flaxfer.report.document import Block, Cell, Heading, Table, Text
from flaxfer.report.material import Entry, Material
from flaxfer.report.verdicts import judged
from flaxfer.report.wording import DASH, interval, join, plural, seeds_of, signed
from flaxfer.statistics.records import Comparison, Estimate
from flaxfer.statistics.scores import DIFFERENCE


def leakage_blocks(material: Material) -> list[Block]:
    """Texts that splits share, and the sizes of the train splits."""
    blocks: list[Block] = []
    counted = [entry for entry in material.entries if entry.study.overlap]
    if counted:
        blocks += [Heading("Overlap and leakage"), *_overlap(counted)]
    if any(entry.study.size_rule for entry in material.entries):
        blocks += [Heading("Sizes of the tasks"), _sizes(material)]
    return blocks


def _overlap(entries: list[Entry]) -> list[Block]:
    header = [
        "study", "kind", "texts of", "in", "examples", "with a shared text", "whole examples",
        "same label", "too short to tell", "share", "left out",
    ]  # fmt: skip
    rows, looked = [], 0
    for entry in entries:
        for one in entry.study.overlap:
            looked += 1
            if one.texts or one.pairs or one.short or one.removed:
                counts = (one.examples, one.texts, one.pairs, one.same_label, one.short)
                numbers = ["" if count is None else f"{count:,}" for count in counts]
                inside = "itself" if one.a == one.b else one.b
                rows.append([
                    entry.name, one.between, one.a, inside, *numbers, f"{one.share:.2%}",
                    f"{one.removed:,}",
                ])  # fmt: skip
    told = f"{plural(looked, 'pair')} of splits compared by the normal form of their texts."
    if not rows:
        return [Text(f"{told} Nothing is shared, nor repeated.")]
    notes = [
        "Counted in examples of the second split. Left out: examples of the first that were not "
        "trained on because of the second."
    ]
    return [Table(f"{told} Those with something in common:", header, rows, "llllrrrrrrr", notes)]


def _sizes(material: Material) -> Table:
    rows = []
    for entry in material.entries:
        if (rule := entry.study.size_rule) is not None:
            sizes = [f"{rule.intermediate:,}", f"{rule.target:,}", f"{rule.ratio:.1f}"]
            rows.append([entry.name, *sizes, "yes" if rule.holds else "no"])
    caption = "Examples to train on, and whether the intermediate task has ten times the target's."
    header = ["study", "intermediate task", "target", "ratio", "ten to one"]
    return Table(caption, header, rows, "lrrrl")


def run_blocks(material: Material) -> list[Block]:
    """Runs that have collapsed, with what the results are without them, and runs that diverged."""
    return [
        Heading("Collapsed and diverged runs"),
        *_collapsed(material),
        *_without(material),
        *_not_transferred(material),
        *_restarted(material),
        *_failed(material),
    ]


def _collapsed(material: Material) -> list[Block]:
    rows: list[list[Cell]] = []
    for entry in material.entries:
        folders = {run.id: entry.folder(run) for run in entry.study.runs}
        rows += [
            [
                entry.name, one.language, one.set, run.condition, str(run.seed), run.why,
                material.link(folders[run.stage_id]),
            ]
            for one in entry.comparisons
            for run in one.collapsed
        ]  # fmt: skip
    if not material.evidence.comparisons:
        return [Text("No set was compared, so nothing is known of collapsed runs.")]
    if not rows:
        compared = plural(len(material.evidence.comparisons), "comparison")
        return [Text(f"No run has collapsed in any of {compared}.")]
    header = ["study", "language", "set", "condition", "seed", "why", "folder"]
    return [Table("Runs that have collapsed; all results count them.", header, rows, "llllrll")]


def _not_transferred(material: Material) -> list[Block]:
    """Where runs that have learned have nothing of it: a result, and none to be kept apart."""
    rows = []
    for entry in material.entries:
        for one in entry.comparisons:
            seeds: dict[str, list[str]] = {}
            why: dict[str, str] = {}
            for run in one.not_transferred:
                seeds.setdefault(run.condition, []).append(str(run.seed))
                why.setdefault(run.condition, run.why)
            rows += [
                [entry.name, one.language, one.set, path, join(own), why[path]]
                for path, own in seeds.items()
            ]
    if not rows:
        return []
    caption = "Sets that runs have learned nothing for, which have learned where they were trained."
    header = ["study", "language", "set", "condition", "seeds", "why, the first of them"]
    return [Table(caption, header, rows, "llllll", ["They have not collapsed: it is a result."])]


def _without(material: Material) -> list[Block]:
    """The headlines that collapsed runs are part of, with and without them."""
    touched = [(entry, one) for entry, one in judged(material) if one.collapsed]
    if not touched:
        return []
    header = ["study", "runs", "seeds", DIFFERENCE, "interval", "verdict"]
    rows = []
    for entry, one in touched:
        rows.append([entry.name, "all", *_told(one.all_runs)])
        rows.append([entry.name, "without collapsed", *_told(one.without_collapsed)])
    scores = join(dict.fromkeys(_score(one) for _, one in touched))
    return [Table(f"Results with collapsed runs and without: {scores}.", header, rows, "lllrrl")]


def _score(one: Comparison) -> str:
    return f"{one.metric}, {one.language}"


def _told(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["a path has none left", DASH, DASH, DASH]
    difference = signed(estimate.difference)
    return [seeds_of(estimate), difference, interval(estimate), estimate.verdict]


def _restarted(material: Material) -> list[Block]:
    """What the restart policy did; nothing where none is configured."""
    rows = [
        [
            entry.name, run.condition, run.stage, str(run.seed), str(number), str(one.attempt_seed),
            f"{one.steps:,}", one.why,
        ]
        for entry in material.entries
        for run in entry.study.runs
        for number, one in enumerate(run.restarts, 1)
    ]  # fmt: skip
    if rows:
        caption = "Attempts that were given up; the run began anew, and no result counts them."
        header = ["study", "condition", "stage", "seed", "attempt", "draws from", "steps", "why"]
        return [Table(caption, header, rows, "lllrrrrl")]
    stages = [
        stage
        for entry in material.entries
        for name in ("intermediate", "target")
        if (stage := entry.study.config.get(name))
    ]
    if any(stage.get("max_restarts") for stage in stages):
        return [Text("Runs that had not learned would have begun anew; there was none.")]
    return []


def _failed(material: Material) -> list[Block]:
    rows = [
        [entry.name, one.condition, one.stage, str(one.seed), one.error]
        for entry in material.entries
        for one in entry.study.failed
    ]
    if not rows:
        return [Text("No run has diverged.")]
    header = ["study", "condition", "stage", "seed", "why"]
    return [Table("Runs that have diverged; no result counts them.", header, rows, "lllrl")]
