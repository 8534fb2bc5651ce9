"""The numbers of a report as files for other programs: two of CSV, one of LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

from flaxfer.report.material import Entry, Material
from flaxfer.report.verdicts import judged
from flaxfer.report.wording import p_value, signed
from flaxfer.statistics.records import Comparison, ConditionScores, Estimate
from flaxfer.statistics.scores import scored

RESULT_COLUMNS = (
    "study", "model", "intermediate", "target", "condition", "seed", "stage", "set", "language",
    "domain", "n", "metric", "value", "stage_id",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "study", "model", "intermediate", "target", "metric", "larger_is_better", "language", "set",
    "n", "headline", "runs", "direct_seeds", "staged_seeds", "direct_mean", "direct_sd",
    "staged_mean", "staged_sd", "difference", "low", "high", "level", "over", "p", "p_holm",
    "p_seeds", "p_seeds_least", "p_examples", "pooled_sd", "effect_size", "needed_seeds",
    "verdict", "collapsed",
)  # fmt: skip

TEX_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
"""What stands for a character of text."""


def results_csv(material: Material) -> str:
    """Every score of every run, one a line; empty where undefined, no domain for a whole set."""
    lines = (
        (*_names(entry), run.condition, run.seed, run.stage, row.set, row.language, row.domain,
         row.n, metric, _digits(value), run.id)
        for entry in material.entries
        for run in entry.study.runs
        for evaluation in run.evaluations
        for row, metrics in scored(evaluation)
        for metric, value in metrics.items()
    )  # fmt: skip
    return _csv(RESULT_COLUMNS, lines)


def comparisons_csv(material: Material) -> str:
    """Every comparison, over all runs and, where some have collapsed, without them.

    `headline` marks the one that the verdict of its study is of. Where there is no number, as of a
    standard deviation of one run, nothing stands.
    """
    level = material.evidence.level
    lines = (
        _comparison_line(entry, one, runs, estimate, level)
        for entry in material.entries
        for one in (*entry.comparisons, *entry.means)
        for runs, estimate in (
            ("all", one.all_runs), ("without collapsed", one.without_collapsed)
        )
        if estimate is not None
    )  # fmt: skip
    return _csv(COMPARISON_COLUMNS, lines)


def _comparison_line(
    entry: Entry, one: Comparison, runs: str, estimate: Estimate, level: float
) -> tuple[object, ...]:
    paths = (estimate.direct, estimate.staged)
    return (
        *_names(entry), one.metric, _word(one.larger_is_better), one.language, one.set, one.n,
        _word(one is entry.headline), runs, *(_seeds(path) for path in paths),
        *(_digits(value) for path in paths for value in (path.mean, path.sd)),
        *map(_digits, (estimate.difference, estimate.low, estimate.high, level)), estimate.over,
        *map(_digits, (
            estimate.p, estimate.p_holm, estimate.p_seeds, estimate.p_seeds_least,
            estimate.p_examples, estimate.pooled_sd, estimate.effect_size,
        )),
        "" if estimate.needed_seeds is None else estimate.needed_seeds, estimate.verdict,
        " ".join(f"{run.condition}:{run.seed}" for run in one.collapsed),
    )  # fmt: skip


def _names(entry: Entry) -> tuple[str, ...]:
    return entry.name, entry.model, entry.intermediate, entry.target


def _seeds(path: ConditionScores) -> str:
    return " ".join(map(str, path.seeds))


def _word(value: bool) -> str:
    return "yes" if value else "no"


def _digits(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _csv(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return buffer.getvalue()


def results_tex(material: Material) -> str:
    """The table of targets and models as a `tabular`, for the package booktabs.

    Words are bold where there is a verdict.
    """
    lines = [
        r"% Needs \usepackage{booktabs} and, for names beyond ASCII, a Unicode engine or font.",
        r"\begin{tabular}{llllrrrrl}",
        r"\toprule",
        r"target & model & intermediate & metric & direct & staged & staged $-$ direct & $p$ & "
        r"verdict \\",
        r"\midrule",
    ]
    before = None
    for entry, one in judged(material):
        if before not in (None, entry.target):
            lines.append(r"\addlinespace")
        estimate = one.all_runs
        p = "--" if estimate.p_holm is None else f"${p_value(estimate.p_holm)}$"
        verdict = estimate.verdict
        cells = [
            tex("" if entry.target == before else entry.target), tex(entry.model),
            tex(entry.intermediate), tex(one.metric),
            _tex_score(estimate.direct), _tex_score(estimate.staged),
            f"${signed(estimate.difference)}$ $[{signed(estimate.low)}, {signed(estimate.high)}]$",
            p, verdict if verdict == "no evidence" else rf"\textbf{{{verdict}}}",
        ]  # fmt: skip
        lines.append(" & ".join(cells) + r" \\")
        before = entry.target
    level = f"{material.evidence.level:.0%}".replace("%", r"\%")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"% Brackets: {level} interval over seeds and examples; p after Holm's correction.",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Text of one line in which no character is markup."""
    escaped = "".join(TEX_ESCAPES.get(c, c) for c in " ".join(text.split()))
    return re.sub("-(?=-)", "-{}", escaped)  # Two hyphens would become a dash.


def _tex_score(path: ConditionScores) -> str:
    spread = "" if path.sd is None else rf" \pm {path.sd:.3f}"
    return f"${path.mean:.3f}{spread}$"
