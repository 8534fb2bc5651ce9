"""The result of studies on a terminal: the verdict, the scores by language, the paths of files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import NOT_JUDGED
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.formatting import count_seeds, interval, join, signed, spread
from flaxfer.report.languages import mean_sentence, row_names
from flaxfer.report.verdicts import score_name, verdict_counts
from flaxfer.runtime.progress import result, say, table, warn
from flaxfer.statistics.records import Comparison
from flaxfer.statistics.scores import DIFFERENCE, MEAN

MAX_ROWS = 12
"""Rows of a table that are printed: with the rest of the result, they fit on a screen."""

NAME_WIDTH, STUDY_WIDTH, SCORE_WIDTH = 17, 36, 5
"""Columns of languages, of the names of studies, and of scores without a spread: the tables have 80
columns at most. Longer names go on below.
"""


def show_result(data: ReportData) -> None:
    """Print the verdicts on studies and a table of scores, or of studies."""
    if data.single:
        (entry,) = data.entries
        result(_verdict(entry))
        if entry.headline is not None and entry.headline.collapsed:
            runs = join(f"{run.condition} seed {run.seed}" for run in entry.headline.collapsed)
            warn(f"collapsed, and counted: {runs}")
        _show_languages(entry, data.evidence.level)
    else:
        result(verdict_counts(data))
        _show_studies(data)


def show_paths(paths: Sequence[Path]) -> None:
    """Print the paths of a report's files; the first is its page."""
    html, *others = paths
    result(f"report: {html.absolute()}")
    say(f"in the same folder: {join(path.name for path in others)}")


def _verdict(entry: Entry) -> str:
    """Return the verdict on a study, with its number and interval."""
    if (comparison := entry.headline) is None:
        return f"{NOT_JUDGED}: no comparison of staged with direct. {mean_sentence(entry)}"
    estimate = comparison.all_runs
    return (
        f"{_word(comparison)}: {DIFFERENCE} {signed(estimate.difference)} {interval(estimate)} in "
        f"{score_name(entry, comparison)}; {count_seeds(estimate)}"
    )


def _show_languages(entry: Entry, level: float) -> None:
    """Print the scores of a study by language, its means, and the differences with intervals."""
    scores, metric = entry.scores, entry.study.metric
    if not scores.rows:
        return
    # The spreads of three conditions would not fit beside the intervals.
    spreads = len(scores.conditions) < 3
    compared = {(one.language, one.set): one for one in (*entry.comparisons, *entry.means)}

    def line(name: str, columns: Mapping[str, np.ndarray], key: tuple[str, str]) -> list[str]:
        cells = [_score(columns[condition], spreads) for condition in scores.conditions]
        return [name, *cells, *_difference(compared.get(key))]

    names = row_names(scores.rows)
    lines = [
        line(name, scores.row_columns(row, metric), (row.language, row.set))
        for name, row in zip(names[:MAX_ROWS], scores.rows, strict=False)
    ]
    if (left := len(scores.rows) - MAX_ROWS) > 0:
        lines.append([f"and {left} more", *[""] * (len(lines[0]) - 1)])
    lines += [
        line("mean" if name == MEAN else name, columns, (name, ""))
        for name, columns in scores.mean_columns(metric).items()
    ]
    header = ["language", *scores.conditions, "difference", f"{level:.0%} interval"]
    if not compared:
        header, lines = header[:-2], [cells[:-2] for cells in lines]
    better = "larger" if entry.study.larger_is_better else "smaller"
    what, number = "mean ± standard deviation" if spreads else "mean", len(scores.seeds)
    over = f"{what} over {number:,} seeds" if number > 1 else "one seed"
    say(f"{metric} ({better} is better) by language, {over}")
    table("", header, lines, NAME_WIDTH)


def _show_studies(data: ReportData) -> None:
    """Print the verdict on each study of a grid with the difference and its interval."""
    names = [[entry.intermediate, entry.target, entry.model] for entry in data.entries]
    # Names that all studies share are left out.
    differs = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    lines = [
        [
            join(itertools.compress(name, differs)),
            _word(entry.headline),
            *_difference(entry.headline),
        ]
        for name, entry in zip(names[:MAX_ROWS], data.entries, strict=False)
    ]
    if (left := len(data.entries) - MAX_ROWS) > 0:
        lines.append([f"and {left} more", "", "", ""])
    header = ["study", "verdict", "difference", f"{data.evidence.level:.0%} interval"]
    table("", header, lines, STUDY_WIDTH)
    if verdicts := sum(_word(entry.headline) != NOT_JUDGED for entry in data.entries):
        say(f"each interval is that of one comparison; verdicts are corrected for all {verdicts}")


def _word(comparison: Comparison | None) -> str:
    """Return the verdict of a comparison."""
    if comparison is None or comparison.all_runs.p_holm is None:
        return NOT_JUDGED
    return comparison.all_runs.verdict


def _score(values: np.ndarray, spreads: bool) -> str:
    """Return the mean over seeds, and the standard deviation if it is asked for."""
    return spread(values if spreads else values.mean(keepdims=True)).rjust(SCORE_WIDTH)


def _difference(comparison: Comparison | None) -> list[str]:
    """Return the difference and its interval, both empty without a comparison."""
    if comparison is None:
        return ["", ""]
    estimate = comparison.all_runs
    return [signed(estimate.difference).rjust(len("difference")), interval(estimate)]
