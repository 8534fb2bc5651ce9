"""Looks of studies with sequential seeds, and changes of a design after there were results."""

from __future__ import annotations

from flaxfer.evaluation.records import Look
from flaxfer.report.data import ReportData
from flaxfer.report.document import Block, Table, Text
from flaxfer.report.formatting import DASH, SPACE, join, p_value, plural, signed

METHOD = (
    "All looks of a study share one level: each spends by its share of the information (Lan & "
    "DeMets 1983, with the function that resembles O'Brien & Fleming's boundary), so that an early "
    "look decides only about a large difference. Sequential p: the smallest level at which this "
    "look or an earlier one would reject, before the correction for other studies. The repeated "
    "intervals of all looks cover the difference together with 95%. Intervals and p values of "
    "these studies elsewhere in this report are of this kind, too. Needed seeds and examples are "
    "those of a study with one look; the last of 2 to 10 equally spaced looks takes up to 4% more."
)


def sequential_blocks(data: ReportData) -> list[Block]:
    """Return the looks, if seeds were sequential, and what was changed after results."""
    blocks: list[Block] = []
    records = [
        {
            "study": entry.name, "seeds": look.seeds,
            "of": max(entry.study.looks, default=look.seeds), "information": f"{look.share:.0%}",
            "difference": DASH if look.difference is None else signed(look.difference),
            "repeated interval": _interval(look), "p": p_value(look.p),
            "sequential p": p_value(look.p_sequential), "p of margin": p_value(look.p_equivalence),
            "sequential p of margin": p_value(look.p_equivalence_sequential),
            "decided": "yes" if look.decided else "no",
        }
        for entry in data.entries
        for look in entry.study.looked
    ]  # fmt: skip
    if records:
        plans = {tuple(entry.study.looks) for entry in data.entries if entry.study.looked}
        planned = "; ".join(join(map(str, looks)) for looks in sorted(plans))
        caption = f"Looks at the primary comparison, planned after {planned} seeds."
        blocks.append(Table(caption, records, "lrrrrrrrrrl", [METHOD]))
    changes = [(entry.name, text) for entry in data.entries for text in entry.study.design_changes]
    if changes:
        blocks.append(
            Text(
                f"{plural(len(changes), 'change')} of a design after there were results. A choice "
                "that depends on results makes false positives more frequent than the level says:",
                True,
            )
        )
        blocks += [Text(f"{name}: {text}") for name, text in changes]
    return blocks


def _interval(look: Look) -> str:
    if look.low is None or look.high is None:
        return DASH
    return f"[{signed(look.low)},{SPACE}{signed(look.high)}]"
