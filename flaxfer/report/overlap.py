"""Texts that splits share, and the sizes of the training splits."""

from __future__ import annotations

from flaxfer.report.data import ReportData
from flaxfer.report.document import Block, Table, Text
from flaxfer.report.formatting import plural


def overlap_blocks(data: ReportData) -> list[Block]:
    """Return the pairs of splits with shared or repeated texts."""
    pairs = [(entry, pair) for entry in data.entries for pair in entry.study.overlap]
    if not pairs:
        return []
    records = [
        {
            "study": entry.name, "kind": pair.between,
            "texts of": pair.a if pair.seed is None else f"{pair.a}, seed {pair.seed}",
            "in": "itself" if pair.a == pair.b else pair.b, "examples": pair.examples,
            "with a shared text": pair.texts, "whole examples": pair.pairs,
            "same label": pair.same_label, "too short to tell": pair.short,
            "share": f"{pair.share:.2%}", "left out": pair.removed,
        }
        for entry, pair in pairs
        if pair.texts or pair.pairs or pair.short or pair.removed
    ]  # fmt: skip
    summary = f"{plural(len(pairs), 'pair')} of splits compared by the normal form of their texts."
    if not records:
        return [Text(f"{summary} No text is shared or repeated.")]
    notes = [
        "Counted in examples of the second split. Left out: examples of the first that were not "
        "trained on because of the second."
    ]
    return [Table(f"{summary} Pairs with shared texts:", records, "llll", notes)]


def size_blocks(data: ReportData) -> list[Block]:
    """Return the ratio of the training splits, if there is an intermediate task."""
    records = [
        {
            "study": entry.name, "intermediate task": rule.intermediate, "target": rule.target,
            "ratio": f"{rule.ratio:.1f}", "ten to one": "yes" if rule.holds else "no",
        }
        for entry in data.entries
        if (rule := entry.study.size_rule)
    ]  # fmt: skip
    caption = "Training examples, and whether the intermediate task has ten times the target's."
    return [Table(caption, records, "lrrrl")] if records else []
