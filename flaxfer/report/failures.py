"""Runs that collapsed, transferred nothing, restarted, or diverged."""

from __future__ import annotations

from flaxfer.report.data import ReportData
from flaxfer.report.document import Block, Table, Text
from flaxfer.report.formatting import DASH, count_seeds, interval, join, plural, signed
from flaxfer.statistics.scores import DIFFERENCE
from flaxfer.statistics.sets import COMPARED


def failure_blocks(data: ReportData) -> list[Block]:
    """Return collapsed runs, the results without them, and restarted and diverged runs."""
    return [
        *_collapsed(data),
        *_without_collapsed(data),
        *_not_transferred(data),
        *_restarted(data),
        _diverged(data),
    ]


def _collapsed(data: ReportData) -> list[Block]:
    if not data.evidence.comparisons:
        return [Text("No set was compared, so collapsed runs are unknown.")]
    records = []
    for entry in data.entries:
        folders = {run.id: entry.folder(run) for run in entry.study.runs}
        records += [
            {
                "study": entry.name, "language": one.language, "set": one.set,
                "condition": run.condition, "seed": str(run.seed), "why": run.why,
                "folder": data.link(folders[run.stage_id]),
            }
            for one in entry.comparisons
            for run in one.collapsed
        ]  # fmt: skip
    if records:
        return [Table("Runs that have collapsed; all results count them.", records, "llllrll")]
    compared = plural(len(data.evidence.comparisons), "comparison")
    return [Text(f"No run has collapsed in any of {compared}.")]


def _without_collapsed(data: ReportData) -> list[Block]:
    """Return the headlines that include collapsed runs, with and without those runs."""
    affected = [(entry, one) for entry, one in data.judged if one.collapsed]
    records = []
    for entry, one in affected:
        for runs, estimate in (("all", one.all_runs), ("without collapsed", one.without_collapsed)):
            none_left = "no pair is left" if one.paired else "a condition has none left"
            seeds = count_seeds(estimate) if estimate else none_left
            records.append({
                "study": entry.name, "runs": runs, "seeds": seeds,
                DIFFERENCE: signed(estimate.difference) if estimate else DASH,
                "interval": interval(estimate) if estimate else DASH,
                "verdict": estimate.verdict if estimate else DASH,
            })  # fmt: skip
    scores = join(dict.fromkeys(f"{one.metric}, {one.language}" for _, one in affected))
    caption = f"Results with collapsed runs and without: {scores}."
    return [Table(caption, records, "lllrrl")] if records else []


def _not_transferred(data: ReportData) -> list[Block]:
    """Return the sets on which runs that have not collapsed have learned nothing."""
    records = [
        {
            "study": entry.name, "language": one.language, "set": one.set,
            "condition": condition, "seeds": join(str(run.seed) for run in runs),
            "why, the first of them": runs[0].why,
        }
        for entry in data.entries
        for one in entry.comparisons
        for condition in COMPARED
        if (runs := [run for run in one.not_transferred if run.condition == condition])
    ]  # fmt: skip
    caption = (
        "Sets on which runs have learned nothing, although they have learned something in a "
        "language of their training."
    )
    notes = ["They have not collapsed: it is a result."]
    return [Table(caption, records, "llllll", notes)] if records else []


def _restarted(data: ReportData) -> list[Block]:
    """Return the attempts that were given up, or that no run needed the configured restarts."""
    records = [
        {
            "study": entry.name, "condition": run.condition, "stage": run.stage,
            "seed": str(run.seed), "attempt": str(number), "attempt seed": str(one.attempt_seed),
            "steps": one.steps, "why": one.why,
        }
        for entry in data.entries
        for run in entry.study.runs
        for number, one in enumerate(run.restarts, 1)
    ]  # fmt: skip
    if records:
        caption = "Attempts that were given up; the run was restarted, and no result counts them."
        return [Table(caption, records, "lllrrrrl")]
    configs = (entry.study.config for entry in data.entries)
    stages = (config.get(name) for config in configs for name in ("intermediate", "target"))
    if any(stage and stage.get("max_restarts") for stage in stages):
        return [Text("Runs that learn nothing would have been restarted; there were none.")]
    return []


def _diverged(data: ReportData) -> Block:
    records = [
        {
            "study": entry.name, "condition": one.condition, "stage": one.stage,
            "seed": str(one.seed), "why": one.error,
        }
        for entry in data.entries
        for one in entry.study.failed
    ]  # fmt: skip
    caption = "Runs that have diverged; no result counts them."
    return Table(caption, records, "lllrl") if records else Text("No run has diverged.")
