"""The numbers of a report as csv and LaTeX."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from flaxfer.report import descriptive
from flaxfer.report.data import ReportData
from flaxfer.report.formatting import p_value, signed
from flaxfer.statistics.records import ConditionScores
from flaxfer.statistics.scores import scored

NAME_COLUMNS = ("study", "model", "intermediate", "target")
RESULT_COLUMNS = (
    *NAME_COLUMNS, "condition", "seed", "stage", "set", "language", "domain", "n", "metric",
    "value", "stage_id",
)  # fmt: skip
COMPARISON_COLUMNS = (
    *NAME_COLUMNS, "metric", "larger_is_better", "language", "set", "n", "units", "at_chance",
    "family", "margin", "paired", "runs", "direct_seeds", "staged_seeds", "left_out", "direct_mean",
    "direct_sd", "staged_mean", "staged_sd", "difference", "low", "high", "level", "over", "p",
    "p_equivalence", "p_holm", "p_equivalence_holm", "alpha_holm", "low_simultaneous",
    "high_simultaneous", "level_simultaneous", "p_seeds", "p_seeds_least", "p_examples",
    "pooled_sd", "effect_size", "seed_correlation", "variance_examples", "variance_seeds",
    "variance_interaction", "examples_share", "needed_seeds", "needed_examples", "needed_both",
    "verdict", "collapsed",
)  # fmt: skip

TEX_COLUMNS = (
    "target", "model", "intermediate", "metric", "direct", "staged", "staged $-$ direct", "$p$",
    r"$p_\mathrm{eq}$", "verdict",
)  # fmt: skip
TEX_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "[": "{[}",  # After the end of a row it would begin an optional argument.
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def results_csv(data: ReportData) -> str:
    """Return every score of every run; undefined scores and the domains of whole sets are empty."""
    return _csv(RESULT_COLUMNS, [
        {
            **vars(entry), **vars(run), **vars(row), "study": entry.name,
            "metric": metric, "value": value, "stage_id": run.id,
        }
        for entry in data.entries
        for run in entry.study.runs
        for evaluation in run.evaluations
        for row, metrics in scored(evaluation)
        for metric, value in metrics.items()
    ])  # fmt: skip


def comparisons_csv(data: ReportData) -> str:
    """Return every comparison, over all runs and, where some have collapsed, without those.

    The comparison of the primary `family` gives the verdict on its study. `needed_both` has seeds
    and examples. Missing numbers, such as the standard deviation of one run, are empty. The
    descriptive statistics have columns if they were computed.
    """
    added = descriptive.COLUMNS if data.descriptive else ()
    return _csv((*COMPARISON_COLUMNS, *added), [
        {
            **vars(entry), **vars(one), **vars(estimate), "study": entry.name,
            **_condition("direct", estimate.direct), **_condition("staged", estimate.staged),
            "larger_is_better": "yes" if one.larger_is_better else "no",
            "at_chance": "yes" if one.at_chance else "no",
            "paired": "yes" if one.paired else "no",
            "left_out": " ".join(f"{condition}:{seed}" for condition, seed in estimate.left_out),
            "needed_both": " ".join(map(str, estimate.needed_both or ())),
            "runs": runs, "level": data.evidence.level,
            "collapsed": " ".join(f"{run.condition}:{run.seed}" for run in one.collapsed),
            **descriptive.columns(data, entry, one, all_runs=runs == "all"),
        }
        for entry in data.entries
        for one in (*entry.comparisons, *entry.means)
        for runs, estimate in (("all", one.all_runs), ("without collapsed", one.without_collapsed))
        if estimate is not None
    ])  # fmt: skip


def _condition(name: str, scores: ConditionScores) -> dict[str, Any]:
    seeds = " ".join(map(str, scores.seeds))
    return {f"{name}_seeds": seeds, f"{name}_mean": scores.mean, f"{name}_sd": scores.sd}


def _csv(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    # As objects, integers with gaps stay integers and floats keep all their digits.
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def results_tex(data: ReportData) -> str:
    """Return the primary comparisons as a `tabular` for the package booktabs.

    Verdicts other than `undecided` are bold.
    """
    rows: list[list[str]] = []
    target = None
    for entry, comparison in data.judged:
        estimate = comparison.all_runs
        difference, low, high = map(signed, (estimate.difference, estimate.low, estimate.high))
        verdict = estimate.verdict
        group = "" if target is None else "\\addlinespace\n"
        rows.append([
            "" if entry.target == target else group + tex(entry.target),
            *map(tex, (entry.model, entry.intermediate, comparison.metric)),
            _tex_score(estimate.direct), _tex_score(estimate.staged),
            f"${difference}$ $[{low}, {high}]$",
            _tex_p(estimate.p_holm), _tex_p(estimate.p_equivalence_holm),
            verdict if verdict == "undecided" else rf"\textbf{{{verdict}}}",
        ])  # fmt: skip
        target = entry.target
    frame = pd.DataFrame(rows, columns=TEX_COLUMNS)
    table = frame.to_latex(index=False, escape=False, column_format="llllrrrrrl")
    return (
        r"% Needs \usepackage{booktabs} and, for names beyond ASCII, a Unicode engine or font."
        f"\n{table}% Brackets: {100 * data.evidence.level:.0f}\\% interval over seeds and "
        "examples; p after Holm's correction: of no difference, and of a difference of at least "
        "the margin (eq).\n"
    )


def tex(text: str) -> str:
    """Return the text on one line, with all LaTeX characters escaped."""
    escaped = "".join(TEX_ESCAPES.get(c, c) for c in " ".join(text.split()))
    return re.sub("-(?=-)", "-{}", escaped)  # Two hyphens would become a dash.


def _tex_p(p: float | None) -> str:
    return "--" if p is None else f"${p_value(p)}$"


def _tex_score(scores: ConditionScores) -> str:
    spread = "" if scores.sd is None else rf" \pm {scores.sd:.3f}"
    return f"${scores.mean:.3f}{spread}$"
