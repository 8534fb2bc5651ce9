"""Texts that splits share, and the sizes of the training splits."""

from __future__ import annotations

from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Heading, Table, Text
from flaxfer.report.formatting import plural


def overlap_blocks(data: ReportData) -> list[Block]:
    """Return the overlap between splits, and whether the intermediate task is large enough."""
    blocks: list[Block] = []
    if compared := [entry for entry in data.entries if entry.study.overlap]:
        blocks += [Heading("Overlap and leakage"), _overlap(compared)]
    if sized := [entry for entry in data.entries if entry.study.size_rule]:
        blocks += [Heading("Sizes of the tasks"), _sizes(sized)]
    return blocks


def _overlap(entries: list[Entry]) -> Block:
    pairs = [(entry, pair) for entry in entries for pair in entry.study.overlap]
    records = [
        {
            "study": entry.name, "kind": pair.between, "texts of": pair.a,
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
        return Text(f"{summary} No text is shared or repeated.")
    notes = [
        "Counted in examples of the second split. Left out: examples of the first that were not "
        "trained on because of the second."
    ]
    return Table(f"{summary} Pairs with shared texts:", records, "llll", notes)


def _sizes(entries: list[Entry]) -> Table:
    records = [
        {
            "study": entry.name, "intermediate task": rule.intermediate, "target": rule.target,
            "ratio": f"{rule.ratio:.1f}", "ten to one": "yes" if rule.holds else "no",
        }
        for entry in entries
        if (rule := entry.study.size_rule)
    ]  # fmt: skip
    caption = "Training examples, and whether the intermediate task has ten times the target's."
    return Table(caption, records, "lrrrl")
