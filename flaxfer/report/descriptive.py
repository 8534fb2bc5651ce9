"""Descriptive statistics of the comparisons, if they were asked for: a folded table and columns."""

from __future__ import annotations

from typing import Any

from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Folded, Table
from flaxfer.report.formatting import SPACE, join, p_value, signed
from flaxfer.statistics.descriptive import Described
from flaxfer.statistics.records import Comparison
from flaxfer.statistics.scores import DIFFERENCE

COLUMNS = (
    "multi_low", "multi_high", "multi_p", "better", "better_low", "better_high", "violation",
    "violation_sd", "epsilon_min_staged", "epsilon_min_direct", "epsilon_min_comparisons",
)  # fmt: skip
"""Columns of `columns`."""


def columns(
    data: ReportData, entry: Entry, comparison: Comparison, all_runs: bool = True
) -> dict[str, Any]:
    """Return the descriptive statistics of a comparison by column; empty if it has none.

    The bounds of almost stochastic order hold for all comparisons that give a verdict at once, or
    for all others.
    """
    described = data.descriptive.get(_key(entry, comparison, all_runs))
    if described is None:
        return {}
    comparisons = sum(
        _key(other, one, all_runs) in data.descriptive
        for other in data.entries
        for one in (*other.comparisons, *other.means)
        if one.family == comparison.family
    )
    staged, direct = described.bounds(data.evidence.alpha, comparisons)
    bounds = {"epsilon_min_staged": staged, "epsilon_min_direct": direct}
    return {**vars(described), **bounds, "epsilon_min_comparisons": comparisons}


def _key(entry: Entry, comparison: Comparison, all_runs: bool) -> Described:
    return Described(str(entry.workdir), comparison.language, comparison.set, all_runs)


def descriptive_blocks(data: ReportData) -> list[Block]:
    """Return the table of the comparisons that give the verdicts."""
    records = []
    for entry, comparison in data.judged:
        if not (one := columns(data, entry, comparison)):
            continue
        records.append({
            "target": entry.target, "model": entry.model, "intermediate task": entry.intermediate,
            "score": join([comparison.metric, comparison.language]),
            "multi-bootstrap": f"[{signed(one['multi_low'])},{SPACE}{signed(one['multi_high'])}]",
            "p": p_value(one["multi_p"]), "P(staged better)": f"{one['better']:.2f}",
            "interval": f"[{one['better_low']:.2f},{SPACE}{one['better_high']:.2f}]",
            "violation ratio": f"{one['violation']:.3f}",
            "ε min, staged better": f"{one['epsilon_min_staged']:.3f}",
            "ε min, direct better": f"{one['epsilon_min_direct']:.3f}",
        })  # fmt: skip
    if not records:
        return []
    level, alpha = data.evidence.level, data.evidence.alpha
    notes = [
        f"Multi-bootstrap (Sellam et al. 2022): {level:.0%} interval and p value of {DIFFERENCE} "
        "by resampling examples and seeds, as pairs in studies with `paired`. With few seeds the "
        "interval is too short.",
        "P(staged better): share of the pairs of runs in which the staged one is better; ties "
        f"count half (Bouthillier et al. 2021). {level:.0%} interval of Newcombe (2006).",
        "Violation ratio of almost stochastic order (Dror et al. 2019): 0 if staged is better in "
        "every quantile of the scores, 1 if direct is. ε min bounds the ratio of each claim from "
        f"above, with {1 - alpha:.0%} for all {len(records)} rows at once (Bonferroni). It is too "
        "small for equal conditions: in simulations with 3 to 20 seeds, the bound of one "
        "comparison was below 0.5 in 17 to 24 % of studies, and below 0.2 in 3 to 9 %.",
    ]
    caption = "Statistics that other papers report. No verdict depends on them."
    table = Table(caption, records, "llll", notes)
    return [Folded("Multi-bootstrap, probability of improvement, almost stochastic order", [table])]
