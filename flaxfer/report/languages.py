"""Scores of both paths and their difference, by language and by domain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from flaxfer.evaluation.records import MIXED, Study
from flaxfer.report import plots
from flaxfer.report.document import Block, Figure, Folded, Heading, Table, Text
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import amount, interval, join, p_value, signed, spread, spread_note
from flaxfer.statistics.scores import DIFFERENCE, GAP, MEAN, ZERO_SHOT, Row, Scores


def language_blocks(material: Material) -> list[Block]:
    """Scores and differences by language, of every study."""
    return [
        Heading("Scores by language"),
        *material.by_study(lambda entry: _of_study(material, entry)),
    ]


def _of_study(material: Material, entry: Entry) -> list[Block]:
    """The means in a sentence, scores by language, plots, other metrics, scores by domain."""
    study = entry.study
    scores, metric, level = Scores(study), study.metric, material.evidence.level
    # A verdict says it better; without one it leads the report of a single study.
    told = material.single or entry.headline is not None
    better = f"{'larger' if study.larger_is_better else 'smaller'} is better"
    blocks: list[Block] = [
        *([] if told else [Text(headline(scores, study))]),
        *_missing(scores),
        language_table(scores, metric, f"{metric} by language, {better}.", mean_notes(scores)),
    ]
    if scores.rows and scores.conditions:
        series = {
            path: np.array([scores.values(path, row, metric) for row in scores.rows])
            for path in scores.conditions
        }
        svg = plots.bars(plot_name("languages", entry), row_names(scores.rows), series, metric)
        dots = "; a dot is one seed" if len(scores.seeds) > 1 else ""
        blocks.append(Figure(svg, f"{metric} by language{dots}."))
    if entry.comparisons:
        blocks += [_difference_plot(entry, level), _difference_table(entry, level)]
    if others := [name for name in study.metrics if name != metric]:
        tables = [language_table(scores, name, f"{name} by language.") for name in others]
        blocks.append(Folded(f"Other metrics: {join(others)}", tables))
    if scores.domain_rows:
        caption = f"{metric} by domain, for sets with more than one domain."
        blocks += [Heading("Scores by domain", 3), domain_table(scores, metric, caption)]
    return blocks


def plot_name(kind: str, entry: Entry) -> str:
    """An identifier that no other plot of the page has."""
    return f"{kind}-{hashlib.sha256(entry.name.encode()).hexdigest()[:8]}"


def _missing(scores: Scores) -> list[Block]:
    if not (missing := scores.missing_runs()):
        return []
    text = f"No finished run of the target: {join(missing)}; means over seeds are undefined there."
    return [Text(text)]


def _difference_plot(entry: Entry, level: float) -> Figure:
    """Staged minus direct of every set, then of the means, each with its interval."""
    found = [*entry.comparisons, *(one for one in entry.means if one.language != GAP)]
    estimates = [one.all_runs for one in found]
    languages = [one.language for one in found]
    names = [
        f"{one.language} / {one.set}" if languages.count(one.language) > 1 else one.language
        for one in found
    ]
    quantity = f"{entry.study.metric}, {DIFFERENCE}"
    svg = plots.intervals(
        plot_name("differences", entry),
        names,
        np.array([one.difference for one in estimates]),
        np.array([(one.low, one.high) for one in estimates]),
        [one.verdict != "no evidence" for one in estimates],
        quantity,
    )
    return Figure(svg, f"{quantity} with its {level:.0%} interval; a full point has a verdict.")


def _difference_table(entry: Entry, level: float) -> Table:
    """The comparisons of every set and mean; all runs count."""
    rows = [
        [
            one.language, one.set, f"{one.n:,}", signed(one.all_runs.difference),
            interval(one.all_runs), one.all_runs.verdict, p_value(one.all_runs.p),
            p_value(one.all_runs.p_holm), amount(one.all_runs.effect_size, 2),
            amount(one.all_runs.needed_seeds), str(len(one.collapsed) or ""),
        ]
        for one in (*entry.comparisons, *entry.means)
    ]  # fmt: skip
    header = [
        "language", "set", "n", DIFFERENCE, f"{level:.0%} interval", "verdict", "p", "p after Holm",
        "effect size", "needed seeds", "collapsed runs",
    ]  # fmt: skip
    caption = f"{entry.study.metric}: {DIFFERENCE} by language, over all runs."
    return Table(caption, header, rows, "llrrrlrrrrr", foot=len(entry.means))


def headline(scores: Scores, study: Study) -> str:
    """One sentence: the zero-shot mean of the main metric by path, its difference, its spread."""
    trained = join(scores.trained)
    if scores.zero_shot:
        which, languages = ZERO_SHOT, scores.zero_shot
        names = join(languages) if len(languages) < 5 else f"{len(languages)} languages"
        beside = f" (without {trained}, trained on)" if trained else ""
        what = f"Zero-shot mean of {study.metric} over {names}{beside}"
    elif scores.trained:
        which = MEAN
        what = f"Mean of {study.metric} over {trained}; no language was evaluated zero-shot"
    else:
        return "No set with a language of its own was evaluated: there is no mean over languages."
    columns = scores.mean_columns(study.metric)[which]
    values = ", ".join(f"{name} {spread(name, of)}" for name, of in columns.items())
    named = " Undefined values are named below the table." if "undefined" in values else ""
    return f"{what}: {values}. {spread_note(scores.seeds)}{named}"


def language_table(
    scores: Scores, metric: str, caption: str, more_notes: Sequence[str] = ()
) -> Table:
    """Sets by language, then the means over languages."""
    means = scores.mean_columns(metric)
    lines = [
        ([row.language, row.set, f"{row.n:,}"], scores.row_columns(row, metric))
        for row in scores.rows
    ] + [([name, "", ""], columns) for name, columns in means.items()]
    header, align = ["language", "set", "n"], "llr"
    notes = [*scores.gaps(scores.rows, metric), *more_notes]
    return score_table(scores, caption, header, align, lines, notes, foot=len(means))


def domain_table(scores: Scores, metric: str, caption: str) -> Table:
    """Domains of the sets that have several."""
    lines = [
        ([row.language, row.set, row.domain, f"{row.n:,}"], scores.row_columns(row, metric))
        for row in scores.domain_rows
    ]
    header, align = ["language", "set", "domain", "n"], "lllr"
    notes = scores.gaps(scores.domain_rows, metric)
    return score_table(scores, caption, header, align, lines, notes)


def score_table(
    scores: Scores,
    caption: str,
    header: list[str],
    align: str,
    lines: Sequence[tuple[list[str], Mapping[str, np.ndarray]]],
    notes: list[str],
    foot: int = 0,
) -> Table:
    """A table of lines that begin with words and go on with one value a path."""
    rows = [first + [spread(*column) for column in columns.items()] for first, columns in lines]
    names = list(lines[0][1]) if lines else []
    caption = f"{caption} {spread_note(scores.seeds)}"
    return Table(caption, header + names, rows, align + "r" * len(names), notes, foot)


def mean_notes(scores: Scores) -> list[str]:
    """What the means hold, where that is not plain."""
    trained, notes = join(scores.trained), []
    if scores.trained and scores.zero_shot:
        notes.append(f"The zero-shot mean is over {join(scores.zero_shot)}.")
        notes.append(
            f"The transfer gap is the score of {trained}, trained on, minus the zero-shot mean."
        )
    elif scores.zero_shot:
        notes.append("No language of training was evaluated: there is no transfer gap.")
    elif scores.trained:
        notes.append("No language was evaluated zero-shot: no zero-shot mean, no transfer gap.")
    languages = [row.language for row in scores.rows]
    if several := [name for name in scores.trained + scores.zero_shot if languages.count(name) > 1]:
        notes.append(f"Several sets count as one language, with their mean: {join(several)}.")
    if MIXED in languages:
        notes.append("Sets of mixed language are in no mean over languages.")
    return notes


def row_names(rows: Sequence[Row]) -> list[str]:
    """The language, and the set as well where the language alone would be ambiguous."""
    languages = [row.language for row in rows]
    return [
        row.language if languages.count(row.language) == 1 else f"{row.language} / {row.set}"
        for row in rows
    ]
